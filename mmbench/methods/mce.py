"""MCE: a modality that gives less than it could is taught more.

Paper: Zhao et al., "MCE: Towards a General Framework for Handling Missing Modalities under
Imbalanced Missing Rates", Pattern Recognition 2026.
Idea: modalities that are often missing learn late and stay weak. How much one gives is its Shapley
value, in correct predictions of a batch from all subsets; how much it could give, those of a
network of that modality alone, trained before. The gap, and how rarely the modality is there,
weigh its own prediction and its completion; every subset has to predict as well.
Notation: presence (B, M); f = f_m features, zeros where absent (B, M, D); h = Inter(f) completed
features (B, M, D); s subsets of the modalities (S, M), S = 2^M - 1; v(s) correct predictions of the
batch from s; φ_m Shapley value; u_m correct predictions of the network of m alone; n_m samples
with m; a_m = 1 / share of training samples with m; b_m = relu(u_m - φ_m) / n_m.
Stages: `unimodal` trains a network for each modality, which rests from then on; `joint` the rest.
Differences from the paper:
- Of the paper's text only the abstract was at hand: this is what its released code computes for
  utterances, but for φ_m, which follows the formula that the code names. The code itself takes
  v({m}) away from v(s + m) instead of v(s): `variant="official"`. In both, v(s) counts those of
  the samples that have all of s.
- a_m is measured on the training split, where the code is told the rates.
- Several labels: v and u count labels, as parts of a sample. Regression has no correct predictions
  and does not apply.
- Inter is a transformer of the suite's layers over one token a modality; absent ones are zero and
  are read, as in the code, so that they can be completed.
- All weights are 1, as in the code. AdamW without clipping or a schedule instead of Adam.
"""

from collections.abc import Iterable, Mapping
from itertools import product
from math import factorial
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmbench.bounds import Count, Decay, Depth, LearningRate, LossWeight, Rate, Width
from mmbench.data.batch import Batch
from mmbench.data.task import Task
from mmbench.diagnostics import Diagnostic, Matrix
from mmbench.layers.attention import TransformerStack
from mmbench.layers.dropout import Dropout
from mmbench.layers.encoders import ModalityEncoders
from mmbench.layers.fusion import masked_mean
from mmbench.layers.late_fusion import head
from mmbench.layers.stacked import StackedLinear
from mmbench.method import Applies, Method, Paper, Stage
from mmbench.search import Real, ranges

Features = Float[Tensor, "*batch modality dim"]
Presence = Bool[Tensor, "batch modality"]
PerModality = Float[Tensor, " modality"]


def stacked_heads(task: Task, dim: int, dropout: float) -> nn.Sequential:
    """A head of two layers for each modality, (M, B, D) -> (M, B, C)."""
    modalities = len(task.modalities)
    return nn.Sequential(
        StackedLinear(modalities, dim, dim),
        nn.ReLU(),
        Dropout(dropout),
        StackedLinear(modalities, dim, task.num_outputs),
    )


class Unimodal(nn.Module):
    """A network for each modality: encoder and head."""

    def __init__(self, task: Task, dim: int, dropout: float) -> None:
        super().__init__()
        self.encode = ModalityEncoders(task, dim)
        self.heads = stacked_heads(task, dim, dropout)

    def forward(self, batch: Batch) -> Float[Tensor, "modality batch output"]:
        """What each modality predicts alone; without meaning where absent."""
        output: Tensor = self.heads(self.encode(batch).transpose(0, 1))
        return output


