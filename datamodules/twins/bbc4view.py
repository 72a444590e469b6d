"""A twin of the four-segment BBC news, of fewer articles."""

from pathlib import Path

import numpy as np
from scipy import sparse

from datamodules.twins._parts import save_matlab, sign, word_counts

ARTICLES, TOPICS = 60, 5
WIDTHS = (4659, 4633, 4665, 4684)


def write(root: Path, *, seed: int = 0) -> None:
    """Write 60 articles in four sparse matrices, 0.5 MB."""
    rng = np.random.default_rng(seed)
    target = rng.permutation(np.arange(ARTICLES) % TOPICS)
    cells = np.empty((1, len(WIDTHS)), object)
    for k, width in enumerate(WIDTHS):
        cells[0, k] = sparse.csc_array(word_counts(rng, target, width))
    label = (target + 1).astype(np.uint8)[:, None]
    save_matlab(root / "bbc4view" / "BBC4view_685.mat", {"X": cells, "Y": label})
    sign(root / "bbc4view", seed)
