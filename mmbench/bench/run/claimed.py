"""A training goes on only as long as its run is claimed."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from mmbench.bench.run.failures import LostClaimError
from mmbench.store import Claim


class WhileClaimed(Callback):
    """Stops a training at the first step after somebody took its run over.

    Args:
        held: Claim of the run.
    """

    def __init__(self, held: Claim) -> None:
        self.held = held

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Look whether the claim is still ours.

        Raises:
            LostClaimError: If it is not.
        """
        if self.held.lost:
            raise LostClaimError("another process took it over")