class MCE(Method):
    """Modality capability enhancement.

    Args:
        task: What goes in and what is predicted.
        variant: Shapley values, or what the released code takes for them.
        dim: D, width of features.
        heads: Attention heads of Inter; has to divide `dim`.
        depth: Layers of Inter, >= 1.
        completion: Weight of completing features, >= 0.
        separate: Weight of each modality's own prediction, >= 0.
        subset: Weight of predictions from subsets, >= 0.
        dropout: In heads and Inter, in [0, 1).
        lr: Learning rate of AdamW.
        weight_decay: Of AdamW.

    Raises:
        ValueError: If `heads` does not divide `dim`.
    """

    paper = Paper(
        "MCE: Towards a General Framework for Handling Missing Modalities under Imbalanced "
        "Missing Rates",
        "Pattern Recognition",
        2026,
        "https://arxiv.org/abs/2510.10534",
    )
    applies = Applies(
        tasks=("single_label", "multi_label"),
        min_modalities=2,
        max_modalities=6,  # every step predicts from 2^M - 1 subsets
    )
    search = ranges(
        completion=Real(0.1, 10.0, log=True),
        separate=Real(0.1, 10.0, log=True),
        subset=Real(0.1, 10.0, log=True),
    )

    subsets: Tensor
    rarity: Tensor

    def __init__(
        self,
        task: Task,
        *,
        variant: Literal["paper", "official"] = "paper",
        dim: Width = 128,
        heads: Count = 4,
        depth: Depth = 1,
        completion: LossWeight = 1.0,
        separate: LossWeight = 1.0,
        subset: LossWeight = 1.0,
        dropout: Rate = 0.3,
        lr: LearningRate = 1e-3,
        weight_decay: Decay = 1e-2,
    ) -> None:
        super().__init__(task, lr=lr, weight_decay=weight_decay)
        self.completion, self.separate, self.subset = completion, separate, subset
        modalities = len(task.modalities)
        self.unimodal = Unimodal(task, dim, dropout)
        self.encode = ModalityEncoders(task, dim)
        self.place = nn.Parameter(torch.empty(modalities, dim).normal_(std=0.02))
        self.inter = TransformerStack(dim, depth, heads=heads, dropout=dropout)
        self.head = head(dim, dropout, task.num_outputs, parts=modalities)
        self.alone = stacked_heads(task, dim, dropout)
        subsets = torch.tensor([s for s in product((False, True), repeat=modalities) if any(s)])
        self.register_buffer("subsets", subsets, persistent=False)
        weights = released_weights(subsets) if variant == "official" else shapley_weights(subsets)
        self.weights: Tensor
        self.register_buffer("weights", weights, persistent=False)
        self.register_buffer("rarity", torch.ones(modalities))

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The networks of single modalities, the same for both variants, then the rest."""
        return (
            Stage(
                "unimodal",
                trains=("unimodal",),
                shared_across=("variant", "heads", "depth", "completion", "separate", "subset"),
            ),
            Stage("joint", trains=("encode", "place", "inter", "head", "alone")),
        )

    def prepare(self, train: Iterable[Batch]) -> None:
        """Measure a_m; of a modality that nobody has, 1."""
        presence = torch.cat([batch.presence for batch in train])
        count = presence.sum(0)
        self.rarity.copy_(torch.where(count > 0, len(presence) / count.clamp_min(1), 1.0))

    def forward(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """Predict from what is present."""
        return self.decide(self.complete(self.encode(batch)))

    def complete(self, f: Features) -> Features:
        """h, in which every modality has read all others."""
        h: Tensor = self.inter((f + self.place).flatten(0, -3)).view(f.shape)
        return h

    def decide(self, h: Features) -> Float[Tensor, "*batch output"]:
        """Predict from completed features side by side."""
        output: Tensor = self.head(h.flatten(-2))
        return output

    def stage_output(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """Mean of what the modalities that are there predict alone, then the prediction."""
        if self.stage == "unimodal":
            return masked_mean(self.unimodal(batch).transpose(0, 1), batch.presence)
        return super().stage_output(batch)

    def loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Terms of the present stage."""
        if self.stage == "unimodal":
            return {"task": self.own_losses(self.unimodal(batch), batch).sum()}
        presence = batch.presence
        h = self.complete(self.encode(batch))
        output = self.decide(h)
        alone = self.alone(h.transpose(0, 1))
        rebuilt = self.complete(torch.where(self.subsets[:, None, :, None], h, 0.0))
        logits = self.decide(rebuilt)  # (S, B, C)
        with torch.no_grad():
            factor = self.rarity * self.gap(logits, output, batch)
        proper = (self.subsets[:, None] <= presence).all(2) & (
            self.subsets[:, None] != presence
        ).any(2)  # (S, B): less than what the sample has
        share = proper / (1 << presence.sum(1)).sub(1)  # of the sample's subsets, its own included
        rows = torch.stack([self.row_loss(part, batch.target) for part in logits])
        error = (rebuilt - h).abs().mean(3)  # (S, B, M)
        missing = presence & ~self.subsets[:, None]
        return {
            "task": self.task_loss(output, batch.target),
            "subset": self.subset * (rows * share).sum(0).mean(),
            "completion": self.completion
            * (error * missing * share[:, :, None] * factor).sum((0, 2)).mean(),
            "separate": self.separate * (factor * self.own_losses(alone, batch)).mean(),
        }

    def own_losses(
        self, output: Float[Tensor, "modality batch output"], batch: Batch
    ) -> PerModality:
        """Mean loss of each modality's own prediction over the samples that have it."""
        rows = torch.stack([self.row_loss(part, batch.target) for part in output], dim=1)
        return masked_mean(rows, batch.presence, dim=0)

    def gap(
        self,
        logits: Float[Tensor, "subset batch output"],
        output: Float[Tensor, "batch output"],
        batch: Batch,
    ) -> PerModality:
        """b_m: by how many samples, as a share, a modality gives less than it could.

        Args:
            logits: Predictions from each subset.
            output: The prediction from all that is there.
            batch: Samples.
        """
        inside = (self.subsets[:, None] <= batch.presence).all(2)  # (S, B)
        whole = (self.subsets[:, None] == batch.presence).all(2)
        right = torch.where(whole, self.correct(output, batch), self.correct(logits, batch))
        value = (right * inside).sum(1)  # v(s)
        could = (self.correct(self.unimodal(batch), batch) * batch.presence.T).sum(1)
        return (could - self.weights @ value).relu() / batch.presence.sum(0).clamp_min(1)

    def correct(
        self, logits: Float[Tensor, "*many batch output"], batch: Batch
    ) -> Float[Tensor, "*many batch"]:
        """1 where the class is right, 0 elsewhere; the share of labels that are right."""
        if self.task.kind == "single_label":
            return (logits.argmax(-1) == batch.target).float()
        return ((logits > 0) == (batch.target > 0.5)).float().mean(-1)

    def completed(self, batch: Batch) -> dict[str, Float[Tensor, "batch _"]]:
        """Completed features h."""
        h = self.complete(self.encode(batch))
        return dict(zip(self.task.names, h.unbind(1), strict=True))

    def diagnostics(self) -> Mapping[str, Diagnostic]:
        """a_m, by how much each modality is rarer than one that is always there: `rarity`."""
        values = self.rarity.cpu().double().numpy()[None]
        names = np.array(self.task.names)
        return {"rarity": Matrix(values=values, row=np.array(["rarity"]), column=names)}


