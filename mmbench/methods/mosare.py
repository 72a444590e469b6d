"""MoSARe: experts on global and local views, missing ones decoded from what is there.

Paper: Moradinasab et al., "Towards Robust Multimodal Representation: A Unified Approach with
Adaptive Experts and Alignment", ICCV workshops 2025, arXiv 2503.09498.
Idea: each modality gives one global vector and 16 local tokens. Modalities read each other by
cross-attention at both levels, and their sum is decoded into what a sample lacks. A sparse mixture
of experts picks from the local tokens, another from all vectors. Contrastive losses pull each
modality towards the sum and each sample towards the prototypes of its class.
Notation: presence = c (B, M); g (B, M, D) global vectors; t (B, M, C, D) local tokens; z = z_m
after cross-attention, x = X_agg = Σ_m z_m, d = d_m decoded, full = c z + (1 - c) d, each at two
levels L = 2 (global, local); h (B, D) what is classified; P ordered pairs of modalities; E experts,
K asked.
What stands on what: only a summary of the paper and its released code could be read. The summary
gives the parts (global and local views, 16 components, 5 experts of which 2 answer, decoding from
the sum, both contrastive losses after a warm-up of 10 epochs, one summed loss). All else, such as
blocks, activations, the weights of the losses and the prototypes' moves, is the release's.
Differences from the paper:
- Any modalities take the place of slides, genes and reports. Global vectors are those of the
  suite's encoders: gated attention for bags, layers that see the whole for vectors (the release:
  three layers as wide as the vector). Local tokens of bags and sequences: one mixture for all
  training samples, fitted in `prepare`; a sample's tokens are the posterior-weighted means of its
  own instances (see `DiagonalMixture`; the paper fits each slide anew). Of vectors, images, volumes
  and texts: those of the suite's encoder, whose mean gives the global vector; a vector of F < C
  features has F different ones. The summary names mixtures for vectors, too, but a vector is one
  instance. `vector_tokens: genes`, the released code's, makes every feature a token of a shared
  network, pooled by C heads; it loses which gene is which.
- All C tokens pass the local experts. The released code, whose comment says three, leaves one, that
  with the largest score, but no gradient reaches that score. With `active_k` below C the score
  learns here, straight through the choice; only tokens left are computed; the zeros are alike, and
  one of them stands for all, with one dropout mask for all.
- Local tokens are added up before they are decoded and classified, as released: components of a
  mixture have no order by which a head could read them side by side.
- Of an absent modality the local experts see zeros and answer with a constant, as released, which
  the other modalities read.
- Contrastive losses leave absent modalities out; the released code has them as rows of zeros.
- Prototypes move with a momentum of 0.9 instead of 0.999, from the first samples instead of
  random vectors, and take all samples of a class; the prototype loss has the true label as target.
- Attention over a single vector, at the global level, is a sigmoid gate, as released.
- The warm-up before the contrastive losses is 10 epochs, or half of a run of fewer than 20.
- Dropout has one rate, and none is inside the gates of attention pooling. Norms have the biased
  variance, as everywhere in the suite.
- Several labels: each is a class whose members are its positives, with binary cross-entropy. A
  regression has no classes, and so no prototypes.
- AdamW without a schedule, as every method of the suite.
`official` puts back what the released code computes: its encoders of bags and vectors, gene tokens,
one local token, norms by the unbiased standard deviation (with copied weights, logits are the
released module's to 1e-5); three steps of AdamW for each batch (supervised, symmetric, prototypes),
each from a forward pass of its own; warm-up of the learning rate and cosine; a local score that
never learns; zero rows among the negatives; momentum 0.999 from random unit vectors, with correctly
classified samples alone; and the class of largest posterior as target of the prototype loss. Its
encoder of a vector is as wide as the vector, but no wider than 5,000. Its draws of patches and
masks, and its scaling of every row to mean 0 and variance 1, belong to data and scenario.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmbench.bounds import AtLeastZero, Count, Decay, LearningRate, LossWeight, Rate, Width
from mmbench.data.batch import Batch, zero_absent
from mmbench.data.task import Modality, Task
from mmbench.diagnostics import Diagnostic
from mmbench.layers.attention import GatedAttentionPool
from mmbench.layers.dropout import Dropout
from mmbench.layers.encoders import encoder
from mmbench.layers.fusion import masked_mean
from mmbench.layers.late_fusion import StackedMLP
from mmbench.layers.mixture import DiagonalMixture, diagonal_log_density
from mmbench.layers.moe import FORBIDDEN, Experts, top_k_gates
from mmbench.layers.pooling import valid_steps
from mmbench.layers.usage import UsageMeter
from mmbench.method import Applies, Method, Paper
from mmbench.search import Choice, Real, ranges

WARM_UP = 10  # epochs before the contrastive losses
TEMPERATURE = 0.01  # of the symmetric contrastive loss
PROTOTYPES = 15  # of each class
QUEUE = 50  # samples that each prototype remembers
MOST_NEW = 20  # of them from one batch
SINKHORN_ROUNDS, SINKHORN_EPSILON = 3, 0.05
VARIANCE_FLOOR = 0.01
WIDEST = 5_000  # hidden units of a vector; the released data have 4,999 genes
CHUNK = 256  # gene tokens held at a time

Goal = Literal["supervised", "symmetric", "prototype"]
Levels = Float[Tensor, "level batch modality dim"]


class VectorMLP(nn.Module):
    """Three layers, as wide as the input, as released; at most as wide as the released data.

    Its weights grow with the square of the width: 20,530 features would take 840 million.
    """

    def __init__(self, features: int, dim: int, dropout: float) -> None:
        super().__init__()
        hidden = min(features, WIDEST)

        def block(width: int) -> list[nn.Module]:
            return [nn.Linear(width, hidden), nn.LayerNorm(hidden), nn.ReLU(), Dropout(dropout)]

        self.layers = nn.Sequential(*block(features), *block(hidden), nn.Linear(hidden, dim))

    def forward(
        self, x: Float[Tensor, "batch feature"], lengths: None = None
    ) -> Float[Tensor, "batch dim"]:
        """Encode; there are no lengths."""
        z: Tensor = self.layers(x)
        return z


class BagVector(nn.Module):
    """Two layers on each instance, then one mean with weights from gated attention."""

    def __init__(self, features: int, dim: int, dropout: float) -> None:
        super().__init__()

        def block(width: int) -> list[nn.Module]:
            return [nn.Linear(width, dim), nn.LayerNorm(dim), nn.GELU(), Dropout(dropout)]

        self.instance = nn.Sequential(*block(features), *block(dim))
        self.pool = GatedAttentionPool(dim, hidden=max(1, dim // 4))

    def forward(
        self, x: Float[Tensor, "batch instance feature"], lengths: Int[Tensor, " batch"] | None
    ) -> Float[Tensor, "batch dim"]:
        """Encode; lengths in instances, None = no padding."""
        present = valid_steps(lengths, x)
        z: Tensor = self.pool(self.instance(torch.where(present[:, :, None], x, 0.0)), present)
        return z.squeeze(1)


class GeneTokens(nn.Module):
    """C attention heads over all features, each feature a number that one network embeds.

    1 - H - H - C H with LayerNorm and GELU, then for each head gated attention over its own H
    units and a weighted mean, H - D. Genes are read in chunks whose hidden units are computed
    again in the backward pass; the softmax runs over all of them, chunk by chunk (Milakov and
    Gimelshein, "Online normalizer calculation for softmax", 2018).
    """

    def __init__(self, dim: int, tokens: int, dropout: float) -> None:
        super().__init__()
        self.hidden = max(1, dim // 4)
        wide = tokens * self.hidden

        def block(width: int, out: int) -> list[nn.Module]:
            return [nn.Linear(width, out), nn.LayerNorm(out), nn.GELU(), Dropout(dropout)]

        self.embed = nn.Sequential(
            *block(1, self.hidden), *block(self.hidden, self.hidden), *block(self.hidden, wide)
        )
        bound = self.hidden**-0.5
        # both halves of the gate side by side
        gate = torch.empty(tokens, self.hidden, 2 * self.hidden).uniform_(-bound, bound)
        self.gate = nn.Parameter(gate)
        self.gate_bias = nn.Parameter(torch.zeros(tokens, 1, 2 * self.hidden))
        self.score = nn.Parameter(torch.empty(tokens, self.hidden, 1).uniform_(-bound, bound))
        self.out = nn.Linear(self.hidden, dim)

    def forward(
        self, x: Float[Tensor, "batch gene"], lengths: None = None
    ) -> Float[Tensor, "batch token dim"]:
        """Encode; there are no lengths."""
        chunks = torch.split(x, max(1, CHUNK // len(x)), dim=1)
        if torch.is_grad_enabled() and len(chunks) > 1:
            parts = [checkpoint(self.part, chunk, use_reentrant=False) for chunk in chunks]
        else:
            parts = [self.part(chunk) for chunk in chunks]
        peak, mass, total = (torch.stack(each) for each in zip(*parts, strict=True))
        rescale = (peak - peak.amax(0)).exp()  # (chunks, B, C)
        mean = (rescale[..., None] * total).sum(0) / (rescale * mass).sum(0)[..., None]
        tokens: Tensor = self.out(mean)
        return tokens

    def part(self, x: Float[Tensor, "batch gene"]) -> tuple[Tensor, Tensor, Tensor]:
        """Largest score (B, C), sum of weights (B, C) and weighted sum (B, C, H) of some genes."""
        batch, genes = x.shape
        u = self.embed(x.reshape(-1, 1)).view(batch * genes, -1, self.hidden)  # (B G, C, H)
        signal, gate = torch.baddbmm(self.gate_bias, u.transpose(0, 1), self.gate).chunk(2, dim=2)
        score = torch.bmm(signal.tanh() * gate.sigmoid(), self.score).view(-1, batch, genes)
        # the softmax does not change with it, so no gradient runs through it
        peak = score.detach().amax(2, keepdim=True)
        weight = (score - peak).exp()  # (C, B, G)
        total = torch.einsum("cbg,bgch->bch", weight, u.view(batch, genes, -1, self.hidden))
        return peak.squeeze(2).T, weight.sum(2).T, total


class Views(nn.Module):
    """One global vector and C local tokens of one modality."""

    def __init__(
        self,
        modality: Modality,
        dim: int,
        tokens: int,
        vector_tokens: Literal["encoder", "genes"],
        dropout: float,
        *,
        official: bool,
    ) -> None:
        super().__init__()
        self.name = modality.name
        self.mixture: DiagonalMixture | None = None
        self.whole: nn.Module = encoder(modality, dim)
        self.local: nn.Module
        self.of_mean = False
        features = modality.shape[-1]
        if modality.kind in ("bag", "sequence"):
            if official and modality.kind == "bag":
                self.whole = BagVector(features, dim, dropout)
            self.mixture = DiagonalMixture(tokens, features)
            self.local = nn.Linear(features, dim)
        elif modality.kind == "vector" and vector_tokens == "genes":
            if official:
                self.whole = VectorMLP(features, dim, dropout)
            self.local = GeneTokens(dim, tokens, dropout)
        else:
            self.local = encoder(modality, dim, tokens=tokens)
            self.whole = nn.Linear(dim, dim)
            self.of_mean = True

    def forward(
        self, batch: Batch
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch token dim"]]:
        """Both views; zeros where the modality is absent."""
        present = batch.has(self.name)
        if self.mixture is not None:
            # by itself, since it is frozen and therefore computed once for each sample
            local = zero_absent(self.local(batch.embed(self.name, self.mixture)), present)
        else:
            local = batch.embed(self.name, self.local)
        if self.of_mean:
            return zero_absent(self.whole(local.mean(1)), present), local
        return batch.embed(self.name, self.whole), local


class CrossAttention(nn.Module):
    """One block for each ordered pair of modalities, all in batched products.

    a = MHA(query x_m, key and value x_a), x <- LN(x_m + a), x <- LN(x + FFN(x)); the mean over
    the partners a of m. A partner that is absent enters as zeros.

    Args:
        modalities: M, >= 2.
        dim: D.
        heads: Has to divide `dim`.
        dropout: Of both branches and the hidden units, in [0, 1).
        gate: Whether scores go through a sigmoid, each by itself, instead of a softmax.
        official: Whether LN divides by the unbiased standard deviation plus 1e-6, as released.

    Raises:
        ValueError: If `heads` does not divide `dim`.
    """

    reader: Tensor
    source: Tensor

    def __init__(
        self,
        modalities: int,
        dim: int,
        *,
        heads: int,
        dropout: float,
        gate: bool,
        official: bool,
    ) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(f"{heads} heads cannot share a width of {dim}")
        self.heads, self.gate, self.official = heads, gate, official
        every = [(m, a) for m in range(modalities) for a in range(modalities) if m != a]
        reader, source = torch.tensor(every).T
        self.register_buffer("reader", reader, persistent=False)
        self.register_buffer("source", source, persistent=False)
        pairs = len(every)

        def weight(inputs: int, outputs: int) -> nn.Parameter:
            bound = inputs**-0.5  # as nn.Linear starts
            return nn.Parameter(torch.empty(pairs, inputs, outputs).uniform_(-bound, bound))

        def constant(value: float, size: int) -> nn.Parameter:
            return nn.Parameter(torch.full((pairs, 1, size), value))

        self.query, self.query_bias = weight(dim, dim), constant(0.0, dim)
        self.key = weight(dim, dim)
        # in a softmax it would cancel and never be trained
        self.key_bias = constant(0.0, dim) if gate else None
        self.value, self.value_bias = weight(dim, dim), constant(0.0, dim)
        self.out, self.out_bias = weight(dim, dim), constant(0.0, dim)
        self.norm1, self.norm1_bias = constant(1.0, dim), constant(0.0, dim)
        self.w1, self.b1 = weight(dim, 2 * dim), constant(0.0, 2 * dim)
        self.w2, self.b2 = weight(2 * dim, dim), constant(0.0, dim)
        self.norm2, self.norm2_bias = constant(1.0, dim), constant(0.0, dim)
        self.drop = Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "batch modality token dim"],
        count: Float[Tensor, " token"] | None = None,
    ) -> Float[Tensor, "batch modality token dim"]:
        """Let each modality's tokens read those of the others.

        Args:
            x: Zeros where a modality is absent.
            count: How many equal tokens each one stands for, > 0; None = one.
        """
        batch, modalities, tokens, dim = x.shape
        rows = x.transpose(0, 1).flatten(1, 2)  # (M, B N, D)
        reader, other = rows[self.reader], rows[self.source]  # (P, B N, D)

        def split(z: Tensor) -> Tensor:
            return z.view(-1, batch, tokens, self.heads, dim // self.heads).transpose(2, 3)

        q = split(torch.baddbmm(self.query_bias, reader, self.query))
        key = torch.bmm(other, self.key)
        k = split(key if self.key_bias is None else key + self.key_bias)
        v = split(torch.baddbmm(self.value_bias, other, self.value))
        score = q @ k.transpose(3, 4) * (dim // self.heads) ** -0.5  # (P, B, heads, N, N)
        if self.gate:
            share = score.sigmoid() if count is None else score.sigmoid() * count
        else:
            share = (score if count is None else score + count.log()).softmax(4)
        read = (share @ v).transpose(2, 3).reshape(-1, batch * tokens, dim)
        a = torch.baddbmm(self.out_bias, read, self.out)
        y = self._norm(reader + self.drop(a), self.norm1, self.norm1_bias)
        hidden = self.drop(F.relu(torch.baddbmm(self.b1, y, self.w1)))
        y = y + self.drop(torch.baddbmm(self.b2, hidden, self.w2))
        y = self._norm(y, self.norm2, self.norm2_bias)
        # pairs are in order of the reader, M - 1 each
        mean = y.view(modalities, -1, batch, tokens, dim).mean(1)
        return mean.transpose(0, 1)

    def _norm(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if self.official:
            x = (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-6)
        else:
            x = F.layer_norm(x, x.shape[-1:])
        return x * weight + bias


class LocalExperts(nn.Module):
    """Of each modality's C tokens the best pass, through K of its E experts.

    Args:
        modalities: M.
        tokens: C.
        dim: D.
        experts: E of each modality, >= 1.
        k: K asked for a token, 1 to E.
        active: Tokens that pass, >= 1; C or more = all of them.
        learn: Whether the score that tokens are chosen by gets a gradient, straight through.
    """

    def __init__(
        self,
        modalities: int,
        tokens: int,
        dim: int,
        *,
        experts: int,
        k: int,
        active: int,
        learn: bool,
    ) -> None:
        super().__init__()
        self.k, self.active = k, active
        bound = dim**-0.5
        self.gate = nn.Parameter(torch.empty(modalities, dim, experts).uniform_(-bound, bound))
        self.gate_bias = nn.Parameter(torch.zeros(experts).repeat(modalities, 1, 1))
        self.score = None
        if active < tokens:
            score = torch.empty(modalities, dim).uniform_(-bound, bound)
            self.score = nn.Parameter(score, requires_grad=learn)
        self.usage = UsageMeter(modalities, modalities * experts)
        # one bank for all: on the CPU an expert sees only the tokens that ask it
        self.experts = Experts(modalities * experts, dim, dim, activation=F.relu)

    def forward(
        self,
        t: Float[Tensor, "batch modality token dim"],
        presence: Bool[Tensor, "batch modality"],
    ) -> tuple[Float[Tensor, "batch modality left dim"], Float[Tensor, " left"] | None]:
        """What the experts make of the tokens that pass, then one zero for all others; counts.

        Counts say how many tokens each one stands for; None = all tokens pass.
        """
        if self.score is None:
            return self.ask(t, presence), None
        score = (t * self.score[:, None]).sum(3)
        chosen = score.topk(self.active, dim=2).indices  # (B, M, active)
        y = self.ask(t.gather(2, chosen[..., None].expand(-1, -1, -1, t.shape[3])), presence)
        if self.score.requires_grad:
            p = score.softmax(2).gather(2, chosen)[..., None]
            y = y * (1 + p - p.detach())
        count = torch.ones(self.active, device=t.device)
        others = float(t.shape[2] - self.active)
        return F.pad(y, (0, 0, 0, 1)), F.pad(count, (0, 1), value=others)

    def ask(
        self,
        t: Float[Tensor, "batch modality left dim"],
        presence: Bool[Tensor, "batch modality"],
    ) -> Float[Tensor, "batch modality left dim"]:
        """Mix the answers of each modality's own experts."""
        diagonal = torch.eye(t.shape[1], device=t.device)[:, None, :, None]  # (M, 1, M, 1)
        gates = self.gates(t).unsqueeze(3) * diagonal  # (B, M, N, M, E), other modalities' are zero
        gates = gates.flatten(3)
        if not self.training:
            weights = torch.where(presence[:, :, None, None], gates, 0.0)
            self.usage(weights.flatten(0, 2), presence)
        y: Tensor = self.experts(t.flatten(0, 2), gates.flatten(0, 2))
        return y.view_as(t)

    def gates(
        self, t: Float[Tensor, "batch modality left dim"]
    ) -> Float[Tensor, "batch modality left expert"]:
        """Weights of a modality's own experts: K are not zero, and they sum to 1."""
        logits = torch.einsum("bmnd,mde->bmne", t, self.gate) + self.gate_bias
        return top_k_gates(logits.flatten(0, 2), self.k).view_as(logits)


