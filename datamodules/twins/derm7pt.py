"""A twin of Derm7pt."""

import csv
from pathlib import Path

import numpy as np

from datamodules.twins._parts import picture, sign

# rows of the real file stand in the order of their diagnoses, too
DIAGNOSES = {
    "basal cell carcinoma": (1, 14), "blue nevus": (0, 8), "clark nevus": (0, 30),
    "melanoma": (2, 8), "melanoma (in situ)": (2, 14), "melanosis": (3, 8),
    "vascular lesion": (3, 8), "seborrheic keratosis": (4, 14),
}  # fmt: skip
HEADER = (
    "case_num", "diagnosis", "seven_point_score", "pigment_network", "streaks", "pigmentation",
    "regression_structures", "dots_and_globules", "blue_whitish_veil", "vascular_structures",
    "level_of_diagnostic_difficulty", "elevation", "location", "sex", "management", "clinic",
    "derm", "case_id", "notes",
)  # fmt: skip
SITES = ("back", "lower limbs", "abdomen", "head neck", "upper limbs")


def write(root: Path, *, seed: int = 0) -> None:
    """Write it below `root`."""
    rng = np.random.default_rng(seed)
    folder = root / "derm7pt"
    (folder / "meta").mkdir(parents=True)
    rows = [(name, group) for name, (group, n) in DIAGNOSES.items() for _ in range(n)]
    with (folder / "meta" / "meta.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        for k, (name, group) in enumerate(rows):
            place = f"NM{k // 20}L"
            (folder / "images" / place).mkdir(parents=True, exist_ok=True)
            paths = [f"{place}/N{letter}l{k:03d}.jpg" for letter in "ab"]
            for path in paths:
                picture(rng, group, 5).save(folder / "images" / path)
            marks = [str(rng.choice(["absent", "present"])) for _ in range(7)]
            sex, site = rng.choice(["female", "male"]), rng.choice(SITES)
            writer.writerow(
                (k + 1, name, int(rng.integers(0, 8)), *marks, "medium", "flat", site, sex,
                 "excision", *paths, f"case{k:03d}", "")
            )  # fmt: skip
    order = rng.permutation(len(rows))
    cuts = np.split(order, [len(rows) * 5 // 10, len(rows) * 7 // 10])
    for part, numbers in zip(("train", "valid", "test"), cuts, strict=True):
        lines = ["indexes", *(str(n) for n in sorted(numbers.tolist()))]
        text = "\n".join(lines) + "\n"
        (folder / "meta" / f"{part}_indexes.csv").write_text(text, encoding="utf-8")
    sign(folder, seed)
