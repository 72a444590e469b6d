"""A training goes on only as long as it is claimed."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from mmbench.store import Claim


class WhileClaimed(Callback):
    """Stops a training at the first step after somebody took over what it is for.

    Args:
        held: Claim of the run.
    """

    def __init__(self, held: Claim) -> None:
        self.held = [held]

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Look whether all claims are still ours.

        Raises:
            LostClaimError: If one is not.
        """
        for claim in self.held:
            claim.require()

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Look as before a training step."""
        self.on_train_batch_start(trainer, pl_module, batch, batch_idx)
