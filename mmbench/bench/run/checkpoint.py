"""A training that was cut off goes on from its newest whole epoch, on any machine."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from mmbench.store import write_file

MINUTES = 1.0  # between two checkpoints, so that a short training writes none


class Checkpoints(Callback):
    """Publishes all that decides how a training goes on, as one file, between two epochs.

    That is what Lightning keeps (weights, optimisers, schedules, progress, states of callbacks and
    of the data), and the states of the generators. On a CPU, a training that goes on from it ends
    with the same bits as one that was never cut off.

    Args:
        file: Replaced as a whole by each newer one.
        minutes: Least time between two, >= 0; 0 = one after every epoch.
    """

    def __init__(self, file: Path, minutes: float = MINUTES) -> None:
        self.file = file
        self.minutes = minutes
        self.resumed = False
        self._last = time.monotonic()
        self._generators: dict[str, Any] | None = None  # to be restored

    @property
    def newest(self) -> Path | None:
        """The checkpoint to go on from; None if there is none."""
        return self.file if self.file.is_file() else None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on where the checkpoint was made, or make one if it is time.

        The beginning of an epoch is the one moment at which no sum, log or schedule is half-way.
        """
        if self._generators is not None:
            _restore(self._generators)
            self._generators, self.resumed = None, True
            return
        if trainer.current_epoch and time.monotonic() - self._last >= 60 * self.minutes:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_file(self.file, trainer.save_checkpoint)
            self._last = time.monotonic()

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Say plainly that an epoch is about to begin, of which no batch was seen.

        Lightning takes the counts of the epoch before for those of this one, and would skip it.
        """
        loop = checkpoint["loops"]["fit_loop"]
        ended = trainer.current_epoch
        begun = {"ready": ended + 1, "started": ended, "processed": ended, "completed": ended}
        for counts in loop["epoch_progress"].values():
            counts.update(begun)
        for progress in _nested(loop):
            if "is_last_batch" in progress:
                progress["is_last_batch"] = False
                progress["current"] = dict.fromkeys(progress["current"], 0)

    def state_dict(self) -> dict[str, Any]:
        """States of the generators, at the beginning of an epoch."""
        return _generators()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep them until the epoch begins."""
        self._generators = state_dict


def _nested(state: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All mappings in a mapping of mappings."""
    for value in state.values():
        if isinstance(value, dict):
            yield value
            yield from _nested(value)


def _generators() -> dict[str, Any]:
    """States of all global generators, as tensors and numbers, which load without pickle."""
    _, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002 - plugins use it
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": [torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss],
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def _restore(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    keys, *rest = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    if "cuda" in state:
        torch.cuda.set_rng_state_all(state["cuda"])
