"""FuseMoE: modalities meet in a sparse mixture of experts that is routed by distance.

Paper: Han et al., "FuseMoE: Mixture-of-Experts Transformers for Fleximodal Fusion", NeurIPS 2024.
Idea: in each layer every modality attends to itself; then the experts closest to a modality's
embedding, by a Laplace gate, answer with an update for all modalities. A missing modality is a
learned indicator, and the entropy of routing makes each modality's router stick to few experts,
different from those of the others, so that the indicators do no harm.
Notation: presence (B, M); z tokens (B, M, P, D); e = vec(z_m) (B, P D), in the joint router
vec(z) (B, M P D); score of expert j = -||e - w_j||; p-hat (M, E) mean routing of each modality.
Differences from the paper:
- Vectors, not irregular series: the suite's encoders give the tokens, so there is no mTAND.
- The last time step is classified in the paper. Here tokens have no order in time, and their mean
  is: none of them is the one that has seen the most.
- Two layers of width 64 and four tokens by default: an expert maps P D to M P D numbers, which
  with the paper's 48 steps of width 128 makes 0.9 billion weights.
- The weight of the entropy loss is not given; 0.01 here. Present entries alone are counted in it,
  in the means, and in importance and load.
- AdamW for Adam; the released run accumulates gradients over 16 samples.
`variant="official"` computes what the released code computes: a missing modality is zeros, a
present one has a vector of its modality added; the reshape from (P, B, D) to (B, P D) puts tokens
of several samples into one row, so that predictions depend on the batch; an expert ends in a
softmax over its outputs, and the logarithm of the mixture is what updates the tokens; there is
noise in evaluation, too; router weights start at zero and, unless the router is joint, are neither
trained nor saved; no routing loss is ever used; the last token is classified; attention has biases.
Kept different even there: the suite's encoders instead of mTAND, noise in evaluation that repeats,
a learned first position, the start of weights other than the router's, and no loss of gradients
in half precision.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmbench.bounds import Count, Decay, Depth, LearningRate, LossWeight, Rate, Width
from mmbench.data.batch import Batch
from mmbench.data.task import Task
from mmbench.diagnostics import Diagnostic
from mmbench.layers.attention import SelfAttention
from mmbench.layers.dropout import Dropout
from mmbench.layers.encoders import ModalityEncoders
from mmbench.layers.moe import GATE_LOSS_WEIGHT, LEAST_NOISE, Experts, route
from mmbench.layers.usage import UsageMeter
from mmbench.method import ALL_TASKS, Applies, Method, Paper
from mmbench.search import Choice, Real, Whole, ranges

Tokens = Float[Tensor, "batch modality token dim"]
Gate = Literal["laplace", "gaussian", "softmax"]
Router = Literal["joint", "per_modality", "disjoint"]
EPSILON = float(np.finfo(float).eps)  # in place of a mixture that is zero, as released
EVALUATION_NOISE = 0  # seed of the noise that the released code adds in evaluation


class FuseMoE(Method):
    """Mixture-of-experts transformer for any set of modalities.

    Args:
        task: What goes in and what is predicted.
        variant: The paper's equations, or what its released code computes.
        dim: D, width of a token.
        tokens: P, tokens for each modality.
        heads: Attention heads; has to divide `dim`.
        layers: Transformer layers, >= 1.
        experts: E, experts of a layer; with disjoint routers shared out evenly, at least one
            for each modality. None = 16, in the official variant 3, as its run has.
        hidden: Hidden width of an expert.
        top_k: Experts that answer, 1 to E, with disjoint routers at most E // M of them. None =
            4, in the official variant 2.
        gate: Scores are minus the distance (laplace), minus its square (gaussian), or a dot
            product (softmax).
        router: One for all modalities together; one for each, all experts shared; or one for
            each, with experts of its own. None = per_modality, in the official variant joint.
        routing_loss: Weight of importance and load of the joint router, or of the entropy loss
            of the others, >= 0.
        dropout: In [0, 1).
        lr: Learning rate of AdamW.
        weight_decay: Decoupled weight decay.
    """

    paper = Paper(
        "FuseMoE: Mixture-of-Experts Transformers for Fleximodal Fusion",
        "NeurIPS",
        2024,
        "https://arxiv.org/abs/2402.03226",
    )
    applies = Applies(tasks=ALL_TASKS, min_modalities=2)
    search = ranges(
        layers=Whole(1, 3),
        hidden=Choice((64, 128, 256)),
        routing_loss=Real(1e-3, 1.0, log=True),
    )

    missing: Tensor

    def __init__(
        self,
        task: Task,
        *,
        variant: Literal["paper", "official"] = "paper",
        dim: Width = 64,
        tokens: Count = 4,
        heads: Count = 4,
        layers: Depth = 2,
        experts: Count | None = None,
        hidden: Width = 128,
        top_k: Count | None = None,
        gate: Gate = "laplace",
        router: Router | None = None,
        routing_loss: LossWeight = GATE_LOSS_WEIGHT,
        dropout: Rate = 0.1,
        lr: LearningRate = 4e-4,
        weight_decay: Decay = 1e-2,
    ) -> None:
        super().__init__(task, lr=lr, weight_decay=weight_decay)
        modalities, self.official = len(task.modalities), variant == "official"
        if experts is None:
            experts = 3 if self.official else 16
        if top_k is None:
            top_k = 2 if self.official else 4
        if router is None:
            router = "joint" if self.official else "per_modality"
        size = (modalities, tokens, dim)
        self.routing_loss = routing_loss
        self.encode = ModalityEncoders(task, dim, tokens=tokens)
        self.kind: nn.Parameter | None = None
        if self.official:
            self.register_buffer("missing", torch.zeros(size), persistent=False)
            self.kind = nn.Parameter(torch.randn(modalities, 1, dim))
        else:
            self.missing = nn.Parameter(0.02 * torch.randn(size))
        # one table for all modalities
        self.position = nn.Parameter(0.02 * self.official * torch.randn(tokens, dim))
        self.drop = Dropout(dropout)
        mixture = ReleasedMoE if self.official else FusionMoE
        self.layers = nn.ModuleList(
            FuseLayer(
                size,
                heads=heads,
                mix=mixture(size, experts, top_k, hidden, gate, router, dropout),
                dropout=dropout,
                bias=self.official,
            )
            for _ in range(layers)
        )
        self.norm = nn.ModuleList(nn.LayerNorm(dim) for _ in range(modalities))
        width = modalities * dim
        self.residual = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), Dropout(dropout), nn.Linear(width, width)
        )
        self.head = nn.Linear(width, task.num_outputs)

    def forward(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """Predict from what is present."""
        return self.predict(batch)[0]

    def loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Task loss, and balance (joint router) or entropy (others) of the routing."""
        output, penalty = self.predict(batch)
        terms = {"task": self.task_loss(output, batch.target)}
        if not self.official:
            terms["routing"] = self.routing_loss * penalty
        return terms

    def diagnostics(self) -> Mapping[str, Diagnostic]:
        """How the experts of each layer share what they are asked."""
        result: dict[str, Diagnostic] = {}
        for number, layer in enumerate(self.layers):
            usage = layer.get_submodule("mix.usage")
            assert isinstance(usage, UsageMeter)
            experts = [str(e) for e in range(usage.experts)]
            result |= usage.diagnostics(self.task.names, experts, f"router of layer {number + 1}")
        return result

    def predict(self, batch: Batch) -> tuple[Float[Tensor, "batch output"], Float[Tensor, ""]]:
        """Outputs, and the penalty on the routing of all layers."""
        z = self.encode(batch)
        z = z if self.kind is None else z + self.kind
        z = torch.where(batch.presence[:, :, None, None], z, self.missing)
        z = self.drop(z.shape[-1] ** 0.5 * z + self.position)
        penalty = z.new_zeros(())
        for layer in self.layers:
            z, more = layer(z, batch.presence)
            penalty = penalty + more
        z = each(self.norm, z)
        h = (z[:, :, -1] if self.official else z.mean(2)).flatten(1)  # (B, M D)
        output: Tensor = self.head(h + self.residual(h))
        return output, penalty


