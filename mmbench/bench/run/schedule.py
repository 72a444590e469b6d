"""Learning rates over a training: a warm-up and a decay, the same for every method of a suite."""

import math
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer


class Schedule(Callback):
    """Scales the learning rates of all optimisers in each step.

    It multiplies what the method itself has at that step, a schedule of its own included, and puts
    that back after the step; so there is no state to save.

    Source: Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR
    2017, Eq. 5, without restarts, for the cosine; Goyal et al., "Accurate, Large Minibatch SGD",
    2017, section 2.2, for the gradual warm-up.

    Args:
        warm_up: Share of the steps over which the factor rises, in [0, 1).
        decay: `cosine`, or None for a factor of 1 after that.
    """

    def __init__(self, warm_up: float, decay: Literal["cosine"] | None) -> None:
        self.warm_up = warm_up
        self.decay = decay
        self._now = 1.0
        self._rates: list[float] = []  # as the method has them, while a step is taken

    def factor(self, step: int, steps: int) -> float:
        """What learning rates are multiplied with.

        Args:
            step: From 0.
            steps: Of the whole training.

        Returns:
            In (0, 1].
        """
        warm = math.ceil(self.warm_up * steps)
        if step < warm:
            return (step + 1) / warm
        if self.decay is None:
            return 1.0
        return (1 + math.cos(math.pi * (step - warm) / (steps - warm))) / 2

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Have every step of every optimiser scaled."""
        for optimizer in trainer.optimizers:
            optimizer.register_step_pre_hook(self._scale)
            optimizer.register_step_post_hook(self._restore)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Find the factor of this step."""
        assert trainer.max_epochs is not None
        epoch = int(trainer.num_training_batches)
        step = trainer.current_epoch * epoch + batch_idx
        self._now = self.factor(step, trainer.max_epochs * epoch)

    def _scale(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._rates = [group["lr"] for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group["lr"] *= self._now

    def _restore(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        # at once: a schedule of the method's own may go on from what it finds
        for group, rate in zip(optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate
