"""Attention over tokens of which some are absent.

Notation: x (B, N, D); present (B, N), True = the token is there. A present token never reads
an absent one. What comes out at an absent token has no meaning: leave it out when pooling.
"""

from collections.abc import Iterable
from itertools import groupby

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from mmbench.layers.dropout import Dropout

Prefix = tuple[Float[Tensor, "batch extra dim"], Float[Tensor, "batch extra dim"]]  # keys, values


class SelfAttention(nn.Module):
    """Multi-head self-attention, Softmax(Q Kᵀ / √(D/heads)) V, over the tokens that are there.

    Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, Section 3.2; most often
    without biases for Q, K and V, since that of K cancels in the softmax and is never trained.

    Args:
        dim: Width of a token.
        heads: Has to divide `dim`.
        dropout: Share of attention weights dropped in training, in [0, 1).
        bias: Whether Q, K and V have biases; for the reproduction of released code.

    Raises:
        ValueError: If `heads` does not divide `dim`.
    """

    def __init__(
        self, dim: int, *, heads: int = 4, dropout: float = 0.0, bias: bool = False
    ) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            near = max(n for n in range(1, max(heads, 1) + 1) if dim % n == 0)
            raise ValueError(f"{heads} heads cannot share a width of {dim}; take {near} heads")
        self.heads = heads
        self.drop = Dropout(dropout)
        self.qkv = nn.Linear(dim, 3 * dim, bias=bias)
        self.out = nn.Linear(dim, dim)

    def forward(
        self,
        x: Float[Tensor, "batch token dim"],
        present: Bool[Tensor, "batch token"] | None = None,
        prefix: Prefix | None = None,
    ) -> Float[Tensor, "batch token dim"]:
        """Let every token read the present ones; None = all are present.

        Where a sample has no token at all, its tokens read each other instead of dividing by
        zero, so that gradients stay finite; such output is for the caller to discard.

        Args:
            x: Tokens.
            present: True = the token is there.
            prefix: Further keys and values, which every token reads and which ask nothing.
        """
        z: Tensor = self.out(self._read(self.qkv(x), present, prefix))
        return z

    def packed(
        self, x: Float[Tensor, "token dim"], lengths: Iterable[int]
    ) -> Float[Tensor, "token dim"]:
        """The same for samples of different lengths, one behind the other, with no padding.

        Neighbours of one length are read at once: the fewer changes of length, the faster.

        Args:
            x: Tokens of all samples.
            lengths: Tokens of each sample, >= 1; x has as many as all together.
        """
        runs = [(length, len(list(same))) for length, same in groupby(lengths)]
        parts = torch.split(self.qkv(x), [length * count for length, count in runs])
        reads = [
            self._read(part.view(count, length, -1)).flatten(0, 1)
            for part, (length, count) in zip(parts, runs, strict=True)
        ]
        z: Tensor = self.out(torch.cat(reads))
        return z

    def _read(
        self,
        qkv: Float[Tensor, "batch token three_dim"],
        present: Bool[Tensor, "batch token"] | None = None,
        prefix: Prefix | None = None,
    ) -> Float[Tensor, "batch token dim"]:
        batch, token, _ = qkv.shape
        q, k, v = qkv.view(batch, token, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mask = None
        if present is not None:
            # True = takes part, as for us; only nn.MultiheadAttention has it the other way round
            mask = (present | ~present.any(1, keepdim=True))[:, None, None, :]
        if prefix is not None:
            k, v = prepend(prefix[0], k), prepend(prefix[1], v)
            if mask is not None:
                mask = nn.functional.pad(mask, (k.shape[2] - token, 0), value=True)
        drop = self.drop.p if self.training else 0.0
        if drop and qkv.is_cpu:
            read = self._read_with_dropout(q, k, v, mask)
        else:
            read = scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=drop)
        return read.transpose(1, 2).flatten(2)

    def _read_with_dropout(
        self,
        q: Float[Tensor, "batch head token part"],
        k: Float[Tensor, "batch head read part"],
        v: Float[Tensor, "batch head read part"],
        mask: Bool[Tensor, "batch 1 1 read"] | None,
    ) -> Float[Tensor, "batch head token part"]:
        """The same by hand: on a CPU, torch's own draws take longer than the attention."""
        scores = q * q.shape[-1] ** -0.5 @ k.mT
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)  # never a whole row
        read: Tensor = self.drop(scores.softmax(-1)) @ v
        return read


