"""Day and night: some samples were taken at night, when the first modality sees nothing."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mmbench.data.missingness.protocol import Labels, Law, PatternProbability, Scores
from mmbench.data.missingness.rates import certain
from mmbench.data.missingness.stream import Stream
from mmbench.data.samples import PresenceArray, Samples


@dataclass(frozen=True)
class DayAndNight:
    """A sample is of the night with a given chance, and then lacks the first modality.

    Args:
        night: Share of samples of the night, 0 <= night <= 1; nested in it.
    """

    night: float
    mechanism: ClassVar[str] = "day_and_night"

    @property
    def label(self) -> str:
        """`night_0.3`."""
        return f"night_{self.night:g}" if self.night else "complete"

    @property
    def nominal_rate(self) -> float | None:
        """None: it is set by a share of samples."""
        return None

    def check(self, names: tuple[str, ...]) -> None:
        """Refuse what could not be shown."""
        if len(names) < 2:
            raise ValueError("night needs a second modality that sees something")

    def draw(self, samples: Samples, stream: Stream) -> PresenceArray:
        """Hide the first modality at night, unless it is all that a sample has."""
        dark = stream.uniform(samples.sample_id, ["night"])[:, 0] < self.night
        presence = samples.presence.copy()
        presence[dark & samples.presence[:, 1:].any(axis=1), 0] = False
        return presence

    def law(self, samples: Samples) -> Law:
        """Day with chance 1 - night, else the same without the first modality."""

        def probability(score: Scores, label: Labels, natural: PresenceArray) -> PatternProbability:
            dark = natural.copy()
            dark[natural[:, 1:].any(axis=1), 0] = False
            found: PatternProbability = (1 - self.night) * certain(natural)
            return np.add(found, self.night * certain(dark))

        return probability
