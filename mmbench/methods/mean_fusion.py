"""Mean fusion: average the embeddings of the modalities that are there.

Paper: none; the simplest fusion that does not need to know which ones are missing.
Notation: presence = delta (B, M); z = z_m (B, M, D); fused = z-bar (B, D)
Differences from the paper: none.
"""

from jaxtyping import Float
from torch import Tensor, nn

from mmbench.bounds import Decay, LearningRate, Rate, Width
from mmbench.data.batch import Batch
from mmbench.data.task import Task
from mmbench.layers.dropout import Dropout
from mmbench.layers.encoders import ModalityEncoders
from mmbench.layers.fusion import masked_mean
from mmbench.method import ALL_TASKS, Applies, Method, Paper


class MeanFusion(Method):
    """A head on the mean embedding.

    Args:
        task: What goes in and what is predicted.
        dim: D, width of embeddings.
        dropout: In [0, 1).
        lr: Learning rate of AdamW.
        weight_decay: Decoupled weight decay.
    """

    paper = Paper("Mean fusion (baseline)")
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
        self.encode = ModalityEncoders(task, dim)
        self.head = nn.Sequential(
            nn.Linear(dim, dim), nn.GELU(), Dropout(dropout), nn.Linear(dim, task.num_outputs)
        )

    def forward(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """Predict from what is present."""
        z = self.encode(batch)  # (B, M, D), zeros where absent
        fused = masked_mean(z, batch.presence)  # (B, D)
        output: Tensor = self.head(fused)
        return output
