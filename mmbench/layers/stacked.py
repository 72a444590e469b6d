"""Networks of one shape and different weights, computed together in batched products.

Notation: E networks, on the first axis of inputs and outputs.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from mmbench.layers.dropout import Dropout

Steps = Float[Tensor, "stack batch step dim"]


class StackedLinear(nn.Module):
    """E linear maps in one batched product: map e is applied to `x[e]`.

    Weights and biases start as those of `torch.nn.Linear`.

    Args:
        count: E, how many maps.
        features_in: Width of what goes in.
        features_out: Width of what comes out.
    """

    def __init__(self, count: int, features_in: int, features_out: int) -> None:
        super().__init__()
        bound = features_in**-0.5
        weight = torch.empty(count, features_in, features_out).uniform_(-bound, bound)
        bias = torch.empty(count, 1, features_out).uniform_(-bound, bound)
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, x: Float[Tensor, "stack *rows inner"]) -> Float[Tensor, "stack *rows outer"]:
        """Apply each map to its own rows."""
        y = torch.baddbmm(self.bias, x.flatten(1, -2), self.weight)
        return y.view(*x.shape[:-1], y.shape[-1])


class StackedBlock(nn.Module):
    """One layer of E transformers: x + Attend(LN(x), LN(source)), then x + MLP(LN(x)).

    Args:
        count: E.
        dim: D.
        heads: Has to divide `dim`.
        dropout: Of both branches and hidden units, in [0, 1).
    """

    def __init__(self, count: int, dim: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        # without weights of its own: the maps that follow have them
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.query = StackedLinear(count, dim, dim)
        self.key_value = StackedLinear(count, dim, 2 * dim)
        self.out = StackedLinear(count, dim, dim)
        self.mlp = nn.Sequential(
            StackedLinear(count, dim, 4 * dim),
            nn.ReLU(),
            Dropout(dropout),
            StackedLinear(count, 4 * dim, dim),
        )
        self.drop = Dropout(dropout)

    def forward(self, x: Steps, source: Float[Tensor, "stack batch read dim"]) -> Steps:
        """Let every step of `x[e]` read all steps of `source[e]`."""
        keys, values = self.key_value(self.norm(source)).chunk(2, -1)
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(2, 3)  # (E, B, head, P, width)
            for part in (self.query(self.norm(x)), keys, values)
        )
        read = scaled_dot_product_attention(q, k, v).transpose(2, 3).flatten(3)
        x = x + self.drop(self.out(read))
        y: Tensor = x + self.drop(self.mlp(self.norm(x)))
        return y
