"""Networks of one shape and different weights, computed together in batched products.

Notation: E networks, on the first axis of inputs and outputs.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn


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
