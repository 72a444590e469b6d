"""What missing modalities cost: one number from the scores of many test conditions.

Curves are over missing rates; patterns are named by their present modalities, `audio+text`.
Losses, costs and regrets are positive where the score got worse, whichever way a metric points.
NaN is a hole, a score that does not exist: whatever would need it is NaN as well.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float, Num

from mmbench.data.task import TaskKind
from mmbench.metrics.metric import Better, score
from mmbench.metrics.weighted import Array

Curve = Float[Array, "*cell condition"]


# --- over missing rates -----------------------------------------------------------------------


def area_under_rate_curve(
    rates: Float[Array, " condition"], scores: Curve
) -> Float[Array, "*cell"]:
    """Mean score over missing rates: the area under the curve, divided by the range of rates.

    Trapezoids, so that unevenly spaced rates weigh as much as the stretch they stand for. Only
    areas over the same range compare.

    Args:
        rates: In [0, 1], all different, in any order.
        scores: One for each rate.

    Returns:
        In the unit of the score; NaN if there is a hole.

    Raises:
        ValueError: If there are fewer than two rates, or one occurs twice.
    """
    _require_curve(rates)
    order = np.argsort(rates)
    x = rates[order]
    return np.asarray(np.trapezoid(scores[..., order], x, axis=-1) / (x[-1] - x[0]))


def slope(rates: Float[Array, " condition"], scores: Curve) -> Float[Array, "*cell"]:
    """Change of the score for each unit of missing rate: the line of least squares.

    Args:
        rates: In [0, 1], all different, in any order.
        scores: One for each rate.

    Returns:
        Score from rate 0 to rate 1, negative where it falls; NaN if there is a hole.

    Raises:
        ValueError: If there are fewer than two rates, or one occurs twice.
    """
    _require_curve(rates)
    away = rates - rates.mean()
    return np.asarray(scores @ away / (away @ away))


def _require_curve(rates: Float[Array, " condition"]) -> None:
    if len(rates) < 2 or len(np.unique(rates)) < len(rates):
        raise ValueError(
            f"a curve needs two or more different missing rates, found {sorted(rates.tolist())}; "
            "choose the conditions of one scenario that differ in rate alone"
        )


# --- against a reference ----------------------------------------------------------------------


def loss_from(reference: float, value: float, better: Better) -> float:
    """How much worse a score is than a reference; negative if it is better.

    Against the score on complete data it is the drop from complete; against the Bayes-optimal
    score of the same condition, the regret to what is possible.
    """
    return reference - value if better == "higher" else value - reference


# --- over patterns ----------------------------------------------------------------------------


def worst_pattern(scores: Mapping[str, float], better: Better) -> tuple[str, float]:
    """The pattern with the worst score (the first of equals), and that score.

    Args:
        scores: Pattern -> score.
        better: Which direction is better.

    Returns:
        ("", NaN) if there is a hole: the hole might be the worst.
    """
    if not scores or any(math.isnan(value) for value in scores.values()):
        return "", math.nan
    name = (min if better == "higher" else max)(scores, key=lambda pattern: scores[pattern])
    return name, scores[name]


def mean_over_patterns(scores: Mapping[str, float]) -> float:
    """Mean score of the patterns, each counting the same however many samples have it.

    Not the score of all samples together, which is `pooled_over_patterns`.
    """
    return float(np.mean(list(scores.values()))) if scores else math.nan


def pooled_over_patterns(
    metric: str,
    logits: Mapping[str, Float[np.ndarray, "_ output"]],
    target: Mapping[str, Num[np.ndarray, "..."]],
    task_kind: TaskKind,
    *,
    train: Num[np.ndarray, "..."] | None = None,
) -> float:
    """Score of the samples of all patterns together, so that common patterns count more.

    For a metric that is no mean over samples (F1, AUROC) this is not even the weighted mean of
    the patterns' scores.

    Args:
        metric: Name of a metric.
        logits: Pattern -> predictions for the samples that have it.
        target: Pattern -> their targets.
        task_kind: Kind of the task.
        train: As in `mmbench.metrics.metric.score`.

    Raises:
        ValueError: As `mmbench.metrics.metric.score`, and if the two name different patterns.
    """
    if logits.keys() != target.keys() or not logits:
        raise ValueError(
            f"predictions are for the patterns {sorted(logits)}, targets for {sorted(target)}; "
            "give both for the same ones, at least one"
        )
    rows = [target[pattern] for pattern in logits]
    together = np.concatenate(list(logits.values()))
    return score(metric, together, np.concatenate(rows), task_kind, train=train)


def cost_of_absence(
    scores: Mapping[str, float], modalities: Sequence[str], better: Better
) -> dict[str, float]:
    """What losing each modality costs, mean over everything else that may be there.

    The cost of m is the mean, over the patterns S with m and at least one other modality, of how
    much worse S without m is than S. With two modalities there is one such S, the complete one.

    Args:
        scores: Pattern -> score for all 2^M - 1 patterns (modalities in any order in a name).
        modalities: Their names.
        better: Which direction is better.

    Returns:
        Modality -> cost in the unit of the score, negative where a modality does harm; NaN where
        a pattern that it needs is a hole or is not there, or if there is one modality only.

    Raises:
        ValueError: If a pattern names an unknown modality.
    """
    by_set = {frozenset(pattern.split("+")): value for pattern, value in scores.items()}
    for pattern in by_set:
        if unknown := sorted(pattern - set(modalities)):
            raise ValueError(
                f"the pattern {'+'.join(sorted(pattern))!r} names {unknown[0]!r}, but the "
                f"modalities are {', '.join(modalities)}; take the names of the task"
            )
    costs = {}
    for lost in modalities:
        others = _subsets([name for name in modalities if name != lost])
        losses = [
            loss_from(by_set.get(rest | {lost}, math.nan), by_set.get(rest, math.nan), better)
            for rest in others
        ]
        costs[lost] = float(np.mean(losses)) if losses else math.nan
    return costs


def acquired(
    scores: Mapping[str, float], modalities: Sequence[str], better: Better
) -> dict[Literal["random", "best", "worst"], Float[Array, " count"]]:
    """What modalities are worth, acquired one after the other: the score with 1, 2, ... M of them.

    Args:
        scores: Pattern -> score for all 2^M - 1 patterns (modalities in any order in a name).
        modalities: Their names.
        better: Which direction is better.

    Returns:
        `random`: the mean over all sets of that size, which is that over all orders. `best` and
        `worst`: of the order that takes, each time, the modality after which the score is highest
        or lowest; such an order need not pass through the best set of every size. NaN from the
        first set that is a hole or is not there.
    """
    by_set = {frozenset(pattern.split("+")): value for pattern, value in scores.items()}
    subsets = _subsets(modalities)
    every = range(1, len(modalities) + 1)
    random = [np.mean([by_set.get(s, math.nan) for s in subsets if len(s) == k]) for k in every]
    curves: dict[Literal["random", "best", "worst"], Float[Array, " count"]] = {
        "random": np.array(random)
    }
    for order in ("best", "worst"):
        pick = max if (order == "best") == (better == "higher") else min
        chosen: frozenset[str] = frozenset()
        path: list[float] = []
        for _ in every:
            ways = {chosen | {m}: by_set.get(chosen | {m}, math.nan) for m in modalities}
            ways.pop(chosen, None)
            chosen = pick(ways, key=lambda s: ways[s])
            known = not any(map(math.isnan, ways.values()))
            path.append(ways[chosen] if known and not np.isnan(path).any() else math.nan)
        curves[order] = np.array(path)
    return curves


def inequity(costs: Mapping[str, float]) -> float:
    """How unequally a method leans on its modalities: largest less smallest cost of absence.

    0 where every modality is missed alike; a large gap means that one modality carries the
    method. It says nothing about how good a method is, and the data set has its own gap: read it
    beside that of the Bayes-optimal scores.

    Args:
        costs: From `cost_of_absence`.

    Returns:
        In the unit of the score, >= 0; NaN if there is a hole.
    """
    values = np.array(list(costs.values()))
    return float(values.max() - values.min()) if len(values) else math.nan


def _subsets(names: Sequence[str]) -> list[frozenset[str]]:
    """All sets of names but the empty one."""
    return [
        frozenset(name for bit, name in enumerate(names) if chosen >> bit & 1)
        for chosen in range(1, 2 ** len(names))
    ]


# --- over who was seen ------------------------------------------------------------------------


def effective_sample_size(weight: Float[np.ndarray, " sample"]) -> float:
    """How many equally weighted samples would tell as much: (sum w)^2 / sum w^2.

    Source: Kish, "Survey Sampling", 1965, section 11.7.

    Returns:
        From 1 to the number of samples; 0 if no sample has a weight.
    """
    squares = float(weight @ weight)
    return float(weight.sum()) ** 2 / squares if squares > 0 else 0.0


def inverse_probability_score(
    metric: str,
    logits: Float[np.ndarray, "sample output"],
    target: Num[np.ndarray, " sample *output"],
    task_kind: TaskKind,
    probability: Float[np.ndarray, " sample"],
) -> tuple[float, float]:
    """Score of the whole population from the samples that happened to be seen.

    Where who has a modality depends on who it is, the samples that have it are no fair draw; one
    over the probability of being seen makes up for it. Weights are normalised to their sum
    (Hájek), so a score stays in its range.

    Source: Horvitz and Thompson, "A Generalization of Sampling Without Replacement from a Finite
    Universe", JASA 47, 1952.

    Args:
        metric: Name of a metric.
        logits: Predictions for the samples that were seen.
        target: Their targets.
        task_kind: Kind of the task.
        probability: Of each of them to be seen, in (0, 1]; from the mechanism, or estimated.

    Returns:
        The score, and the effective sample size. Where that is far below the number of samples,
        a few of them decide the score.

    Raises:
        ValueError: As `mmbench.metrics.metric.score`, and if a probability is not in (0, 1].
    """
    if not ((probability > 0) & (probability <= 1)).all():
        raise ValueError(
            "a sample that was seen had a probability in (0, 1] of it, found "
            f"{probability.min():g}..{probability.max():g}; give the probability, not its inverse"
        )
    weight = 1 / probability.astype(np.float64)
    return score(metric, logits, target, task_kind, weight), effective_sample_size(weight)
