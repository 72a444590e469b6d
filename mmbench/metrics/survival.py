"""Scores of survival, computed by scikit-survival (the extra `survival`).

Predictions are log cumulative hazards (sample, time) at `event_quantiles` of the training targets;
a target is (time, event). See `mmbench.data.survival`.
"""

from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import special

from mmbench.data.survival import Outcome, event_quantiles
from mmbench.metrics.metric import Logits, metric

LARGEST = 700.0  # a log beyond which exp overflows; nobody survives a far smaller one


@metric("c_index", tasks=("survival",), better="higher")
def c_index(logits: Logits, target: Outcome) -> float:
    """Share of comparable pairs in which who has the event first has the higher risk.

    Risk is the cumulative hazard, summed over times (Ishwaran's mortality): of a Cox model it
    orders as the log risk. Ties of risk count half; NaN if no two samples can be compared.

    Source: Harrell et al., "Multivariable Prognostic Models", Statistics in Medicine 15, 1996;
    Ishwaran et al., "Random Survival Forests", Annals of Applied Statistics 2, 2008, section 3.
    """
    scores = _library()
    if not target[:, 1].any():
        return float("nan")
    mortality = special.logsumexp(logits, axis=1)
    time, event = target[:, 0], target[:, 1] > 0
    try:
        return float(scores.concordance_index_censored(event, time, mortality)[0])
    except scores.NoComparablePairException:
        return float("nan")


@metric("integrated_brier", tasks=("survival",), better="lower")
def integrated_brier(logits: Logits, target: Outcome, train: Outcome) -> float:
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
    known, tested = _pairs(train[:, 0], train[:, 1]), _pairs(time, target[:, 1])
    return float(scores.integrated_brier_score(known, tested, survival, times[counted]))


def _pairs(
    time: Float[np.ndarray, " sample"], event: Float[np.ndarray, " sample"]
) -> NDArray[np.void]:
    """As scikit-survival wants them."""
    found = np.empty(len(time), dtype=[("event", bool), ("time", np.float64)])
    found["event"], found["time"] = event > 0, time
    return found


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
