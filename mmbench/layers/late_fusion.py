"""Late fusion: encode each modality by itself, put the vectors side by side, classify."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmbench.data.batch import Batch
from mmbench.data.task import Task
from mmbench.layers.dropout import Dropout
from mmbench.layers.encoders import ModalityEncoders


class LateFusion(nn.Module):
    """A two-layer head on the concatenated embeddings; absent modalities contribute zeros.

    Args:
        task: What goes in and what is predicted.
        dim: D, width of an embedding and of the head's hidden layer.
        dropout: In the head, in [0, 1).
    """

    def __init__(self, task: Task, dim: int, dropout: float) -> None:
        super().__init__()
        self.encode = ModalityEncoders(task, dim)
        self.head = head(dim, dropout, task.num_outputs, parts=len(task.modalities))

    def forward(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """Predict from what is present."""
        z = self.encode(batch)  # (B, M, D), zeros where absent
        output: Tensor = self.head(z.flatten(1))
        return output


def head(dim: int, dropout: float, outputs: int, *, parts: int = 1) -> nn.Sequential:
    """Two layers on embeddings side by side.

    Args:
        dim: D, width of an embedding and of the hidden layer.
        dropout: In [0, 1).
        outputs: C, width of the output.
        parts: How many embeddings stand side by side, >= 1.
    """
    return nn.Sequential(
        nn.Linear(parts * dim, dim), nn.GELU(), Dropout(dropout), nn.Linear(dim, outputs)
    )


class StackedMLP(nn.Module):
    """A two-layer MLP for each modality, all in one batched product; weights are not shared.

    Args:
        count: M, how many networks.
        dim: D, input and output width.
        hidden: Width between them.
        activation: Of the hidden units.
    """

    def __init__(
        self,
        count: int,
        dim: int,
        hidden: int,
        activation: Callable[[Tensor], Tensor] = nn.functional.gelu,
    ) -> None:
        super().__init__()
        self.activation = activation
        # as nn.Linear starts: uniform within one over the root of the inputs
        self.w1 = nn.Parameter(torch.empty(count, dim, hidden).uniform_(-(dim**-0.5), dim**-0.5))
        self.b1 = nn.Parameter(torch.zeros(count, 1, hidden))
        bound = hidden**-0.5
        self.w2 = nn.Parameter(torch.empty(count, hidden, dim).uniform_(-bound, bound))
        self.b2 = nn.Parameter(torch.zeros(count, 1, dim))

    def forward(
        self, x: Float[Tensor, "batch modality dim"]
    ) -> Float[Tensor, "batch modality dim"]:
        """Apply network m to column m."""
        h = self.activation(torch.baddbmm(self.b1, x.transpose(0, 1), self.w1))  # (M, B, H)
        return torch.baddbmm(self.b2, h, self.w2).transpose(0, 1)
