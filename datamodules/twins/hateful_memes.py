"""A twin of Hateful Memes."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.twins._parts import picture, sign, text

SIZES = {"train": 120, "dev_seen": 30, "test_seen": 40}
CONFOUNDERS = 5  # every so often a text recurs with another picture and the other label


def write(root: Path, *, seed: int = 0) -> None:
    """Write it below `root`."""
    rng = np.random.default_rng(seed)
    folder = root / "hateful_memes"
    (folder / "img").mkdir(parents=True)
    number = 1000
    for part, n in SIZES.items():
        lines: list[dict[str, Any]] = []
        for k in range(n):
            label = int(rng.random() < 0.4)
            words = text(rng, label)
            if k % CONFOUNDERS == CONFOUNDERS - 1:
                label, words = 1 - lines[-1]["label"], lines[-1]["text"]
            number += int(rng.integers(1, 9))
            name = f"img/{number:05d}.png"
            picture(rng, label, 2).save(folder / name)
            lines.append({"id": number, "img": name, "label": label, "text": words})
        (folder / f"{part}.jsonl").write_text(
            "".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8"
        )
    sign(folder, seed)
