"""SMIL: missing features from centres of the training set, learned by one step ahead.

Paper: Ma et al., "SMIL: Multimodal Learning with Severely Missing Modality", AAAI 2021.
Idea: the feature of a missing modality is a weighted mean of a few centres of its training
features; the weights come from what is there. What is fused from it is perturbed, so that it
stays near to what complete samples give. Both are learned by looking ahead: one gradient step on
samples with gaps, and then the loss of the stepped network.
Notation: presence (B, M); f = f_m features, zeros where absent (B, M, D); Z = z_mk centres
(K, M, D); a = weights (M, B, K); f-hat imputed (B, M, D); x fused features (B, M D); h hidden
(B, H); θ network = encoders, fusion, head; θ' after the inner step; ψ guide = all the rest.
Differences from the paper:
- It has two modalities, of which one may be missing. Here any may: each has weights of its own
  that read all features, zeros where absent, and samples are perturbed that lack any.
- The centres are those of k-means on features that exist before training; a centre is the
  training sample nearest to it, encoded as the network is at that time, without a gradient. The
  paper clusters features of a network that was trained before, which is also where θ starts.
- Each step takes one batch for both losses: the inner one on a random subset of what the scenario
  shows, the outer one on another, compared with all that is known of the same samples: the
  teacher's under the regime `full_access`. The paper draws two batches from two splits.
- The gradient through the inner step is left out unless `second_order`.
- The inner step moves all encoders; in the released code the one that may be missing stays. Its
  rate does not decay.
- `variant="official"`: perturbations have a standard deviation of 1, as in the released code,
  which computes another and does not use it. The paper's is learned, and at most 1 as there.
- AdamW without a schedule instead of Adam.
"""

from collections.abc import Iterable
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from mmbench.bounds import Count, Decay, LearningRate, LossWeight, Rate, Width
from mmbench.data.batch import Batch
from mmbench.data.task import Task
from mmbench.layers.dropout import Dropout
from mmbench.layers.encoders import KINDS, ModalityEncoders
from mmbench.layers.fusion import random_pattern
from mmbench.layers.stacked import StackedLinear
from mmbench.method import ALL_TASKS, Applies, Method, Paper
from mmbench.search import Choice, Real, ranges

Fused = tuple[
    Float[Tensor, "batch output"], Float[Tensor, "batch features"], Float[Tensor, "batch hidden"]
]

ROUNDS = 20  # of k-means, at most enough for so few centres


class Centres(nn.Module):
    """K training samples of each modality, those nearest to the centres of k-means.

    Args:
        task: Whose modalities.
        count: K, >= 1.
    """

    def __init__(self, task: Task, count: int) -> None:
        super().__init__()
        self.modalities, self.count = task.modalities, count
        for m, modality in enumerate(task.modalities):
            kind = torch.long if modality.kind == "tokens" else torch.float
            self.register_buffer(f"input{m}", torch.zeros(count, *modality.shape, dtype=kind))
            if modality.has_lengths:
                self.register_buffer(f"length{m}", torch.ones(count, dtype=torch.long))

    def fill(self, train: Iterable[Batch]) -> None:
        """Choose among the samples that have a modality; if nobody has, zeros remain."""
        batches = list(train)
        for m, modality in enumerate(self.modalities):
            name = modality.name
            raw = KINDS[modality.kind].raw(modality)
            present = [batch.has(name) for batch in batches]
            x = torch.cat([b.inputs[name][rows] for b, rows in zip(batches, present, strict=True)])
            if not len(x):
                continue
            steps = None
            if modality.has_lengths:
                pairs = zip(batches, present, strict=True)
                steps = torch.cat([b.lengths[name][rows] for b, rows in pairs])
            chosen = nearest_to_centres(raw(x, steps), self.count)
            self.get_buffer(f"input{m}").copy_(x[chosen])
            if steps is not None:
                self.get_buffer(f"length{m}").copy_(steps[chosen])

    def batch(self) -> Batch:
        """K made-up samples: row k holds the k-th centre of each modality."""
        device = self.get_buffer("input0").device
        named = [(m, modality) for m, modality in enumerate(self.modalities)]
        return Batch(
            modalities=tuple(modality.name for modality in self.modalities),
            inputs={modality.name: self.get_buffer(f"input{m}") for m, modality in named},
            presence=torch.ones(self.count, len(named), dtype=torch.bool, device=device),
            target=torch.zeros(self.count, device=device),
            sample_id=torch.arange(self.count, device=device),
            lengths={
                modality.name: self.get_buffer(f"length{m}")
                for m, modality in named
                if modality.has_lengths
            },
        )


