"""Missing depending on values or on the label: mar, mnar_value, mnar_label."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.optimize import brentq

from mmbench.data.constant import is_constant
from mmbench.data.missingness.protocol import (
    Labels,
    Law,
    PatternProbability,
    Scores,
    modality_index,
)
from mmbench.data.missingness.rates import check_rate, check_rate_with_gaps, entry_law, hide, share
from mmbench.data.missingness.stream import Stream
from mmbench.data.missingness.values import label_value, modality_value, modality_values
from mmbench.data.samples import PresenceArray, Samples


@dataclass(frozen=True)
class _Dependent:
    """Entries vanish depending on a number z: a race of clocks that is nested in the rate.

    z is standardised over the samples (mean 0, standard deviation 1). An entry's clock rings at
    a time E that is exponential with rate w = exp(-strength z), namely E = -log(u) / w. Entries
    whose clock has not rung by the time tau are absent, and the one that rings first always
    stays. Hence, with W the sum of w over the modalities of a sample,

        p = P(E > tau) = exp(-tau w) = exp(-exp(-(a + strength z))),  tau = exp(-a),
        P(all would vanish, m stays) = exp(-tau W) w_m / W,

    a generalised linear model with log-log link: one standard deviation of z multiplies -log p
    by exp(-strength). The intercept is solved for, so the expected share of hidden entries is
    the nominal rate. tau falls with the rate and the order of the clocks does not depend on it,
    so tables of one split are nested in the rate. A strength of 0 is `mcar`.

    Calibration looks at all samples of the split, so draw before taking a part of it.
    """

    missing_rate: float
    strength: float = 1.0

    mechanism: ClassVar[str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "missing_rate", share(self.missing_rate, "missing_rate"))
        if not np.isfinite(self.strength):
            raise ValueError(f"strength must be finite, found {self.strength}")

    @property
    def label(self) -> str:
        """`mnar_label_0.3`, `mnar_label_0.3_strength_2`; `complete` where nothing is hidden."""
        if not self.missing_rate:
            return "complete"
        strength = f"_strength_{self.strength:g}" if self.strength != 1 else ""
        return f"{self._stem}_{self.missing_rate:g}{strength}"

    @property
    def _stem(self) -> str:
        return self.mechanism

    @property
    def nominal_rate(self) -> float | None:
        """The rate."""
        return self.missing_rate

    def check(self, names: tuple[str, ...]) -> None:
        """See `Missingness`."""
        check_rate(self.missing_rate, names)

    def draw(self, samples: Samples, stream: Stream) -> PresenceArray:
        """See `Missingness`."""
        w = self._weights(samples)(modality_values(samples), label_value(samples), samples.presence)
        tau = self._time(w, samples.presence)
        u = stream.uniform(samples.sample_id, samples.modalities)

        def priority(empty: NDArray[np.int_]) -> NDArray[np.float64]:
            clock: NDArray[np.float64] = -np.log(np.maximum(u[empty], 2.0**-54)) / w[empty]
            return -clock

        return hide(samples.presence, u < np.exp(-tau * w), priority)

    def law(self, samples: Samples) -> Law:
        """See `Missingness`."""
        weights = self._weights(samples)
        tau = self._time(
            weights(modality_values(samples), label_value(samples), samples.presence),
            samples.presence,
        )

        def probability(score: Scores, label: Labels, natural: PresenceArray) -> PatternProbability:
            w = weights(score, label, natural)
            finite = np.where(np.isfinite(w) & natural, w, 0.0)
            keep = finite / np.maximum(finite.sum(axis=1, keepdims=True), 1e-300)
            return entry_law(np.exp(-tau * w), keep, natural)

        return probability

    def absence_probability(self, samples: Samples) -> Float[np.ndarray, "sample modality"]:
        """Chance that an entry vanishes before the rule that one is kept."""
        w = self._weights(samples)(modality_values(samples), label_value(samples), samples.presence)
        return np.exp(-self._time(w, samples.presence) * w)

    def _weights(
        self, samples: Samples
    ) -> Callable[[Scores, Labels, PresenceArray], Float[np.ndarray, "row modality"]]:
        """Rates of the clocks, for any rows; infinite where an entry never vanishes."""
        raise NotImplementedError

    def _rate(self, z: NDArray[np.float64]) -> NDArray[np.float64]:
        # beyond e^30 an entry is certain to stay or to go at any rate that can be asked for
        return np.exp(-np.clip(self.strength * np.nan_to_num(z), -30.0, 30.0))

    def _time(self, w: Float[np.ndarray, "sample modality"], natural: PresenceArray) -> float:
        """Solve for tau; infinite at rate 0."""
        if self.missing_rate == 0 or not len(w):
            return np.inf
        entries = natural.sum()
        check_rate_with_gaps(self.missing_rate, 1 - len(w) / entries)
        rate = min(self.missing_rate, 1 - len(w) / entries)
        total = np.where(natural, w, 0.0).sum(axis=1)
        single = w[natural]

        def excess(log_tau: float) -> float:
            tau = np.exp(log_tau)
            hidden = np.exp(-tau * single).sum() - np.exp(-tau * total).sum()
            return float(hidden / entries - rate)

        if excess(-60.0) <= 0:  # the limit itself
            return float(np.exp(-60.0))
        return float(np.exp(brentq(excess, -60.0, 60.0, xtol=1e-13)))


def _standardise(
    fitted: Float[np.ndarray, " sample"],
) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """Shift and scale by the mean and deviation of these numbers, NaN left out."""
    known = fitted[~np.isnan(fitted)]
    centre, spread = (known.mean(), known.std()) if len(known) else (0.0, 0.0)
    # a constant tells nothing; its z is 0, not rounding noise
    varies = spread > 0 and not is_constant(
        known.min(keepdims=True), known.max(keepdims=True), known.dtype
    )
    factor = 1.0 / spread if varies else 0.0
    return partial(_scaled, centre=float(centre), factor=float(factor))


def _scaled(x: NDArray[np.float64], *, centre: float, factor: float) -> NDArray[np.float64]:
    return (x - centre) * factor


@dataclass(frozen=True)
class Mar(_Dependent):
    """Missing at random: what vanishes depends on a modality that stays (see `_Dependent`).

    z is the standardised `modality_value` of the modality `given`, which is itself never hidden. A
    sample that lacks it by nature counts as average (z = 0) and keeps one of its others.

    Args:
        missing_rate: Share of entries, those of `given` included, 0 <= rate <= (M - 1) / M.
        strength: Effect of one standard deviation, any number; positive: high scores lose more.
        given: Modality that decides, by name or `primary`, `secondary`.
    """

    given: str = "primary"
    mechanism: ClassVar[str] = "mar"

    @property
    def _stem(self) -> str:
        return f"mar_{self.given}"

    def check(self, names: tuple[str, ...]) -> None:
        """See `Missingness`."""
        modality_index(self.given, names)
        super().check(names)

    def _weights(
        self, samples: Samples
    ) -> Callable[[Scores, Labels, PresenceArray], Float[np.ndarray, "row modality"]]:
        column = modality_index(self.given, samples.modalities)
        standard = _standardise(modality_value(samples, samples.modalities[column]))

        def weights(
            score: Scores, label: Labels, natural: PresenceArray
        ) -> Float[np.ndarray, "row modality"]:
            z = np.where(natural[:, column], standard(score[:, column]), 0.0)
            w = np.tile(self._rate(z)[:, None], (1, score.shape[1]))
            w[:, column] = np.inf
            return w

        return weights


@dataclass(frozen=True)
class MnarValue(_Dependent):
    """Missing not at random: an entry vanishes depending on its own value (see `_Dependent`).

    z is the standardised `modality_value` of the entry itself.

    Args:
        missing_rate: Share of entries, 0 <= rate <= (M - 1) / M.
        strength: Effect of one standard deviation, any number; positive: high scores vanish.
    """

    mechanism: ClassVar[str] = "mnar_value"

    def _weights(
        self, samples: Samples
    ) -> Callable[[Scores, Labels, PresenceArray], Float[np.ndarray, "row modality"]]:
        standard = [_standardise(column) for column in modality_values(samples).T]

        def weights(
            score: Scores, label: Labels, natural: PresenceArray
        ) -> Float[np.ndarray, "row modality"]:
            z = [scale(column) for scale, column in zip(standard, score.T, strict=True)]
            return self._rate(np.stack(z, axis=1))

        return weights


@dataclass(frozen=True)
class MnarLabel(_Dependent):
    """Missing depending on the target, so that the mask itself is evidence (see `_Dependent`).

    z is the standardised `label_value`: later classes, more labels or larger values lose more.

    Args:
        missing_rate: Share of entries, 0 <= rate <= (M - 1) / M.
        strength: Effect of one standard deviation, any number; negative: the reverse.
    """

    mechanism: ClassVar[str] = "mnar_label"

    def _weights(
        self, samples: Samples
    ) -> Callable[[Scores, Labels, PresenceArray], Float[np.ndarray, "row modality"]]:
        standard = _standardise(label_value(samples))

        def weights(
            score: Scores, label: Labels, natural: PresenceArray
        ) -> Float[np.ndarray, "row modality"]:
            return np.tile(self._rate(standard(label))[:, None], (1, score.shape[1]))

        return weights
