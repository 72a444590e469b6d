"""Missing completely at random."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.optimize import brentq

from mmbench.data.missingness.protocol import (
    Labels,
    Law,
    PatternProbability,
    Scores,
    every_pattern,
    modality_index,
    pattern_index,
)
from mmbench.data.missingness.rates import check_rate, check_rate_with_gaps, entry_law, hide, share
from mmbench.data.missingness.stream import CHUNK, Stream
from mmbench.data.samples import PresenceArray, Samples


@dataclass(frozen=True)
class Mcar:
    """Missing completely at random: entries vanish whatever their values, at given rates.

    Each entry draws u in [0, 1) and vanishes where u < p. If all M entries of a sample would
    vanish, the one with the largest u stays. Given that all vanish, the u / p are independent
    and uniform, so each is the largest with chance 1 / M; hence

        P(absent) = p - p^M / M,

    which rises from 0 at p = 0 to (M - 1) / M at p = 1; it is solved for p. The largest u does
    not depend on the rate, so tables are nested in it. With rates r_m of their own, entries
    vanish where u_m < p_m and the largest u_m / p_m stays, hence r_m = p_m - prod(p) / M;
    tables are then nested if one modality alone has a rate. Two modalities reach all rates with
    r_1 + r_2 <= 1; more of them not quite all whose sum is at most M - 1. Nothing is ever drawn
    again.

    Where gaps are natural, M is the number of modalities that a sample really has, and p is
    solved so that the expected share over all naturally present entries is the nominal one.

    Args:
        missing_rate: Share of entries, 0 <= rate <= (M - 1) / M; or modality -> share of its own
            entries (others always stay).
        capped: Where the rate cannot be reached, hide as much as can be: every sample keeps one
            modality. So one scenario serves data sets with two modalities and with six, and those
            with gaps of their own; records say what was reached. Without it that is an error.

    Raises:
        ValueError: If a rate is no share, or rates of their own are to be capped.
    """

    missing_rate: float | Mapping[str, float]
    capped: bool = False
    mechanism: ClassVar[str] = "mcar"

    def __post_init__(self) -> None:
        rate: float | Mapping[str, float]
        if isinstance(self.missing_rate, Mapping):
            items = self.missing_rate.items()
            rate = {str(name): share(value, f"missing_rate.{name}") for name, value in items}
            if not rate:
                raise ValueError("missing_rate names no modality; write {text: 0.7} or 0.3")
            if self.capped:
                raise ValueError("capped goes with one missing_rate for all modalities")
        else:
            rate = share(self.missing_rate, "missing_rate")
        object.__setattr__(self, "missing_rate", rate)

    @property
    def label(self) -> str:
        """`mcar_0.3`, `mcar_text_0.7_image_0.2`; `complete` where nothing is hidden."""
        if isinstance(self.missing_rate, Mapping):
            rates = {name: rate for name, rate in self.missing_rate.items() if rate}
            parts = [f"{name}_{rate:g}" for name, rate in rates.items()]
            return "_".join(["mcar", *parts]) if rates else "complete"
        return f"mcar_{self.missing_rate:g}" if self.missing_rate else "complete"

    @property
    def nominal_rate(self) -> float | None:
        """The rate; None if each modality has its own."""
        return None if isinstance(self.missing_rate, Mapping) else self.missing_rate

    def check(self, names: tuple[str, ...]) -> None:
        """See `Missingness`."""
        if isinstance(self.missing_rate, Mapping):
            self._thresholds(np.ones((1, len(names)), bool), names)
        elif not self.capped:
            check_rate(self.missing_rate, names)

    def draw(self, samples: Samples, stream: Stream) -> PresenceArray:
        """See `Missingness`."""
        p = self._thresholds(samples.presence, samples.modalities)
        # with one rate the largest u / p is the largest u, which is exact at every rate
        scale = np.where(p > 0, p, 1.0) if isinstance(self.missing_rate, Mapping) else 1.0
        presence = np.empty_like(samples.presence)
        for start in range(0, len(samples), CHUNK):
            rows = slice(start, start + CHUNK)
            u = stream.uniform(samples.sample_id[rows], samples.modalities)

            def priority(
                empty: NDArray[np.int_], u: NDArray[np.float64] = u
            ) -> NDArray[np.float64]:
                return u[empty] / scale

            presence[rows] = hide(samples.presence[rows], u < p, priority)
        return presence

    def law(self, samples: Samples) -> Law:
        """See `Missingness`; looks at no value and no label."""
        p = self._thresholds(samples.presence, samples.modalities)

        def probability(score: Scores, label: Labels, natural: PresenceArray) -> PatternProbability:
            equal = 1.0 / np.maximum(natural.sum(axis=1, keepdims=True), 1)
            shape = natural.shape
            return entry_law(np.broadcast_to(p, shape), np.broadcast_to(equal, shape), natural)

        return probability

    def absence_probability(self, samples: Samples) -> Float[np.ndarray, "sample modality"]:
        """Chance that an entry vanishes before the rule that one is kept."""
        p = self._thresholds(samples.presence, samples.modalities)
        return np.tile(p, (len(samples), 1))

    def _thresholds(
        self, natural: PresenceArray, names: tuple[str, ...]
    ) -> Float[np.ndarray, " modality"]:
        if isinstance(self.missing_rate, Mapping):
            return self._own_thresholds(self.missing_rate, natural, names)
        rate = self.missing_rate
        if rate == 0 or not len(natural):
            return np.zeros(len(names))
        counts = np.bincount(natural.sum(axis=1, dtype=np.uint8))
        sizes = np.arange(len(counts))
        entries = (counts * sizes).sum()

        def excess(p: float) -> float:
            return float((counts[1:] * (sizes[1:] * p - p ** sizes[1:])).sum() / entries - rate)

        if not self.capped:
            check_rate_with_gaps(rate, excess(1.0) + rate)
        p = brentq(excess, 0.0, 1.0, xtol=1e-15) if excess(1.0) > 0 else 1.0
        return np.full(len(names), p)

    @staticmethod
    def _own_thresholds(
        rates: Mapping[str, float], natural: PresenceArray, names: tuple[str, ...]
    ) -> Float[np.ndarray, " modality"]:
        """Solve r_m = p_m - mean over the rows that have m of prod(p of the row) / size.

        Newton's method from p = r: the last term is convex and rises with every p, so the
        iterates rise to the smallest solution.
        """
        r = np.zeros(len(names))
        for name, rate in rates.items():
            r[modality_index(name, names)] = rate
        codes, counts = np.unique(pattern_index(natural), return_counts=True)
        patterns = every_pattern(len(names))[codes]  # (natural pattern, modality)
        size = patterns.sum(axis=1)
        entries = np.maximum(counts @ patterns, 1)
        p = r.copy()
        for _ in range(200):
            all_gone = np.where(patterns, p, 1.0).prod(axis=1) * counts / size
            gap = r + (all_gone @ patterns) / entries - p
            # d prod(p) / d p_k leaves factor k out
            slopes = np.empty((len(names), len(names)))
            for k in range(len(names)):
                rest = np.where(patterns, p, 1.0)
                rest[:, k] = patterns[:, k]
                slopes[:, k] = ((rest.prod(axis=1) * counts / size) @ patterns) / entries
            step = np.linalg.lstsq(np.eye(len(names)) - slopes, gap, rcond=None)[0]
            p = p + step
            if np.abs(step).max() < 1e-13 or p.max() > 1 + 1e-6 or (step < -1e-6).any():
                break
        reached = p - (np.where(patterns, p, 1.0).prod(axis=1) * counts / size) @ patterns / entries
        if p.max() > 1 + 1e-6 or (p < r - 1e-9).any() or np.abs(reached - r).max() > 1e-6:
            goal = ", ".join(f"{name} {rate:g}" for name, rate in rates.items())
            raise ValueError(
                f"missing rates {goal} cannot be reached together: one modality of a sample is "
                "always kept; lower the largest"
            )
        return np.where(r > 0, np.clip(p, 0.0, 1.0), 0.0)