def entropy_loss(
    p: Float[Tensor, "batch modality expert"], presence: Bool[Tensor, "batch modality"]
) -> Float[Tensor, ""]:
    """Mean entropy of each modality's mean routing, minus the entropy of the mean over them.

    In [-log min(M, E), 0]: lowest if each modality has experts of its own, 0 if all modalities
    are routed alike. Modalities that nobody in the batch has are left out.

    Source: Han et al., NeurIPS 2024, the regulariser of the per-modality routers.
    """
    seen = presence.any(0)
    w = presence.to(p)[:, :, None]
    mean = (p * w).sum(0) / w.sum(0).clamp_min(1)  # p-hat (M, E), rows of zeros where not seen
    count = seen.sum().clamp_min(1)
    sharp = shannon(mean).sum() / count
    return sharp - shannon(mean.sum(0) / count)


def shannon(p: Float[Tensor, "*leading expert"]) -> Float[Tensor, "*leading"]:
    """Entropy in nats of distributions over the last axis; 0 log 0 = 0, its gradient finite."""
    return -(p * p.clamp_min(1e-12).log()).sum(-1)


class FuseLayer(nn.Module):
    """Self-attention within each modality, experts across them, an MLP each; pre-norm."""

    def __init__(
        self,
        size: tuple[int, int, int],
        *,
        heads: int,
        mix: "FusionMoE",
        dropout: float,
        bias: bool,
    ) -> None:
        super().__init__()
        modalities, _, dim = size

        def norms() -> nn.ModuleList:
            return nn.ModuleList(nn.LayerNorm(dim) for _ in range(modalities))

        self.norm_attend, self.norm_mix, self.norm_mlp = norms(), norms(), norms()
        self.attend = nn.ModuleList(
            SelfAttention(dim, heads=heads, dropout=dropout, bias=bias) for _ in range(modalities)
        )
        self.mix = mix
        self.mlp = nn.ModuleList(
            nn.Sequential(
                nn.Linear(dim, 4 * dim), nn.ReLU(), Dropout(dropout), nn.Linear(4 * dim, dim)
            )
            for _ in range(modalities)
        )
        self.drop = Dropout(dropout)

    def forward(
        self, z: Tokens, presence: Bool[Tensor, "batch modality"]
    ) -> tuple[Tokens, Float[Tensor, ""]]:
        """Update the tokens; absent modalities, which are indicators by now, take part."""
        z = z + self.drop(each(self.attend, each(self.norm_attend, z)))
        mixed, penalty = self.mix(each(self.norm_mix, z), presence)
        z = z + self.drop(mixed)
        return z + self.drop(each(self.mlp, each(self.norm_mlp, z))), penalty


