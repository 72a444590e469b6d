"""A data module of arrays that a test makes itself, and a training on it."""

import warnings
from pathlib import Path

import numpy as np
from lightning.pytorch import Trainer

from mmbench.data.samples import SPLITS, Samples
from mmbench.data.scenario import Scenario
from mmbench.data.task import Modality, Task
from mmbench.datamodule import DataModule, Fitting, Source

NATURAL = {"name": "s", "train": {"mechanism": "natural"}, "test": {"mechanism": "natural"}}


def samples(inputs, target, *, first=0, presence=None):
    """Samples of vectors with ids from `first` on."""
    n = len(target)
    presence = np.ones((n, len(inputs)), bool) if presence is None else presence
    return Samples(tuple(inputs), inputs, target, first + np.arange(n, dtype=np.int64), presence)


class Arrays(DataModule):
    """Splits that lie in memory."""

    source = Source(citation="none")

    def __init__(self, splits, *, kind="single_label", outputs=("a", "b"), scenario=None, **common):
        super().__init__(Path("none"), Scenario.parse(NATURAL | (scenario or {})), **common)
        self.splits = dict(zip(SPLITS, splits, strict=True))
        modalities = self.splits["train"].inputs.items()
        shapes = tuple(Modality(name, "vector", x.shape[1:]) for name, x in modalities)
        self.made = Task(kind, shapes, tuple(outputs))

    def describe(self):
        return self.made

    def load(self, split):
        return self.splits[split]


def alike(inputs, target):
    """The same samples under other ids as train, validation and test."""
    return [samples(inputs, target, first=1000 * k) for k in range(3)]


def fit(method, data, keep, epochs, device=None):
    """Train as the runner does."""
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[keep],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        warnings.filterwarnings("ignore", ".*logging interval.*")
        trainer.fit(method, datamodule=Fitting(data, device))
