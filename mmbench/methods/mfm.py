"""MFM: factors that predict, and factors of each modality that only help to rebuild it.

Paper: Tsai et al., "Learning Factorized Multimodal Representations", ICLR 2019.
Idea: one code is inferred from all modalities and one from each alone; all of them are to be
spread like a standard Gaussian. They become factors: the common one predicts the target, and
together with a modality's own it rebuilds that modality. What is needed to predict is thus kept
apart from what is needed to generate. A surrogate infers the codes from whatever is there.
Notation: h (B, M, D) embeddings; z = (z_y, z_1 .. z_M) codes (B, 1 + M, D); f = (f_y, f_1 .. f_M)
factors (B, 1 + M, D); Q(z_y | x_1..M), Q(z_m | x_m) encoders; Phi surrogate; G factors from codes;
F_m decoder of x_m; D predictor (here `head`); visible = what the surrogate sees (B, M).
Differences from the paper:
- The suite's own encoders and one hidden layer take the place of LSTMs and of the memory fusion
  network; codes and factors share one width. Hidden units are GELU, those of factors without
  dropout (the released code: ReLU and dropout).
- Q(z_y | ..) and the surrogate are one network that reads zeros where there are gaps, for every
  set of modalities at once. In each step every sample stands twice: as it is, and with a random
  subset of what it has, from which the rest is to be rebuilt and the target predicted.
- Vectors and sequences are rebuilt themselves. Of other kinds a fixed summary is: the mean
  instance of a bag, an image or volume averaged to 4 cells a side, a random projection
  of the counts of words.
- The decoder of sequences reads the factors at every step instead of its own last state.
- Every modality is rebuilt with the same weight; the paper searches one for each.
- The kernel of the discrepancy is that of the released code, exp(-|a - b|^2 / D^2).
- AdamW, as for every method of the suite.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mmbench.bounds import Decay, LearningRate, LossWeight, Rate, Width
from mmbench.data.batch import Batch, zero_absent
from mmbench.data.task import Modality, Task
from mmbench.layers.dropout import Dropout
from mmbench.layers.encoders import ModalityEncoders
from mmbench.layers.fusion import masked_mean, random_pattern
from mmbench.layers.late_fusion import StackedMLP
from mmbench.layers.pooling import valid_steps
from mmbench.layers.vision import COARSEST
from mmbench.method import ALL_TASKS, Applies, Method, Paper
from mmbench.search import Real, ranges

PROJECTED = 64  # numbers that stand for the words of a text


class MFM(Method):
    """Multimodal factorisation with surrogate inference for every set of modalities.

    Args:
        task: What goes in and what is predicted.
        dim: D, width of embeddings, codes and factors.
        reconstruct: Weight of rebuilding each modality, >= 0.
        discrepancy: Weight of the distance of codes from a standard Gaussian, >= 0.
        dropout: In the predictor, in [0, 1).
        lr: Learning rate of AdamW.
        weight_decay: Decoupled weight decay.
    """

    paper = Paper(
        "Learning Factorized Multimodal Representations",
        "ICLR",
        2019,
        "https://arxiv.org/abs/1806.06176",
    )
    applies = Applies(tasks=ALL_TASKS, min_modalities=2)
    search = ranges(
        reconstruct=Real(0.01, 1.0, log=True),
        discrepancy=Real(1.0, 1000.0, log=True),
    )

    def __init__(
        self,
        task: Task,
        *,
        dim: Width = 64,
        reconstruct: LossWeight = 0.1,
        discrepancy: LossWeight = 100.0,
        dropout: Rate = 0.1,
        lr: LearningRate = 1e-3,
        weight_decay: Decay = 1e-2,
    ) -> None:
        super().__init__(task, lr=lr, weight_decay=weight_decay)
        modalities = len(task.modalities)
        self.reconstruct, self.discrepancy = reconstruct, discrepancy
        self.encode = ModalityEncoders(task, dim)
        self.own_code = StackedMLP(modalities, dim, dim)
        self.surrogate = nn.Sequential(
            nn.Linear(modalities * dim, dim), nn.GELU(), nn.Linear(dim, (1 + modalities) * dim)
        )
        self.factors = StackedMLP(1 + modalities, dim, dim)
        self.decoders = nn.ModuleList(decoder(modality, dim) for modality in task.modalities)
        self.head = nn.Sequential(
            nn.Linear(dim, dim), nn.GELU(), Dropout(dropout), nn.Linear(dim, task.num_outputs)
        )

    def forward(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """Predict from the common factor."""
        f = self.factors(self.codes(self.encode(batch), batch.presence))
        output: Tensor = self.head(f[:, 0])
        return output

    def completed(self, batch: Batch) -> dict[str, Float[Tensor, "batch _"]]:
        """Codes z_m, inferred ones where a modality is absent."""
        z = self.codes(self.encode(batch), batch.presence)[:, 1:]
        return dict(zip(self.task.names, z.unbind(1), strict=True))

    def codes(
        self, h: Float[Tensor, "batch modality dim"], presence: Bool[Tensor, "batch modality"]
    ) -> Float[Tensor, "batch code dim"]:
        """Infer z: each z_m from its modality, z_y and the codes of gaps from all that is there.

        Args:
            h: Zeros where absent.
            presence: What is there.
        """
        inferred = self.surrogate(h.flatten(1)).unflatten(1, (-1, h.shape[2]))  # (B, 1 + M, D)
        factors = torch.where(presence[:, :, None], self.own_code(h), inferred[:, 1:])
        return torch.cat([inferred[:, :1], factors], dim=1)

    def loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Prediction and rebuilding, as it is and by the surrogate, and the codes' discrepancy."""
        h, present = self.encode(batch), batch.presence
        visible = random_pattern(present)
        less = torch.where(visible[:, :, None], h, 0.0)
        z = self.codes(torch.cat([h, less]), torch.cat([present, visible]))  # (2 B, 1 + M, D)
        f = self.factors(z)
        size, of_all = len(batch), torch.ones_like(present[:, :1])  # z_y belongs to every sample
        return {
            "task": self.task_loss(self.head(f[:, 0]), torch.cat([batch.target, batch.target])),
            "reconstruction": self.reconstruct * self.rebuild(batch, f[:size], present),
            "surrogate": self.reconstruct * self.rebuild(batch, f[size:], present & ~visible),
            "discrepancy": self.discrepancy
            * discrepancy(z[:size], torch.cat([of_all, present], dim=1)),
        }

    def rebuild(
        self,
        batch: Batch,
        f: Float[Tensor, "batch code dim"],
        targets: Bool[Tensor, "batch modality"],
    ) -> Float[Tensor, ""]:
        """Squared error of x_m from f_y and f_m: mean over the entries asked for, sum over m.

        Args:
            batch: What is to be rebuilt.
            f: Factors.
            targets: True = the entry takes part; only present ones may.
        """
        total = f.new_zeros(())
        for m, (name, part) in enumerate(zip(self.task.names, self.decoders, strict=True)):
            x = zero_absent(batch.inputs[name], batch.has(name))
            error = part(torch.cat([f[:, 0], f[:, 1 + m]], dim=1), x, batch.lengths.get(name))
            total = total + (error * targets[:, m]).sum() / targets[:, m].sum().clamp_min(1)
        return total


