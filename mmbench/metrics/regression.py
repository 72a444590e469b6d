"""Scores of regressed values; several outputs count the same.

Every function takes weights (resample, sample) and returns one score for each resample; see
`metric`.
"""

import numpy as np
from jaxtyping import Float

from mmbench.metrics.metric import Logits, Scores, Target, Weight, metric
from mmbench.metrics.weighted import Array, ratio, weighted_mean

# variance below this share of the mean square is rounding, not variance
ROUNDING = 1e-13
Moment = Float[Array, "resample output"]


@metric("mae", tasks=("regression",), better="lower")
def mae(logits: Logits, target: Target, weight: Weight) -> Scores:
    """Mean absolute error, in the unit of the target."""
    return weighted_mean(weight, np.abs(logits - target).mean(axis=1))


@metric("mse", tasks=("regression",), better="lower")
def mse(logits: Logits, target: Target, weight: Weight) -> Scores:
    """Mean squared error, in the squared unit of the target."""
    return weighted_mean(weight, ((logits - target) ** 2).mean(axis=1))


@metric("rmse", tasks=("regression",), better="lower")
def rmse(logits: Logits, target: Target, weight: Weight) -> Scores:
    """Root of the mean squared error, in the unit of the target."""
    return np.sqrt(mse(logits, target, weight))


@metric("pearson", tasks=("regression",), better="higher")
def pearson(logits: Logits, target: Target, weight: Weight) -> Scores:
    """Linear correlation, mean over outputs; NaN where predictions or targets are constant."""
    mean_x, var_x = _moments(logits, weight)
    mean_y, var_y = _moments(target, weight)
    x, y = logits - logits.mean(axis=0), target - target.mean(axis=0)
    covariance = weighted_mean(weight, x * y) - mean_x * mean_y
    correlation: Scores = np.clip(covariance / np.sqrt(var_x * var_y), -1, 1).mean(axis=1)
    return correlation


@metric("r2", tasks=("regression",), better="higher")
def r2(logits: Logits, target: Target, weight: Weight) -> Scores:
    """Share of the target's variance that is explained, mean over outputs; NaN if it has none."""
    error = weighted_mean(weight, (logits - target) ** 2)
    explained: Scores = (1 - error / _moments(target, weight)[1]).mean(axis=1)
    return explained


@metric("acc2", tasks=("regression",), better="higher")
def acc2(logits: Logits, target: Target, weight: Weight) -> Scores:
    """Share of samples with the right sign; neutral targets (0) are left out, NaN if all are.

    The negative / positive convention of CMU-MOSI; a prediction of 0 counts as negative. The
    older negative / non-negative convention keeps the neutral ones and is not comparable.
    Source: Tsai et al., "Multimodal Transformer for Unaligned Multimodal Language Sequences",
    ACL 2019.
    """
    nonzero = (target != 0).astype(float)
    right = ((logits > 0) == (target > 0)) * nonzero
    counted = (weight @ nonzero).sum(axis=1)
    return ratio((weight @ right).sum(axis=1), counted)


@metric("acc7", tasks=("regression",), better="higher")
def acc7(logits: Logits, target: Target, weight: Weight) -> Scores:
    """Share of samples in the right one of 7 classes, the values -3..3 rounded (CMU-MOSI).

    Predictions are clipped to [-3, 3], halves round to even. NaN if a target lies outside
    [-3, 3]: then the scale is another.
    """
    if (np.abs(target) > 3).any():
        return np.full(len(weight), np.nan)
    right = np.round(np.clip(logits, -3, 3)) == np.round(target)
    return weighted_mean(weight, right.astype(float).mean(axis=1))


def _moments(values: Float[Array, "sample output"], weight: Weight) -> tuple[Moment, Moment]:
    """Weighted mean (from the plain mean) and variance of each output; NaN for a variance of 0."""
    away = values - values.mean(axis=0)  # first, so that a large offset does not drown the variance
    mean = weighted_mean(weight, away)
    square = weighted_mean(weight, away**2)
    variance = square - mean**2
    return mean, np.where(variance <= ROUNDING * square, np.nan, variance)
