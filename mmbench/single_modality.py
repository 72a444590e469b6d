"""What methods that read one modality share: which one, and what samples without it get."""

from abc import ABC
from collections.abc import Iterable
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmbench.bounds import Decay, LearningRate
from mmbench.data.batch import Batch
from mmbench.data.task import Task
from mmbench.layers.fusion import masked_mean
from mmbench.layers.prior import output_prior
from mmbench.method import Applies, Method


class SingleModality(Method, ABC):
    """Reads one modality and ignores all others; a subclass builds `encode` and `head`.

    A sample without the modality gets the training prior, and has no part in the loss.

    Args:
        task: What goes in and what is predicted.
        modality: The one to read; None = the first of the kinds in `applies.one_of`, in their
            order.
        lr: Learning rate of AdamW.
        weight_decay: Decoupled weight decay.

    Raises:
        ValueError: If there is no such modality, or it is of another kind.
    """

    applies: ClassVar[Applies]
    encode: nn.Module  # called with (batch, ...) and lengths or None, gives one vector
    head: nn.Module
    prior: Tensor

    def __init__(
        self,
        task: Task,
        *,
        modality: str | None = None,
        lr: LearningRate = 1e-3,
        weight_decay: Decay = 1e-2,
    ) -> None:
        super().__init__(task, lr=lr, weight_decay=weight_decay)
        self.read = task.one_of(self.applies.one_of, modality)
        self.register_buffer("prior", torch.zeros(task.num_outputs))

    def prepare(self, train: Iterable[Batch]) -> None:
        """Look up the best constant, for samples that lack the modality."""
        self.prior.copy_(output_prior(self.task, torch.cat([batch.target for batch in train])))

    def forward(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """Predict from the modality; the prior where it is absent."""
        output = self.head(batch.embed(self.read.name, self.encode))
        return torch.where(batch.has(self.read.name)[:, None], output, self.prior)

    def loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Mean loss of the samples that have the modality; zero if there is none."""
        has = batch.has(self.read.name)
        rows = self.row_loss(self(batch), batch.target, has)
        return {"task": masked_mean(rows, has, dim=0)}
