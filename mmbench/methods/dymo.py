"""DyMo: of the modalities that can be recovered, take those that make a sample clearer.

Paper: Du et al., "Inference-Time Dynamic Modality Selection for Incomplete Multimodal
Classification", ICLR 2026.
Idea: leaving out what is missing loses information, filling it in brings noise. So a network that
takes any subset of modalities is trained, and what is missing is recovered; at inference a sample
takes in recovered modalities one by one, the most rewarding first, as long as one is rewarding. The
reward stands for what is learned about the class: how clearly the joint feature lies at one class
prototype, less where it lies far off for samples of that class that have the same modalities.
Notation: presence (B, M); x tokens, zeros where absent (B, M, P, D); z joint feature of length 1
(B, F); ω_sc mean z of the training samples of class c from subset s (S, C, F), S = 2^M - 1; ω_c
its mean over subsets (C, F); σ_sc root mean squared distance of such z to ω_sc.
q(z) = max_c softmax_c(-|z - ω_c|² / τ); p(z) = 2 Φ(-|z - ω_sc| / σ_sc), c the predicted class;
reward of taking in u: q(z_u) min(1, p(z_u) / p(z)) - q(z).
Stages: `classify` trains the network, on random subsets; `recover` freezes it, trains what
recovers, and collects ω_sc.
Differences from the paper:
- It recovers inputs by published generators (MoPoE, TIP and others), trained by themselves. Here a
  transformer rebuilds the frozen network's tokens of hidden modalities, where they are known: in
  the teacher's samples under the regime `full_access`, else in the batch.
- Of its two distances this is the squared Euclidean one. As z has length 1, σ_sc² = 1 - |ω_sc|²:
  means of z are all that is collected, of a random subset of each sample in each epoch. The paper
  goes through the training split once for each subset.
- A subset and class of which fewer than two training samples were seen calibrates nothing: p = 1.
- Each sample of a batch has random subsets of its own, of what the scenario shows; the released
  code draws subsets for the batch.
- Prototypes that the network learns from are those of the epoch before, as in the released code;
  in the first epoch they are those of the batch, where the code waits for three epochs.
- Tokens are normed without weights. AdamW instead of Adam.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmbench.bounds import Count, Decay, Depth, LearningRate, LossWeight, Rate, Width
from mmbench.data.batch import Batch
from mmbench.data.task import Task
from mmbench.diagnostics import Diagnostic
from mmbench.layers.attention import TransformerStack
from mmbench.layers.encoders import ModalityEncoders
from mmbench.layers.fusion import masked_mean, presence_code, random_pattern
from mmbench.layers.usage import UsageMeter
from mmbench.method import Applies, Method, Paper, Stage
from mmbench.search import Real, Whole, ranges

Tokens = Float[Tensor, "batch modality token dim"]
Presence = Bool[Tensor, "batch modality"]
Feature = Float[Tensor, "batch feature"]
Logits = Float[Tensor, "batch output"]
Rows = Float[Tensor, " batch"]

TEMPERATURE = 0.1  # τ


class Network(nn.Module):
    """Encoders, and a transformer over [CLS] and the tokens of whatever is there.

    Args:
        task: What goes in and what is predicted.
        dim: D; z is half as wide.
        tokens: P.
        depth: Layers, >= 1.
        heads: Has to divide `dim`.
        dropout: In the transformer, in [0, 1).
    """

    def __init__(
        self, task: Task, dim: int, tokens: int, *, depth: int, heads: int, dropout: float
    ) -> None:
        super().__init__()
        self.encode = ModalityEncoders(task, dim, tokens=tokens)
        self.place = nn.Parameter(torch.empty(len(task.modalities), tokens, dim).normal_(std=0.02))
        self.cls = nn.Parameter(torch.empty(dim).normal_(std=0.02))
        self.layers = TransformerStack(dim, depth, heads=heads, dropout=dropout)
        self.head = nn.Linear(dim, task.num_outputs)
        self.project = nn.Linear(dim, dim // 2)

    def tokens(self, batch: Batch) -> Tokens:
        """x; zeros stay zeros."""
        z = self.encode(batch)
        return F.layer_norm(z, z.shape[-1:])

    def forward(self, x: Tokens, present: Presence) -> tuple[Logits, Feature]:
        """Prediction and z from some of the modalities.

        Args:
            x: Tokens; what is not present may hold anything finite.
            present: True = takes part.
        """
        cls = self.cls.expand(len(x), 1, -1)
        t = torch.cat([cls, (x + self.place).flatten(1, 2)], dim=1)
        readable = F.pad(present.repeat_interleave(x.shape[2], dim=1), (1, 0), value=True)
        joint = self.layers(t, readable)[:, 0]
        return self.head(joint), F.normalize(self.project(joint), dim=1)


class Rebuild(nn.Module):
    """A transformer that rebuilds the tokens of all modalities from those that are seen."""

    def __init__(self, modalities: int, dim: int, tokens: int, *, depth: int, heads: int) -> None:
        super().__init__()
        self.mask = nn.Parameter(torch.empty(dim).normal_(std=0.02))
        self.place = nn.Parameter(torch.empty(modalities, tokens, dim).normal_(std=0.02))
        self.layers = TransformerStack(dim, depth, heads=heads)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tokens, seen: Presence) -> Tokens:
        """Rebuild; nothing that is not seen is read."""
        t = torch.where(seen[:, :, None, None], x, self.mask) + self.place
        rebuilt: Tensor = self.out(self.layers(t.flatten(1, 2)))
        return rebuilt.view_as(x)


class DyMo(Method):
    """Dynamic modality selection at inference.

    Args:
        task: What goes in and what is predicted.
        dim: D, width of a token, even.
        tokens: P, tokens of each modality.
        depth: Layers of both transformers, >= 1.
        heads: Has to divide `dim`.
        subsets: Random subsets of each sample in a step of the first stage, >= 1.
        prototype: Weight of lying at the own class's prototype, >= 0.
        dropout: In the network's transformer, in [0, 1).
        lr: Learning rate of AdamW.
        weight_decay: Of AdamW.

    Raises:
        ValueError: If `heads` does not divide `dim`, or `subsets` is below 1.
    """

    paper = Paper(
        "Inference-Time Dynamic Modality Selection for Incomplete Multimodal Classification",
        "ICLR",
        2026,
        "https://arxiv.org/abs/2601.22853",
    )
    applies = Applies(tasks=("single_label",), min_modalities=2, max_modalities=8)
    search = ranges(
        subsets=Whole(1, 4),
        prototype=Real(0.1, 10.0, log=True),
    )

    prototypes: Tensor
    known: Tensor
    epoch_sum: Tensor
    epoch_count: Tensor
    sums: Tensor
    counts: Tensor

    def __init__(
        self,
        task: Task,
        *,
        dim: Width = 128,
        tokens: Count = 4,
        depth: Depth = 2,
        heads: Count = 4,
        subsets: Count = 2,
        prototype: LossWeight = 1.0,
        dropout: Rate = 0.1,
        lr: LearningRate = 1e-3,
        weight_decay: Decay = 1e-2,
    ) -> None:
        super().__init__(task, lr=lr, weight_decay=weight_decay)
        if subsets < 1:
            raise ValueError(f"a step needs at least 1 subset of a sample, found {subsets}")
        self.subsets, self.prototype = subsets, prototype
        modalities, classes, feature = len(task.modalities), task.num_outputs, dim // 2
        self.network = Network(task, dim, tokens, depth=depth, heads=heads, dropout=dropout)
        self.rebuild = Rebuild(modalities, dim, tokens, depth=depth, heads=heads)
        self.usage = UsageMeter(modalities, 1 + modalities)
        # of the epoch before, and of the present one
        self.register_buffer("prototypes", torch.zeros(classes, feature))
        self.register_buffer("known", torch.zeros(classes, dtype=torch.bool))
        self.register_buffer("epoch_sum", torch.zeros(classes, feature))
        self.register_buffer("epoch_count", torch.zeros(classes))
        # of all z of the frozen network, by subset and class
        self.register_buffer("sums", torch.zeros(2**modalities - 1, classes, feature))
        self.register_buffer("counts", torch.zeros(2**modalities - 1, classes))

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The network, then what recovers."""
        return (
            Stage("classify", trains=("network",)),
            Stage("recover", trains=("rebuild",)),
        )

    def forward(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """Predict from what is present and what is worth taking in."""
        x = self.filled(batch)
        taken = self.admitted(x, batch.presence)
        extra = taken & ~batch.presence
        nothing = ~extra.any(1, keepdim=True)
        self.usage(torch.cat([nothing, extra], dim=1).to(x), batch.presence)
        output: Tensor = self.network(x, taken)[0]
        return output

    def filled(self, batch: Batch) -> Tokens:
        """Tokens of all modalities, rebuilt where one is absent."""
        x = self.network.tokens(batch)
        return torch.where(batch.presence[:, :, None, None], x, self.rebuild(x, batch.presence))

    def completed(self, batch: Batch) -> dict[str, Float[Tensor, "batch _"]]:
        """Tokens side by side, rebuilt ones where a modality is absent, taken in or not."""
        x = self.filled(batch).transpose(0, 1).flatten(2)
        return dict(zip(self.task.names, x, strict=True))

    def diagnostics(self) -> Mapping[str, Diagnostic]:
        """Which rebuilt modalities the samples of each pattern took in."""
        taken = ("nothing", *(f"{name}, rebuilt" for name in self.task.names))
        return self.usage.diagnostics(self.task.names, taken, "taken in")

    def stage_output(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """The network's prediction from what is present, then the prediction."""
        if self.stage == "classify":
            output: Tensor = self.network(self.network.tokens(batch), batch.presence)[0]
            return output
        return super().stage_output(batch)

    @torch.no_grad()
    def admitted(self, x: Tokens, presence: Presence) -> Presence:
        """What is present, and the recovered modalities that are rewarding, taken in one by one.

        Args:
            x: Tokens of all modalities, recovered where absent.
            presence: What is there.
        """
        modalities = presence.shape[1]
        each = torch.eye(modalities, dtype=torch.bool, device=x.device)
        overall, known = self.overall()
        taken, open_ = presence, ~presence
        for _ in range(modalities - 1):
            q, p = self.clarity(x, taken, overall, known)
            more = (taken | each[:, None]).flatten(0, 1)  # (M B, M), row u B + i takes in u
            tokens = x.repeat(modalities, 1, 1, 1)
            q_more, p_more = (
                part.view(modalities, -1).T for part in self.clarity(tokens, more, overall, known)
            )
            ratio = (p_more / p.clamp_min(1e-9)[:, None]).clamp_max(1)
            reward = q_more * ratio - q[:, None]
            open_ = open_ & (reward >= 0)  # one that was once harmful is out for good
            best = reward.masked_fill(~open_, -1).max(1)
            pick = each[best.indices] & (best.values > 0)[:, None]
            taken, open_ = taken | pick, open_ & ~pick
        return taken

    def clarity(
        self,
        x: Tokens,
        present: Presence,
        overall: Float[Tensor, "class feature"],
        known: Bool[Tensor, " class"],
    ) -> tuple[Rows, Rows]:
        """Values q and p of joint features; q is 0 as long as no class has a prototype."""
        logits, z = self.network(x, present)
        near = prototype_scores(z, overall, known).softmax(1).amax(1)
        q = torch.where(known.any(), near, 0.0)
        s, c = presence_code(present) - 1, logits.argmax(1)
        count = self.counts[s, c]
        centre = self.sums[s, c] / count.clamp_min(1)[:, None]
        sigma = (1 - centre.square().sum(1)).clamp_min(1e-6).sqrt()
        away = torch.linalg.vector_norm(z - centre, dim=1)
        p = torch.erfc(away / (sigma * 2**0.5))  # 2 Φ(-a) = erfc(a / √2)
        return q, torch.where(count >= 2, p, 1.0)

    def overall(self) -> tuple[Float[Tensor, "class feature"], Bool[Tensor, " class"]]:
        """ω_c, each subset alike, and which classes have one."""
        seen = self.counts > 0
        means = self.sums / self.counts.clamp_min(1)[:, :, None]
        return masked_mean(means, seen, dim=0), seen.any(0)

    def loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Terms of the present stage."""
        if self.stage == "classify":
            return self.network_loss(batch)
        return {"recovery": self.recovery_loss(batch)}

    def network_loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Prediction, and distance to class prototypes, from random subsets."""
        present = torch.cat([random_pattern(batch.presence) for _ in range(self.subsets)])
        x = self.network.tokens(batch).repeat(self.subsets, 1, 1, 1)
        target = batch.target.repeat(self.subsets)
        logits, z = self.network(x, present)
        with torch.no_grad():
            member = F.one_hot(target, self.task.num_outputs).T.to(z)  # (C, rows)
            total, count = member @ z, member.sum(1)
            self.epoch_sum += total
            self.epoch_count += count
            means = torch.where(
                self.known[:, None], self.prototypes, total / count.clamp_min(1)[:, None]
            )
        scores = prototype_scores(z, means, self.known | (count > 0))
        return {
            "task": self.task_loss(logits, target),
            "prototype": self.prototype * F.cross_entropy(scores, target),
        }

    def on_train_epoch_end(self) -> None:
        """Make the prototypes of this epoch those that the next one learns from."""
        super().on_train_epoch_end()
        seen = self.epoch_count > 0
        means = self.epoch_sum / self.epoch_count.clamp_min(1)[:, None]
        self.prototypes.copy_(torch.where(seen[:, None], means, self.prototypes))
        self.known.logical_or_(seen)
        self.epoch_sum.zero_()
        self.epoch_count.zero_()

    def recovery_loss(self, batch: Batch) -> Float[Tensor, ""]:
        """Squared error of hidden tokens where they are known; what is seen is collected."""
        truth = batch.teacher or batch
        seen = random_pattern(batch.presence)
        with torch.no_grad():
            x = self.network.tokens(truth)
            z = self.network(x, seen)[1]
            where = (presence_code(seen) - 1, batch.target)
            z = z.to(self.sums)
            self.sums.index_put_(where, z, accumulate=True)
            self.counts.index_put_(where, torch.ones_like(z[:, 0]), accumulate=True)
        error = (self.rebuild(x, seen) - x).square().mean((2, 3))
        hidden = truth.presence & ~seen
        return masked_mean(error.flatten(), hidden.flatten(), dim=0)


def prototype_scores(
    z: Feature, prototypes: Float[Tensor, "class feature"], known: Bool[Tensor, " class"]
) -> Float[Tensor, "batch class"]:
    """-|z - ω_c|² / τ, and minus infinity for a class without a prototype."""
    squared = (z[:, None] - prototypes).square().sum(2)
    return (-squared / TEMPERATURE).masked_fill(~known, -torch.inf)