def each(parts: nn.ModuleList, z: Tokens) -> Tokens:
    """Apply part m to modality m."""
    return torch.stack([part(z[:, m]) for m, part in enumerate(parts)], dim=1)


class FusionMoE(nn.Module):
    """Experts from the flat embedding of one or all modalities to an update of all.

    Raises:
        ValueError: If `top_k` is more than a router has experts.
    """

    def __init__(
        self,
        size: tuple[int, int, int],
        experts: int,
        top_k: int,
        hidden: int,
        gate: Gate,
        router: Router,
        dropout: float,
    ) -> None:
        super().__init__()
        modalities, tokens, dim = size
        self.gate, self.router, self.k = gate, router, top_k
        routers = 1 if router == "joint" else modalities
        width = tokens * dim * (modalities if router == "joint" else 1)
        out = modalities * tokens * dim
        # experts that each router chooses from
        self.reach = experts // modalities if router == "disjoint" else experts
        if not 1 <= top_k <= self.reach:
            raise ValueError(
                f"asked for {top_k} experts, but a {router} router has {self.reach}; "
                "lower top_k or raise experts"
            )
        # spread like layer-normed embeddings, whose distances are compared
        spread = 1.0 if gate != "softmax" else width**-0.5
        self.weight = nn.Parameter(spread * torch.randn(routers, self.reach, width))
        self.noise = nn.Parameter(torch.zeros(routers, width, self.reach))
        banks = modalities if router == "disjoint" else 1
        self.usage = UsageMeter(modalities, banks * self.reach)
        self.experts = nn.ModuleList(
            Experts(self.reach, width, hidden, out=out, dropout=dropout) for _ in range(banks)
        )

    def forward(
        self, z: Tokens, presence: Bool[Tensor, "batch modality"]
    ) -> tuple[Tokens, Float[Tensor, ""]]:
        """Sum of the routers' mixtures, and what they are penalised for."""
        e = z.flatten(1)[None] if self.router == "joint" else z.flatten(2).transpose(0, 1)
        clean = scores(e, self.weight, self.gate)  # (routers, B, experts)
        scale: list[Tensor | None] = [None] * len(e)
        if self.training:
            scale = list((F.softplus(e @ self.noise) + LEAST_NOISE).unbind(0))
        routings = [route(c, s, self.k) for c, s in zip(clean.unbind(0), scale, strict=True)]
        if self.router == "disjoint":
            parts = zip(self.experts, e, routings, strict=True)
            update = torch.stack([bank(x, r.gates) for bank, x, r in parts]).sum(0)
        else:  # the same experts for all routers: one call
            gates = torch.cat([routing.gates for routing in routings])
            update = self.experts[0](e.flatten(0, 1), gates).unflatten(0, e.shape[:2]).sum(0)
        self.count(enumerate(routing.gates for routing in routings), presence)
        if self.router == "joint":
            penalty = routings[0].balance()
        else:
            penalty = entropy_loss(self.distribution(clean), presence)
        return update.view_as(z), penalty

    def count(
        self, gates: Iterable[tuple[int, Tensor]], presence: Bool[Tensor, "batch modality"]
    ) -> None:
        """Note in evaluation who was asked; disjoint routers have experts of their own."""
        for m, part in () if self.training else gates:
            if self.router == "disjoint":
                part = F.pad(part, (m * self.reach, self.usage.experts - (m + 1) * self.reach))
            self.usage(part, presence)

    def distribution(
        self, clean: Float[Tensor, "modality batch reach"]
    ) -> Float[Tensor, "batch modality expert"]:
        """Routing probabilities over all experts; those of other modalities have none."""
        p = clean.softmax(2)
        if self.router == "disjoint":
            last = len(p) - 1
            p = torch.stack(
                [F.pad(x, (m * self.reach, (last - m) * self.reach)) for m, x in enumerate(p)]
            )
        return p.transpose(0, 1)


