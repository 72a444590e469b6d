"""Ensemble of unimodal networks: each is trained by itself, those that apply are averaged.

Paper: none; late fusion in which nothing is learned together.
Idea: one network a modality, trained as if it were alone. The prediction is the mean of the
log-probabilities of those whose modality is there. They are trained one after the other, and of
each the epoch is kept at which the mean of those so far predicts best: so that the last score on
validation, by which settings are chosen, is that of the whole ensemble.
Notation: presence (B, M); output = f_m(x_m), (B, C), of the network of modality m.
Differences from the paper: none.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmbench.bounds import Decay, LearningRate, Rate, Width
from mmbench.data.batch import Batch
from mmbench.data.task import Task
from mmbench.layers.encoders import ModalityEncoders
from mmbench.layers.fusion import masked_mean
from mmbench.layers.late_fusion import head
from mmbench.layers.prior import output_prior
from mmbench.method import Method, Paper, Stage


class EnsembleUnimodal(Method):
    """Mean of the log-probabilities (regression: of the values) of one network a modality.

    Args:
        task: What goes in and what is predicted.
        dim: D, width of embeddings.
        dropout: In the heads, in [0, 1).
        lr: Learning rate of AdamW.
        weight_decay: Decoupled weight decay.
    """

    paper = Paper("Ensemble of unimodal networks (baseline)")

    prior: Tensor

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
        self.heads = nn.ModuleList(head(dim, dropout, task.num_outputs) for _ in task.names)
        self.register_buffer("prior", torch.zeros(task.num_outputs))

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The networks one after the other."""
        return tuple(
            Stage(f"unimodal_{m}", trains=(f"encode.in_order.{m}", f"heads.{m}"))
            for m in range(len(self.heads))
        )

    def prepare(self, train: Iterable[Batch]) -> None:
        """Look up the best constant, for samples that lack the modality of a network."""
        self.prior.copy_(output_prior(self.task, torch.cat([batch.target for batch in train])))

    def alone(self, batch: Batch, m: int) -> Float[Tensor, "batch output"]:
        """Prediction from modality m; the prior where it is absent."""
        name = self.task.names[m]
        output = self.heads[m](batch.embed(name, self.encode.in_order[m]))
        return torch.where(batch.has(name)[:, None], output, self.prior)

    def forward(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """Average the networks whose modality is there."""
        return self.mean_of(batch, len(self.heads))

    def mean_of(self, batch: Batch, count: int) -> Float[Tensor, "batch output"]:
        """Average the first networks where their modality is there; the prior where none is."""
        each = torch.stack([self.alone(batch, m) for m in range(count)], dim=1)
        # for labels, the mean of the logits is the log-odds of the mean log-probabilities
        if self.task.kind == "single_label":
            each = each.log_softmax(2)
        presence = batch.presence[:, :count]
        return torch.where(presence.any(1)[:, None], masked_mean(each, presence), self.prior)

    def loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Mean loss of the present network over the samples that have its modality."""
        rows = self.row_loss(self.alone(batch, self._present), batch.target)
        return {"task": masked_mean(rows, batch.presence[:, self._present], dim=0)}

    def stage_output(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """Average of the networks up to the one that the present stage trains."""
        return self.mean_of(batch, self._present + 1)

    @property
    def _present(self) -> int:
        return [stage.name for stage in self.stages].index(self.stage)
