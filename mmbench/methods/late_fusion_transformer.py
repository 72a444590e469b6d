"""Late-fusion transformer: a token a modality, a few layers, absent tokens never read.

Paper: Rheude et al., "Fusion or Confusion? Multimodal Complexity Is Not All You Need", 2025, whose
baseline SimBaMM is this network. Over nine data sets none of 19 methods beat it reliably.
Idea: encode each modality into one token, let the tokens that are there and a class token read
each other, and predict from the class token.
Notation: presence (B, M); z = tokens (B, M, D); t = [CLS], z_1, ..., z_M (B, 1 + M, D).
Differences from the paper:
- The study tunes each method on each data set. Depth, heads and dropout here are those of the
  configuration that its code was released with; tokens are 128 wide instead of 512, as for the
  suite's other baselines, with hidden layers of the same width instead of half of it.
- Normalisation comes before each part of a layer, not after it, and once after the last layer; a
  learned vector for each modality stands in for sinusoids of its position.
- Modalities are hidden at random in training, which the study leaves to the data.
- The suite's encoders, and AdamW instead of its schedule-free form.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad

from mmbench.bounds import Count, Decay, Depth, LearningRate, Rate, Share, Width
from mmbench.data.batch import Batch
from mmbench.data.task import Task
from mmbench.layers.attention import TransformerStack
from mmbench.layers.encoders import ModalityEncoders
from mmbench.layers.fusion import random_drop
from mmbench.method import ALL_TASKS, Applies, Method, Paper
from mmbench.search import Real, Whole, ranges


class LateFusionTransformer(Method):
    """A transformer over one token a modality.

    Args:
        task: What goes in and what is predicted.
        drop: Probability that a present modality is hidden from a training step, in [0, 1].
        dim: D, width of a token.
        depth: Layers, >= 1.
        heads: Has to divide `dim`.
        dropout: In the transformer, in [0, 1).
        lr: Learning rate of AdamW.
        weight_decay: Decoupled weight decay.

    Raises:
        ValueError: If `drop` is no probability, or `heads` does not divide `dim`.
    """

    paper = Paper(
        "Fusion or Confusion? Multimodal Complexity Is Not All You Need",
        "arXiv",
        2025,
        "https://arxiv.org/abs/2512.22991",
    )
    applies = Applies(tasks=ALL_TASKS, min_modalities=2)
    search = ranges(
        drop=Real(0.0, 0.6),
        depth=Whole(1, 6),
    )

    def __init__(
        self,
        task: Task,
        *,
        drop: Share = 0.3,
        dim: Width = 128,
        depth: Depth = 4,
        heads: Count = 8,
        dropout: Rate = 0.2,
        lr: LearningRate = 1e-3,
        weight_decay: Decay = 1e-2,
    ) -> None:
        super().__init__(task, lr=lr, weight_decay=weight_decay)
        if not 0 <= drop <= 1:
            raise ValueError(f"drop is a probability in 0..1, found {drop}")
        self.drop = drop
        self.encode = ModalityEncoders(task, dim)
        # [CLS] starts the same and one vector for each modality; both as in BERT
        self.place = nn.Parameter(torch.empty(1 + len(task.modalities), dim))
        nn.init.normal_(self.place, std=0.02)
        self.layers = TransformerStack(dim, depth, heads=heads, expansion=1, dropout=dropout)
        self.head = nn.Linear(dim, task.num_outputs)

    def forward(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """Predict from what is present, less what chance hides in training."""
        z = self.encode(batch)  # (B, M, D)
        presence = random_drop(batch.presence, self.drop) if self.training else batch.presence
        t = pad(z, (0, 0, 1, 0)) + self.place
        t = self.layers(t, pad(presence, (1, 0), value=True))
        output: Tensor = self.head(t[:, 0])
        return output
