"""Means over windows of steps and over cells of a map, as products with fixed weights.

A product has the same backward pass on every device; torch's adaptive pooling adds up in any
order on a GPU, and so cannot be repeated.

Notation: B batch, T steps, L valid steps, P windows or cells.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def valid_steps(lengths: Int[Tensor, " batch"] | None, x: Tensor) -> Bool[Tensor, "batch time"]:
    """True where a step of `x` (B, T, ...) is no padding; None = there is no padding."""
    steps = torch.arange(x.shape[1], device=x.device)
    if lengths is None:
        return torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
    return steps < lengths[:, None]


def adaptive_mean(
    x: Float[Tensor, "batch time dim"],
    lengths: Int[Tensor, " batch"] | None,
    tokens: int | None = None,
) -> Float[Tensor, "batch *tokens dim"]:
    """Average the valid steps over P windows of equal length, or over all of them.

    The windows are those of `window_weights`, and of `torch.nn.functional.adaptive_avg_pool1d`
    on the valid steps alone; with L < P, windows repeat steps.

    Args:
        x: Finite everywhere, padding too.
        lengths: L, in 0..T; None = T.
        tokens: P; None = one mean, without the token axis.

    Returns:
        (B, P, D), or (B, D) without `tokens`; zeros where the length is 0.
    """
    if lengths is None:
        lengths = torch.full(x.shape[:1], x.shape[1], device=x.device)
    z = window_weights(lengths, x.shape[1], tokens or 1).to(x.dtype) @ x
    return z if tokens else z.squeeze(1)


def window_weights(
    lengths: Int[Tensor, " batch"],
    size: int,
    windows: int,
    used: Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, "batch {windows} {size}"]:
    """Weights of means over windows of the first `lengths` of `size` steps.

    Window p of a sample of L valid steps runs from ⌊pL/P⌋ to ⌈(p+1)L/P⌉.

    Args:
        lengths: L, in 0..size.
        size: Steps, padding included.
        windows: P.
        used: P of each sample where that differs, in 0..windows; further windows are empty.

    Returns:
        float32; each row sums to 1, or to 0 where the window is empty.
    """
    p = torch.arange(windows, device=lengths.device)
    steps = torch.arange(size, device=lengths.device)
    length = lengths.long()[:, None]
    count = used.long()[:, None].clamp_min(1) if used is not None else windows
    begin = p * length // count
    end = ((p + 1) * length + count - 1) // count  # rounded up
    inside = (steps >= begin[:, :, None]) & (steps < end.minimum(length)[:, :, None])
    return inside / inside.sum(2, keepdim=True).clamp_min(1)


def grid_weights(sides: tuple[int, ...], cells: int) -> Float[Tensor, "cell position"]:
    """Weights of `cells` means over a map, laid out as evenly as its sides allow.

    The prime factors of `cells` go, largest first, to the axis whose cells are longest: 8 cells
    of an 8 x 4 map are 4 x 2. Along each axis, windows are those of `window_weights`.

    Returns:
        float32, on the CPU, cells and positions in raster order; each row sums to 1.
    """
    counts = [1] * len(sides)
    for prime in sorted(_prime_factors(cells), reverse=True):
        longest = max(range(len(sides)), key=lambda axis: sides[axis] / counts[axis])
        counts[longest] *= prime
    weights = torch.ones(1, 1)
    for side, count in zip(sides, counts, strict=True):
        weights = torch.kron(weights, window_weights(torch.tensor([side]), side, count)[0])
    return weights


def _prime_factors(number: int) -> list[int]:
    factors, divisor = [], 2
    while number > 1:
        if number % divisor:
            divisor += 1
        else:
            factors.append(divisor)
            number //= divisor
    return factors
