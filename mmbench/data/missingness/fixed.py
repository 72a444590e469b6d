"""Fixed patterns, and natural gaps."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mmbench.data.missingness.protocol import (
    Labels,
    Law,
    Missingness,
    PatternProbability,
    Scores,
    modality_index,
)
from mmbench.data.missingness.rates import certain
from mmbench.data.missingness.stream import Stream
from mmbench.data.samples import PresenceArray, Samples


@dataclass(frozen=True)
class Pattern:
    """Every sample shows the same modalities.

    A sample that has none of them by nature keeps what it has: it cannot be shown so, and the
    realised patterns count it.

    Args:
        present: What stays, at least one.
    """

    present: tuple[str, ...]
    mechanism: ClassVar[str] = "pattern"

    def __post_init__(self) -> None:
        if not self.present:
            raise ValueError("present names no modality; write a list such as [audio, text]")

    @property
    def label(self) -> str:
        """`audio+text`."""
        return "+".join(self.present)

    @property
    def nominal_rate(self) -> float | None:
        """None: it is set by its modalities."""
        return None

    def check(self, names: tuple[str, ...]) -> None:
        """See `Missingness`."""
        for word in self.present:
            modality_index(word, names)

    def draw(self, samples: Samples, stream: Stream) -> PresenceArray:
        """See `Missingness`; nothing is random."""
        return self._show(samples.presence, samples.modalities)

    def law(self, samples: Samples) -> Law:
        """See `Missingness`; one pattern has probability 1."""

        def probability(score: Scores, label: Labels, natural: PresenceArray) -> PatternProbability:
            return certain(self._show(natural, samples.modalities))

        return probability

    def _show(self, natural: PresenceArray, names: tuple[str, ...]) -> PresenceArray:
        visible = np.zeros(len(names), bool)
        visible[[modality_index(word, names) for word in self.present]] = True
        presence = natural & visible
        return np.where(presence.any(axis=1, keepdims=True), presence, natural)


@dataclass(frozen=True)
class Natural:
    """Only natural gaps are missing, whether simulated gaps come on top or not.

    Args:
        simulated: Mechanism that hides further entries; None = nothing more. Its rates speak of
            the naturally present entries, so it draws the same table as it would by itself; the
            composition says that the natural gaps are meant to be there.
    """

    simulated: Missingness | None = None

    @property
    def mechanism(self) -> str:
        """`natural`, `natural + mcar`."""
        return "natural" if self.simulated is None else f"natural + {self.simulated.mechanism}"

    @property
    def label(self) -> str:
        """`natural`, `natural+mcar_0.3`."""
        if self.simulated is None or self.simulated.label == "complete":
            return "natural"
        return f"natural+{self.simulated.label}"

    @property
    def nominal_rate(self) -> float | None:
        """Rate of the simulated part over the naturally present entries."""
        return None if self.simulated is None else self.simulated.nominal_rate

    def check(self, names: tuple[str, ...]) -> None:
        """See `Missingness`."""
        if self.simulated is not None:
            self.simulated.check(names)

    def draw(self, samples: Samples, stream: Stream) -> PresenceArray:
        """See `Missingness`."""
        if self.simulated is not None:
            return self.simulated.draw(samples, stream)
        return samples.presence.copy()

    def law(self, samples: Samples) -> Law:
        """See `Missingness`."""
        if self.simulated is not None:
            return self.simulated.law(samples)

        def probability(score: Scores, label: Labels, natural: PresenceArray) -> PatternProbability:
            return certain(natural)

        return probability


def natural() -> Missingness:
    """Only natural gaps are missing."""
    return Natural()