class FinalExperts(nn.Module):
    """K of E experts for each vector."""

    def __init__(self, modalities: int, dim: int, *, experts: int, k: int) -> None:
        super().__init__()
        self.k = k
        self.usage = UsageMeter(modalities, experts)
        self.gate = nn.Linear(dim, experts)
        self.experts = Experts(experts, dim, dim, activation=F.relu)

    def forward(
        self, x: Float[Tensor, "batch vector dim"], presence: Bool[Tensor, "batch modality"]
    ) -> Float[Tensor, "batch vector dim"]:
        """Mix the answers; presence says whose they are."""
        rows = x.flatten(0, 1)
        gates = top_k_gates(self.gate(rows), self.k)
        self.usage(gates, presence)
        y: Tensor = self.experts(rows, gates)
        return y.view_as(x)


class ClassMixtures(nn.Module):
    """Unit prototypes of each class, moved by the samples that are assigned to them.

    A class spreads its samples evenly over its prototypes (Sinkhorn); each prototype keeps the
    last 50 of them, moves towards their mean, and has their variance.

    Args:
        classes: C.
        dim: D.
        official: Random vectors to start from, momentum 0.999, correctly classified samples alone.
    """

    mean: Tensor
    variance: Tensor
    queue: Tensor
    filled: Tensor

    def __init__(self, classes: int, dim: int, *, official: bool) -> None:
        super().__init__()
        self.official = official
        self.momentum = 0.999 if official else 0.9
        unit = F.normalize(torch.randn(classes, PROTOTYPES, dim), dim=2)
        slots = classes * PROTOTYPES * QUEUE
        start = torch.randn(slots + 1, dim) if official else torch.zeros(slots + 1, dim)
        full = QUEUE if official else 0
        self.register_buffer("mean", unit)
        self.register_buffer("variance", torch.ones(classes, PROTOTYPES, dim))
        # the row after the last slot takes what is not kept, so that nothing has to be selected
        self.register_buffer("queue", F.normalize(start, dim=1))
        self.register_buffer("filled", torch.full((classes, PROTOTYPES), full))

    def forward(self, h: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch class"]:
        """Cosine with the nearest prototype of each class."""
        cosine = F.normalize(h, dim=1) @ self.mean.flatten(0, 1).T
        return cosine.view(len(h), -1, PROTOTYPES).amax(2)

    def log_density(self, h: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch class prototype"]:
        """Of the unit vector of each sample."""
        density = diagonal_log_density(
            F.normalize(h, dim=1), self.mean.flatten(0, 1), self.variance.flatten(0, 1)
        )
        return density.view(len(h), -1, PROTOTYPES)

    def posterior(self, h: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch class"]:
        """Probability of each class, all prototypes equally likely before; sums to 1."""
        density = self.log_density(h)
        return density.flatten(1).softmax(1).view_as(density).sum(2)

    @torch.no_grad()
    def update(self, h: Float[Tensor, "batch dim"], member: Bool[Tensor, "batch class"]) -> None:
        """Assign samples to the prototypes of their classes, and move these.

        Args:
            h: Vectors of any length.
            member: True = the sample is of the class.
        """
        h = F.normalize(h, dim=1)
        density = self.log_density(h)
        assigned = F.one_hot(balanced(density, member).argmax(2), PROTOTYPES)  # (B, C, P)
        seen = member.any(0)
        if self.official:
            best = density.amax(2).argmax(1)
            member = member & F.one_hot(best, member.shape[1]).bool()
        assigned = assigned * member[:, :, None]
        order = assigned.cumsum(0) - 1  # a sample's place among the batch's for this prototype
        new = assigned.bool() & (order < MOST_NEW)
        prototype = torch.arange(self.filled.numel(), device=h.device).view_as(self.filled)
        slot = prototype * QUEUE + (self.filled + order) % QUEUE
        slot = torch.where(new, slot, len(self.queue) - 1)
        # of all prototypes of a class, a sample has one
        slot, enters = slot.amin(2).flatten(), new.any(2).flatten()
        rows = torch.where(enters[:, None], h.repeat_interleave(member.shape[1], 0), 0.0)
        self.queue.index_copy_(0, slot, rows.to(self.queue))
        was_empty = self.filled == 0
        self.filled += new.sum(0)
        self._move(was_empty, seen[:, None] & (self.filled > 0))

    def _move(
        self, was_empty: Bool[Tensor, "class prototype"], moves: Bool[Tensor, "class prototype"]
    ) -> None:
        queue = self.queue[:-1].view(*self.filled.shape, QUEUE, -1)
        count = self.filled.clamp_max(QUEUE)
        present = (torch.arange(QUEUE, device=queue.device) < count[..., None])[..., None]
        centre = F.normalize(queue.sum(2), dim=2)  # empty slots are zero
        square = torch.where(present, queue - centre[:, :, None], 0.0).square().sum(2)
        variance = square / count.clamp_min(1)[..., None] + VARIANCE_FLOOR
        old = torch.where(was_empty[..., None], centre, self.mean)
        mean = F.normalize(self.momentum * old + (1 - self.momentum) * centre, dim=2)
        self.mean.copy_(torch.where(moves[..., None], mean, self.mean))
        self.variance.copy_(torch.where(moves[..., None], variance, self.variance))


def balanced(
    density: Float[Tensor, "batch class prototype"], member: Bool[Tensor, "batch class"]
) -> Float[Tensor, "batch class prototype"]:
    """Shares of each sample in the prototypes of its classes, even over the class's samples.

    Source: Cuturi, "Sinkhorn Distances", NeurIPS 2013, as in Caron et al., "Unsupervised Learning
    of Visual Features by Contrasting Cluster Assignments", NeurIPS 2020: 3 rounds, ε = 0.05, on
    densities in units of the largest of the class.

    Returns:
        Rows of members sum to 1, all others are zero.
    """
    present = member[:, :, None]
    density = torch.where(present, density, 0.0)
    score = density / density.abs().amax((0, 2), keepdim=True).clamp_min(1e-12)
    q = torch.where(present, (score / SINKHORN_EPSILON).exp(), 0.0)
    for _ in range(SINKHORN_ROUNDS):
        q = q / q.sum(0, keepdim=True).clamp_min(1e-30)
        q = q / q.sum(2, keepdim=True).clamp_min(1e-30)
    return q


def symmetric_contrast(
    z: Float[Tensor, "batch modality dim"],
    x: Float[Tensor, "batch dim"],
    presence: Bool[Tensor, "batch modality"],
) -> Float[Tensor, ""]:
    """InfoNCE between each modality and the sum, in both directions; mean over modalities.

    Source: van den Oord et al., "Representation Learning with Contrastive Predictive Coding",
    2018; temperature 0.01, the other samples that have the modality are the negatives.
    """
    z, x = F.normalize(z, dim=2), F.normalize(x, dim=1)
    logits = torch.einsum("bmd,cd->mbc", z, x) / TEMPERATURE
    present = presence.T
    logits = torch.where(present[:, :, None] & present[:, None], logits, FORBIDDEN)
    pull = logits.log_softmax(1) + logits.log_softmax(2)
    matched = pull.diagonal(dim1=1, dim2=2)  # (M, B)
    return -0.5 * masked_mean(matched, present).mean()


def released_schedule(done: float, epochs: int, lr: float) -> float:
    """Share of the learning rate: five epochs of warm-up from 1e-5, then a cosine to 1e-8.

    Args:
        done: Epochs so far.
        epochs: Of the whole run; the warm-up takes half of it at most.
        lr: Learning rate at the top, in whose units the result is.
    """
    warm_up = min(5.0, epochs / 2)
    if done < warm_up:
        return 1e-5 + (1 - 1e-5) * done / warm_up
    least = min(1.0, 1e-8 / lr)
    share = min(1.0, (done - warm_up) / max(epochs - warm_up, 1e-9))
    return least + (1 - least) * 0.5 * (1 + math.cos(math.pi * share))


@dataclass(frozen=True, slots=True)
class Fused:
    """What one forward pass computes.

    Args:
        z: (L, B, M, D) after cross-attention, zeros where absent.
        x: (L, B, D) their sum.
        decoded: (L, B, M, D) what x says of each modality; None without reconstruction.
        full: (L, B, M, D) z, and decoded where absent.
        h: (B, D).
    """

    z: Levels
    x: Float[Tensor, "level batch dim"]
    decoded: Levels | None
    full: Levels
    h: Float[Tensor, "batch dim"]


class MoSARe(Method):
    """Adaptive experts and alignment.

    Args:
        task: What goes in and what is predicted.
        variant: The paper's equations, or what its released code computes.
        dim: D, width of vectors and tokens.
        components: C, local tokens of a modality, >= 1; the paper leaves 4 to 64 open.
        vector_tokens: How a flat vector becomes tokens: by the suite's encoder, or by heads that
            attend to every feature; None = encoder, official: genes.
        heads: Attention heads; has to divide `dim`.
        experts: E, of each modality and of the final layer; 0 = no experts: all tokens pass.
        top_k: K experts for each token, 1 to E.
        active_k: Local tokens that pass, >= 1; C or more = all; None = all, official: one.
        reconstruction: Whether what is missing is decoded; otherwise it stays zero.
        lambda_sym: Weight of the symmetric contrastive loss, >= 0.
        lambda_mcl: Weight of the multi-prototype contrastive loss, >= 0.
        dropout: In [0, 1).
        lr: Learning rate of AdamW.
        weight_decay: Decoupled weight decay.

    Raises:
        ValueError: If `components` or `active_k` is below 1, `top_k` is out of range, or `heads`
            does not divide `dim`.
    """

    paper = Paper(
        "Towards Robust Multimodal Representation: A Unified Approach with Adaptive Experts and "
        "Alignment",
        "ICCV workshops",
        2025,
        "https://arxiv.org/abs/2503.09498",
    )
    applies = Applies(min_modalities=2)
    search = ranges(
        components=Choice((8, 16, 32)),
        lambda_sym=Real(0.05, 2.0, log=True),
        lambda_mcl=Real(0.05, 2.0, log=True),
    )
    own_encoders = "local tokens are components of a mixture, groups of features or genes"

    def __init__(
        self,
        task: Task,
        *,
        variant: Literal["paper", "official"] = "paper",
        dim: Width = 128,
        components: Count = 16,
        vector_tokens: Literal["encoder", "genes"] | None = None,
        heads: Count = 4,
        experts: AtLeastZero = 5,
        top_k: Count = 2,
        active_k: Count | None = None,
        reconstruction: bool = True,
        lambda_sym: LossWeight = 0.5,
        lambda_mcl: LossWeight = 0.5,
        dropout: Rate = 0.1,
        lr: LearningRate = 1e-4,
        weight_decay: Decay = 1e-2,
    ) -> None:
        super().__init__(task, lr=lr, weight_decay=weight_decay)
        self.official = variant == "official"
        if active_k is None:
            active_k = 1 if self.official else components
        for name, number in (("components", components), ("active_k", active_k)):
            if number < 1:
                raise ValueError(f"{name} must be at least 1, found {number}")
        if experts and not 1 <= top_k <= experts:
            raise ValueError(f"asked for {top_k} of {experts} experts; take 1 to {experts}")
        modalities = len(task.modalities)
        # several optimiser steps a batch, which Lightning leaves to `training_step`
        self.automatic_optimization = not self.official
        self.lambda_sym, self.lambda_mcl = lambda_sym, lambda_mcl
        self.goals: tuple[Goal, ...] = ("supervised",)  # what the loss is made of now
        if vector_tokens is None:
            vector_tokens = "genes" if self.official else "encoder"
        self.views = nn.ModuleList(
            Views(modality, dim, components, vector_tokens, dropout, official=self.official)
            for modality in task.modalities
        )
        self.attend = nn.ModuleList(
            CrossAttention(
                modalities, dim, heads=heads, dropout=dropout, gate=gate, official=self.official
            )
            for gate in (True, False)
        )
        self.pick = (
            LocalExperts(
                modalities,
                components,
                dim,
                experts=experts,
                k=top_k,
                active=active_k,
                learn=not self.official,
            )
            if experts
            else None
        )
        self.final = FinalExperts(modalities, dim, experts=experts, k=top_k) if experts else None
        self.decode = nn.ModuleList(
            StackedMLP(modalities, dim, dim, F.relu) for _ in range(2 * reconstruction)
        )
        self.head = nn.Linear(dim, task.num_outputs)
        self.auxiliary = nn.ModuleList(nn.Linear(dim, task.num_outputs) for _ in range(2))
        self.prototypes = (
            ClassMixtures(task.num_outputs, dim, official=self.official)
            if lambda_mcl and task.kind != "regression"
            else None
        )

    def prepare(self, train: Iterable[Batch]) -> None:
        """Fit the mixtures that bags and sequences become tokens by."""
        mixtures = {
            view.name: view.mixture
            for view in self.views
            if isinstance(view, Views) and view.mixture is not None
        }
        rows: dict[str, list[Tensor]] = {name: [] for name in mixtures}
        for batch in train if mixtures else ():
            for name, parts in rows.items():
                x = batch.inputs[name]
                present = valid_steps(batch.lengths.get(name), x) & batch.has(name)[:, None]
                parts.append(x[present])
        for name, mixture in mixtures.items():
            mixture.fit(rows[name])

    def on_train_epoch_start(self) -> None:
        """End the warm-up."""
        epochs = self.trainer.max_epochs or 0
        warm_up = WARM_UP if epochs < 0 or epochs >= 2 * WARM_UP else epochs // 2
        self.goals = ("supervised",)
        if self.current_epoch >= warm_up:
            self.align()

    def align(self) -> None:
        """Add the contrastive losses."""
        symmetric: tuple[Goal, ...] = ("symmetric",) if self.lambda_sym else ()
        prototype: tuple[Goal, ...] = ("prototype",) if self.prototypes is not None else ()
        self.goals = ("supervised", *symmetric, *prototype)

    def forward(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """Predict from what is present."""
        output: Tensor = self.head(self.fuse(batch).h)
        return output

    def fuse(self, batch: Batch) -> Fused:
        """Both views of each modality, then experts, attention, decoding and experts again."""
        g, t = (torch.stack(view, 1) for view in zip(*(v(batch) for v in self.views), strict=True))
        count = None
        if self.pick is not None:
            t, count = self.pick(t, batch.presence)
        whole, local = self.attend
        z_whole, z_local = whole(g[:, :, None]), local(t, count)
        if count is not None:
            z_local = z_local * count[:, None]
        present = batch.presence[:, :, None]
        z = torch.where(present, torch.stack([z_whole.squeeze(2), z_local.sum(2) / 2]), 0.0)
        x = z.sum(2)
        full, decoded = z, None
        if len(self.decode):
            each = x[:, :, None].expand_as(z)
            decoded = torch.stack([d(part) for d, part in zip(self.decode, each, strict=True)])
            full = torch.where(present, z, decoded)
        vectors = full.transpose(0, 1).flatten(1, 2)  # (B, L M, D)
        if self.final is not None:
            vectors = self.final(vectors, batch.presence)
        return Fused(z, x, decoded, full, vectors.sum(1))

    def completed(self, batch: Batch) -> dict[str, Float[Tensor, "batch dim"]]:
        """Attended vectors of both views of each modality, decoded ones where it is absent."""
        if not len(self.decode):
            return {}
        both = self.fuse(batch).full.permute(2, 1, 0, 3).flatten(2)  # (M, B, L D)
        return dict(zip(self.task.names, both, strict=True))

    def diagnostics(self) -> Mapping[str, Diagnostic]:
        """How each modality's own experts and the final ones share what they are asked."""
        names, result = self.task.names, dict[str, Diagnostic]()
        if self.pick is not None and self.final is not None:
            each = self.final.usage.experts
            local = [f"{name} {e + 1}" for name in names for e in range(each)]
            result |= self.pick.usage.diagnostics(names, local, "local experts")
            result |= self.final.usage.diagnostics(
                names, [str(e + 1) for e in range(each)], "final experts"
            )
        return result

    def loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """The sum of the paper; in the official variant the terms of the step at hand."""
        fused = self.fuse(batch)
        terms: dict[str, Tensor] = {}
        if "supervised" in self.goals:
            terms |= self.supervised(fused, batch)
        if "symmetric" in self.goals:
            present = torch.ones_like(batch.presence) if self.official else batch.presence
            pairs = zip(fused.z, fused.x, strict=True)
            contrast = torch.stack([symmetric_contrast(z, x, present) for z, x in pairs])
            terms["symmetric"] = self.lambda_sym * contrast.sum()
        if self.prototypes is not None:
            if self.training and not self.official:
                self.prototypes.update(fused.h, self.member(batch))
            if "prototype" in self.goals:
                target = batch.target
                if self.official and self.task.kind == "single_label":
                    target = self.prototypes.posterior(fused.h.detach()).argmax(1)
                contrast = self.task_loss(self.prototypes(fused.h), target)
                terms["prototype"] = self.lambda_mcl * contrast
        return terms

    def supervised(self, fused: Fused, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Classification by all and by each vector, and reconstruction of what is there."""
        modalities = batch.presence.shape[1]
        target = batch.target.repeat_interleave(modalities, 0)
        each = torch.stack([head(f) for head, f in zip(self.auxiliary, fused.full, strict=True)])
        rows = [self.row_loss(part.flatten(0, 1), target) for part in each]
        terms = {
            "task": self.task_loss(self.head(fused.h), batch.target),
            "auxiliary": torch.stack(rows).sum() / len(batch),
        }
        if fused.decoded is not None:
            present = batch.presence[:, :, None]
            error = torch.where(present, fused.decoded - fused.z, 0.0).square()
            terms["reconstruction"] = error.mean((1, 3)).sum()
        return terms

    def member(self, batch: Batch) -> Bool[Tensor, "batch class"]:
        """Which classes a sample belongs to."""
        if self.task.kind == "single_label":
            return F.one_hot(batch.target, self.task.num_outputs).bool()
        return batch.target > 0.5

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step on the sum; in the official variant one for each goal, each looking anew."""
        if not self.official:
            return super().training_step(batch, batch_idx)
        optimiser = self.optimizers()
        assert isinstance(optimiser, LightningOptimizer)
        done = self.current_epoch + batch_idx / max(1, self.trainer.num_training_batches)
        for group in optimiser.param_groups:
            group["lr"] = self.lr * released_schedule(done, self.trainer.max_epochs or 1, self.lr)
        goals, losses = self.goals, []
        for goal in goals:
            self.goals = (goal,)
            losses.append(super().training_step(batch, batch_idx))
            optimiser.zero_grad()
            self.manual_backward(losses[-1])
            optimiser.step()
            if goal == "supervised" and self.prototypes is not None:
                with torch.no_grad():
                    self.prototypes.update(self.fuse(batch).h, self.member(batch))
        self.goals = goals
        return torch.stack(losses).detach().sum()
