"""What a mechanism answers, and the names and numbers of patterns."""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from mmbench.data.missingness.stream import Stream
from mmbench.data.samples import PresenceArray, Samples
from mmbench.registry import suggest

Scores = Float[np.ndarray, "row modality"]
Labels = Float[np.ndarray, " row"]
PatternProbability = Float[np.ndarray, "row pattern"]
Law = Callable[[Scores, Labels, PresenceArray], PatternProbability]

POSITIONS = {"primary": 0, "secondary": 1}  # papers' words for the first and second modality


@runtime_checkable  # so that tests can check signatures
class Missingness(Protocol):
    """Who goes missing. Implementations are frozen dataclasses whose fields are the YAML keys."""

    @property
    def mechanism(self) -> str:
        """Its name in a scenario, "mcar"."""

    @property
    def label(self) -> str:
        """Name as a test condition: short, stable and usable as a file name, "mcar_0.3"."""

    @property
    def nominal_rate(self) -> float | None:
        """Nominal `missing_rate`; None where the mechanism is not set by one."""

    def check(self, names: tuple[str, ...]) -> None:
        """Refuse modalities that do not exist and rates that cannot be reached.

        Raises:
            ValueError: One line that says which and what would do.
        """

    def draw(self, samples: Samples, stream: Stream) -> PresenceArray:
        """Draw what the samples show: never more than they have, and at least one modality.

        Raises:
            ValueError: If the rate cannot be reached with the natural gaps.
        """

    def law(self, samples: Samples) -> Law:
        """Calibrate to the samples and return the exact probability of each pattern.

        The function that comes back takes, for any rows, also made-up ones, what `scores` and
        `label_value` would say of them, and their natural presence; values that the mechanism
        does not look at may be NaN. Its result has 2^M columns: column sum_m presence_m 2^m is
        the probability of that pattern, column 0 is zero, a row sums to 1. So a Bayes posterior
        can count the mask as evidence. Where counts are exact (`incomplete`) rows depend on each
        other, and these are the probabilities of one row by itself.
        """


def pattern_name(present: Bool[np.ndarray, " modality"], names: Sequence[str]) -> str:
    """Name a set of present modalities, "audio+text", in the order of the columns."""
    return "+".join(name for name, is_present in zip(names, present, strict=True) if is_present)


def pattern_index(presence: PresenceArray) -> Int[np.ndarray, " sample"]:
    """Number each row's pattern: sum_m presence_m 2^m, so complete is 2^M - 1."""
    index = np.zeros(len(presence), dtype=np.int64)
    for column in range(presence.shape[1]):
        index += presence[:, column].astype(np.int64) << column
    return index


def every_pattern(size: int) -> Bool[np.ndarray, "pattern modality"]:
    """All 2^size sets of modalities, the empty one first; row i is the pattern of index i."""
    return ((np.arange(1 << size)[:, None] >> np.arange(size)) & 1).astype(bool)


def modality_index(word: str, names: Sequence[str]) -> int:
    """Column of a modality, by name or by position (`primary`, `secondary`).

    Raises:
        ValueError: If there is none.
    """
    if word in names:
        return list(names).index(word)
    if POSITIONS.get(word, len(names)) < len(names):
        return POSITIONS[word]
    raise ValueError(
        f"no modality named {word!r}{suggest(word, list(names))}; there are {', '.join(names)}"
    )
