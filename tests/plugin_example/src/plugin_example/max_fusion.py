"""Max fusion: the largest value of each feature over the modalities that are there.

Paper: none.
Notation: z = z_m (B, M, D).
Differences from the paper: none.
"""

from jaxtyping import Float
from torch import Tensor, nn

from mmbench.data.batch import Batch
from mmbench.data.task import Task
from mmbench.layers.encoders import ModalityEncoders
from mmbench.method import Method, Paper


class MaxFusion(Method):
    """A head on the elementwise maximum.

    Args:
        task: What goes in and what is predicted.
        dim: D, width of embeddings.
        lr: Learning rate of AdamW.
    """

    paper = Paper("Max fusion")

    def __init__(self, task: Task, *, dim: int = 64, lr: float = 1e-3) -> None:
        super().__init__(task, lr=lr)
        self.encode = ModalityEncoders(task, dim)
        self.head = nn.Linear(dim, task.num_outputs)

    def forward(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """Predict from what is present."""
        z = self.encode(batch)  # (B, M, D), zeros where absent
        z = z.masked_fill(~batch.presence[:, :, None], float("-inf"))
        output: Tensor = self.head(z.amax(1))
        return output
