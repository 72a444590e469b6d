"""Zero fill: late fusion in which an absent modality contributes zeros.

Paper: none; what most papers call the vanilla multimodal baseline.
Notation: z = z_m (B, M, D), zeros where absent.
Differences from the paper: none.
"""

from jaxtyping import Float
from torch import Tensor

from mmbench.bounds import Decay, LearningRate, Rate, Width
from mmbench.data.batch import Batch
from mmbench.data.task import Task
from mmbench.layers.late_fusion import LateFusion
from mmbench.method import ALL_TASKS, Applies, Method, Paper


class ZeroFill(Method):
    """Late fusion trained on what the scenario shows, nothing else done about gaps.

    Args:
        task: What goes in and what is predicted.
        dim: D, width of embeddings.
        dropout: In [0, 1).
        lr: Learning rate of AdamW.
        weight_decay: Decoupled weight decay.
    """

    paper = Paper("Late fusion with zero filling (baseline)")
    applies = Applies(tasks=ALL_TASKS)

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
        """Predict from what is present."""
        output: Tensor = self.fuse(batch)
        return output
