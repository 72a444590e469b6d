"""A twin of 100 leaves, of fewer leaves."""

from pathlib import Path

import numpy as np

from datamodules.twins._parts import save_matlab, sign, signal

SPECIES, LEAVES, WIDTH = 100, 8, 64


def write(root: Path, *, seed: int = 0) -> None:
    """Write 8 leaves of each of 100 species, 1.2 MB."""
    rng = np.random.default_rng(seed)
    target = np.repeat(np.arange(SPECIES), LEAVES)
    cells = np.empty((1, 3), object)
    for k in range(3):
        cells[0, k] = np.abs(signal(rng, target, WIDTH, scale=0.01))
    label = (target + 1).astype(np.uint8)[:, None]
    save_matlab(root / "hundred_leaves" / "100Leaves.mat", {"X": cells, "Y": label})
    sign(root / "hundred_leaves", seed)
