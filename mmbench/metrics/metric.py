"""From a name to a score: what metrics exist, for which tasks, and which direction is better.

A new metric is one function in a file of this folder:

    @metric("accuracy", tasks=("single_label",), better="higher")
    def accuracy(logits, target): ...               # -> float

It then occurs in every record, table and selection rule. With a third argument `weight`
(resample, sample) it returns one score for each row of weights, which makes the bootstrap and
weighted scores matrix work; without it the bootstrap repeats rows and calls it again and again.
With a fourth, `calibration`, it is given predictions of validation samples as well; with `train`,
the targets of the training split.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, Literal, TypeVar

import numpy as np
from jaxtyping import Float, Num

import mmbench.metrics
from mmbench.data.survival import reason_no_outcome
from mmbench.data.task import TaskKind
from mmbench.metrics.weighted import Array
from mmbench.registry import suggest

Better = Literal["higher", "lower"]
Logits = Float[Array, "sample output"]
Target = Num[np.ndarray, "sample *output"]
Weight = Float[Array, "resample sample"]
Scores = Float[Array, " resample"]
Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Calibration:
    """Predictions of validation samples, of which the same was hidden as of those that are scored.

    Args:
        logits: As those that are scored.
        target: As theirs.
    """

    logits: Logits
    target: Target


@dataclass(frozen=True, slots=True)
class Metric:
    """One function that scores predictions.

    Args:
        name: As in tables and suites.
        tasks: Task kinds that it is defined for.
        better: Which direction is better.
        function: Takes (logits, target), (logits, target, weight) or, besides, a calibration.
        weighted: Whether it takes `weight`.
        calibrated: Whether it takes `calibration`, and so `weight`, too.
        needs_train: Whether it takes `train`.
        resampled: The same with `weight`, for resamples alone; None = `function`.
    """

    name: str
    tasks: tuple[TaskKind, ...]
    better: Better
    function: Callable[..., Any]
    weighted: bool
    calibrated: bool
    needs_train: bool
    resampled: Callable[..., Any] | None


_METRICS: dict[str, Metric] = {}


def metric(
    name: str,
    *,
    tasks: tuple[TaskKind, ...],
    better: Better,
    resampled: Callable[..., Any] | None = None,
) -> Callable[[Function], Function]:
    """Register a function as a metric.

    The function meets float64 logits (sample, output) without NaN, and a target that fits them:
    int (sample,) for single_label, 0.0 or 1.0 (sample, output) for multi_label, float
    (sample, output) for regression, time and event (sample, 2) for survival. It returns NaN where
    the metric is undefined.

    Args:
        name: New name, as it will stand in tables.
        tasks: Task kinds that it is defined for.
        better: Which direction is better.
        resampled: Takes (logits, target, weight) and gives what the function would for repeated
            rows; for one without `weight` that is slow to call a thousand times.

    Raises:
        ValueError: If another function has the name.
    """

    def register(function: Function) -> Function:
        past = _METRICS.get(name)
        if past is not None and past.function.__qualname__ != function.__qualname__:
            raise ValueError(
                f"two metrics are named {name!r}: {past.function.__module__}."
                f"{past.function.__qualname__} and {function.__module__}."
                f"{function.__qualname__}; rename one of them"
            )
        takes = inspect.signature(function).parameters
        weighted, calibrated, needs_train = (
            one in takes for one in ("weight", "calibration", "train")
        )
        _METRICS[name] = Metric(
            name, tasks, better, function, weighted, calibrated, needs_train, resampled
        )
        return function

    return register


def _all() -> dict[str, Metric]:
    """Every metric: those in the files of this folder, in their order, and any others so far."""
    _import_folder()
    return _METRICS


@cache
def _import_folder() -> None:
    for module in pkgutil.iter_modules(mmbench.metrics.__path__):
        importlib.import_module(f"mmbench.metrics.{module.name}")


def find_metric(name: str) -> Metric:
    """Look up a metric.

    Raises:
        ValueError: If there is none of that name; the message suggests a close one.
    """
    known = _all()
    if name not in known:
        raise ValueError(
            f"no metric named {name!r}{suggest(name, tuple(known))} "
            "(mmbench list metrics shows them all)"
        )
    return known[name]


def metrics_for(task_kind: TaskKind, *, calibrated: bool = False) -> tuple[str, ...]:
    """Names of the metrics that are defined for a kind of task.

    Args:
        task_kind: Which.
        calibrated: Those that need a calibration, in place of those that do not.
    """
    return tuple(
        metric.name
        for metric in _all().values()
        if task_kind in metric.tasks and metric.calibrated == calibrated
    )


def higher_is_better(name: str) -> bool:
    """Whether a larger score is a better one.

    Raises:
        ValueError: If there is no such metric.
    """
    return find_metric(name).better == "higher"


def describe() -> list[tuple[str, str]]:
    """Name and one line for each metric: what it is, for which tasks, which way is better."""
    return [
        (
            metric.name,
            f"{(inspect.getdoc(metric.function) or '').partition(chr(10))[0]} "
            f"[{', '.join(metric.tasks)}; {metric.better} is better]".strip(),
        )
        for metric in _all().values()
    ]


def score(
    name: str,
    logits: Float[np.ndarray, "sample output"],
    target: Num[np.ndarray, "..."],
    task_kind: TaskKind,
    weight: Float[np.ndarray, " weight"] | None = None,
    calibration: Calibration | None = None,
    *,
    train: Num[np.ndarray, "..."] | None = None,
) -> float:
    """Score predictions.

    Args:
        name: Name of a metric.
        logits: Outputs of `Method.forward`: logits of classes or labels, or regressed values.
            -inf is a class of probability 0. Of survival, log cumulative hazards (sample, time).
        target: Int (sample,) for single_label, (sample, 2) for survival, otherwise
            (sample, output).
        task_kind: Kind of the task.
        weight: Importance of each sample, >= 0, for example one over the probability that it was
            seen; None = all the same. Only ratios matter.
        calibration: For a metric that takes one; others do not look at it.
        train: Targets of the training split, for metrics of survival.

    Returns:
        The score; NaN if the metric is undefined here, if there is no sample (of weight > 0), if
        the calibration that it takes is None, or if a prediction is not a number: a model that
        diverged has no score, whatever its argmax.

    Raises:
        ValueError: If the metric does not exist, does not fit the task, takes no weights or needs
            `train`, or the arrays do not fit each other.
    """
    metric, logits, target = _checked(name, logits, target, task_kind)
    if weight is None and not metric.weighted:
        usable = len(logits) > 0 and _are_numbers(logits, task_kind)
        known = {"train": _train(name, train)} if metric.needs_train else {}
        return float(metric.function(logits, target, **known)) if usable else float("nan")
    if not metric.weighted:
        raise ValueError(
            f"metric {name!r} takes no weights; give its function a third argument "
            "`weight` (resample, sample), or choose another metric"
        )
    rows = np.ones((1, len(logits))) if weight is None else weight[None].astype(np.float64)
    if metric.calibrated:
        if calibration is None:
            return float("nan")
        _, *checked = _checked(name, calibration.logits, calibration.target, task_kind)
        if not _are_numbers(checked[0], task_kind):
            return float("nan")
        function = partial(metric.function, calibration=Calibration(*checked))
        metric = replace(metric, function=function)
    return float(_weighted_scores(metric, logits, target, task_kind, rows)[0])


def score_resampled(
    name: str,
    logits: Float[np.ndarray, "sample output"],
    target: Num[np.ndarray, "..."],
    task_kind: TaskKind,
    counts: Float[np.ndarray, "resample weight"],
    *,
    train: Num[np.ndarray, "..."] | None = None,
) -> Float[np.ndarray, " resample"]:
    """Score every resample of the same predictions at once.

    Args:
        name: Name of a metric.
        logits: As in `score`.
        target: As in `score`.
        task_kind: Kind of the task.
        counts: How often each sample occurs in each resample, >= 0. Fastest where the
            transpose is contiguous (samples along the slow axis of memory).
        train: As in `score`; not resampled.

    Returns:
        What `score` would give for the rows repeated `counts` times; NaN as there, and so for
        a metric that takes a calibration.

    Raises:
        ValueError: As `score`, and if a metric without `weight` is given fractional counts.
    """
    metric, logits, target = _checked(name, logits, target, task_kind)
    if metric.calibrated:
        return np.full(len(counts), np.nan)
    if metric.weighted or metric.resampled:
        return _weighted_scores(metric, logits, target, task_kind, counts.astype(float, copy=False))
    if (counts != np.floor(counts)).any():
        raise ValueError(f"metric {name!r} takes no weights, so counts must be whole numbers")
    rows = [np.repeat(np.arange(len(logits)), row.astype(int)) for row in counts]
    scores = [score(name, logits[place], target[place], task_kind, train=train) for place in rows]
    return np.array(scores, float)


def _train(name: str, train: Num[np.ndarray, "..."] | None) -> Target:
    if train is None:
        raise ValueError(f"metric {name!r} needs the targets of the training split; give train=")
    return train.astype(np.float64)


def _weighted_scores(
    metric: Metric,
    logits: Logits,
    target: Target,
    task_kind: TaskKind,
    weight: Float[Array, "resample weight"],
) -> Scores:
    if weight.shape[1] != len(logits):
        raise ValueError(f"{weight.shape[1]} weights for {len(logits)} samples; give one for each")
    total = weight.sum(axis=1)  # infinite or NaN where a weight is; two passes, not four
    if weight.size and not (weight.min() >= 0 and np.isfinite(total).all()):
        raise ValueError("weights must be finite and >= 0; drop the samples that have none")
    if not _are_numbers(logits, task_kind):
        return np.full(len(weight), np.nan)
    scores = np.full(len(weight), np.nan)
    function = metric.resampled or metric.function
    filled = total > 0
    if filled.all():
        scores[:] = function(logits, target, weight)
    elif filled.any():
        scores[filled] = function(logits, target, weight[filled])
    return scores


def _checked(
    name: str,
    logits: Float[np.ndarray, "sample output"],
    target: Num[np.ndarray, "..."],
    task_kind: TaskKind,
) -> tuple[Metric, Logits, Target]:
    """Find the metric and see that the arrays are what its function may rely on."""
    metric = find_metric(name)
    if task_kind not in metric.tasks:
        raise ValueError(
            f"metric {name!r} is defined for {', '.join(metric.tasks)}, not for {task_kind}; "
            f"choose from {', '.join(metrics_for(task_kind))}"
        )
    n, outputs = logits.shape
    expected = {"single_label": (n,), "survival": (n, 2)}.get(task_kind, (n, outputs))
    if target.shape != expected:
        raise ValueError(
            f"logits {logits.shape} of a {task_kind} task need a target of shape {expected}, "
            f"found {target.shape}"
        )
    if task_kind == "single_label":
        if not np.issubdtype(target.dtype, np.integer):
            raise ValueError(f"a single_label target holds class numbers, found {target.dtype}")
        if n and (target.min() < 0 or target.max() >= outputs):
            raise ValueError(
                f"logits for {outputs} classes need targets in 0..{outputs - 1}, "
                f"found {target.min()}..{target.max()}"
            )
        return metric, logits.astype(np.float64), target
    target = target.astype(np.float64)
    if task_kind == "multi_label" and not ((target == 0) | (target == 1)).all():
        raise ValueError("a multi_label target holds 0 and 1 only; found other values")
    if not np.isfinite(target).all():
        raise ValueError("a target is NaN or infinite; drop such samples")
    if task_kind == "survival" and (bad := reason_no_outcome(target)):
        raise ValueError(bad)
    return metric, logits.astype(np.float64), target


def _are_numbers(logits: Logits, task_kind: TaskKind) -> bool:
    """Whether the predictions mean something: probabilities, or finite values."""
    if task_kind == "single_label":  # softmax of a row needs a finite maximum
        return bool(np.isfinite(logits.max(axis=1)).all())  # NaN wins a maximum
    if task_kind == "multi_label":
        return not np.isnan(logits).any()
    return bool(np.isfinite(logits).all())