def prepend(
    tokens: Float[Tensor, "batch extra dim"], heads: Float[Tensor, "batch head token part"]
) -> Float[Tensor, "batch head more part"]:
    """Put tokens before those that are cut into heads already."""
    cut = tokens.view(*tokens.shape[:2], heads.shape[1], heads.shape[3]).transpose(1, 2)
    return torch.cat([cut, heads], dim=2)


class PreNormBlock(nn.Module):
    """One transformer layer: x + Attend(LN(x)), then x + MLP(LN(x)).

    Source: Xiong et al., "On Layer Normalization in the Transformer Architecture", ICML 2020,
    Pre-LN; GELU in the MLP.

    Args:
        dim: Width of a token.
        heads: Has to divide `dim`.
        expansion: Hidden width of the MLP in units of `dim`, >= 1.
        dropout: Of attention weights, hidden units and both branches, in [0, 1).
    """

    def __init__(
        self, dim: int, *, heads: int = 4, expansion: int = 4, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.norm_attend = nn.LayerNorm(dim)
        self.attend = SelfAttention(dim, heads=heads, dropout=dropout)
        self.norm_mlp = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(
            nn.Linear(dim, expansion * dim),
            nn.GELU(),
            Dropout(dropout),
            nn.Linear(expansion * dim, dim),
        )
        self.drop = Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "batch token dim"],
        present: Bool[Tensor, "batch token"] | None = None,
        prefix: Prefix | None = None,
    ) -> Float[Tensor, "batch token dim"]:
        """Update every token from the present ones; None = all are present.

        `prefix` goes to the attention, see there.
        """
        x = x + self.drop(self.attend(self.norm_attend(x), present, prefix))
        z: Tensor = x + self.drop(self.mlp(self.norm_mlp(x)))
        return z


class TransformerStack(nn.Module):
    """`depth` pre-norm layers and a last LayerNorm, without positions.

    Args:
        dim: Width of a token.
        depth: Number of layers, >= 1.
        heads: Has to divide `dim`.
        expansion: Hidden width of the MLPs in units of `dim`, >= 1.
        dropout: Passed to every layer, in [0, 1).
    """

    def __init__(
        self, dim: int, depth: int, *, heads: int = 4, expansion: int = 4, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            PreNormBlock(dim, heads=heads, expansion=expansion, dropout=dropout)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(
        self,
        x: Float[Tensor, "batch token dim"],
        present: Bool[Tensor, "batch token"] | None = None,
    ) -> Float[Tensor, "batch token dim"]:
        """Update every token from the present ones; None = all are present."""
        for layer in self.layers:
            x = layer(x, present)
        z: Tensor = self.norm(x)
        return z


class GatedAttentionPool(nn.Module):
    """Pool a set of tokens into `heads` weighted means, the weights from gated attention.

    a_n ∝ exp(wᵀ(tanh(V x_n) ⊙ sigmoid(U x_n))), z = Σ a_n x_n; each head has a `w` of its own.

    Source: Ilse et al., "Attention-based Deep Multiple Instance Learning", ICML 2018, Eq. 7
    and 9; biases for V and U are ours.

    Args:
        dim: Width of a token.
        heads: Number of means, >= 1.
        hidden: Width of the gate; None = half of `dim`, as in their experiments on images.
    """

    def __init__(self, dim: int, *, heads: int = 1, hidden: int | None = None) -> None:
        super().__init__()
        hidden = hidden or max(1, dim // 2)
        self.signal = nn.Linear(dim, hidden)
        self.gate = nn.Linear(dim, hidden)
        # a bias would cancel in the softmax and never be trained
        self.score = nn.Linear(hidden, heads, bias=False)

    def forward(
        self,
        x: Float[Tensor, "batch token dim"],
        present: Bool[Tensor, "batch token"] | None = None,
    ) -> Float[Tensor, "batch head dim"]:
        """Pool the present tokens, in no order; a sample without any gives zeros."""
        scores = self.score(torch.tanh(self.signal(x)) * torch.sigmoid(self.gate(x)))
        if present is not None:
            # a finite floor: -inf alone in a row would make its softmax NaN
            floor = torch.finfo(scores.dtype).min
            scores = torch.where(present[:, :, None], scores, floor)
        weights = scores.softmax(1)
        if present is not None:
            weights = torch.where(present[:, :, None], weights, 0.0)
        pooled: Tensor = weights.transpose(1, 2) @ x
        return pooled
