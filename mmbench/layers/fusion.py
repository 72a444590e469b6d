"""Arithmetic on presence: means, codes and random subsets of what is there.

Nothing here waits for the device: no `.item()`, no Boolean indexing, no loop over samples.
Notation: presence (B, M), True = the sample has the modality.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def masked_mean(
    v: Float[Tensor, "*shape"], w: Bool[Tensor, "*leading"], dim: int = 1
) -> Float[Tensor, "*reduced"]:
    """Average what is selected; zero where nothing is selected.

    Args:
        v: Values; what is not selected may hold anything, NaN included.
        w: True = takes part. Its shape is that of the leading axes of `v`; the axes that
            follow, such as the width, share the selection.
        dim: Axis of `w` to average over, counted from the front.

    Returns:
        `v` without the axis `dim`.
    """
    w = w.view(*w.shape, *[1] * (v.dim() - w.dim()))
    return torch.where(w, v, torch.zeros_like(v)).sum(dim) / w.sum(dim).clamp_min(1)


def presence_code(presence: Bool[Tensor, "batch modality"]) -> Int[Tensor, " batch"]:
    """Number each pattern of presence: the sum of 2^m over the modalities m that are there.

    Returns:
        int64 in 0..2^M - 1; the complete pattern is 2^M - 1. At most 62 modalities.
    """
    powers = torch.arange(presence.shape[1], device=presence.device)
    return (presence.long() << powers).sum(1)


def random_subset(
    presence: Bool[Tensor, "batch modality"],
    n_keep: Int[Tensor, " batch"],
    generator: torch.Generator | None = None,
) -> Bool[Tensor, "batch modality"]:
    """Keep `n_keep` random modalities of each sample, every subset of that size equally likely.

    Args:
        presence: What there is to choose from.
        n_keep: How many to keep, >= 0; a sample that has fewer keeps all it has.
        generator: Lives on the device of `presence`; None = the global one.

    Returns:
        A subset of `presence`.
    """
    key = torch.rand(presence.shape, generator=generator, device=presence.device)
    rank = key.masked_fill(~presence, 2.0).argsort(1).argsort(1)  # absent ones come last
    return presence & (rank < n_keep[:, None])


def random_drop(
    presence: Bool[Tensor, "batch modality"], drop: float
) -> Bool[Tensor, "batch modality"]:
    """Drop each modality that is there with the same probability; one of a sample always stays.

    Args:
        presence: What there is to drop from.
        drop: Probability, in [0, 1].

    Returns:
        A subset of `presence`, empty only where `presence` itself is.
    """
    u = torch.rand(presence.shape, device=presence.device).masked_fill(~presence, -1.0)
    last = u == u.max(dim=1, keepdim=True).values
    return presence & ((u >= drop) | last)


def random_pattern(
    presence: Bool[Tensor, "batch modality"], generator: torch.Generator | None = None
) -> Bool[Tensor, "batch modality"]:
    """Draw, for each sample, one of the non-empty subsets of what it has, all equally likely.

    A sample with n modalities has 2^n - 1 of them. An integer in 1..2^n - 1 is drawn, and its
    bits are dealt out to the modalities that are there, so nothing is ever drawn twice.

    Args:
        presence: What there is to choose from.
        generator: Lives on the device of `presence`; None = the global one.

    Returns:
        A subset of `presence`, empty only where `presence` itself is.
    """
    batch = presence.shape[0]
    subsets = (1 << presence.sum(1).clamp_min(1)) - 1
    # the remainder of 62 random bits favours some subset by less than 2^(M - 62)
    bits = torch.randint(1 << 62, (batch,), generator=generator, device=presence.device)
    number = 1 + bits % subsets
    slot = (presence.cumsum(1) - 1).clamp_min(0)  # the how-many-th of the sample's modalities
    return presence & ((number[:, None] >> slot) & 1).bool()
