"""The arithmetic of rates: limits, the rule that one modality is kept, laws of patterns."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from mmbench.data.missingness.protocol import PatternProbability, every_pattern, pattern_index
from mmbench.data.samples import PresenceArray


def share(value: float, key: str) -> float:
    """A share from 0 to 1.

    Raises:
        ValueError: If it is none.
    """
    if not 0 <= value <= 1:
        raise ValueError(f"{key} must be a share from 0 to 1 (0.3 is 30 %), found {value:g}")
    return float(value)


# half of the last digit that messages print, so that the limit they name is itself accepted
TOLERANCE = 5e-4


def check_rate(rate: float, names: tuple[str, ...]) -> None:
    """Refuse a rate beyond the limit on complete data.

    Raises:
        ValueError: If it is; the message names the limit.
    """
    size = len(names)
    if rate > (size - 1) / size + TOLERANCE:
        raise ValueError(
            f"missing rate {rate:g} cannot be reached with {size} modalities: one is always kept, "
            f"so the highest rate is (M - 1) / M = {(size - 1) / size:.3f}"
        )


def check_rate_with_gaps(rate: float, limit: float) -> None:
    """Refuse a rate beyond the limit that natural gaps leave.

    Raises:
        ValueError: If it is; the message names the limit.
    """
    if rate > limit + TOLERANCE:
        raise ValueError(
            f"missing rate {rate:g} cannot be reached on these samples: one modality is always "
            f"kept and some are missing by nature, so the highest rate is {limit:.3f}"
        )


def hide(
    natural: PresenceArray,
    absent: PresenceArray,
    priority: Callable[[NDArray[np.int_]], NDArray[np.float64]],
) -> PresenceArray:
    """Hide entries; a row left with nothing keeps its natural entry of highest priority."""
    presence: PresenceArray = natural & ~absent
    empty = np.flatnonzero(~presence.any(axis=1))
    if len(empty):
        survivor = np.where(natural[empty], priority(empty), -np.inf).argmax(axis=1)
        presence[empty, survivor] = True
    return presence


def entry_law(
    p: Float[np.ndarray, "row modality"],
    keep: Float[np.ndarray, "row modality"],
    natural: PresenceArray,
) -> PatternProbability:
    """Pattern probabilities where entries vanish independently, but never a whole row.

    Args:
        p: Probability that an entry would vanish if nothing were kept.
        keep: Chance that an entry is the one kept, given that all would vanish.
        natural: What the rows have.
    """
    law = np.zeros((len(p), 1 << p.shape[1]))
    everything = np.where(natural, p, 1.0).prod(axis=1)
    for index, pattern in enumerate(every_pattern(p.shape[1])):
        if index:
            factors = np.where(pattern, np.where(natural, 1 - p, 0.0), np.where(natural, p, 1.0))
            law[:, index] = factors.prod(axis=1)
    for column in range(p.shape[1]):
        alone = np.where(natural[:, column], keep[:, column], 0.0)
        law[:, 1 << column] += everything * alone
    return law


def certain(presence: PresenceArray) -> PatternProbability:
    """The law of rows whose pattern is known."""
    law = np.zeros((len(presence), 1 << presence.shape[1]))
    law[np.arange(len(presence)), pattern_index(presence)] = 1.0
    return law
