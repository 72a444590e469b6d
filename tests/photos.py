"""A data module of pictures and scans that a test makes itself, in memory or in mapped files."""

from pathlib import Path

import numpy as np

from mmbench.data.samples import SPLITS, Samples
from mmbench.data.scenario import Scenario
from mmbench.data.task import Modality, Task
from mmbench.datamodule import DataModule, Source

HALF = {"mechanism": "mcar", "missing_rate": 0.3}
SCENARIO = {"name": "half", "train": HALF, "val": HALF, "test": HALF}


class Photos(DataModule):
    """Every third sample of two arrays is of training, of validation, of test."""

    source = Source(citation="none")

    def __init__(self, x, *, scenario=None, **common):
        super().__init__(Path(), Scenario.parse(SCENARIO | (scenario or {})), **common)
        self.x = x

    def describe(self):
        photo, scan = (self.x[name].shape[1:] for name in ("photo", "scan"))
        modalities = (Modality("photo", "image", photo), Modality("scan", "volume", scan))
        return Task("single_label", modalities, ("a", "b"))

    def load(self, split):
        n = len(self.x["photo"])
        whole = Samples(
            ("photo", "scan"), self.x, np.arange(n) % 2, np.arange(n), np.ones((n, 2), bool)
        )
        return whole.take(np.arange(n) % 3 == SPLITS.index(split))


def arrays(n):
    """Pictures and scans of n samples."""
    rng = np.random.default_rng(0)
    return {
        "photo": rng.integers(0, 256, (n, 3, 8, 10), dtype=np.uint8),
        "scan": rng.normal(3, 2, (n, 1, 4, 6, 4)).astype(np.float16),
    }


def in_files(folder, x):
    """The same arrays, mapped from files."""
    for name, values in x.items():
        np.save(folder / f"{name}.npy", values)
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in x}
