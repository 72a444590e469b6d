"""A twin of MMC-AMD."""

from pathlib import Path

import numpy as np
from PIL import Image

from datamodules.twins._parts import picture, sign, values

PERSONS = {"train": 60, "val": 16, "test": 24}
LETTERS = "hdpw"  # of the classes 0..3


def write(root: Path, *, seed: int = 0) -> None:
    """Write it below `root`, both splits alike except that `A` moves second eyes to the test."""
    rng = np.random.default_rng(seed)
    folder = root / "mmc_amd"
    data = {"cfp": "cfp-clahe-448x448", "oct": "oct-median3x3-448x448"}
    for name in data.values():
        (folder / "ImageData" / name).mkdir(parents=True)
    eyes: list[tuple[str, str, str, int, dict[str, list[str]]]] = []
    number = 0
    for split, n in PERSONS.items():
        for _ in range(n):
            number += 1
            label = int(rng.integers(0, 4))
            person = f"{LETTERS[label]}-{number:04d}"
            for side in "LR"[: int(rng.integers(1, 3))]:
                images: dict[str, list[str]] = {"cfp": [], "oct": []}
                eye = f"{person}{side}"
                if rng.random() < 0.85:
                    images["cfp"] = [f"f-{eye}"]
                if rng.random() < 0.85 or not images["cfp"]:
                    images["oct"] = [f"o-{eye}_{k}" for k in range(int(rng.integers(1, 3)))]
                for name in images["cfp"]:
                    picture(rng, label, 4).save(folder / "ImageData" / data["cfp"] / f"{name}.jpg")
                for name in images["oct"]:
                    grey = Image.fromarray(values(rng, label, 4).astype(np.uint8))
                    grey.save(folder / "ImageData" / data["oct"] / f"{name}.jpg")
                eyes.append((split, person, eye, label, images))
    for partition in ("A", "AP"):
        for split in PERSONS:
            of = [e for e in eyes if _split(partition, e[0], e[2]) == split]
            home = folder / f"mmc-amd-split{partition}-{split}"
            for name in data:
                some = [e for e in of if e[4][name]]
                lists = {
                    "ImageSets": [image for e in some for image in e[4][name]],
                    "EyeSets": [e[2] for e in some],
                    "SubjectSets": list(dict.fromkeys(e[1] for e in some)),
                    "annotations": [f"{image} {e[3]}" for e in some for image in e[4][name]],
                }
                for kind, lines in lists.items():
                    (home / kind).mkdir(parents=True, exist_ok=True)
                    text = "\n".join(lines) + "\n"
                    (home / kind / f"{name}.txt").write_text(text, encoding="utf-8")
    sign(folder, seed)


def _split(partition: str, split: str, eye: str) -> str:
    moved = partition == "A" and split == "train" and eye.endswith("R") and eye[-2] in "05"
    return "test" if moved else split
