"""The curve that `aurc` is the area under: the error rate of the samples a method is surest of."""

import numpy as np
from jaxtyping import Float, Int

from mmbench.metrics.classification import probabilities
from mmbench.metrics.weighted import Array

LEAST = 20  # samples behind the first point of a curve: of fewer, the rate is mostly chance


def coverages(samples: int, points: int) -> Float[Array, " point"]:
    """Shares of the samples at which a curve is drawn: evenly spaced up to 1, none of too few.

    Args:
        samples: How many there are.
        points: How many shares at most, >= 1.
    """
    shares = np.arange(1, points + 1) / points
    return np.asarray(shares[shares * samples >= min(LEAST, samples)])


def risk_coverage(
    logits: Float[np.ndarray, "sample class"],
    target: Int[np.ndarray, " sample"],
    coverage: Float[Array, " point"],
) -> Float[Array, " point"]:
    """Error rate among the surest share of the samples, for each share.

    Sureness is the largest probability; equally sure samples count as if in random order.

    Source: Geifman and El-Yaniv, "Selective Classification for Deep Neural Networks", NeurIPS
    2017.

    Args:
        logits: One row a sample, without NaN.
        target: Class of each sample.
        coverage: Shares in (0, 1].

    Returns:
        In [0, 1]; at 1 it is one less the accuracy.
    """
    sureness = probabilities(logits.astype(np.float64), target).max(axis=1)
    wrong = logits.argmax(axis=1) != target
    _, group = np.unique(-sureness, return_inverse=True)  # the surest first
    share, errors = (np.cumsum(np.bincount(group, w)) / len(target) for w in (None, wrong))
    # within a group of equals errors come evenly
    risk = np.interp(coverage, np.append(0, share), np.append(0, errors))
    return np.asarray(risk / coverage)
