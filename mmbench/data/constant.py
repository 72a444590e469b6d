"""When a column of numbers counts as constant."""

from typing import Any

import numpy as np
from jaxtyping import Bool
from numpy.typing import NDArray

ROUNDING = 8  # units in the last place that a constant may seem to vary by


def is_constant(
    low: NDArray[Any], high: NDArray[Any], dtype: np.dtype[Any]
) -> Bool[np.ndarray, "*columns"]:
    """Whether columns vary by no more than rounding, relative to their own size.

    An absolute limit would call every feature constant whose unit is large: 1e-8 mol/l is data.

    Args:
        low: Smallest value of each column.
        high: Largest value of each column.
        dtype: Type that the values were kept in, which decides what rounding is.
    """
    eps = float(np.finfo(dtype).eps) if np.issubdtype(dtype, np.floating) else 0.0
    size = np.maximum(np.abs(low), np.abs(high))
    spread = np.asarray(high, np.float64) - np.asarray(low, np.float64)
    return np.asarray(spread <= ROUNDING * eps * size)
