"""A twin of UPMC Food-101."""

import csv
from pathlib import Path

import numpy as np

from datamodules.twins._parts import picture, sign, text

DISHES = ("apple_pie", "baklava", "caesar_salad", "donuts", "edamame", "falafel")
SIZES = {"train": 24, "test": 8}  # pictures of a dish


def write(root: Path, *, seed: int = 0) -> None:
    """Write it below `root`: six dishes, no `split.json`, one picture without a title."""
    rng = np.random.default_rng(seed)
    folder = root / "food101"
    (folder / "texts").mkdir(parents=True)
    number = dict.fromkeys(DISHES, 0)
    for part, each in SIZES.items():
        rows = []
        for k, dish in enumerate(DISHES):
            (folder / "images" / part / dish).mkdir(parents=True)
            for _ in range(each):
                number[dish] += int(rng.integers(1, 4))
                name = f"{dish}_{number[dish]}.jpg"
                picture(rng, k, len(DISHES)).save(folder / "images" / part / dish / name)
                title = text(rng, k, length=6).replace(f"word{k}", dish.replace("_", " ").title())
                rows.append((name, f"{title}, recipe", dish))
        if part == "train":
            rows.pop(3)
        with (folder / "texts" / f"{part}_titles.csv").open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
    sign(folder, seed)