def shapley_weights(subsets: Bool[Tensor, "subset modality"]) -> Float[Tensor, "modality subset"]:
    """Weights of v(s) in φ_m = Σ_s |s|! (M - |s| - 1)! / M! (v(s + m) - v(s)), v(nothing) = 0.

    Source: Shapley, "A Value for n-Person Games", 1953.
    """
    m, size = subsets.shape[1], subsets.sum(1)
    table = torch.tensor([factorial(k) * factorial(m - k - 1) / factorial(m) for k in range(m)])
    with_it, without_it = table[size - 1], table[size.clamp_max(m - 1)]
    return torch.where(subsets, with_it[:, None], -without_it[:, None]).T


def released_weights(subsets: Bool[Tensor, "subset modality"]) -> Float[Tensor, "modality subset"]:
    """The same as the released code has it: v({m}) is taken away from each v(s + m), |s| >= 1.

    The weight of s + m is |s|! (M - |s| - 1)! / M!, and v({m}) itself counts 1 / M.
    """
    m = subsets.shape[1]
    weights = torch.zeros(m, len(subsets))
    for i in range(m):
        [single] = [at for at, s in enumerate(subsets) if s[i] and s.sum() == 1]
        weights[i, single] = 1 / m
        for at, s in enumerate(subsets):
            k = int(s.sum()) - 1
            if s[i] and k:
                weight = factorial(k) * factorial(m - k - 1) / factorial(m)
                weights[i, at] += weight
                weights[i, single] -= weight
    return weights
