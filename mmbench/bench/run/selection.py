"""Which epoch's weights are kept."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from scipy.stats import linregress

from mmbench.bench.run.failures import DivergedError
from mmbench.data.samples import Split
from mmbench.data.survival import reason_not_comparable
from mmbench.datamodule import DataModule
from mmbench.method import Method
from mmbench.metrics.metric import higher_is_better, score

# settings of the trainer that say how far a training goes, and when it is validated
PACES = (
    "check_val_every_n_epoch",
    "limit_train_batches",
    "limit_val_batches",
    "max_steps",
    "val_check_interval",
)
RISING_P, RISING_SHARE = 0.01, 0.05  # see `still_rising`
FEWEST_EPOCHS = 4  # of half a curve; a shorter one says nothing

Epochs = tuple[int | None, ...]  # of the stages of a method; None = as the suite says


def require_defined(data: DataModule, metric: str) -> None:
    """Refuse a selection metric that no prediction of the validation split could give a value.

    Raises:
        ValueError: If it is empty, holds one class where the metric needs two, has constant
            targets, and the like; or if a Cox model were selected by what needs its baseline.
    """
    if metric == "integrated_brier" and data.task.num_outputs == 1:
        raise ValueError(
            "select.metric 'integrated_brier' needs the baseline hazard of a Cox model, which is "
            "fitted when training is over; select by c_index, or learn hazards of intervals"
        )
    target, task = data.raw_target("val"), data.task
    train = data.raw_target("train") if task.kind == "survival" else None
    probe = np.random.default_rng(0).normal(size=(len(target), task.num_outputs))
    if not len(target) or math.isnan(score(metric, probe, target, task.kind, train=train)):
        alike = len(target) and bool((target == target[0]).all())
        reason = "all targets are the same there" if alike else f"it has {len(target)} samples"
        if task.kind == "survival" and len(target):
            reason = f"it {reason_not_comparable(target) or 'ends before the times of training'}"
        raise ValueError(
            f"select.metric {metric!r} is no number on the val split of {type(data).__name__}, "
            f"whatever is predicted ({reason}); choose another metric or split, or select.on: last"
        )


def require_validation(data: DataModule, settings: Mapping[str, Any], epochs: Epochs) -> None:
    """Refuse a training that would end before its first validation, or has no batch of a split.

    What is counted in time (`max_time`, `val_check_interval` as one) only a run can tell.

    Args:
        data: The data set.
        settings: Of the trainer, each of a type that Lightning takes.
        epochs: Of the method's stages; empty = of one as the suite says.

    Raises:
        ValueError: If so.
    """
    if not settings.keys() & set(PACES):
        return
    batches = _batches(data, "train")
    steps = _limited("train", batches, settings)
    _limited("val", _batches(data, "val"), settings)
    interval = settings.get("val_check_interval") or 1.0
    if isinstance(interval, str | Mapping):
        return
    between = interval if isinstance(interval, int) else max(1, int(steps * interval))
    if between > steps:
        raise ValueError(
            f"trainer.val_check_interval: {interval} is more than the {steps} batches of an epoch, "
            "so that no epoch would be validated; lower it, or leave it out"
        )
    together = passes_an_epoch(settings, batches)
    first = (settings.get("check_val_every_n_epoch", together) - 1) * steps + between
    for of_stage in epochs or (None,):
        passes = together * (of_stage or settings["max_epochs"])
        most = settings.get("max_steps", -1)
        last = passes * steps
        if most > 0:
            last = min(last, most * settings.get("accumulate_grad_batches", 1))
        if first > last:
            raise ValueError(
                f"training would end after {last} batches ({passes} epochs of {steps}), before the "
                f"first validation after {first}, so that no epoch could be selected; look at "
                f"{', '.join(f'trainer.{name}' for name in PACES if name in settings)}"
            )


def passes_an_epoch(settings: Mapping[str, Any], batches: int) -> int:
    """Passes over the training split that make one epoch of a suite; see `TrainerSpec.min_steps`.

    Args:
        settings: Of the trainer.
        batches: Of a pass, >= 1.

    Returns:
        At least 1.
    """
    steps = batches * int(settings["max_epochs"])
    return max(1, math.ceil(int(settings.get("min_steps", 0)) / steps))


def _batches(data: DataModule, split: Split) -> int:
    count = len(data.samples(split))
    return math.ceil((count if data.limit is None else min(count, data.limit)) / data.batch_size)


def _limited(split: Split, batches: int, settings: Mapping[str, Any]) -> int:
    """Batches of an epoch that `limit_train_batches` or `limit_val_batches` leaves."""
    limit = settings.get(f"limit_{split}_batches")
    if limit is None:
        return batches
    left = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    if not left:
        raise ValueError(
            f"trainer.limit_{split}_batches: {limit} of {batches} batches leaves none; raise it, "
            "or leave it out"
        )
    return left


def still_rising(curve: Sequence[float], sign: float) -> bool:
    """Whether a validation curve still climbs where training ends, so that more would help.

    It does if the least-squares line through its second half climbs beyond chance (one-sided p
    below `RISING_P`) and by more than `RISING_SHARE` of what training brought in all.

    Args:
        curve: Score of each validation.
        sign: 1 where more is better, -1 where less is.
    """
    scores = sign * np.asarray(curve, dtype=float)
    half = scores[len(scores) // 2 :]
    if len(half) < FEWEST_EPOCHS or not np.isfinite(scores).all():
        return False
    line = linregress(np.arange(len(half)), half, alternative="greater")
    climbs = float(line.slope) * (len(half) - 1)
    return bool(line.pvalue < RISING_P and climbs > RISING_SHARE * float(np.ptp(scores)))


class KeepBest(Callback):
    """Keep the weights of the epoch with the best validation score; the earliest on ties.

    Args:
        data: Its own validation targets are scored against, not those of a batch.
        metric: Name of the score.
        on: `val` or `best` for the best epoch, `last` for the last one.
        patience: Stop after so many passes without a better score; None = never.
    """

    def __init__(self, data: DataModule, metric: str, on: str, patience: int | None) -> None:
        self.data = data
        self.metric = metric
        self.sign = 1.0 if higher_is_better(metric) else -1.0
        self.on = on
        self.patience = patience
        self.best: float | None = None
        self.epoch: int | None = None
        self.passes = 0  # up to the last validation
        self.curve: list[float] = []  # score of each validation
        self._state: dict[str, torch.Tensor] = {}
        self._outputs: list[torch.Tensor] = []
        self._rows: list[torch.Tensor] = []  # positions in the validation split

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let a method with several predictions choose among them."""
        assert isinstance(pl_module, Method)
        val, device = self.data.split("val"), pl_module.device
        batches: Any = trainer.val_dataloaders
        pl_module.compare_candidates(
            (batch.to(device), val.target_of(batch.sample_id).to(device)) for batch in batches
        )

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Collect predictions of the samples that count."""
        rows = self.data.split("val").rows_of(batch.sample_id)
        counted = outputs["rows"]
        if counted is not None:
            rows = rows[counted.cpu()]
            outputs = {"output": outputs["output"][counted]}
        self._outputs.append(outputs["output"])
        self._rows.append(rows)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score the epoch, and copy the weights if it is the best so far.

        Raises:
            DivergedError: If an output is not finite.
            ValueError: If the first score is not a number.
        """
        output = torch.cat(self._outputs).float().cpu().numpy()
        target = self.data.split("val").samples.target[torch.cat(self._rows).numpy()]
        self._outputs, self._rows = [], []
        if not np.isfinite(output).all():
            raise DivergedError(
                f"validation outputs of epoch {trainer.current_epoch} are not finite"
            )
        value = math.nan
        if len(output):
            output = self.data.in_units(output)
            train = self.data.raw_target("train")
            value = score(self.metric, output, target, self.data.task.kind, train=train)
        # several devices predict all of it, and need not agree on the last bit
        value = trainer.strategy.broadcast(value)
        pl_module.log(f"val/{self.metric}", value, sync_dist=True)
        self.curve.append(value)
        self.passes = trainer.current_epoch + 1
        if self.best is None and math.isnan(value) and self.on != "last":
            raise ValueError(
                f"{self.metric} on the val split is no number after epoch "
                f"{trainer.current_epoch} ({len(output)} samples were scored), so that no epoch "
                "can be selected by it; choose another select.metric, or select.on: last"
            )
        better = self.best is None or self.sign * value > self.sign * self.best
        if better or self.on == "last":
            self.best, self.epoch = value, trainer.current_epoch
            assert isinstance(pl_module, Method)
            state = pl_module.learned_state()
            self._state = {name: value.detach().clone() for name, value in state.items()}
        elif self.patience is not None and self.epoch is not None:
            trainer.should_stop = trainer.current_epoch - self.epoch >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """What a training that goes on from a checkpoint has to know of the epochs before."""
        seen = {"epoch": self.epoch, "passes": self.passes, "curve": self.curve}
        return {"best": self.best, **seen, "state": self._state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.best, self.epoch = state_dict["best"], state_dict["epoch"]
        self.passes = state_dict["passes"]
        self.curve, self._state = list(state_dict["curve"]), state_dict["state"]

    def restore(self, method: LightningModule) -> None:
        """Put the kept weights back.

        Raises:
            ValueError: If no epoch was validated.
        """
        if self.epoch is None:
            raise ValueError(
                "training ended without a validation, so no epoch can be selected; look at "
                "trainer.check_val_every_n_epoch, max_steps and max_time"
            )
        method.load_state_dict(self._state, strict=False)
