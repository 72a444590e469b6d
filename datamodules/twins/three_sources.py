"""A twin of 3Sources, of fewer stories."""

from pathlib import Path

import numpy as np

from datamodules.twins._parts import save_matlab, sign, word_counts

STORIES, TOPICS = 120, 6
WIDTHS = (3560, 3631, 3068)


def write(root: Path, *, seed: int = 0) -> None:
    """Write 120 stories, 1.3 MB; how often a source is absent depends on the topic."""
    rng = np.random.default_rng(seed)
    target = rng.permutation(np.arange(STORIES) % TOPICS)
    present = rng.random((STORIES, len(WIDTHS))) > 0.15 + 0.07 * target[:, None]
    present[~present.any(axis=1), 0] = True
    present[:TOPICS] = True  # whatever is drawn, some stories have all
    content = {
        f"V{k + 1}": (word_counts(rng, target, width) * present[:, [k]]).astype(np.uint8)
        for k, width in enumerate(WIDTHS)
    }
    content |= {"ind": present.astype(np.uint8), "label": (target + 1).astype(np.uint8)[:, None]}
    save_matlab(root / "three_sources" / "Data_3Sources.mat", content)
    sign(root / "three_sources", seed)
