"""A twin of ROSMAP, of fewer people."""

from pathlib import Path

import numpy as np

from datamodules.twins._parts import sign, signal

TRAIN, TEST = 60, 24
WIDTH = 200


def write(root: Path, *, seed: int = 0) -> None:
    """Write 60 and 24 people, 1.3 MB; features lie in 0..1."""
    rng = np.random.default_rng(seed)
    folder = root / "rosmap"
    folder.mkdir(parents=True)
    target = rng.permutation(np.arange(TRAIN + TEST) % 2)
    for number in (1, 2, 3):
        x = signal(rng, target, WIDTH)
        x = (x - x.min(axis=0)) / (x.max(axis=0) - x.min(axis=0))
        np.savetxt(folder / f"{number}_tr.csv", x[:TRAIN], delimiter=",")
        np.savetxt(folder / f"{number}_te.csv", x[TRAIN:], delimiter=",")
    np.savetxt(folder / "labels_tr.csv", target[:TRAIN].astype(float))
    np.savetxt(folder / "labels_te.csv", target[TRAIN:].astype(float))
    sign(folder, seed)
