"""SNN: a self-normalising network on one vector, the baseline that omics are read against.

Paper: Klambauer et al., "Self-Normalizing Neural Networks", NeurIPS 2017.
Idea: with SELU units and weights of variance 1 / inputs, activations of mean 0 and variance 1
stay near mean 0 and variance 1 from layer to layer, so that no layer has to normalise them;
dropout is replaced by one that keeps both.
Notation: x (B, F); z hidden (B, H); prior = best constant output of the training split (C,).
Differences from the paper:
- The shape is that of the baseline on gene expression in papers on slides and genes: two hidden
  layers, F - 512 - 256 - C.
- A sample without the modality gets the training prior, and has no part in the loss.
- AdamW, as for every method of the suite; those papers take Adam at a tenth of the learning
  rate, with a plateau schedule on test scores.
"""

import math
from collections.abc import Iterable
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmbench.data.batch import Batch
from mmbench.data.task import Kind, Task
from mmbench.layers.prior import output_prior
from mmbench.method import Applies, Method, Paper

READS: tuple[Kind, ...] = ("vector",)


class SNN(Method):
    """A stack of SELU layers on one vector modality; ignores all others.

    Args:
        task: What goes in and what is predicted.
        modality: The vector to read; None = the first one of the task.
        dim: Width of the first hidden layer, at least 2; the second is half as wide.
        dropout: Alpha dropout after each hidden layer, in [0, 1).
        lr: Learning rate of AdamW.

    Raises:
        ValueError: If there is no such modality, or it is no vector.
    """

    paper = Paper(
        "Self-Normalizing Neural Networks", "NeurIPS", 2017, "https://arxiv.org/abs/1706.02515"
    )
    applies = Applies(one_of=READS)

    prior: Tensor

    def __init__(
        self,
        task: Task,
        *,
        modality: str | None = None,
        dim: int = 512,
        dropout: float = 0.2,
        lr: float = 1e-3,
    ) -> None:
        super().__init__(task, lr=lr)
        read = task.one_of(READS, modality)
        self.modality = read.name
        self.stack = SELUStack((*read.shape, dim, dim // 2), dropout)
        self.head = lecun_normal(nn.Linear(dim // 2, task.num_outputs))
        self.register_buffer("prior", torch.zeros(task.num_outputs))

    def prepare(self, train: Iterable[Batch]) -> None:
        """Look up the best constant, for samples that lack the modality."""
        self.prior.copy_(output_prior(self.task, torch.cat([batch.target for batch in train])))

    def forward(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """Predict from the modality; the prior where it is absent."""
        output = self.head(batch.embed(self.modality, self.stack))
        return torch.where(batch.has(self.modality)[:, None], output, self.prior)

    def loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Mean loss of the samples that have the modality; zero if there is none."""
        has = batch.has(self.modality)
        rows = self.row_loss(self(batch), batch.target) * has
        return {"task": rows.sum() / has.sum().clamp_min(1)}


class SELUStack(nn.Module):
    """Linear, SELU, AlphaDropout, for each pair of neighbouring widths.

    Args:
        widths: Of the input, then of each layer's output.
        dropout: In [0, 1).
    """

    def __init__(self, widths: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(
                nn.Sequential(
                    lecun_normal(nn.Linear(inputs, outputs)), nn.SELU(), nn.AlphaDropout(dropout)
                )
                for inputs, outputs in pairwise(widths)
            )
        )

    def forward(
        self, x: Float[Tensor, "batch feature"], lengths: None = None
    ) -> Float[Tensor, "batch dim"]:
        """Encode standardised features; there are no lengths."""
        z: Tensor = self.layers(x)
        return z


def lecun_normal(layer: nn.Linear) -> nn.Linear:
    """Draw weights from N(0, 1 / inputs), biases 0: what keeps the variance of SELU at 1."""
    nn.init.normal_(layer.weight, std=1 / math.sqrt(layer.in_features))
    nn.init.zeros_(layer.bias)
    return layer
