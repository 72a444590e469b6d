"""TFR-Net: every modality reads itself and each other one; what is missing is rebuilt from that.

Paper: Yuan et al., "Transformer-based Feature Reconstruction Network for Robust Multimodal
Sentiment Analysis", ACM Multimedia 2021.
Idea: transformers extract, at every step of a modality, what the modality itself and each other
one say. From this a generator rebuilds the input features that are missing, so that the steps
have to carry them; a gated recurrent network and a maximum over the steps make the prediction.
Notation: presence (B, M); x = x_m steps, zeros where absent (B, M, P, D); h = h_m extracted
(M, B, P, M D); x-hat rebuilt input features.
Differences from the paper:
- The paper misses single steps of three unaligned sequences. Here whole modalities are missing,
  of any kind: its steps are the P tokens of the suite's encoders, with learned positions, and
  attention looks both ways, since tokens need not be in an order.
- Of a sequence the mean features of P windows are rebuilt, of other kinds those features of a
  sample that exist before training (a vector is itself), from the mean over the steps.
- Training hides a random subset of what the scenario shows; rebuilt is what is hidden, where it is
  known: in the teacher's samples under the regime `full_access`, else in the batch. The weights
  of the modalities' errors, which the paper chooses for each data set, are one.
- Discrepancies of moments are taken over what is hidden; the released code fills up with zeros.
  They are divided by the number of entries as there.
- Rebuilding takes part from the first epoch, in the released code from the second.
- The generator's transformer attends over the M D features of a sample, P steps wide each. In the
  released code it attends over the samples of the batch by mistake: `variant="official"`.
  Predictions do not depend on it. It has one head, as P is small, and no dropout.
- A layer norm in place of the batch norm before the head. P is 8 instead of 50, and the width of
  the recurrent networks is the same for all modalities.
- AdamW without clipping or a schedule instead of Adam.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmbench.bounds import Count, Decay, Depth, LearningRate, LossWeight, Rate, Width
from mmbench.data.batch import Batch, zero_absent
from mmbench.data.task import Modality, Task
from mmbench.layers.attention import TransformerStack
from mmbench.layers.dropout import Dropout
from mmbench.layers.encoders import KINDS, ModalityEncoders
from mmbench.layers.fusion import masked_mean, random_pattern
from mmbench.layers.moments import central_moment_discrepancy
from mmbench.layers.pooling import adaptive_mean
from mmbench.layers.stacked import StackedBlock
from mmbench.method import ALL_TASKS, Applies, Method, Paper
from mmbench.search import Choice, Real, Whole, ranges

Steps = Float[Tensor, "batch modality step dim"]
Extracted = Float[Tensor, "modality batch step features"]

HIDDEN = 128  # of the last head
MOMENTS = 3
SIMILARITY = 5.0  # weight of the discrepancy of moments beside the error


class Extractor(nn.Module):
    """M² transformers in batched products: pair m M + n has modality m read n, or itself.

    Args:
        modalities: M.
        dim: D.
        depth: Layers, >= 1.
        heads: Has to divide `dim`.
        dropout: In [0, 1).

    Raises:
        ValueError: If `heads` does not divide `dim`.
    """

    def __init__(
        self, modalities: int, dim: int, *, depth: int, heads: int, dropout: float
    ) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(f"{heads} heads cannot share a width of {dim}; take a divisor of it")
        self.blocks = nn.ModuleList(
            StackedBlock(modalities**2, dim, heads=heads, dropout=dropout) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)

    def forward(self, x: Steps) -> Extracted:
        """h_m: for each step of m, what it reads from modality 1, ..., M, side by side."""
        steps = x.transpose(0, 1)  # (M, B, P, D)
        count = len(steps)
        other = steps.repeat(count, 1, 1, 1)
        diagonal = torch.eye(count, dtype=torch.bool, device=x.device).flatten()[
            :, None, None, None
        ]
        read = steps.repeat_interleave(count, dim=0)
        for block in self.blocks:
            # the other modality stays as it came in; a modality reads itself as it now is
            read = block(read, torch.where(diagonal, read, other))
        pairs = self.norm(read).unflatten(0, (count, count))
        h: Tensor = pairs.permute(0, 2, 3, 1, 4).flatten(3)
        return h


class Gate(nn.Module):
    """A recurrent network both ways, gated at each step; then the maximum over the steps."""

    def __init__(self, features: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.gru = nn.GRU(features, hidden, num_layers=3, batch_first=True, bidirectional=True)
        self.gate = nn.Conv1d(2 * hidden, 1, kernel_size=3, padding=1)
        self.out = nn.Linear(features + 2 * hidden, hidden)
        self.drop = Dropout(dropout)

    def forward(self, h: Float[Tensor, "batch step features"]) -> Float[Tensor, "batch hidden"]:
        """Sum up one modality."""
        context, _ = self.gru(h)
        gate = self.gate(context.transpose(1, 2)).sigmoid().transpose(1, 2)  # (B, P, 1)
        y = self.out(torch.cat([h, context.tanh() * gate], dim=2)).tanh()
        summary: Tensor = self.drop(y.amax(1))
        return summary


class Generator(nn.Module):
    """x-hat of one modality from what its steps carry.

    Args:
        modality: What is rebuilt.
        features: M D, width of what is extracted at a step.
        steps: P.
        depth: Layers of the transformer, >= 1.
        official: Whether it attends over the samples of the batch.
    """

    def __init__(
        self,
        modality: Modality,
        features: int,
        steps: int,
        *,
        depth: int,
        official: bool,
    ) -> None:
        super().__init__()
        self.official, self.steps = official, steps
        self.in_steps = modality.kind == "sequence"
        self.raw = None if self.in_steps else KINDS[modality.kind].raw(modality)
        width = modality.shape[-1] if self.raw is None else self.raw.width
        # most of a training step: M D features read each other, and heads and dropout multiply that
        self.attend = TransformerStack(steps, depth, heads=1)
        self.out = nn.Linear(features, width)

    def forward(self, h: Float[Tensor, "batch step features"]) -> Float[Tensor, "batch row width"]:
        """Rebuild: a row for each window of a sequence, one row of other kinds."""
        x = h.transpose(1, 2)  # (B, M D, P)
        x = self.attend(x.transpose(0, 1)).transpose(0, 1) if self.official else self.attend(x)
        rows: Tensor = self.out(x.transpose(1, 2))
        return rows if self.in_steps else rows.mean(1, keepdim=True)

    def target(self, x: Tensor, lengths: Tensor | None) -> Float[Tensor, "batch row width"]:
        """What is to be rebuilt, from inputs and their lengths."""
        if self.raw is None:
            return adaptive_mean(x, lengths, self.steps)
        features: Tensor = self.raw(x, lengths)
        return features[:, None]


class TFRNet(Method):
    """Transformer-based feature reconstruction network.

    Args:
        task: What goes in and what is predicted.
        variant: The paper's generator, or that of its released code.
        dim: D, width of a step.
        tokens: P, steps of each modality.
        heads: Attention heads of the extracting transformers; has to divide `dim`.
        depth: Layers of each transformer, >= 1.
        hidden: Width of the recurrent networks.
        reconstruct: Weight of rebuilding, >= 0.
        dropout: In extracting transformers, gates and head, in [0, 1).
        lr: Learning rate of AdamW.
        weight_decay: Of AdamW.

    Raises:
        ValueError: If `heads` does not divide `dim`.
    """

    paper = Paper(
        "Transformer-based Feature Reconstruction Network for Robust Multimodal Sentiment Analysis",
        "ACM Multimedia",
        2021,
        "https://doi.org/10.1145/3474085.3475585",
    )
    applies = Applies(tasks=ALL_TASKS, min_modalities=2)
    search = ranges(
        dim=Choice((30, 60, 120)),  # of 6 heads
        depth=Whole(1, 4),
        reconstruct=Real(0.1, 10.0, log=True),
    )

    def __init__(
        self,
        task: Task,
        *,
        variant: Literal["paper", "official"] = "paper",
        dim: Width = 30,
        tokens: Count = 8,
        heads: Count = 6,
        depth: Depth = 3,
        hidden: Width = 36,
        reconstruct: LossWeight = 1.0,
        dropout: Rate = 0.1,
        lr: LearningRate = 1e-3,
        weight_decay: Decay = 1e-3,
    ) -> None:
        super().__init__(task, lr=lr, weight_decay=weight_decay)
        modalities = len(task.modalities)
        self.reconstruct = reconstruct
        self.encode = ModalityEncoders(task, dim, tokens=tokens)
        self.position = nn.Parameter(torch.empty(modalities, tokens, dim).normal_(std=0.02))
        self.extract = Extractor(modalities, dim, depth=depth, heads=heads, dropout=dropout)
        self.gates = nn.ModuleList(Gate(modalities * dim, hidden, dropout) for _ in task.modalities)
        self.head = nn.Sequential(
            nn.LayerNorm(modalities * hidden),
            nn.Linear(modalities * hidden, HIDDEN),
            nn.LeakyReLU(),
            Dropout(dropout),
            nn.Linear(HIDDEN, task.num_outputs),
        )
        self.generators = nn.ModuleList(
            Generator(
                modality,
                modalities * dim,
                tokens,
                depth=depth,
                official=variant == "official",
            )
            for modality in task.modalities
        )

    def forward(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """Predict from what is present."""
        return self.decide(self.extracted(batch))

    def extracted(self, batch: Batch) -> Extracted:
        """What the steps of each modality carry; those of an absent one read the others."""
        h: Tensor = self.extract(self.encode(batch) + self.position)
        return h

    def completed(self, batch: Batch) -> dict[str, Float[Tensor, "batch _"]]:
        """Features of each modality, averaged over its steps."""
        h = self.extracted(batch).mean(2)
        return dict(zip(self.task.names, h, strict=True))

    def decide(self, h: Extracted) -> Float[Tensor, "batch output"]:
        """Sum up each modality, and predict."""
        parts = [gate(x) for gate, x in zip(self.gates, h, strict=True)]
        output: Tensor = self.head(torch.cat(parts, dim=1))
        return output

    def loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Prediction from a random subset, and the features that it does not hold."""
        truth = batch.teacher or batch
        seen = batch.hide(~random_pattern(batch.presence))
        h = self.extracted(seen)
        hidden = truth.presence & ~seen.presence
        errors = []
        for m, (name, generate) in enumerate(zip(self.task.names, self.generators, strict=True)):
            assert isinstance(generate, Generator)
            x = zero_absent(truth.inputs[name], truth.has(name))
            target = generate.target(x, truth.lengths.get(name))
            errors.append(reconstruction(generate(h[m]), target, hidden[:, m]))
        return {
            "task": self.task_loss(self.decide(h), seen.target),
            "reconstruction": self.reconstruct * torch.stack(errors).sum(),
        }


def reconstruction(
    rebuilt: Float[Tensor, "batch row width"],
    target: Float[Tensor, "batch row width"],
    hidden: Bool[Tensor, " batch"],
) -> Float[Tensor, ""]:
    """Smooth L1 error of hidden features, and 5 times their CMD by the number of entries.

    Zero where nothing is hidden.
    """
    error = F.smooth_l1_loss(rebuilt, target, reduction="none").flatten(1).mean(1)
    rows = hidden.repeat_interleave(rebuilt.shape[1])
    discrepancy = central_moment_discrepancy(
        rebuilt.flatten(0, 1), target.flatten(0, 1), rows, rows, order=MOMENTS
    )
    entries = (rows.sum() * rebuilt.shape[2]).clamp_min(1)
    return masked_mean(error, hidden, dim=0) + SIMILARITY * discrepancy / entries
