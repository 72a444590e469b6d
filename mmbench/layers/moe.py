"""Sparse mixtures of experts: who is asked (gates), who answers (experts), who is overworked.

Nothing here waits for an accelerator: there every expert sees every token (dense). On the CPU,
where the number of chosen tokens is at hand for free, each expert sees its own tokens alone
(sorted). Both give the same outputs and gradients.

Notation: x (N, D) tokens; E experts, K chosen for a token, H hidden width; gates (N, E).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mmbench.layers.attention import SelfAttention
from mmbench.layers.dropout import Dropout

LEAST_NOISE = 1e-2  # added to the learned noise, so that it never dies out (FastMoE)
FORBIDDEN = -1e9  # score of an expert that a token may not choose; finite, to keep gradients so
SQRT_HALF = math.sqrt(0.5)

GATE_LOSS_WEIGHT = 1e-2  # of the balance terms, in FuseMoE, Flex-MoE and MoE-Retriever


def top_k_gates(logits: Float[Tensor, "token expert"], k: int) -> Float[Tensor, "token expert"]:
    """Turn each token's `k` largest router scores into gates; all others are zero.

    Source: Shazeer et al., "Outrageously Large Neural Networks", ICLR 2017, Eq. 3 and 5
    (without the noise of Eq. 4).

    Args:
        logits: Router scores, any real number.
        k: Experts for each token, 1 <= k <= expert.

    Returns:
        Gates in [0, 1]; a row has at most `k` non-zero entries and sums to 1.

    Raises:
        ValueError: If `k` is out of range.
    """
    _require_choosable(k, logits.shape[1])
    top, chosen = logits.topk(k, dim=1)
    gates = top.softmax(1)
    return gates.new_zeros(logits.shape).scatter(1, chosen, gates)


def softmax_top_k_gates(
    logits: Float[Tensor, "token expert"], k: int
) -> Float[Tensor, "token expert"]:
    """Softmax over all router scores, of which the `k` largest stay as they are.

    Source: Yun et al., "Generate, Then Retrieve" (MoE-Retriever), 2025, Eq. 1.

    Args:
        logits: Router scores, any real number.
        k: Experts for each token, 1 <= k <= expert.

    Returns:
        Gates in [0, 1]; a row has at most `k` non-zero entries and sums to at most 1.

    Raises:
        ValueError: If `k` is out of range.
    """
    _require_choosable(k, logits.shape[1])
    top, chosen = logits.softmax(1).topk(k, dim=1)
    return top.new_zeros(logits.shape).scatter(1, chosen, top)


def _require_choosable(k: int, experts: int) -> None:
    if not 1 <= k <= experts:
        raise ValueError(f"asked for {k} of {experts} experts; take 1 to {experts}")


def cv_squared(v: Float[Tensor, "*leading expert"]) -> Float[Tensor, "*leading"]:
    """Squared coefficient of variation over the last axis: 0 = all experts carry the same.

    Source: Shazeer et al., ICLR 2017, Eq. 7; unbiased variance, as in FastMoE. A row of zeros
    gives 0, and so does a single expert.
    """
    if v.shape[-1] == 1:
        return v.new_zeros(v.shape[:-1])
    return v.var(-1) / (v.mean(-1).square() + 1e-10)


@dataclass(frozen=True, slots=True)
class Routing:
    """What a gate decided for N tokens.

    Args:
        gates: (N, E) in [0, 1], zero for experts that are not asked.
        logits: (N, E) scores that the choice was made by, noise included.
        load: (N, E) probability in [0, 1] that an expert is chosen if the noise is drawn
            again; in evaluation, where there is none, 1 for those chosen.
    """

    gates: Float[Tensor, "token expert"]
    logits: Float[Tensor, "token expert"]
    load: Float[Tensor, "token expert"]

    def only(self, counted: Bool[Tensor, " token"]) -> "Routing":
        """Tokens that do not count ask nobody."""
        gates = torch.where(counted[:, None], self.gates, 0.0)
        load = torch.where(counted[:, None], self.load, 0.0)
        return Routing(gates, self.logits, load)

    def of(self, *experts: slice) -> "Routing":
        """The same for some experts alone."""
        parts = (self.gates, self.logits, self.load)
        return Routing(*(torch.cat([part[:, e] for e in experts], 1) for part in parts))

    def split(self, sizes: list[int]) -> list["Routing"]:
        """Cut along the tokens."""
        parts = (torch.split(part, sizes) for part in (self.gates, self.logits, self.load))
        return [Routing(*part) for part in zip(*parts, strict=True)]

    def balance(self) -> Float[Tensor, ""]:
        """CV² of importance plus CV² of load: 0 = all experts carry the same.

        Source: Shazeer et al., ICLR 2017, Eq. 6-11.
        """
        return cv_squared(torch.stack([self.gates.sum(0), self.load.sum(0)])).sum()


def route(
    clean: Float[Tensor, "token expert"],
    scale: Float[Tensor, "token expert"] | None,
    k: int,
    *,
    normalise: Literal["chosen", "all"] = "chosen",
    noise: Float[Tensor, "token expert"] | None = None,
) -> Routing:
    """Noisy top-k gating, given the scores.

    Source: Shazeer et al., ICLR 2017, Eq. 3-5 and the smooth load of its Appendix A.

    Args:
        clean: Router scores without noise.
        scale: Standard deviation of the noise, > 0; None = no noise, as in evaluation.
        k: Experts for each token, 1 <= k <= expert.
        normalise: Whether the softmax runs over the chosen scores (gates sum to 1) or over
            all of them before the choice (gates sum to less).
        noise: Standard normal; None = drawn here.
    """
    noisy = clean
    if scale is not None:
        noisy = clean + scale * (torch.randn_like(clean) if noise is None else noise)
    to_gates = top_k_gates if normalise == "chosen" else softmax_top_k_gates
    gates = to_gates(noisy, k)
    if scale is None or k == clean.shape[1]:  # k of k experts: each is chosen for certain
        return Routing(gates, noisy, (gates > 0).to(gates))
    top = noisy.topk(k + 1, dim=1).values
    # what an expert has to beat: the best of the others that are not chosen
    bar = torch.where(noisy > top[:, k:], top[:, k:], top[:, k - 1 : k])
    return Routing(gates, noisy, 0.5 * (1 + torch.erf((clean - bar) / scale * SQRT_HALF)))


class NoisyTopKGate(nn.Module):
    """Linear scores, learned noise in training, the best k experts of each token.

    Weights start uniformly within 1/√E, as in FastMoE.

    Args:
        dim: D, width of a token.
        experts: E.
        k: Experts for each token, 1 <= k <= E.
        routers: Independent sets of weights, >= 1; each token names the one it is scored by.
        normalise: See `route`.

    Raises:
        ValueError: If `k` is out of range.
    """

    def __init__(
        self,
        dim: int,
        experts: int,
        k: int,
        *,
        routers: int = 1,
        normalise: Literal["chosen", "all"] = "chosen",
    ) -> None:
        super().__init__()
        _require_choosable(k, experts)
        self.k, self.experts, self.routers, self.normalise = k, experts, routers, normalise
        # scores and noise side by side: one product for both
        bound = experts**-0.5
        weight = torch.empty(dim, routers, 2, experts).uniform_(-bound, bound)
        self.weight = nn.Parameter(weight)

    def forward(
        self,
        x: Float[Tensor, "token dim"],
        allowed: Bool[Tensor, "token expert"] | None = None,
        router: Int[Tensor, " token"] | None = None,
    ) -> Routing:
        """Choose experts.

        Args:
            x: Tokens.
            allowed: True = the token may choose the expert, at least `k` in a row; None = all.
            router: Which set of weights scores the token; None = the first.
        """
        if router is None:
            scores = x @ self.weight[:, 0].flatten(1)
        else:
            every = (x @ self.weight.flatten(1)).view(len(x), self.routers, -1)  # (N, R, 2E)
            scores = every.take_along_dim(router[:, None, None], 1).squeeze(1)
        clean, spread = scores.chunk(2, dim=1)
        if allowed is not None:
            clean = torch.where(allowed, clean, FORBIDDEN)
        scale = F.softplus(spread) + LEAST_NOISE if self.training else None
        return route(clean, scale, self.k, normalise=self.normalise)


class Experts(nn.Module):
    """E two-layer networks, D -> H -> D, mixed by gates.

    Args:
        count: E, >= 1.
        dim: D, width of a token.
        hidden: H.
        out: Width of what comes out; None = D.
        dropout: Of the hidden units, in [0, 1).
        activation: Of the hidden units.
    """

    def __init__(
        self,
        count: int,
        dim: int,
        hidden: int,
        *,
        out: int | None = None,
        dropout: float = 0.0,
        activation: Callable[[Tensor], Tensor] = F.gelu,
    ) -> None:
        super().__init__()
        out = out or dim
        self.activation = activation
        # as nn.Linear starts: uniform within one over the root of the inputs
        first, second = dim**-0.5, hidden**-0.5
        self.w1 = nn.Parameter(torch.empty(count, hidden, dim).uniform_(-first, first))
        self.b1 = nn.Parameter(torch.empty(count, hidden).uniform_(-first, first))
        self.w2 = nn.Parameter(torch.empty(count, hidden, out).uniform_(-second, second))
        self.b2 = nn.Parameter(torch.empty(count, out).uniform_(-second, second))
        self.drop = Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "token dim"], gates: Float[Tensor, "token expert"]
    ) -> Float[Tensor, "token out"]:
        """Sum of the experts' answers, weighted by the gates."""
        return self.sorted(x, gates) if x.is_cpu else self.dense(x, gates)

    def dense(
        self, x: Float[Tensor, "token dim"], gates: Float[Tensor, "token expert"]
    ) -> Float[Tensor, "token out"]:
        """Every expert sees every token: two large products of static shape."""
        count, hidden, _ = self.w1.shape
        h = F.linear(x, self.w1.flatten(0, 1), self.b1.flatten()).view(-1, count, hidden)
        h = self.drop(self.activation(h)) * gates[:, :, None]
        y: Tensor = h.flatten(1) @ self.w2.flatten(0, 1) + gates @ self.b2
        return y

    def apart(self, x: Float[Tensor, "token dim"]) -> Float[Tensor, "token expert out"]:
        """Every expert's answer to every token, for mixtures that are no weighted sum."""
        count, hidden, _ = self.w1.shape
        h = F.linear(x, self.w1.flatten(0, 1), self.b1.flatten()).view(-1, count, hidden)
        return torch.einsum("neh,eho->neo", self.drop(F.gelu(h)), self.w2) + self.b2

    def sorted(
        self, x: Float[Tensor, "token dim"], gates: Float[Tensor, "token expert"]
    ) -> Float[Tensor, "token out"]:
        """Each expert sees only the tokens that ask it; reads counts on the host."""
        by_expert = gates.t()
        expert, token = by_expert.nonzero(as_tuple=True)  # in order of expert
        counts = torch.bincount(expert, minlength=len(by_expert)).tolist()
        weight = by_expert[expert, token]
        chunks = torch.split(x.index_select(0, token), counts)
        h = torch.cat(
            [F.linear(part, *into) for part, *into in zip(chunks, self.w1, self.b1, strict=True)]
        )
        # in one piece: oneDNN keeps a compiled GELU for each size that it meets, without need
        h = self.drop(self.activation(h))
        answers = [part @ out for part, out in zip(torch.split(h, counts), self.w2, strict=True)]
        # gates weigh the answers: most often these are narrower than the hidden units
        bias = gates @ self.b2
        return bias.index_add(0, token, (torch.cat(answers) * weight[:, None]).to(bias))


