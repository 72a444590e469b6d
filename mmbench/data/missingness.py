"""Who goes missing: mechanisms that draw presence tables, the same ones on every machine.

Rates. `missing_rate` is the share of the naturally present (sample, modality) entries that a
mechanism hides, in expectation over the samples it is laid over; on complete data that is the
share of absent entries. Natural gaps always stay, are never counted as hidden, and a
sample always keeps one of the modalities that it really has. So samples with m_i modalities allow
a rate of at most sum(m_i - 1) / sum(m_i), which is (M - 1) / M on complete data.

Nesting. Every entry has one uniform number, whatever the rate, so what is absent at a low rate is
absent at a higher one, and curves over rates compare like with like.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from scipy.optimize import brentq

from mmbench.data.constant import is_constant
from mmbench.data.samples import PresenceArray, Samples, Split
from mmbench.registry import suggest

Scores = Float[np.ndarray, "row modality"]
Labels = Float[np.ndarray, " row"]
PatternProbability = Float[np.ndarray, "row pattern"]
Law = Callable[[Scores, Labels, PresenceArray], PatternProbability]

CHUNK = 1 << 15  # samples drawn at a time, so that their random numbers stay in cache
POSITIONS = {"primary": 0, "secondary": 1}  # papers' words for the first and second modality
BINS = 8  # quantile bins of a continuous quantity whose mutual information is estimated


# --- random numbers -------------------------------------------------------------------------


def _mix(z: NDArray[np.uint64]) -> None:
    """Scramble 64-bit words in place.

    Source: Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA
    2014, the output function of SplitMix64 (constants by Stafford, variant 13).
    """
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)


def _key(*words: str | int) -> np.uint64:
    """64 bits that depend on all words; the separator keeps ("a", "bc") and ("ab", "c") apart."""
    text = "\0".join(str(word) for word in words)
    return np.uint64(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big"))


@dataclass(frozen=True)
class Stream:
    """Random numbers keyed by what they are for, not by when they are drawn.

    A number depends on (mask_seed, split, sample id, name, purpose) alone: not on the order of
    the samples, on which others are there, on the platform, or on anything drawn before. Only
    integer arithmetic modulo 2^64 and one exact conversion are involved.

    Args:
        mask_seed: Decides what is withheld, whatever the seed of training.
        split: Split that is drawn for.
    """

    mask_seed: int
    split: Split

    def uniform(
        self, sample_id: Int[np.ndarray, " sample"], names: Sequence[str], purpose: str = "entry"
    ) -> Float[np.ndarray, "sample column"]:
        """Return one number in [0, 1) for each sample and name, a multiple of 2^-53.

        Args:
            sample_id: Any integers.
            names: What the columns are for, such as modality names.
            purpose: Tells apart numbers that one sample and name need for several ends.
        """
        row = sample_id.astype(np.int64).view(np.uint64)
        row = row * np.uint64(0x9E3779B97F4A7C15) + _key("row", self.mask_seed, self.split)
        _mix(row)
        found = np.empty((len(row), len(names)))
        for column, name in enumerate(names):
            z = row + _key("column", purpose, name)
            _mix(z)
            np.multiply(z >> np.uint64(11), 2.0**-53, out=found[:, column])
        return found


# --- the contract ---------------------------------------------------------------------------


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
    return "+".join(name for name, there in zip(names, present, strict=True) if there)


def pattern_index(presence: PresenceArray) -> Int[np.ndarray, " sample"]:
    """Number each row's pattern: sum_m presence_m 2^m, so complete is 2^M - 1."""
    found = np.zeros(len(presence), dtype=np.int64)
    for column in range(presence.shape[1]):
        found += presence[:, column].astype(np.int64) << column
    return found


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


# --- what a mechanism may look at -----------------------------------------------------------


