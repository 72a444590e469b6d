"""What a search may draw of a method's settings: ranges around the constructor's defaults."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

EDGE = 0.05  # share of a range at either end that counts as its edge
DIGITS = 3  # significant ones of a drawn number, so that people can read and repeat it


@dataclass(frozen=True, slots=True)
class Real:
    """A number from a range.

    Args:
        low: Least value.
        high: Largest value, > low.
        log: Whether equal factors are equally likely, rather than equal differences; low > 0.
    """

    low: float
    high: float
    log: bool = False

    def at(self, share: float) -> float:
        """Value below which lies this share of the range."""
        low, high = self._ends()
        value = low + share * (high - low)
        return self.rounded(math.exp(value) if self.log else value)

    def rounded(self, value: float) -> float:
        """The value as it is given to a constructor."""
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)

    def holds(self, value: Any) -> bool:
        """Whether a value lies in the range."""
        return isinstance(value, int | float) and self.low <= value <= self.high

    def edge(self, value: float) -> str:
        """`low` or `high` if a better value may lie beyond that end of the range, else empty."""
        low, high = self._ends()
        share = ((math.log(value) if self.log else value) - low) / (high - low)
        return "low" if share <= EDGE else "high" if share >= 1 - EDGE else ""

    def _ends(self) -> tuple[float, float]:
        return (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number from a range.

    Args:
        low: Least value.
        high: Largest value, > low.
        log: As of `Real`.
    """

    low: int
    high: int
    log: bool = False

    def at(self, share: float) -> int:
        """Value below which lies this share of the range."""
        if self.log:
            value = self.low * ((self.high + 1) / self.low) ** share
        else:
            value = self.low + share * (self.high + 1 - self.low)
        return min(int(value), self.high)

    def rounded(self, value: int) -> int:
        """The value as it is given to a constructor."""
        return int(value)

    def holds(self, value: Any) -> bool:
        """Whether a value lies in the range."""
        return isinstance(value, int) and self.low <= value <= self.high

    def edge(self, value: int) -> str:
        """`low` or `high` at the end of the range, else empty."""
        return "low" if value == self.low else "high" if value == self.high else ""


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few values: numbers in their order, words in any.

    Args:
        values: At least two.
    """

    values: tuple[int | float | str | bool, ...]

    def at(self, share: float) -> int | float | str | bool:
        """Value at this share of the list."""
        return self.values[min(int(share * len(self.values)), len(self.values) - 1)]

    def rounded(self, value: Any) -> Any:
        """The value as it is given to a constructor."""
        return value

    def holds(self, value: Any) -> bool:
        """Whether a value is among them."""
        return value in self.values

    def edge(self, value: Any) -> str:
        """`low` or `high` if it is the first or last of numbers, else empty."""
        if any(isinstance(each, str | bool) for each in self.values):
            return ""
        return "low" if value == self.values[0] else "high" if value == self.values[-1] else ""


Draw = Real | Whole | Choice
KINDS: dict[str, type[Draw]] = {"real": Real, "whole": Whole, "choice": Choice}


def ranges(**drawn: Draw) -> Mapping[str, Draw]:
    """What a method declares in `search`: an argument of its constructor -> its range."""
    return MappingProxyType(drawn)


# drawn for every trained method whose constructor has it, unless the method says another range
COMMON = ranges(
    lr=Real(3e-5, 1e-2, log=True),
    weight_decay=Real(1e-6, 1e-1, log=True),
    dim=Choice((32, 64, 128, 256)),
    dropout=Real(0.0, 0.7),
)


def to_json(space: Mapping[str, Draw]) -> dict[str, Any]:
    """A search space as a JSON object; `from_json` is its inverse."""
    names = {kind: name for name, kind in KINDS.items()}
    return {name: {names[type(draw)]: asdict(draw)} for name, draw in space.items()}


def from_json(record: Mapping[str, Any]) -> dict[str, Draw]:
    """From what `to_json` gave.

    Raises:
        ValueError: If it is none.
    """
    space: dict[str, Draw] = {}
    for name, said in record.items():
        ((kind, args),) = said.items()
        if kind == "choice":
            args = {"values": tuple(args["values"])}
        space[name] = KINDS[kind](**args)
    return space
