"""Best single modality: the one modality that predicts best on its own, ignoring all others.

Paper: none; a multimodal method that does not beat it has not used the other modalities.
Idea: one network a modality, each trained on the samples that have it. Before an epoch is
scored, the modality with the lowest validation loss is chosen; where a sample lacks it, the
class frequencies are all that is left to predict.
Notation: output = every modality's own prediction (B, M, C).
Differences from the paper: none.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmbench.bounds import Decay, LearningRate, Rate, Width
from mmbench.data.batch import Batch
from mmbench.data.task import Task
from mmbench.layers.dropout import Dropout
from mmbench.layers.encoders import ModalityEncoders
from mmbench.layers.prior import output_prior
from mmbench.method import ALL_TASKS, Applies, Method, Paper


class BestSingleModality(Method):
    """One network a modality; predicts by the best of them.

    Args:
        task: What goes in and what is predicted.
        dim: D, width of embeddings.
        dropout: In [0, 1).
        lr: Learning rate of AdamW.
        weight_decay: Decoupled weight decay.
    """

    paper = Paper("Best single modality (baseline)")
    applies = Applies(tasks=ALL_TASKS)

    prior: Tensor
    best: Tensor

    def __init__(
        self,
        task: Task,
        *,
        dim: Width = 128,
        dropout: Rate = 0.1,
        lr: LearningRate = 1e-3,
        weight_decay: Decay = 1e-2,
    ) -> None:
        super().__init__(task, lr=lr, weight_decay=weight_decay)
        self.encode = ModalityEncoders(task, dim)
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.Linear(dim, dim),
                nn.GELU(),
                Dropout(dropout),
                nn.Linear(dim, task.num_outputs),
            )
            for _ in task.names
        )
        self.register_buffer("prior", torch.zeros(task.num_outputs))
        self.register_buffer("best", torch.zeros((), dtype=torch.long))  # index of the modality

    def prepare(self, train: Iterable[Batch]) -> None:
        """Count the classes, for samples that lack the best modality."""
        self.prior.copy_(output_prior(self.task, torch.cat([batch.target for batch in train])))

    def each(self, batch: Batch) -> Float[Tensor, "batch modality output"]:
        """Every modality's own prediction; the prior where it is absent."""
        z = self.encode(batch)  # (B, M, D)
        output = torch.stack([head(z[:, m]) for m, head in enumerate(self.heads)], dim=1)
        return torch.where(batch.presence[:, :, None], output, self.prior)

    def forward(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """Predict from the best modality alone."""
        return self.each(batch).index_select(1, self.best[None]).squeeze(1)

    def loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Sum over modalities of the mean loss of the samples that have it."""
        rows = self._row_losses(batch) * batch.presence
        return {"task": (rows.sum(0) / batch.presence.sum(0).clamp_min(1)).sum()}

    def _row_losses(self, batch: Batch) -> Float[Tensor, "batch modality"]:
        each = zip(self.each(batch).unbind(1), batch.presence.unbind(1), strict=True)
        return torch.stack([self.row_loss(o, batch.target, has) for o, has in each], dim=1)

    def candidates(self, batch: Batch) -> Float[Tensor, "batch modality output"]:
        """Every modality's own prediction, gaps included."""
        return self.each(batch)

    def choose(self, losses: Float[Tensor, " modality"]) -> None:
        """Choose the modality by validation loss."""
        self.best.copy_(losses.argmin())
