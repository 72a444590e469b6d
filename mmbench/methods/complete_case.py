"""Complete case: late fusion that learns from complete training samples alone.

Paper: none; what is done when incomplete samples are thrown away.
Notation: complete = has every modality.
Differences from the paper: none.
"""

from jaxtyping import Float
from torch import Tensor

from mmbench.bounds import Decay, LearningRate, Rate, Width
from mmbench.data.batch import Batch
from mmbench.data.task import Task
from mmbench.layers.fusion import masked_mean
from mmbench.layers.late_fusion import LateFusion
from mmbench.method import ALL_TASKS, Applies, Method, Paper


class CompleteCase(Method):
    """Late fusion; incomplete samples have no part in the loss.

    Args:
        task: What goes in and what is predicted.
        dim: D, width of embeddings.
        dropout: In [0, 1).
        lr: Learning rate of AdamW.
        weight_decay: Decoupled weight decay.
    """

    paper = Paper("Complete-case analysis (baseline)")
    applies = Applies(tasks=ALL_TASKS, complete_rows=True)

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
        self.fuse = LateFusion(task, dim, dropout)

    def forward(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """Predict from what is present; gaps at test time are zeros that training never met."""
        output: Tensor = self.fuse(batch)
        return output

    def loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Mean loss of the complete samples of a batch; zero if there is none."""
        complete = batch.presence.all(dim=1)
        rows = self.row_loss(self(batch), batch.target, complete)
        return {"task": masked_mean(rows, complete, dim=0)}