def modality_value(samples: Samples, modality: str) -> Float[np.ndarray, " sample"]:
    """Sum up the value of a modality in one raw number: the mean of all its values.

    Padding has no part in it. Token ids mean nothing as numbers; their value is the number of
    tokens (integer inputs with lengths are token ids). It is linear in the values, so a
    Gaussian modality has a Gaussian value.

    Returns:
        Any real number; NaN where the sample lacks the modality by nature.
    """
    values = samples.inputs[modality]
    there = samples.presence[:, samples.modalities.index(modality)]
    found = np.full(len(samples), np.nan)
    steps = samples.lengths.get(modality)
    x = values[there]
    features = tuple(range(1, x.ndim))
    if steps is None:
        found[there] = x.mean(axis=features, dtype=np.float64)
    elif np.issubdtype(x.dtype, np.integer):
        found[there] = steps[there]
    else:
        valid = np.arange(x.shape[1]) < steps[there][:, None]
        valid = np.broadcast_to(valid.reshape(*valid.shape, *[1] * (x.ndim - 2)), x.shape)
        total = np.where(valid, x, 0).sum(axis=features, dtype=np.float64)
        found[there] = total / np.maximum(valid.sum(axis=features), 1)
    return found


def modality_values(samples: Samples) -> Float[np.ndarray, "sample modality"]:
    """Value of every modality, NaN where absent by nature."""
    return np.stack([modality_value(samples, name) for name in samples.modalities], axis=1)


def label_value(samples: Samples) -> Float[np.ndarray, " sample"]:
    """Sum up the target in one raw number: the class number, or the mean over the outputs."""
    target: NDArray[np.float64] = samples.target.astype(np.float64)
    if target.ndim > 1:
        target = target.reshape(len(target), -1).mean(axis=1)
    return target


# --- the arithmetic of rates ----------------------------------------------------------------


def _share(value: float, key: str) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"{key} must be a share from 0 to 1 (0.3 is 30 %), found {value:g}")
    return float(value)


# half of the last digit that messages print, so that the limit they name is itself accepted
_TOLERANCE = 5e-4


def _check_rate(rate: float, names: tuple[str, ...]) -> None:
    size = len(names)
    if rate > (size - 1) / size + _TOLERANCE:
        raise ValueError(
            f"missing rate {rate:g} cannot be reached with {size} modalities: one is always kept, "
            f"so the highest rate is (M - 1) / M = {(size - 1) / size:.3f}"
        )


def _check_rate_with_gaps(rate: float, limit: float) -> None:
    if rate > limit + _TOLERANCE:
        raise ValueError(
            f"missing rate {rate:g} cannot be reached on these samples: one modality is always "
            f"kept and some are missing by nature, so the highest rate is {limit:.3f}"
        )


def _hide(
    natural: PresenceArray,
    absent: PresenceArray,
    priority: Callable[[NDArray[np.int_]], NDArray[np.float64]],
) -> PresenceArray:
    """Hide entries; a row left with nothing keeps its natural entry of highest priority."""
    presence: PresenceArray = natural & ~absent
    empty = np.flatnonzero(~presence.any(axis=1))
    if len(empty):
        kept = np.where(natural[empty], priority(empty), -np.inf).argmax(axis=1)
        presence[empty, kept] = True
    return presence


