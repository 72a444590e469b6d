"""Scores of survival, computed by scikit-survival (the extra `survival`).

Predictions are log cumulative hazards (sample, time) at `event_quantiles` of the training targets;
a target is (time, event). See `mmbench.data.survival`.
"""

from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import special

from mmbench.data.survival import Outcome, event_quantiles, reason_not_comparable
from mmbench.metrics.metric import Logits, Scores, Weight, metric
from mmbench.metrics.weighted import ratio

TIED = 1e-8  # log risks that differ by no more are one
PAIRS = 2**24  # held at a time
LARGEST = 700.0  # a log beyond which exp overflows; nobody survives a far smaller one


def _resampled_c_index(logits: Logits, target: Outcome, weight: Weight) -> Scores:
    """The same of resamples, by products of matrices: the library takes 10 ms for each."""
    risk, time, event = _mortality(logits), target[:, 0], target[:, 1] > 0
    won, comparable = np.zeros(len(weight)), np.zeros(len(weight))
    events = np.flatnonzero(event)
    size = max(1, PAIRS // len(time))
    for start in range(0, len(events), size):
        i = events[start : start + size]
        pair = (time > time[i, None]) | ((time == time[i, None]) & ~event)  # (event, sample)
        tied = np.abs(risk - risk[i, None]) <= TIED
        share = np.where(tied, 0.5, risk < risk[i, None]) * pair
        won += ((weight[:, i] @ share) * weight).sum(axis=1)
        comparable += ((weight[:, i] @ pair.astype(float)) * weight).sum(axis=1)
    return ratio(won, comparable)


@metric("c_index", tasks=("survival",), better="higher", resampled=_resampled_c_index)
def c_index(logits: Logits, target: Outcome) -> float:
    """Share of comparable pairs in which who has the event first has the higher risk.

    Risk is the cumulative hazard, summed over times (Ishwaran's mortality): of a Cox model it
    orders as the log risk. Ties of risk count half; NaN if no two samples can be compared.

    Source: Harrell et al., "Multivariable Prognostic Models", Statistics in Medicine 15, 1996;
    Ishwaran et al., "Random Survival Forests", Annals of Applied Statistics 2, 2008, section 3.
    """
    scores = _library()
    time, event = target[:, 0], target[:, 1] > 0
    if reason_not_comparable(target):
        return float("nan")
    return float(scores.concordance_index_censored(event, time, _mortality(logits), TIED)[0])


@metric("integrated_brier", tasks=("survival",), better="lower")
def integrated_brier(logits: Logits, target: Outcome, train: Float[np.ndarray, "row 2"]) -> float:
    """Squared error of the survival probability, mean over the times of the predictions.

    Samples are weighted for censoring by its distribution in training. Times outside the follow-up
    of the samples, or from the end of that of training on, are left out; NaN if fewer than two
    remain. A constant .5 scores .25.

    Source: Graf et al., "Assessment and Comparison of Prognostic Classification Schemes for
    Survival Data", Statistics in Medicine 18, 1999.
    """
    scores = _library()
    times = event_quantiles(train, logits.shape[1])
    end = train[:, 0].max()
    # who outlives training is at risk at all times that count, whenever it was last seen
    time = np.minimum(target[:, 0], end)
    counted = (times >= time.min()) & (times < min(time.max(), end))
    if counted.sum() < 2 or not target[:, 1].any():
        return float("nan")
    survival = np.exp(-np.exp(logits[:, counted].clip(max=LARGEST)))
    known, tested = _structured(train[:, 0], train[:, 1]), _structured(time, target[:, 1])
    return float(scores.integrated_brier_score(known, tested, survival, times[counted]))


def _mortality(logits: Logits) -> Float[np.ndarray, " sample"]:
    """Log of the sum over times of the cumulative hazards."""
    return np.asarray(special.logsumexp(logits, axis=1))


def _structured(
    time: Float[np.ndarray, " sample"], event: Float[np.ndarray, " sample"]
) -> NDArray[Any]:
    """As scikit-survival wants them."""
    outcome = np.empty(len(time), dtype=[("event", bool), ("time", np.float64)])
    outcome["event"], outcome["time"] = event > 0, time
    return outcome


def _library() -> Any:
    """Metrics of scikit-survival, which takes a second to import.

    Raises:
        ValueError: If it is not installed.
    """
    try:
        import sksurv.metrics
    except ImportError as error:
        message = "scores of survival need scikit-survival: install the extra `survival`"
        raise ValueError(message) from error
    return sksurv.metrics