def nearest_to_centres(x: Float[Tensor, "row width"], count: int) -> Int[Tensor, " {count}"]:
    """Rows nearest to the centres of k-means, started by k-means++ from a fixed seed.

    Source: Arthur and Vassilvitskii, "k-means++: The Advantages of Careful Seeding", SODA 2007.

    Args:
        x: At least one row; with fewer than `count`, rows occur more than once.
        count: Centres, >= 1.
    """
    g = torch.Generator().manual_seed(0)
    first = [int(torch.randint(len(x), (), generator=g))]
    while len(first) < count:
        apart = torch.cdist(x, x[first]).amin(1).square()
        # where all rows are taken, any will do
        first.append(int(torch.multinomial(apart + 1e-12, 1, generator=g)))
    centres = x[first]
    for _ in range(ROUNDS):
        member = F.one_hot(torch.cdist(x, centres).argmin(1), count).to(x.dtype)
        size = member.sum(0)[:, None]
        centres = torch.where(size > 0, member.T @ x / size.clamp_min(1), centres)
    return torch.cdist(centres, x).argmin(1)


class Perturbation(nn.Module):
    """Softplus of a mean and, where asked for, of noise around it.

    Args:
        features: Width of what it reads.
        out: Width of what it gives.
        learned: Whether the noise has a learned standard deviation, at most 1, instead of 1.
    """

    def __init__(self, features: int, out: int, *, learned: bool) -> None:
        super().__init__()
        self.mean = nn.Linear(features, out)
        self.log_variance = nn.Linear(features, out) if learned else None

    def forward(
        self, x: Float[Tensor, "batch features"], *, noisy: bool
    ) -> Float[Tensor, "batch out"]:
        """What is added, >= 0."""
        value = self.mean(x)
        if noisy:
            noise = torch.randn_like(value)
            if self.log_variance is not None:
                noise = noise * (self.log_variance(x) / 2).exp().clamp_max(1)
            value = value + noise
        return F.softplus(value)


class Guide(nn.Module):
    """ψ: weights of centres, and what perturbs the fused features and the hidden ones."""

    def __init__(
        self, modalities: int, dim: int, hidden: int, centres: int, *, learned: bool
    ) -> None:
        super().__init__()
        self.weigh = StackedLinear(modalities, modalities * dim, centres)
        self.fused = Perturbation(modalities * dim, modalities * dim, learned=learned)
        self.hidden = Perturbation(modalities * dim, hidden, learned=learned)

    def impute(
        self, f: Float[Tensor, "batch modality dim"], z: Float[Tensor, "centre modality dim"]
    ) -> Float[Tensor, "batch modality dim"]:
        """Weighted means of the centres of each modality."""
        read = f.flatten(1).expand(f.shape[1], -1, -1)
        a = F.softplus(self.weigh(read))  # (M, B, K)
        return (a / a.sum(2, keepdim=True) @ z.transpose(0, 1)).transpose(0, 1)


