"""ActionMAE: drop whole modalities at random and rebuild their tokens from the others.

Paper: Woo et al., "Towards Good Practices for Missing Modality Robust Action Recognition",
AAAI 2023; the row AcMAE of REDEEM's Table 1.
Idea: each modality is one token. A masked autoencoder, with a few memory tokens that are the same
for all samples, rebuilds the tokens that are missing; the prediction reads the rebuilt set, so
that training and test meet the same gaps.
Notation: presence (B, M); v = v_m tokens (B, M, D); mem memory tokens (K, D); v-hat = rebuilt
(B, M, D).
Differences from the paper:
- The suite's own encoders give the tokens of modalities, in place of a network for frames and a
  transformer over time. A place in the set is told by learned positions instead of sines.
- How many modalities are kept is drawn once a batch, as released; a sample that has fewer keeps
  all. Tokens that training hides are rebuilt where they are known: those of the teacher's samples
  under the regime `full_access`, else those of the batch.
- The autoencoder always rebuilds and each token stays at its place. In the released code, in
  evaluation, kept tokens move up to the first places, and where nothing is missing, in training,
  too, nothing is decoded and memory tokens are read in place of modalities:
  `variant="official"`.
- What is absent is left out of attention in the encoder instead of being cut out of its input.
- D is 128 instead of 512, as the suite's encoders are small.
- Label smoothing is for a single label; other tasks have their own loss.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmbench.bounds import Count, Decay, Depth, LearningRate, LossWeight, Rate, Width
from mmbench.data.batch import Batch
from mmbench.data.task import Task
from mmbench.layers.attention import TransformerStack
from mmbench.layers.encoders import ModalityEncoders
from mmbench.layers.fusion import masked_mean, random_subset
from mmbench.layers.stacked import StackedLinear
from mmbench.method import ALL_TASKS, Applies, Method, Paper
from mmbench.search import Real, Whole, ranges

Tokens = Float[Tensor, "batch token dim"]
Presence = Bool[Tensor, "batch modality"]


class ActionMAE(Method):
    """Masked autoencoder over one token a modality.

    Args:
        task: What goes in and what is predicted.
        variant: The paper's autoencoder, or what its released code computes.
        dim: D, width of a token.
        heads: Attention heads; has to divide `dim`.
        depth: Layers of encoder and of decoder, >= 1.
        memory: K, memory tokens, >= 1.
        reconstruct: Weight of rebuilding, >= 0.
        smoothing: Of labels, in [0, 1).
        dropout: In encoder and decoder, in [0, 1).
        lr: Learning rate of AdamW.
        weight_decay: Of AdamW.

    Raises:
        ValueError: If `memory` is below 1, or `heads` does not divide `dim`.
    """

    paper = Paper(
        "Towards Good Practices for Missing Modality Robust Action Recognition",
        "AAAI",
        2023,
        "https://arxiv.org/abs/2211.13916",
    )
    applies = Applies(tasks=ALL_TASKS, min_modalities=2)
    search = ranges(
        memory=Whole(1, 16, log=True),
        reconstruct=Real(0.1, 10.0, log=True),
        smoothing=Real(0.0, 0.3),
    )

    def __init__(
        self,
        task: Task,
        *,
        variant: Literal["paper", "official"] = "paper",
        dim: Width = 128,
        heads: Count = 8,
        depth: Depth = 2,
        memory: Count = 4,
        reconstruct: LossWeight = 1.0,
        smoothing: Rate = 0.1,
        dropout: Rate = 0.0,
        lr: LearningRate = 1e-4,
        weight_decay: Decay = 1e-4,
    ) -> None:
        super().__init__(task, lr=lr, weight_decay=weight_decay)
        if memory < 1:
            raise ValueError(f"there has to be at least 1 memory token, found {memory}")
        modalities = len(task.modalities)
        self.official = variant == "official"
        self.reconstruct, self.smoothing = reconstruct, smoothing
        self.encode = ModalityEncoders(task, dim)
        self.position = nn.Parameter(torch.empty(modalities, dim).normal_(std=0.02))
        self.memory = nn.Parameter(torch.empty(memory, dim).normal_(std=0.02))
        self.mask = nn.Parameter(torch.empty(dim).normal_(std=0.02))
        self.encoder = TransformerStack(dim, depth, heads=heads, dropout=dropout)
        self.decoder = TransformerStack(dim, depth, heads=heads, dropout=dropout)
        self.rebuilt = nn.Linear(dim, dim)
        self.head = StackedLinear(modalities, dim, task.num_outputs)

    def forward(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """Predict from what is present."""
        return self.predict(self.rebuild(self.encode(batch), batch.presence))

    def completed(self, batch: Batch) -> dict[str, Float[Tensor, "batch _"]]:
        """Rebuilt tokens."""
        v = self.rebuild(self.encode(batch), batch.presence)
        return dict(zip(self.task.names, v.unbind(1), strict=True))

    def predict(self, v: Tokens) -> Float[Tensor, "batch output"]:
        """Sum of a linear map of each rebuilt token."""
        output: Tensor = self.head(v.transpose(0, 1)).sum(0)
        return output

    def rebuild(self, v: Tokens, presence: Presence) -> Tokens:
        """Rebuild the whole set from what is there.

        Args:
            v: Tokens; what is absent may hold anything finite.
            presence: What is there.
        """
        count, memory = len(self.memory), self.memory.expand(len(v), -1, -1)
        present = F.pad(presence, (count, 0), value=True)
        encoded = self.encoder(torch.cat([memory, v + self.position], dim=1), present)
        tokens = encoded[:, count:]
        visible = presence
        if self.official and not self.training:
            order = presence.int().argsort(dim=1, descending=True, stable=True)
            tokens = tokens.gather(1, order[:, :, None].expand_as(tokens))
            visible = presence.gather(1, order)
        placed = torch.where(visible[:, :, None], tokens, self.mask) + self.position
        decoded = self.decoder(torch.cat([encoded[:, :count], placed], dim=1))
        v_hat: Tensor = self.rebuilt(decoded[:, count:])
        if self.official:
            undecoded = encoded[:, : v.shape[1]]  # of which memory tokens are the first
            return torch.where(presence.all(1)[:, None, None], undecoded, v_hat)
        return v_hat

    def loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Prediction from a random subset, and the tokens that it does not hold."""
        truth = batch.teacher or batch
        n_keep = torch.randint(
            1, batch.presence.shape[1] + 1, (1,), device=batch.presence.device
        ).expand(len(batch))
        seen = random_subset(batch.presence, n_keep)
        v = self.encode(truth)
        v_hat = self.rebuild(v, seen)
        output = self.predict(v_hat)
        task = (
            F.cross_entropy(output, batch.target, label_smoothing=self.smoothing)
            if self.task.kind == "single_label"
            else self.task_loss(output, batch.target)
        )
        hidden = truth.presence & ~seen
        return {
            "task": task,
            "reconstruction": self.reconstruct * reconstruction(v_hat, v, hidden),
        }


def reconstruction(v_hat: Tokens, v: Tokens, hidden: Presence) -> Float[Tensor, ""]:
    """Mean squared error of hidden tokens, each standardised over its width; 0 without any.

    The target is not held fixed, as in the released code.
    """
    target = (v - v.mean(2, keepdim=True)) / (v.var(2, keepdim=True) + 1e-6).sqrt()
    return masked_mean((v_hat - target).square().mean(2).flatten(), hidden.flatten(), dim=0)
