"""ABMIL: gated attention over the instances of one bag, the baseline that slides are read against.

Paper: Ilse et al., "Attention-based Deep Multiple Instance Learning", ICML 2018.
Idea: a bag is the weighted mean of its instances, the weights from a small network that sees one
instance at a time, so that neither the order of the instances nor their number matters.
Notation: x = instances (B, N, F), N_i of which are there; h = h_k (B, N, H); z (B, H);
prior = best constant output of the training split (C,).
Differences from the paper:
- Features take the place of a convolutional network on each instance. The shape is that of the
  baseline on slides: F - 512, gates of 256, one mean, 512 - 256 - C, dropout 0.25.
- Bags of different sizes are padded and masked: any batch size gives what bags one by one give.
  The paper and later code take one bag at a time.
- Both gates have biases.
- A sequence is read as a bag of its steps where the task has no bag.
- A sample without the modality gets the training prior, and has no part in the loss.
- AdamW, as for every method of the suite, without weighted sampling of classes.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mmbench.bounds import Decay, LearningRate, Rate, Width
from mmbench.data.task import Task
from mmbench.layers.attention import GatedAttentionPool
from mmbench.layers.dropout import Dropout
from mmbench.layers.pooling import valid_steps
from mmbench.method import ALL_TASKS, Applies, Paper
from mmbench.search import Choice, ranges
from mmbench.single_modality import SingleModality


class ABMIL(SingleModality):
    """Gated attention on one bag modality; ignores all others.

    Args:
        task: What goes in and what is predicted.
        modality: The bag or sequence to read; None = the first bag, or the first sequence.
        dim: H, width of an instance, at least 2; the gates and the head are half as wide.
        dropout: In [0, 1).
        lr: Learning rate of AdamW.
        weight_decay: Decoupled weight decay.

    Raises:
        ValueError: If there is no such modality, or it is neither bag nor sequence.
    """

    paper = Paper(
        "Attention-based Deep Multiple Instance Learning",
        "ICML",
        2018,
        "https://arxiv.org/abs/1802.04712",
    )
    applies = Applies(tasks=ALL_TASKS, one_of=("bag", "sequence"))
    search = ranges(dim=Choice((64, 128, 256, 512)))
    own_encoders = "attention over the instances is the method"

    def __init__(
        self,
        task: Task,
        *,
        modality: str | None = None,
        dim: Width = 512,
        dropout: Rate = 0.25,
        lr: LearningRate = 1e-3,
        weight_decay: Decay = 1e-2,
    ) -> None:
        super().__init__(task, modality=modality, lr=lr, weight_decay=weight_decay)
        self.encode = BagMean(self.read.shape[1], dim, dropout)
        self.head = nn.Sequential(
            nn.Linear(dim, dim // 2),
            nn.ReLU(),
            Dropout(dropout),
            nn.Linear(dim // 2, task.num_outputs),
        )


class BagMean(nn.Module):
    """Linear, ReLU, dropout on every instance, then one gated mean (Eq. 7 and 9).

    Args:
        features: F.
        dim: H.
        dropout: In [0, 1).
    """

    def __init__(self, features: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.instance = nn.Sequential(nn.Linear(features, dim), nn.ReLU(), Dropout(dropout))
        self.pool = GatedAttentionPool(dim)

    def forward(
        self, x: Float[Tensor, "batch instance feature"], lengths: Int[Tensor, " batch"] | None
    ) -> Float[Tensor, "batch dim"]:
        """Pool the first `lengths` instances of each bag; None = there is no padding."""
        valid = valid_steps(lengths, x)
        h = self.instance(torch.where(valid[:, :, None], x, 0.0))
        z: Tensor = self.pool(h, valid)
        return z.squeeze(1)
