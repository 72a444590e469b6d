"""Two groups: made up, with gaps by nature.

Format: two modalities, made up.
Classes: two.
Split: 60 / 20 / 20 by a hash of the sample's name, so that it stays when samples are added.
"""

from typing import ClassVar

import numpy as np

from mmbench.data.samples import Samples, Split
from mmbench.data.splits import stable_hash
from mmbench.data.task import Modality, Task
from mmbench.datamodule import DataModule, Source

NAMES = [f"sample{number}" for number in range(300)]


class TwoGroups(DataModule):
    """Which of two groups does a sample belong to?"""

    source: ClassVar[Source] = Source(citation="made up")

    def describe(self) -> Task:
        """Two classes from a vector and a sequence."""
        modalities = (Modality("lab", "vector", (8,)), Modality("signal", "sequence", (20, 3)))
        return Task("single_label", modalities, ("first", "second"))

    def load(self, split: Split) -> Samples:
        """Read one split; values as they are in the files, scaling is done for you."""
        rng = np.random.default_rng(0)
        target = rng.integers(0, 2, len(NAMES))
        lab = rng.standard_normal((len(NAMES), 8)) + target[:, None]
        signal = rng.standard_normal((len(NAMES), 20, 3)) + 0.5 * target[:, None, None]
        steps = rng.integers(5, 21, len(NAMES))
        presence = rng.random((len(NAMES), 2)) > 0.1  # False = missing by nature
        presence[~presence.any(axis=1)] = True

        rows = np.array([split_of(name) == split for name in NAMES])
        return Samples(
            modalities=("lab", "signal"),
            inputs={"lab": lab[rows], "signal": signal[rows]},
            target=target[rows],
            sample_id=np.array([stable_hash(name) for name in NAMES], dtype=np.int64)[rows],
            presence=presence[rows],
            lengths={"signal": steps[rows]},
        )


def split_of(name: str) -> Split:
    """Where a sample belongs; the same on every machine, which hash() is not."""
    place = stable_hash(f"split of {name}") % 10
    return "train" if place < 6 else "val" if place < 8 else "test"
