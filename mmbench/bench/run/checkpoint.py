"""A training that was cut off goes on from its newest whole epoch, on any machine."""

import io
import time
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from mmbench.method import Method
from mmbench.store import write_file, write_text


class Checkpoints(Callback):
    """Publishes all that decides how a training goes on, as one file, between two epochs.

    That is what Lightning keeps (weights, optimisers, schedules, progress, states of callbacks and
    of the data), and the states of the generators. On a CPU, a training that goes on from it ends
    with the same bits as one that was never cut off. A training by several processes makes none.

    Args:
        file: Replaced as a whole by each newer one.
        minutes: Least time between two, >= 0; 0 = one after every epoch. A training that is
            shorter makes none.
        curve: CSV file of the training curve, which the logger begins anew.
    """

    def __init__(self, file: Path, minutes: float, curve: Path) -> None:
        self.file = file
        self.minutes = minutes
        self.curve = curve
        self._began = self._last = time.monotonic()
        self._seconds_before = 0.0
        self._curve_now = self._curve_before = ""
        self._generators: dict[str, Any] | None = None  # to be restored

    @property
    def newest(self) -> Path | None:
        """The checkpoint to go on from; None if there is none, or it was cut short since."""
        return self.file if zipfile.is_zipfile(self.file) else None

    @property
    def seconds(self) -> float:
        """Seconds of this training, those before it was cut off included."""
        return self._seconds_before + time.monotonic() - self._began

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on where the checkpoint was made, or make one if it is time.

        The beginning of an epoch is the one moment at which no sum, log or schedule is half-way.
        """
        if self._generators is not None:
            _restore(self._generators)
            self._generators = None
            return
        late = time.monotonic() - self._last >= 60 * self.minutes
        if not trainer.current_epoch or trainer.world_size > 1 or not late:
            return
        if trainer.logger is not None:
            trainer.logger.save()
        self._curve_now = self._whole_curve()
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_file(self.file, partial(trainer.save_checkpoint, weights_only=False))
        self._last = time.monotonic()

    def finish(self) -> None:
        """Complete the curve by what lies before the cut, and remove the checkpoint."""
        if self._curve_before:
            write_text(self.curve, self._whole_curve())
        self.file.unlink(missing_ok=True)

    def _whole_curve(self) -> str:
        now = self.curve.read_text(encoding="utf-8") if self.curve.is_file() else ""
        parts = [pd.read_csv(io.StringIO(text)) for text in (self._curve_before, now) if text]
        if not parts:
            return ""
        return pd.concat(parts).sort_index(axis=1).to_csv(index=False)  # as the logger sorts

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Leave out what never changes, and say plainly that an epoch is about to begin.

        Lightning takes the counts of the epoch before for those of this one, and would skip it.
        """
        if isinstance(pl_module, Method):
            checkpoint["state_dict"] = pl_module.learned_state()
        loop = checkpoint["loops"]["fit_loop"]
        ended = trainer.current_epoch
        begun = {"ready": ended + 1, "started": ended, "processed": ended, "completed": ended}
        for counts in loop["epoch_progress"].values():
            counts.update(begun)
        loop["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1  # a restart adds one
        for progress in _nested(loop):
            if "is_last_batch" in progress:
                progress["is_last_batch"] = False
                progress["current"] = dict.fromkeys(progress["current"], 0)

    def state_dict(self) -> dict[str, Any]:
        """What else a training needs that goes on, at the beginning of an epoch."""
        return {
            "generators": _generators(),
            "curve": self._curve_now,
            "seconds": self.seconds,
        }

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Allow for what a checkpoint leaves out: it is there before training begins."""
        pl_module.strict_loading = False

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep it until the epoch begins."""
        self._generators = state_dict["generators"]
        self._curve_before = state_dict["curve"]
        self._seconds_before = state_dict["seconds"]


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
