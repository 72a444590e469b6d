"""How far two samples of vectors are apart in their moments."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmbench.layers.fusion import masked_mean


def central_moment_discrepancy(
    x: Float[Tensor, "row feature"],
    y: Float[Tensor, "other feature"],
    in_x: Bool[Tensor, " row"],
    in_y: Bool[Tensor, " other"],
    *,
    order: int = 5,
) -> Float[Tensor, ""]:
    """‖E x - E y‖ + Σ_k ‖c_k(x) - c_k(y)‖, k = 2 to `order`, c_k the k-th central moments.

    Source: Zellinger et al., "Central Moment Discrepancy (CMD) for Domain-Invariant
    Representation Learning", ICLR 2017, Eq. 4 for features in an interval of length 1.

    Args:
        x: Rows of one sample; what is not selected may hold anything.
        y: Rows of the other.
        in_x: True = the row takes part.
        in_y: As `in_x`, of `y`.
        order: Highest moment, >= 1.

    Returns:
        >= 0; zero where a sample has no row.
    """
    mean_x, mean_y = masked_mean(x, in_x, dim=0), masked_mean(y, in_y, dim=0)
    total = torch.linalg.vector_norm(mean_x - mean_y)
    for k in range(2, order + 1):
        moment_x = masked_mean((x - mean_x) ** k, in_x, dim=0)
        moment_y = masked_mean((y - mean_y) ** k, in_y, dim=0)
        total = total + torch.linalg.vector_norm(moment_x - moment_y)
    return torch.where(in_x.any() & in_y.any(), total, 0.0)
