"""The twins of the data sets that users bring, so that tests need no data."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from mmbench.registry import DATASETS

Write = Callable[[Path, np.random.Generator], None]


def _twin(name: str) -> Write:
    """Writes the twin of a data set."""

    def write(root: Path, rng: np.random.Generator) -> None:
        DATASETS.get(name).write_twin(root, seed=int(rng.integers(2**31)))

    return write


WRITE: dict[str, Write] = {
    name: _twin(name)
    for name in (
        "cmu_mosi", "rosmap", "three_sources", "breast_tcga", "hundred_leaves", "bbc4view",
    )
}  # fmt: skip


# sets that have more than one file a sample, or pictures
TWINS: dict[str, Write] = {
    name: _twin(name)
    for name in (
        "adni", "avmnist", "derm7pt", "enrico", "food101", "harvard_glaucoma", "hateful_memes",
        "mimic_iv", "mmc_amd", "mmimdb", "tcga",
    )
}  # fmt: skip
