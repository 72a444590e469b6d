"""Scores of a run's predictions, and the best that anybody could score."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from mmbench.bench.record import samples_digest
from mmbench.bench.result import ConditionResult
from mmbench.bench.run.build import build_data
from mmbench.bench.spec import RunSpec
from mmbench.data.batch import LeakError
from mmbench.data.missingness.measure import dependence, realised
from mmbench.data.missingness.within import realised_inside
from mmbench.data.propensity import natural_weights as propensity_weights
from mmbench.data.task import Task
from mmbench.datamodule import DataModule
from mmbench.metrics.degradation import effective_sample_size
from mmbench.metrics.metric import (
    Calibration,
    find_metric,
    metrics_for,
    score,
    score_resampled,
)

CEILING_RESAMPLES = 100  # enough for a standard error to about 7 %
SAME = {"batch_size": 1}  # trainer settings that have no bearing on a ceiling


def score_conditions(
    spec: RunSpec,
    root: Path,
    data: DataModule,
    logits: Mapping[str, NDArray[Any]],
    calibration: Mapping[str, Calibration],
) -> dict[str, ConditionResult]:
    """What the record says of each test condition: how much was missing, and the scores.

    Args:
        spec: Of the run.
        root: Folder of the user's data.
        data: What was predicted.
        logits: Condition -> outputs for the test split.
        calibration: Condition -> predictions of validation samples; scores that need them are
            left out where there are none.

    Raises:
        LeakError: If a prediction beats the best possible one by more than chance allows.
    """
    test, task = data.split("test").samples, data.task
    train = data.raw_target("train")
    weights = natural_weights(data)
    ceilings = _ceilings(spec, root)
    conditions = {}
    for name, output in logits.items():
        presence = data.condition_presence(name)
        missingness = data.conditions[name]
        best = ceilings.get(name)
        if best is not None:
            _require_no_leak(name, output, best.log_posterior, test.target)
        weighted = {} if weights is None else _weighted_scores(task, output, test.target, weights)
        plain = _scores(task, output, test.target, train)
        conditions[name] = ConditionResult(
            mechanism=missingness.mechanism,
            missing_rate_nominal=missingness.nominal_rate,
            realised=realised(presence, test.presence, task.names),
            dependence=dependence(presence, test),
            n=len(test),
            samples=samples_digest(test.sample_id, test.target, presence),
            effective_n=None if weights is None else effective_sample_size(weights),
            scores={
                **plain,
                **_calibrated(task, output, test.target, calibration.get(name)),
                **weighted,
            },
            bayes={} if best is None else {**best.scores},
            bayes_se={} if best is None else {**best.errors},
            inside=realised_inside(data.condition_gaps(name), test, presence),
        )
    return conditions


def _scores(
    task: Task,
    output: NDArray[Any],
    target: NDArray[Any],
    train: NDArray[Any] | None = None,
) -> dict[str, float]:
    names = metrics_for(task.kind)
    return {name: score(name, output, target, task.kind, train=train) for name in names}


def _calibrated(
    task: Task, output: NDArray[Any], target: NDArray[Any], calibration: Calibration | None
) -> dict[str, float]:
    if calibration is None:
        return {}
    return {
        name: score(name, output, target, task.kind, calibration=calibration)
        for name in metrics_for(task.kind, calibrated=True)
    }


def natural_weights(data: DataModule) -> Float[np.ndarray, " sample"] | None:
    """Inverse-probability weights of test samples whose natural gaps depend on the label.

    None where there are no natural gaps, the target is no class, or some pattern of the test
    split never occurs in training, so that no weight could speak for it.
    """
    test = data.split("test").samples
    if test.presence.all() or data.task.kind != "single_label":
        return None
    train = data.split("train").samples
    try:
        return propensity_weights(train, test, classes=data.task.num_outputs)
    except ValueError as error:
        logging.getLogger(__name__).warning("no weighted scores: %s", error)
        return None


def _weighted_scores(
    task: Task, output: NDArray[Any], target: NDArray[Any], weights: NDArray[Any]
) -> dict[str, float]:
    """Scores as if gaps had fallen regardless of the class, `<metric>_ipw`."""
    return {
        f"{name}_ipw": score(name, output, target, task.kind, weights)
        for name in metrics_for(task.kind)
        if find_metric(name).weighted
    }


@dataclass(frozen=True)
class _Ceiling:
    """The best possible prediction of a test split, its scores and their sampling errors."""

    log_posterior: NDArray[Any]
    scores: dict[str, float]
    errors: dict[str, float]


def _ceilings(spec: RunSpec, root: Path) -> dict[str, _Ceiling]:
    """Best possible under each test condition, the same for all methods and seeds."""
    same = replace(spec, method="", method_args={}, method_label="", seed=0, trainer_args=SAME)
    return _ceilings_of(json.dumps(same.to_json(), sort_keys=True), root)


@lru_cache(maxsize=16)
def _ceilings_of(spec_json: str, root: Path) -> dict[str, _Ceiling]:
    """Condition -> ceiling; conditions whose best prediction is unknown are left out."""
    data = build_data(RunSpec.from_json(json.loads(spec_json)), root)
    test, task = data.split("test").samples, data.task
    n = len(test)
    counts = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=CEILING_RESAMPLES)
    ceilings = {}
    for name, missingness in data.conditions.items():
        posterior = data.bayes_posterior(test, data.condition_presence(name), missingness)
        if posterior is None:
            continue
        best = np.log(posterior)
        errors = {
            metric: float(
                score_resampled(metric, best, test.target, task.kind, counts.astype(float)).std()
            )
            for metric in metrics_for(task.kind)
        }
        ceilings[name] = _Ceiling(best, _scores(task, best, test.target), errors)
    return ceilings


def _require_no_leak(
    condition: str, output: NDArray[Any], best: NDArray[Any], target: NDArray[Any]
) -> None:
    """Refuse an accuracy that beats the best possible one by more than chance allows.

    Raises:
        LeakError: If it does, by more than 3 standard errors of the paired difference.
    """
    gain = (output.argmax(1) == target).astype(float) - (best.argmax(1) == target)
    error = gain.std(ddof=1) / np.sqrt(len(gain))
    if gain.mean() > 3 * error > 0:
        raise LeakError(
            f"accuracy under {condition} is {gain.mean():.3f} above the best possible one, "
            f"{gain.mean() / error:.1f} standard errors: something absent reaches the method"
        )