class Network(nn.Module):
    """θ: encoders, fusion and head, led by a guide where samples have gaps."""

    def __init__(self, task: Task, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.encode = ModalityEncoders(task, dim)
        self.fuse = nn.Linear(len(task.modalities) * dim, hidden)
        self.drop = Dropout(dropout)
        self.head = nn.Linear(hidden, task.num_outputs)

    def forward(self, batch: Batch, centres: Batch, guide: Guide, *, noisy: bool = False) -> Fused:
        """Outputs, x and h."""
        f, filled = self.fill(batch, centres, guide)
        x = filled.flatten(1)
        complete = batch.presence.all(1, keepdim=True)
        x = torch.where(complete, x, x + guide.fused(f.flatten(1), noisy=noisy))
        h = self.fuse(x).relu()
        h = torch.where(complete, h, h + guide.hidden(x, noisy=noisy))
        return self.head(self.drop(h)), x, h

    def fill(
        self, batch: Batch, centres: Batch, guide: Guide
    ) -> tuple[Float[Tensor, "batch modality dim"], Float[Tensor, "batch modality dim"]]:
        """Embeddings, and the same with weighted means of the centres where one is absent."""
        f = self.encode(batch)
        with torch.no_grad():
            z = self.encode(centres)
        return f, torch.where(batch.presence[:, :, None], f, guide.impute(f, z))


class SMIL(Method):
    """Severely missing modality learning.

    Args:
        task: What goes in and what is predicted.
        variant: Learned standard deviations as in the paper, or those of its released code.
        dim: D, width of features.
        hidden: H, width of the hidden layer.
        centres: K, centres of each modality, >= 1.
        inner_lr: Rate of the inner step, >= 0.
        consistency: Weight of x and of h being as complete samples have them, >= 0.
        second_order: Whether the gradient goes through the inner step.
        dropout: Before the head, in [0, 1).
        lr: Learning rate of AdamW.
        weight_decay: Of AdamW.

    Raises:
        ValueError: If `centres` is below 1.
    """

    paper = Paper(
        "SMIL: Multimodal Learning with Severely Missing Modality",
        "AAAI",
        2021,
        "https://arxiv.org/abs/2103.05677",
    )
    applies = Applies(tasks=ALL_TASKS, min_modalities=2)
    search = ranges(
        hidden=Choice((32, 64, 128)),
        centres=Choice((5, 10, 20)),
        consistency=Real(1e-3, 0.1, log=True),
    )

    def __init__(
        self,
        task: Task,
        *,
        variant: Literal["paper", "official"] = "paper",
        dim: Width = 128,
        hidden: Width = 64,
        centres: Count = 10,
        inner_lr: Annotated[float, Field(strict=True, ge=0, le=100)] = 1e-3,
        consistency: LossWeight = 0.01,
        second_order: bool = False,
        dropout: Rate = 0.5,
        lr: LearningRate = 1e-3,
        weight_decay: Decay = 1e-4,
    ) -> None:
        super().__init__(task, lr=lr, weight_decay=weight_decay)
        if centres < 1:
            raise ValueError(f"there has to be at least 1 centre, found {centres}")
        self.inner_lr, self.consistency, self.second_order = inner_lr, consistency, second_order
        self.centres = Centres(task, centres)
        self.network = Network(task, dim, hidden, dropout)
        self.guide = Guide(len(task.modalities), dim, hidden, centres, learned=variant == "paper")

    def prepare(self, train: Iterable[Batch]) -> None:
        """Choose the centres, among all that training may see."""
        self.centres.fill(batch.teacher or batch for batch in train)

    def forward(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """Predict from what is present, without noise."""
        output: Tensor = self.network(batch, self.centres.batch(), self.guide)[0]
        return output

    def loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Loss before the inner step, and after it: of the task, of x and of h."""
        seen, less = (batch.hide(~random_pattern(batch.presence)) for _ in range(2))
        truth, led = batch.teacher or batch, (self.centres.batch(), self.guide)
        inner = self.task_loss(self.network(seen, *led, noisy=True)[0], seen.target)
        stepped = self.step(inner)
        output, x, h = functional_call(self.network, stepped, (less, *led))
        _, known_x, known_h = functional_call(self.network, stepped, (truth, *led))
        return {
            "inner": inner,
            "outer": self.task_loss(output, less.target),
            "fused": self.consistency * F.mse_loss(x, known_x),
            "hidden": self.consistency * F.mse_loss(h, known_h),
        }

    def completed(self, batch: Batch) -> dict[str, Float[Tensor, "batch _"]]:
        """Embeddings, weighted means of the centres where a modality is absent."""
        _, filled = self.network.fill(batch, self.centres.batch(), self.guide)
        return dict(zip(self.task.names, filled.unbind(1), strict=True))

    def step(self, inner: Float[Tensor, ""]) -> dict[str, Tensor]:
        """θ' = θ - α ∇θ of the inner loss."""
        theta = {n: p for n, p in self.network.named_parameters() if p.requires_grad}
        slopes = torch.autograd.grad(
            inner,
            list(theta.values()),
            retain_graph=True,
            create_graph=self.second_order,
            materialize_grads=True,
        )
        pairs = zip(theta.items(), slopes, strict=True)
        return {name: value - self.inner_lr * slope for (name, value), slope in pairs}
