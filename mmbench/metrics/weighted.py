"""Means and ratios of weighted samples, for the functions that score them."""

from typing import Any

import numpy as np
from jaxtyping import Float

Array = np.ndarray[Any, np.dtype[np.float64]]


def weighted_mean(
    weight: Float[Array, "resample sample"], values: Float[Array, " sample *output"]
) -> Float[Array, " resample *output"]:
    """Mean over samples, for each row of weights (not all zero)."""
    total = weight.sum(axis=1)
    mean: Array = (weight @ values) / (total[:, None] if values.ndim == 2 else total)
    return mean


def ratio(part: Float[Array, "*shape"], whole: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Divide; NaN where the divisor is 0."""
    quotient: Array = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole != 0)
    return quotient