class SequenceDecoder(nn.Module):
    """A GRU that reads the factors at every step.

    Args:
        features: F.
        dim: D.
    """

    def __init__(self, features: int, dim: int) -> None:
        super().__init__()
        self.gru = nn.GRU(2 * dim, 2 * dim, batch_first=True)
        self.out = nn.Linear(2 * dim, features)

    def forward(
        self,
        f: Float[Tensor, "batch factor"],
        x: Float[Tensor, "batch time feature"],
        lengths: Int[Tensor, " batch"] | None,
    ) -> Float[Tensor, " batch"]:
        """Mean squared error over the valid steps of each sample; 0 without any."""
        steps, _ = self.gru(f[:, None].expand(-1, x.shape[1], -1))
        valid = valid_steps(lengths, x)
        error = (self.out(steps) - torch.where(valid[:, :, None], x, 0.0)).square().mean(2)
        return masked_mean(error, valid)


class SummaryDecoder(nn.Module):
    """One hidden layer, to a fixed summary of the modality.

    Args:
        modality: Anything but a sequence.
        dim: D.
    """

    def __init__(self, modality: Modality, dim: int) -> None:
        super().__init__()
        self.kind = modality.kind
        size = modality.shape[-1]
        if modality.kind in ("image", "volume"):
            size = modality.shape[0] * COARSEST ** len(modality.shape[1:])
        if modality.kind == "tokens":
            size = PROJECTED
            self.projection: Tensor
            self.register_buffer("projection", torch.randn(modality.vocab_size, size))
        self.layers = nn.Sequential(
            nn.Linear(2 * dim, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, size)
        )

    def forward(
        self,
        f: Float[Tensor, "batch factor"],
        x: Tensor,
        lengths: Int[Tensor, " batch"] | None,
    ) -> Float[Tensor, " batch"]:
        """Mean squared error of each sample's summary."""
        error: Tensor = (self.layers(f) - self.summary(x, lengths)).square().mean(1)
        return error

    def summary(
        self, x: Tensor, lengths: Int[Tensor, " batch"] | None
    ) -> Float[Tensor, "batch feature"]:
        """The vector itself, the mean instance, a coarse picture, or projected counts."""
        if self.kind == "vector":
            return x
        if self.kind == "image":
            return nn.functional.adaptive_avg_pool2d(x, COARSEST).flatten(1)
        if self.kind == "volume":
            return nn.functional.adaptive_avg_pool3d(x, COARSEST).flatten(1)
        valid = valid_steps(lengths, x)
        if self.kind == "bag":
            return masked_mean(x, valid)
        words = torch.where(valid[:, :, None], self.projection[x], 0.0)
        # of variance near 1, however long the text is
        return words.sum(1) / valid.sum(1, keepdim=True).clamp_min(1).sqrt()


