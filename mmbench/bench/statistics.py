"""How sure a leaderboard can be: intervals, paired comparisons and ranks, on plain arrays.

Two sources of chance are kept apart. Over samples: would another test split of this size tell
the methods apart (`bootstrap`, `interval_over_samples`, `paired_p`)? Over seeds: would another
training (`interval_over_seeds`)? Over data sets, where each gives one number a method: `friedman`,
`mean_ranks`; over test conditions: `rank_stability`.

Holes: NaN stands for a score that does not exist. It is never ranked and never averaged over: a
cell, pair or method with a hole gets NaN, and the others get what they would get without it.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Num
from numpy.typing import NDArray
from scipy import optimize, stats

from mmbench.data.task import TaskKind
from mmbench.metrics.metric import Better, score_resampled

Array = np.ndarray[Any, np.dtype[np.float64]]
POWER = 0.8  # chance to find a difference, where the number of seeds or data sets is asked
MOST = 10_000  # seeds or data sets that are thought of
FAR = 100.0  # standard errors: a difference that is always found, with one degree of freedom too
LEVELS = (np.arange(200) + 0.5) / 200  # of what is averaged over a distribution
CHUNK = 1_000_000  # sample draws at a time: 8 MB of counts, however many resamples are asked for


# --- over samples -----------------------------------------------------------------------------


def bootstrap(
    metric: str,
    runs: Sequence[Sequence[Float[np.ndarray, "sample output"]]],
    target: Num[np.ndarray, " sample *output"],
    task_kind: TaskKind,
    *,
    train: Num[np.ndarray, "..."] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Float[Array, "method resample"]:
    """Score every method on the same resamples of the test split.

    All methods and runs see the same resamples, so the columns are paired: the difference of two
    rows has the spread of the difference. Test conditions of one split scored with the same
    `seed` are paired as well. Runs on different folds have different test splits: call once for
    each fold with another `seed`, and average.

    Args:
        metric: Name of a metric.
        runs: For each method the logits of its runs (seeds), all on the samples of `target`, in
            that order.
        target: As in `mmbench.metrics.metric.score`.
        task_kind: Kind of the task.
        train: As there.
        resamples: How many, >= 1.
        seed: Decides which samples are drawn, together with their number.

    Returns:
        Mean score over a method's runs, for each resample; NaN for a method without runs or with
        a run that has no score, and where a resample leaves the metric undefined.

    Raises:
        ValueError: As `mmbench.metrics.metric.score`.
    """
    values = np.full((len(runs), resamples), np.nan)
    start = 0
    for counts in _resamples(len(target), resamples, seed):
        stop = start + len(counts)
        for method, logits in enumerate(runs):
            if logits:
                scores = [
                    score_resampled(metric, z, target, task_kind, counts, train=train)
                    for z in logits
                ]
                values[method, start:stop] = np.mean(scores, axis=0)
        start = stop
    return values


def _resamples(n: int, resamples: int, seed: int) -> Iterator[Float[Array, "resample sample"]]:
    """How often each of `n` samples is drawn, some resamples at a time."""
    rng = np.random.default_rng(seed)
    size = max(1, CHUNK // max(n, 1))
    for start in range(0, resamples, size):
        here = min(size, resamples - start)
        drawn = rng.integers(0, n, (here, n)) if n else np.zeros((here, 0), int)
        # samples along the slow axis: what sparse and dense products read fastest
        cells = drawn * here + np.arange(here)[:, None]
        yield np.bincount(cells.ravel(), minlength=here * n).reshape(n, here).astype(float).T


def interval_over_samples(
    resampled: Float[Array, "*cell resample"], level: float = 0.95
) -> tuple[Float[Array, "*cell"], Float[Array, "*cell"]]:
    """Percentile interval of resampled scores, or of differences of two paired rows.

    Args:
        resampled: From `bootstrap`.
        level: Share of resamples inside, in (0, 1).

    Returns:
        Lower and upper ends; NaN where a resample has no score.
    """
    tail = (1 - level) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail], axis=-1)
    return low, high


def paired_p(
    scores: Float[Array, " method"], resampled: Float[Array, "method resample"], against: int
) -> Float[Array, " method"]:
    """Bootstrap p of each method's difference from one of them, two-sided.

    The spread of the resampled differences around the measured one is taken for the spread that
    equal methods would show: p is the share of resamples that stray at least as far from the
    measured difference as that is from 0. The least p is 1 / (resamples + 1). With p against
    several methods, or against the best of several, apply `holm`.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section 16.4 (the
    null by translation), for paired differences; the added one as in Davison and Hinkley,
    "Bootstrap Methods and their Application", 1997, Eq. 4.11.

    Args:
        scores: On the whole split, means over the same runs as in `bootstrap`.
        resampled: From `bootstrap`.
        against: Row of the method to compare with.

    Returns:
        In (0, 1]; 1 for that method itself and for equal predictions, NaN for holes.
    """
    measured = scores - scores[against]
    stray = np.abs(resampled - resampled[against] - measured[:, None])
    # a resample of equal methods strays by rounding only
    as_far = stray >= np.abs(measured)[:, None] - 1e-12
    p = (1 + as_far.sum(axis=1)) / (1 + resampled.shape[1])
    hole = np.isnan(measured) | np.isnan(stray).any(axis=1)
    return np.where(hole, np.nan, p)


def best(scores: Float[Array, " method"], better: Better) -> int:
    """Position of the best method; the first of equals.

    Raises:
        ValueError: If no method has a score.
    """
    if np.isnan(scores).all():
        raise ValueError("no method has a score, so none is best; leave the column empty")
    return int(np.nanargmax(_upward(scores, better)))


def holm(p: Float[Array, " test"]) -> Float[Array, " test"]:
    """Adjust p for the number of tests, so that any false alarm among them is as rare as stated.

    Source: Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal
    of Statistics 6, 1979.

    Args:
        p: In [0, 1]; NaN is no test and does not count.

    Returns:
        Adjusted p, not below `p`, at most 1; NaN stays.
    """
    adjusted = np.full(len(p), np.nan)
    order = np.argsort(p)[: int((~np.isnan(p)).sum())]  # NaN sorts last
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1) if len(order) else steps
    return adjusted


# --- over seeds -------------------------------------------------------------------------------


def interval_over_seeds(
    mean: Float[Array, "*cell"],
    std: Float[Array, "*cell"],
    n: Num[np.ndarray, "*cell"],
    level: float = 0.95,
) -> tuple[Float[Array, "*cell"], Float[Array, "*cell"]]:
    """Student's t interval of the mean over trainings.

    Args:
        mean: Over the trainings of a cell.
        std: Their standard deviation, with n - 1.
        n: How many trainings.
        level: Confidence, in (0, 1).

    Returns:
        Lower and upper ends; NaN for fewer than two trainings or a hole among them.
    """
    half = stats.t.ppf(0.5 + level / 2, np.where(n > 1, n - 1, np.nan)) * std / np.sqrt(n)
    return np.asarray(mean - half), np.asarray(mean + half)


# --- over both --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference of two methods, measured on trainings and samples that might be others.

    Args:
        gain: Mean over trainings.
        error: Standard error, over seeds and samples together.
        dof: Degrees of freedom of the error (Welch and Satterthwaite).
    """

    gain: float
    error: float
    dof: float

    @property
    def p(self) -> float:
        """Chance of a difference as large if there were none, two-sided; NaN if unknown."""
        if self.error == 0:
            return 1.0 if self.gain == 0 else 0.0
        return float(2 * stats.t.sf(abs(self.gain) / self.error, self.dof))

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Lower and upper end; NaN if unknown."""
        half = float(stats.t.ppf(0.5 + level / 2, self.dof)) * self.error
        return self.gain - half, self.gain + half


def difference(paired: Float[Array, " training"], over_samples: float) -> Difference:
    """Put together what other seeds and what other test samples would change.

    Both are variances of the same mean, of causes that have nothing to do with each other, so they
    add up.

    Args:
        paired: Difference of each pair of trainings with the same fold and seed.
        over_samples: Variance of their mean over test samples, from `bootstrap`.

    Returns:
        NaN for error and degrees of freedom where there is one training.
    """
    n = len(paired)
    over_seeds = float(np.var(paired, ddof=1)) / n if n > 1 else math.nan
    variance = over_seeds + over_samples
    # the share of the samples rests on hundreds of resamples
    dof = math.inf if over_seeds == 0 else variance**2 / (over_seeds**2 / max(n - 1, 1))
    return Difference(float(np.mean(paired)), math.sqrt(variance), dof)


def pooled_difference(parts: Sequence[Difference]) -> Difference:
    """Mean difference over data sets, as if there were no others than these."""
    k = len(parts)
    shares = [(part.error / k) ** 2 for part in parts]
    variance = sum(shares)
    spread = sum(share**2 / part.dof for share, part in zip(shares, parts, strict=True))
    dof = math.inf if spread == 0 else variance**2 / spread
    return Difference(sum(part.gain for part in parts) / k, math.sqrt(variance), dof)


@dataclass(frozen=True, slots=True)
class Spread:
    """Variances by which a comparison of two methods on one data set is blurred.

    Args:
        seeds: Of the difference of one pair of trainings.
        samples: Of a mean difference over other test samples of the same number.
    """

    seeds: float
    samples: float

    def error(self, seeds: int, data_sets: int) -> float:
        """Standard error of a mean difference over so many trainings of each of so many sets."""
        return math.sqrt((self.seeds / seeds + self.samples) / data_sets)

    def power(self, gain: float, seeds: int, data_sets: int, level: float = 0.95) -> float:
        """Chance that a true difference is found, the same on each data set.

        Of the test that `pooled_difference` makes: with few trainings its t has few degrees of
        freedom, and the same difference is found less often than by a normal test. The mean over
        the variances over seeds that so many trainings might show, as one chi-squared variable.

        Returns:
            In [0, 1]; 0 for one training, which says nothing of the variance over seeds.
        """
        if seeds < 2:
            return 0.0
        if (error := self.error(seeds, data_sets)) == 0:
            return 1.0
        dof = data_sets * (seeds - 1)
        variance = self.seeds / seeds * stats.chi2.ppf(LEVELS, dof) / dof  # variance over seeds
        share = np.maximum(variance / (variance + self.samples), 1e-12)
        critical = stats.t.ppf(0.5 + level / 2, dof / share**2)
        needed = critical * np.sqrt((variance + self.samples) / data_sets)
        return float(stats.norm.sf((needed - gain) / error).mean())

    def detectable(self, seeds: int, data_sets: int, power: float = POWER) -> float:
        """Least true difference that is found with this chance; infinite for one training."""
        error = self.error(seeds, data_sets)
        if seeds < 2 or error == 0:
            return math.inf if seeds < 2 else 0.0

        def lacks(gain: float) -> float:
            return self.power(gain, seeds, data_sets) - power

        return float(optimize.brentq(lacks, 0.0, FAR * error))

    def seeds_needed(self, gain: float, data_sets: int, power: float = POWER) -> int | None:
        """Trainings on each data set that find a difference; None if not even `MOST` of them do."""
        return _least(lambda seeds: self.power(gain, seeds, data_sets) >= power)

    def data_sets_needed(self, gain: float, seeds: int, power: float = POWER) -> int | None:
        """Data sets, so many trainings on each, that find a difference; None likewise."""
        return _least(lambda data_sets: self.power(gain, seeds, data_sets) >= power)


def _least(enough: Callable[[int], bool]) -> int | None:
    """Least number up to `MOST` that is enough, where all larger ones are; None if none is."""
    if not enough(MOST):
        return None
    return 1 + bisect_left(range(1, MOST), True, key=enough)


# --- over data sets ---------------------------------------------------------------------------


def ranks(scores: Float[Array, "*row method"], better: Better) -> Float[Array, "*row method"]:
    """Rank the methods of each row: 1 = best, equals share the mean of their ranks.

    A hole has no rank. Ranks of rows with different holes do not average: see `mean_ranks`.
    """
    return np.asarray(
        stats.rankdata(-_upward(scores, better), axis=-1, nan_policy="omit"), np.float64
    )


def mean_ranks(scores: Float[Array, "data method"], better: Better) -> Float[Array, " method"]:
    """Mean rank over data sets (or conditions), among the methods that have no hole.

    A method with a hole gets NaN and is left out before ranking, so that nobody gains a rank
    where another one failed.
    """
    means = np.full(scores.shape[1], np.nan)
    whole = _whole(scores)
    if len(scores) and whole.any():
        means[whole] = ranks(scores[:, whole], better).mean(axis=0)
    return means


@dataclass(frozen=True, slots=True)
class Friedman:
    """Do the methods differ over the data sets?

    Args:
        statistic: Chi-squared, corrected for ties.
        p: Chance of such a statistic if all methods were equal.
        mean_ranks: 1 = best; NaN for methods with a hole.
        critical_difference: Mean ranks further apart than this differ (Nemenyi); in ranks.
    """

    statistic: float
    p: float
    mean_ranks: Float[Array, " method"]
    critical_difference: float


def friedman(scores: Float[Array, "data method"], better: Better, level: float = 0.95) -> Friedman:
    """Friedman's test, with the critical difference of Nemenyi's.

    Source: Demšar, JMLR 7, 2006, section 3.2.2. The approximation is poor below about 10 data
    sets or 5 methods.

    Args:
        scores: A row for each data set; methods with a hole are left out.
        better: Which direction is better.
        level: One less the chance of a false alarm among all pairs, for the critical difference.

    Returns:
        NaN for all but `mean_ranks` if fewer than 2 data sets or 3 methods are left.
    """
    means = mean_ranks(scores, better)
    compared = scores[:, _whole(scores)]
    n, k = compared.shape
    if n < 2 or k < 3:
        return Friedman(math.nan, math.nan, means, math.nan)
    if (compared == compared[:, :1]).all():
        statistic, p = 0.0, 1.0  # nothing but ties, which the correction divides by zero
    else:
        statistic, p = (float(x) for x in stats.friedmanchisquare(*compared.T))
    critical = stats.studentized_range.ppf(level, k, np.inf) * _rank_error(n, k)
    return Friedman(statistic, p, means, float(critical))


def rank_stability(
    scores: Float[Array, "condition method"], better: Better
) -> Float[Array, "condition condition"]:
    """How alike the order of the methods is in two conditions: Kendall's tau-b of each pair.

    Over missing rates: does the winner at 10 % also win at 70 %?

    Returns:
        Symmetric, in [-1, 1], 1 for the same order; NaN where a condition ties all methods, or
        fewer than 2 methods have no hole.
    """
    placed = ranks(scores[:, _whole(scores)], better)
    conditions = len(scores)
    tau = np.full((conditions, conditions), np.nan)
    varied = np.flatnonzero((placed != placed[:, :1]).any(axis=1))
    for a in varied:
        for b in varied:
            tau[a, b] = stats.kendalltau(placed[a], placed[b]).statistic
    return tau


def _upward(scores: Float[Array, "*shape"], better: Better) -> Float[Array, "*shape"]:
    """Scores of which a larger one is better."""
    return scores if better == "higher" else -scores


def _whole(scores: Float[Array, "row method"]) -> NDArray[np.bool_]:
    """Methods without a hole."""
    return np.asarray(~np.isnan(scores).any(axis=0))


def _rank_error(n: int, k: int) -> float:
    """Scale of the difference of two mean ranks, in the unit of the studentised range."""
    return math.sqrt(k * (k + 1) / (12 * n))
