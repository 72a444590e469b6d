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
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

from mmbench.bounds import Decay, LearningRate, Rate, Width
from mmbench.data.task import Task
from mmbench.method import ALL_TASKS, Applies, Paper
from mmbench.search import Choice, ranges
from mmbench.single_modality import SingleModality


class SNN(SingleModality):
    """A stack of SELU layers on one vector modality; ignores all others.

    Args:
        task: What goes in and what is predicted.
        modality: The vector to read; None = the first one of the task.
        dim: Width of the first hidden layer, at least 2; the second is half as wide.
        dropout: Alpha dropout after each hidden layer, in [0, 1).
        lr: Learning rate of AdamW.
        weight_decay: Decoupled weight decay.

    Raises:
        ValueError: If there is no such modality, or it is no vector.
    """

    paper = Paper(
        "Self-Normalizing Neural Networks", "NeurIPS", 2017, "https://arxiv.org/abs/1706.02515"
    )
    applies = Applies(tasks=ALL_TASKS, one_of=("vector",))
    search = ranges(dim=Choice((64, 128, 256, 512)))
    own_encoders = "the network on the vector is the method"

    def __init__(
        self,
        task: Task,
        *,
        modality: str | None = None,
        dim: Width = 512,
        dropout: Rate = 0.2,
        lr: LearningRate = 1e-3,
        weight_decay: Decay = 1e-2,
    ) -> None:
        super().__init__(task, modality=modality, lr=lr, weight_decay=weight_decay)
        self.encode = SELUStack((*self.read.shape, dim, dim // 2), dropout)
        self.head = lecun_normal(nn.Linear(dim // 2, task.num_outputs))


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
