"""Times to an event, some of them censored: when predictions are scored, and in what form.

A target is (time, event): time > 0 in the user's units, event 1 = it happened then, 0 = the sample
was last seen without it. A method learns one output, the log risk of Cox, or K >= 3, the logits of
the hazards of K intervals. Either is scored as log cumulative hazards at times that training
gives, log H(t | x) with S(t | x) = exp(-H(t | x)); they order samples as the log risk does.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from mmbench.data.task import Task

Array = np.ndarray[Any, np.dtype[np.float64]]
Outcome = Float[np.ndarray, "sample 2"]  # time and event

COX_TIMES = 16  # at which the survival of a Cox model is scored


@dataclass(frozen=True, slots=True)
class SurvivalScale:
    """From targets to what a method learns, and from its outputs to log cumulative hazards.

    Args:
        times: At which predictions are scored, ascending; for K hazards the ends of the intervals.
        baseline: Log cumulative hazard at log risk 0, at each of them; None for hazards. Until
            `with_baseline` it is that of training without a model.
    """

    times: Float[np.ndarray, " time"]
    baseline: Float[np.ndarray, " time"] | None

    @classmethod
    def fit(cls, task: Task, target: NDArray[Any]) -> "SurvivalScale | None":
        """Choose the times by the training targets; None where the task is not survival.

        Raises:
            ValueError: If no event occurs in training, or at too few times for the intervals.
        """
        if task.kind != "survival":
            return None
        if not target[:, 1].any():
            raise ValueError("no event occurs in training, so that no survival can be learned")
        if task.num_outputs > 1:
            return cls(event_quantiles(target, task.num_outputs), None)
        times = event_quantiles(target, min(COX_TIMES, _event_times(target).size))
        return cls(times, breslow(target, np.zeros(len(target)), times))

    def apply(self, target: NDArray[Any]) -> Float[np.ndarray, "sample 2"]:
        """Time and event; with intervals, the number of the interval, from 0, and the event.

        An interval ends with its own end; K is beyond the last.
        """
        time = target[:, 0]
        if self.baseline is None:
            time = np.searchsorted(self.times, time)
        return np.stack([time, target[:, 1]], axis=1).astype(np.float32)

    def undo(self, output: NDArray[Any]) -> Float[np.ndarray, "sample time"]:
        """Log cumulative hazards, float64."""
        output = output.astype(np.float64)
        if self.baseline is not None:
            return np.asarray(output + self.baseline)
        # S is the product of 1 - h, so H the sum of -log(1 - h)
        passed = np.cumsum(np.logaddexp(0.0, output), axis=1)
        return np.asarray(np.log(np.maximum(passed, np.finfo(np.float64).tiny)))

    def with_baseline(
        self, target: Outcome, log_risk: Float[np.ndarray, " sample"]
    ) -> "SurvivalScale":
        """The same with the baseline that goes with a model's log risks of training samples."""
        return replace(self, baseline=breslow(target, log_risk, self.times))


def event_quantiles(target: Outcome, count: int) -> Float[np.ndarray, " time"]:
    """Quantiles 1/count, 2/count, ..., 1 of the different times at which an event occurred.

    Raises:
        ValueError: If there are fewer such times.
    """
    times = _event_times(target)
    if times.size < count:
        raise ValueError(
            f"{count} intervals need {count} different times of an event in training, found "
            f"{times.size}; ask for fewer intervals"
        )
    return times[np.arange(1, count + 1) * times.size // count - 1]


def _event_times(target: Outcome) -> Array:
    return np.unique(target[target[:, 1] > 0, 0]).astype(np.float64)


def breslow(
    target: Outcome, log_risk: Float[np.ndarray, " sample"], times: Float[np.ndarray, " time"]
) -> Float[np.ndarray, " time"]:
    """Logs of the cumulative baseline hazard: the sum over events of 1 / sum of exp(log risk).

    The inner sum goes over the samples that were still at risk. Without a model (all log risks 0)
    it is the estimator of Nelson and Aalen.

    Source: Breslow, in the discussion of Cox, "Regression Models and Life-Tables", JRSS B 34, 1972.

    Args:
        target: Of the training samples.
        log_risk: Of the same.
        times: None before the first event.
    """
    order = np.argsort(target[:, 0], kind="stable")
    time, event = target[order, 0].astype(np.float64), target[order, 1]
    largest = log_risk.max()  # taken out, so that no exponential overflows
    risk = np.exp(log_risk[order].astype(np.float64) - largest)
    at_risk = np.cumsum(risk[::-1])[::-1][np.searchsorted(time, time)]  # ties are at risk together
    hazard = np.cumsum(np.divide(event, at_risk, out=np.zeros(len(time)), where=event > 0))
    until = np.searchsorted(time, times, side="right") - 1
    return np.asarray(np.log(hazard[until]) - largest)


def reason_no_outcome(target: NDArray[Any]) -> str:
    """What keeps numbers from being times and events; empty if nothing does."""
    if (bad := ~(target[:, 0] > 0)).any():
        return f"a time is {target[bad, 0][0]:g}, but times are above 0"
    if (bad := ~np.isin(target[:, 1], (0, 1))).any():
        return f"an event is {target[bad, 1][0]:g}, but it is 1 (it occurred) or 0 (censored)"
    return ""


def reason_not_comparable(target: Outcome) -> str:
    """Why no two samples can be ordered by these targets; empty if some can.

    Two can if one had its event while the other was still at risk, and not its event at that time.
    """
    if not target[:, 1].any():
        return "has no event"
    first = target[target[:, 1] > 0, 0].min()
    if (target[:, 0] > first).any() or ((target[:, 0] == first) & (target[:, 1] == 0)).any():
        return ""
    return "has no sample that was still at risk when the first event occurred"
