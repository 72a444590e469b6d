"""Random bits that depend on what they are for, never on the order in which they are drawn."""

import torch
from jaxtyping import Int
from torch import Tensor


def hashed(*keys: Int[Tensor, "..."] | int) -> Int[Tensor, "..."]:
    """Random bits from integers: equal keys, equal bits; any change flips half of them.

    Source: Steele et al., "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014: the
    finaliser "SplitMix64", applied once a key. Products wrap around, as in unsigned arithmetic.

    Args:
        keys: Tensors that broadcast, at least one of them, and integers.

    Returns:
        int64 in 0..2^63 - 1.
    """
    state = torch.zeros_like(next(key for key in keys if isinstance(key, Tensor)))
    for key in keys:
        # 0x9E3779B97F4A7C15 and the two factors below, as signed numbers
        state = (state ^ key) - 7046029254386353131
        state = (state ^ _shift(state, 30)) * -4658895280553007687
        state = (state ^ _shift(state, 27)) * -7723592293110705685
        state = state ^ _shift(state, 31)
    return state & ((1 << 63) - 1)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Shift right without copies of the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