def decoder(modality: Modality, dim: int) -> nn.Module:
    """F_m: called with the factors, what is to be rebuilt and its lengths; gives errors.

    Args:
        modality: What is rebuilt.
        dim: D, width of each of the two factors.
    """
    if modality.kind == "sequence":
        return SequenceDecoder(modality.shape[1], dim)
    return SummaryDecoder(modality, dim)


def discrepancy(
    z: Float[Tensor, "batch code dim"], present: Bool[Tensor, "batch code"]
) -> Float[Tensor, ""]:
    """Maximum mean discrepancy between codes and as many draws of N(0, I), summed over codes.

    Its square, with the kernel exp(-|a - b|^2 / D^2), all pairs counted; >= 0.

    Args:
        z: Codes.
        present: Which take part; a code that nobody has adds zero.
    """
    z, draw = z.transpose(0, 1), torch.randn_like(z).transpose(0, 1)  # (code, B, D)
    w = present.T[:, :, None] / present.sum(0)[:, None, None].clamp_min(1)  # (code, B, 1)
    difference = kernel(z, z) + kernel(draw, draw) - 2 * kernel(z, draw)
    return (w.transpose(1, 2) @ difference @ w).sum()


def kernel(
    a: Float[Tensor, "code row dim"], b: Float[Tensor, "code row dim"]
) -> Float[Tensor, "code row row"]:
    """exp(-|a - b|^2 / D^2) for all pairs of rows."""
    squared = a.square().sum(2)[:, :, None] + b.square().sum(2)[:, None] - 2 * a @ b.mT
    return (-squared / a.shape[2] ** 2).exp()