def _entry_law(
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
    found = np.zeros((len(p), 1 << p.shape[1]))
    everything = np.where(natural, p, 1.0).prod(axis=1)
    for index, shown in enumerate(every_pattern(p.shape[1])):
        if index:
            factors = np.where(shown, np.where(natural, 1 - p, 0.0), np.where(natural, p, 1.0))
            found[:, index] = factors.prod(axis=1)
    for column in range(p.shape[1]):
        alone = np.where(natural[:, column], keep[:, column], 0.0)
        found[:, 1 << column] += everything * alone
    return found


# --- missing completely at random -----------------------------------------------------------


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

    Raises:
        ValueError: If a rate is no share.
    """

    missing_rate: float | Mapping[str, float]
    mechanism: ClassVar[str] = "mcar"

    def __post_init__(self) -> None:
        rate: float | Mapping[str, float]
        if isinstance(self.missing_rate, Mapping):
            items = self.missing_rate.items()
            rate = {str(name): _share(value, f"missing_rate.{name}") for name, value in items}
            if not rate:
                raise ValueError("missing_rate names no modality; write {text: 0.7} or 0.3")
        else:
            rate = _share(self.missing_rate, "missing_rate")
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
        else:
            _check_rate(self.missing_rate, names)

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

            presence[rows] = _hide(samples.presence[rows], u < p, priority)
        return presence

    def law(self, samples: Samples) -> Law:
        """See `Missingness`; looks at no value and no label."""
        p = self._thresholds(samples.presence, samples.modalities)

        def probability(score: Scores, label: Labels, natural: PresenceArray) -> PatternProbability:
            equal = 1.0 / np.maximum(natural.sum(axis=1, keepdims=True), 1)
            shape = natural.shape
            return _entry_law(np.broadcast_to(p, shape), np.broadcast_to(equal, shape), natural)

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

        _check_rate_with_gaps(rate, excess(1.0) + rate)
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
        shown = every_pattern(len(names))[codes]  # (natural pattern, modality)
        size = shown.sum(axis=1)
        entries = np.maximum(counts @ shown, 1)
        p = r.copy()
        for _ in range(200):
            all_gone = np.where(shown, p, 1.0).prod(axis=1) * counts / size
            gap = r + (all_gone @ shown) / entries - p
            # d prod(p) / d p_k leaves factor k out
            slopes = np.empty((len(names), len(names)))
            for k in range(len(names)):
                rest = np.where(shown, p, 1.0)
                rest[:, k] = shown[:, k]
                slopes[:, k] = ((rest.prod(axis=1) * counts / size) @ shown) / entries
            step = np.linalg.lstsq(np.eye(len(names)) - slopes, gap, rcond=None)[0]
            p = p + step
            if np.abs(step).max() < 1e-13 or p.max() > 1 + 1e-6 or (step < -1e-6).any():
                break
        reached = p - (np.where(shown, p, 1.0).prod(axis=1) * counts / size) @ shown / entries
        if p.max() > 1 + 1e-6 or (p < r - 1e-9).any() or np.abs(reached - r).max() > 1e-6:
            asked = ", ".join(f"{name} {rate:g}" for name, rate in rates.items())
            raise ValueError(
                f"missing rates {asked} cannot be reached together: one modality of a sample is "
                "always kept; lower the largest"
            )
        return np.where(r > 0, np.clip(p, 0.0, 1.0), 0.0)


# --- missing depending on values or labels ---------------------------------------------------


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
        object.__setattr__(self, "missing_rate", _share(self.missing_rate, "missing_rate"))
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
        _check_rate(self.missing_rate, names)

    def draw(self, samples: Samples, stream: Stream) -> PresenceArray:
        """See `Missingness`."""
        w = self._weights(samples)(modality_values(samples), label_value(samples), samples.presence)
        tau = self._time(w, samples.presence)
        u = stream.uniform(samples.sample_id, samples.modalities)

        def priority(empty: NDArray[np.int_]) -> NDArray[np.float64]:
            clock: NDArray[np.float64] = -np.log(np.maximum(u[empty], 2.0**-54)) / w[empty]
            return -clock

        return _hide(samples.presence, u < np.exp(-tau * w), priority)

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
            return _entry_law(np.exp(-tau * w), keep, natural)

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
        _check_rate_with_gaps(self.missing_rate, 1 - len(w) / entries)
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


# --- an exact number of incomplete samples ---------------------------------------------------


@dataclass(frozen=True)
class Incomplete:
    """Exactly round(eta N) samples lack something: the rate eta of the prompt learning papers.

    Samples are put in a random order and the first round(eta N) lose something, so tables are
    nested in eta. N counts the samples that can lose it: they have what is to be hidden and
    something else besides; on complete data these are all. The count, and so the table, depends
    on which samples there are; draw before taking a part of a split.

    Source: Lee et al., "Multimodal Prompting with Missing Modalities", CVPR 2023, section 4.1
    (eta, one of two modalities); the general case is ours.

    Args:
        incomplete_rate: eta, 0 <= eta <= 1.
        missing: What an incomplete sample lacks: a modality by name or `primary`, `secondary`;
            `each`: one modality, every one equally often (to within one sample); `both`: the same
            for two modalities; `any`: a random set, neither none nor all.
    """

    incomplete_rate: float
    missing: str
    mechanism: ClassVar[str] = "incomplete"

    def __post_init__(self) -> None:
        eta = _share(self.incomplete_rate, "incomplete_rate")
        object.__setattr__(self, "incomplete_rate", eta)

    @property
    def label(self) -> str:
        """`incomplete_text_0.7`; `complete` where nothing is hidden."""
        eta = self.incomplete_rate
        return f"incomplete_{self.missing}_{eta:g}" if eta else "complete"

    @property
    def nominal_rate(self) -> float | None:
        """None: it is set by the share of incomplete samples."""
        return None

    def check(self, names: tuple[str, ...]) -> None:
        """See `Missingness`."""
        if self.missing == "both" and len(names) != 2 and "both" not in names:
            raise ValueError(
                f"missing: both speaks of two modalities, there are {len(names)}; write each"
            )
        if len(names) < 2 and self.incomplete_rate:
            raise ValueError(
                f"incomplete rate {self.incomplete_rate:g} cannot be reached with one modality: "
                "it is always kept"
            )
        self._column(names)

    def _column(self, names: tuple[str, ...]) -> int | None:
        """Which modality is hidden; None if it differs between samples."""
        if self.missing in ("each", "both", "any") and self.missing not in names:
            return None
        return modality_index(self.missing, names)

    def _eligible(
        self, natural: PresenceArray, names: tuple[str, ...]
    ) -> Bool[np.ndarray, " sample"]:
        column = self._column(names)
        several: Bool[np.ndarray, " sample"] = natural.sum(axis=1) > 1
        return several if column is None else several & natural[:, column]

    def draw(self, samples: Samples, stream: Stream) -> PresenceArray:
        """See `Missingness`."""
        natural, ids = samples.presence, samples.sample_id
        rows = np.flatnonzero(self._eligible(natural, samples.modalities))
        u = stream.uniform(ids, ["who", "what"], purpose="incomplete")
        rows = rows[np.lexsort((ids[rows], u[rows, 0]))]
        rows = rows[: round(self.incomplete_rate * len(rows))]
        absent = np.zeros_like(natural)
        column = self._column(samples.modalities)
        size = natural[rows].sum(axis=1)
        if column is not None:
            absent[rows, column] = True
        elif self.missing == "any":
            # bit j of `code`, 1 <= code <= 2^size - 2, hides the j-th modality that is there
            code = 1 + (u[rows, 1] * (2.0**size - 2)).astype(np.int64)
            place = np.where(natural[rows], natural[rows].cumsum(axis=1) - 1, 62)
            absent[rows] = (code[:, None] >> place) & 1 == 1
        else:
            # by turns along the random order: equal counts at every rate, and nested
            turn = np.arange(len(rows)) % size
            place = np.where(natural[rows], natural[rows].cumsum(axis=1) - 1, -1)
            absent[rows] = place == turn[:, None]
        presence: PresenceArray = natural & ~absent
        return presence

    def law(self, samples: Samples) -> Law:
        """See `Missingness`; looks at no value and no label."""
        names = samples.modalities
        column = self._column(names)
        count = int(self._eligible(samples.presence, names).sum())
        chosen = round(self.incomplete_rate * count)

        def probability(score: Scores, label: Labels, natural: PresenceArray) -> PatternProbability:
            found = np.zeros((len(natural), 1 << len(names)))
            every = np.arange(len(natural))
            whole = pattern_index(natural)
            share = np.where(self._eligible(natural, names), chosen / max(count, 1), 0.0)
            found[every, whole] = 1 - share
            size = natural.sum(axis=1)
            if column is not None:
                lost = np.where(share > 0, whole & ~(1 << column), whole)
                found[every, lost] += share
            elif self.missing == "any":
                for code in range(1, 1 << len(names)):
                    inside = (whole & code == code) & (whole != code) & (share > 0)
                    found[inside, code] += share[inside] / (2.0 ** size[inside] - 2)
            else:
                for m in range(len(names)):
                    turn = natural[:, :m].sum(axis=1)
                    times = chosen // size + (turn < chosen % size)
                    inside = natural[:, m] & (share > 0)
                    found[inside, whole[inside] & ~(1 << m)] += times[inside] / count
            return found

        return probability


# --- fixed and natural patterns ---------------------------------------------------------------


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
            return _certain(self._show(natural, samples.modalities))

        return probability

    def _show(self, natural: PresenceArray, names: tuple[str, ...]) -> PresenceArray:
        shown = np.zeros(len(names), bool)
        shown[[modality_index(word, names) for word in self.present]] = True
        presence = natural & shown
        return np.where(presence.any(axis=1, keepdims=True), presence, natural)


def _certain(presence: PresenceArray) -> PatternProbability:
    found = np.zeros((len(presence), 1 << presence.shape[1]))
    found[np.arange(len(presence)), pattern_index(presence)] = 1.0
    return found


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
            return _certain(natural)

        return probability


def natural() -> Missingness:
    """Only natural gaps are missing."""
    return Natural()


# --- what came of it --------------------------------------------------------------------------


def pattern_probability(
    missingness: Missingness, samples: Samples
) -> Float[np.ndarray, "sample pattern"]:
    """Exact probability of each pattern for these samples; columns as in `Missingness.law`."""
    law = missingness.law(samples)
    return law(modality_values(samples), label_value(samples), samples.presence)


@dataclass(frozen=True)
class Realised:
    """What a drawn table came to.

    Args:
        missing_rate: Share of all entries that are absent, for whatever reason.
        incomplete_rate: Share of samples that lack something, for whatever reason.
        natural_missing_rate: Share of all entries that are naturally missing.
        simulated_missing_rate: Share of the naturally present entries that were hidden; this is
            what the nominal rate speaks of.
        patterns: Pattern name -> samples, most frequent first; those that do not occur are
            left out.
    """

    missing_rate: float
    incomplete_rate: float
    natural_missing_rate: float
    simulated_missing_rate: float
    patterns: dict[str, int]


def realised(presence: PresenceArray, natural: PresenceArray, names: Sequence[str]) -> Realised:
    """Count what is absent in a drawn table; all rates are 0 if it is empty."""
    codes, counts = np.unique(pattern_index(presence), return_counts=True)
    order = np.argsort(-counts, kind="stable")
    shown = every_pattern(len(names))
    entries, there = max(presence.size, 1), max(int(natural.sum()), 1)
    return Realised(
        missing_rate=int((~presence).sum()) / entries,
        incomplete_rate=int((~presence.all(axis=1)).sum()) / max(len(presence), 1),
        natural_missing_rate=int((~natural).sum()) / entries,
        simulated_missing_rate=int((natural & ~presence).sum()) / there,
        patterns={pattern_name(shown[codes[i]], names): int(counts[i]) for i in order},
    )


@dataclass(frozen=True)
class Dependence:
    """How much a mask tells, in nats.

    Args:
        label: Mutual information of pattern and target.
        value: Modality -> mutual information of pattern and that modality's value, over the
            samples that have it by nature.
    """

    label: float
    value: dict[str, float]


def dependence(presence: PresenceArray, samples: Samples) -> Dependence:
    """Estimate the mutual information between the mask and target or values, in nats.

    Plug-in estimate from counts, less its first-order bias (K - 1)(L - 1) / 2N and never below 0
    (Miller and Madow). Classes are taken as they are; scores and other targets of more than 32
    values are cut into 8 quantile bins.
    """
    codes = pattern_index(presence)
    value = {}
    for column, name in enumerate(samples.modalities):
        there = samples.presence[:, column]
        value[name] = _information(codes[there], _binned(modality_value(samples, name)[there]))
    label = label_value(samples)
    classes = samples.target.ndim == 1 and np.issubdtype(samples.target.dtype, np.integer)
    return Dependence(label=_information(codes, label if classes else _binned(label)), value=value)


def _binned(x: Float[np.ndarray, " row"]) -> Float[np.ndarray, " row"]:
    if len(np.unique(x)) <= 4 * BINS:
        return x
    edges = np.unique(np.quantile(x, np.arange(1, BINS) / BINS))
    return np.searchsorted(edges, x, side="right").astype(np.float64)


def _information(codes: Int[np.ndarray, " row"], x: Float[np.ndarray, " row"]) -> float:
    if not len(x):
        return 0.0
    rows, columns = np.unique(codes, return_inverse=True)[1], np.unique(x, return_inverse=True)[1]
    table = np.zeros((rows.max() + 1, columns.max() + 1))
    np.add.at(table, (rows, columns), 1.0)
    joint = table / len(x)
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    filled = joint > 0
    plug_in = (joint[filled] * np.log(joint[filled] / independent[filled])).sum()
    bias = (table.shape[0] - 1) * (table.shape[1] - 1) / (2 * len(x))
    return max(0.0, float(plug_in - bias))
