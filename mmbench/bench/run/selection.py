"""Which epoch's weights are kept."""

from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from mmbench.bench.run.failures import DivergedError
from mmbench.data.task import Task
from mmbench.metrics.metric import higher_is_better, score


class KeepBest(Callback):
    """Keep the weights of the epoch with the best validation score; the earliest on ties."""

    def __init__(self, task: Task, metric: str, on: str, patience: int | None) -> None:
        self.task = task
        self.metric = metric
        self.sign = 1.0 if higher_is_better(metric) else -1.0
        self.on = on
        self.patience = patience
        self.best: float | None = None
        self.epoch: int | None = None
        self._state: dict[str, torch.Tensor] = {}
        self._parts: list[tuple[torch.Tensor, torch.Tensor]] = []

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Collect predictions."""
        self._parts.append((outputs, batch.target))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score the epoch, and copy the weights if it is the best so far."""
        output, target = (
            torch.cat(x).float().cpu().numpy() for x in zip(*self._parts, strict=True)
        )
        self._parts = []
        if not np.isfinite(output).all():
            raise DivergedError(
                f"validation outputs of epoch {trainer.current_epoch} are not finite"
            )
        if self.task.kind == "single_label":
            target = target.astype(np.int64)
        value = score(self.metric, output, target, self.task.kind)
        pl_module.log(f"val/{self.metric}", value)
        better = self.best is None or self.sign * value > self.sign * self.best
        if better or self.on == "last":
            self.best, self.epoch = value, trainer.current_epoch
            frozen = {n for n, p in pl_module.named_parameters() if not p.requires_grad}
            state = pl_module.state_dict()
            self._state = {k: v.detach().clone() for k, v in state.items() if k not in frozen}
        elif self.patience is not None and self.epoch is not None:
            trainer.should_stop = trainer.current_epoch - self.epoch >= self.patience

    def restore(self, method: LightningModule) -> None:
        """Put the kept weights back."""
        method.load_state_dict(self._state, strict=False)