class ReleasedMoE(FusionMoE):
    """What the released code makes of it, see `variant="official"` above."""

    def __init__(
        self,
        size: tuple[int, int, int],
        experts: int,
        top_k: int,
        hidden: int,
        gate: Gate,
        router: Router,
        dropout: float,
    ) -> None:
        super().__init__(size, experts, top_k, hidden, gate, router, dropout)
        for name in ("weight", "noise"):
            start = torch.zeros_like(getattr(self, name))
            delattr(self, name)
            if router == "joint":
                setattr(self, name, nn.Parameter(start))
            else:
                self.register_buffer(name, start, persistent=False)

    def forward(
        self, z: Tokens, presence: Bool[Tensor, "batch modality"]
    ) -> tuple[Tokens, Float[Tensor, ""]]:
        """Sum of the logarithms of the routers' mixtures; no penalty."""
        batch, modalities, tokens, dim = z.shape
        # (P, B, D) is read as (B, P D)
        rows = z.permute(1, 2, 0, 3).reshape(modalities, batch, -1)
        e = rows.transpose(0, 1).reshape(1, batch, -1) if self.router == "joint" else rows
        clean = scores(e, self.weight, self.gate)
        scale = F.softplus(e @ self.noise) + LEAST_NOISE
        noise = self._noise(clean)
        update = z.new_zeros(batch, z[0].numel())
        for m, x in enumerate(e):
            gates = route(clean[m], scale[m], self.k, noise=noise[m]).gates
            bank = self.experts[m if self.router == "disjoint" else 0]
            assert isinstance(bank, Experts)
            self.count([(m, gates)], presence)
            mixture = (gates[:, :, None] * bank.apart(x).softmax(2)).sum(1)
            update = update + torch.where(mixture == 0, EPSILON, mixture).log()
        parts = update.view(batch, modalities, -1).transpose(0, 1)
        update = parts.reshape(modalities, tokens, batch, dim).permute(2, 0, 1, 3)
        return update, z.new_zeros(())

    def _noise(self, clean: Float[Tensor, "router batch expert"]) -> Tensor:
        if self.training:
            return torch.randn_like(clean)
        fixed = torch.Generator(clean.device).manual_seed(EVALUATION_NOISE)
        return torch.randn(clean.shape, generator=fixed, device=clean.device)


def scores(
    e: Float[Tensor, "router batch width"], weight: Float[Tensor, "router expert width"], gate: Gate
) -> Float[Tensor, "router batch expert"]:
    """How near an expert is: -||e - w||, -||e - w||², or the dot product."""
    if gate == "softmax":
        return e @ weight.transpose(1, 2)
    # not by products: near-by experts would lose all digits
    distance = torch.cdist(e.to(weight), weight, compute_mode="donot_use_mm_for_euclid_dist")
    return -distance if gate == "laplace" else -distance.square()