class SparseMoE(nn.Module):
    """A gate and its experts.

    Args:
        dim: D, width of a token.
        experts: E.
        k: Experts for each token, 1 <= k <= E.
        hidden: H; None = 2D.
        dropout: Of the hidden units, in [0, 1).
    """

    def __init__(
        self, dim: int, experts: int, k: int, *, hidden: int | None = None, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.gate = NoisyTopKGate(dim, experts, k)
        self.experts = Experts(experts, dim, hidden or 2 * dim, dropout=dropout)

    def forward(self, x: Float[Tensor, "token dim"]) -> tuple[Float[Tensor, "token dim"], Routing]:
        """Mixed answers, and how they came about."""
        routing: Routing = self.gate(x)
        return self.experts(x, routing.gates), routing


class SparseBlock(nn.Module):
    """A pre-norm transformer layer whose MLP may be a sparse mixture of experts.

    Source: the fusion layer of Flex-MoE (Yun et al., NeurIPS 2024) and of MoE-Retriever; with
    GELU and twice the width inside. Their released code loses the layer's input after
    attention, x = a + drop(a) for a = attend(norm(x)); `lose_input` does the same.

    Args:
        dim: D, width of a token.
        heads: Has to divide `dim`.
        experts: E; None = an ordinary MLP.
        k: Experts for each token.
        dropout: Of attention weights, hidden units and both branches, in [0, 1).
        lose_input: See above; for the reproduction of released code alone.
    """

    def __init__(
        self,
        dim: int,
        *,
        heads: int = 4,
        experts: int | None = None,
        k: int = 4,
        dropout: float = 0.0,
        lose_input: bool = False,
    ) -> None:
        super().__init__()
        self.lose_input = lose_input
        self.norm_attend = nn.LayerNorm(dim)
        self.attend = SelfAttention(dim, heads=heads, dropout=dropout)
        self.norm_mlp = nn.LayerNorm(dim)
        self.moe = None if experts is None else SparseMoE(dim, experts, k, dropout=dropout)
        self.mlp = (
            nn.Sequential(
                nn.Linear(dim, 2 * dim), nn.GELU(), Dropout(dropout), nn.Linear(2 * dim, dim)
            )
            if experts is None
            else None
        )
        self.drop = Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "batch token dim"]
    ) -> tuple[Float[Tensor, "batch token dim"], Routing | None]:
        """Update all tokens; the routing of the (B N) of them, if there is a gate."""
        a = self.attend(self.norm_attend(x))
        x = (a if self.lose_input else x) + self.drop(a)
        h, routing = self.norm_mlp(x), None
        if self.moe is not None:
            mixed, routing = self.moe(h.flatten(0, 1))
            h = mixed.view_as(x)
        elif self.mlp is not None:
            h = self.mlp(h)
        return x + self.drop(h), routing
