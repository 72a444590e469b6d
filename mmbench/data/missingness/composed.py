"""Modality loss and what goes missing within modalities, together."""

from dataclasses import dataclass

from mmbench.data.missingness.protocol import Law, Missingness
from mmbench.data.missingness.stream import Stream
from mmbench.data.missingness.within import Within
from mmbench.data.samples import PresenceArray, Samples


@dataclass(frozen=True)
class Composed:
    """A mechanism that hides modalities, and mechanisms that hide parts of those that stay.

    Args:
        loss: Who loses which modality; draws the same table as it would by itself.
        within: What goes inside the others, at least one.
    """

    loss: Missingness
    within: tuple[Within, ...]

    @property
    def _alone(self) -> bool:
        """Whether no modality is lost but by nature."""
        return self.loss.mechanism == "natural"

    @property
    def mechanism(self) -> str:
        """`mcar + segments`, `segments`."""
        inside = [one.mechanism for one in self.within]
        return " + ".join(inside if self._alone else [self.loss.mechanism, *inside])

    @property
    def label(self) -> str:
        """`mcar_0.3+segments_0.2`; what hides nothing is left out."""
        whole = self._alone or self.loss.label == "complete"
        labels = [one.label for one in self.within if one.label]
        return "+".join(labels if whole and labels else [self.loss.label, *labels])

    @property
    def nominal_rate(self) -> float | None:
        """That of the loss; of what goes within where that is all."""
        if self._alone and len(self.within) == 1:
            return self.within[0].rate
        return self.loss.nominal_rate

    def check(self, names: tuple[str, ...]) -> None:
        """See `Missingness`."""
        self.loss.check(names)
        for one in self.within:
            one.check(names)

    def draw(self, samples: Samples, stream: Stream) -> PresenceArray:
        """See `Missingness`."""
        return self.loss.draw(samples, stream)

    def law(self, samples: Samples) -> Law:
        """See `Missingness`; what goes within is no part of a pattern."""
        return self.loss.law(samples)


def simplest(missingness: Missingness) -> Missingness:
    """The same mechanism without parts that hide nothing inside modalities."""
    if isinstance(missingness, Composed) and not any(one.label for one in missingness.within):
        return missingness.loss
    return missingness


def within_of(missingness: Missingness) -> tuple[Within, ...]:
    """What a mechanism hides inside modalities; nothing for those that hide whole ones alone."""
    return missingness.within if isinstance(missingness, Composed) else ()
