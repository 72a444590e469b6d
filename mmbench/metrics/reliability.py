"""How far a prediction may be relied on: what stays right if one may abstain or name several.

They are metrics like any other, so that every test condition, a pattern of modalities included, has
its own: a method may be calibrated on complete samples and overconfident where half is missing.

Sets come in two forms. `conformal_size_90` asks how small they could be if coverage were exactly
90 %: it compares methods, and promises nothing. `split_conformal_*` are the sets that one could
hand out: their threshold is set before a test sample is seen, on validation samples of which the
same is hidden, so that each pattern of modalities has a threshold of its own.
"""

import numpy as np

from mmbench.metrics.classification import probabilities
from mmbench.metrics.metric import Calibration, Logits, Scores, Target, Weight, metric

LEVEL = 0.9  # share of samples whose class a set is to hold


@metric("conformal_size_90", tasks=("single_label",), better="lower")
def conformal_size_90(logits: Logits, target: Target, weight: Weight) -> Scores:
    """Mean number of classes in the smallest sets that hold the true one for 90 % of the samples.

    A class is in a sample's set if its probability is at least a threshold, the same for all
    samples: the highest that keeps the true class of 90 %, so that coverage is what it says in
    every condition, and the size tells what that costs. At least .9, at most the number of classes.

    Source: the scores of split conformal prediction (Vovk et al., "Algorithmic Learning in a Random
    World", 2005), with a condition's own samples in the place of a calibration split, of which a
    threshold is the only number that is taken.
    """
    p = probabilities(logits, target)
    p_true = p[np.arange(len(target)), target]
    order = np.argsort(-p_true, kind="stable")
    covered = np.cumsum(weight[:, order], axis=1) / weight.sum(axis=1, keepdims=True)
    # rounding must not ask for one sample more than 90 %
    last = (covered < LEVEL - 1e-12).sum(axis=1).clip(max=len(target) - 1)
    thresholds = p_true[order][last]
    return np.array(
        [
            np.average((p >= threshold).sum(axis=1), weights=row)
            for threshold, row in zip(thresholds, weight, strict=True)
        ]
    )


@metric("split_conformal_coverage_90", tasks=("single_label",), better="higher")
def split_conformal_coverage_90(
    logits: Logits, target: Target, weight: Weight, calibration: Calibration
) -> Scores:
    """Share of samples whose true class is in a set that is to hold it for 90 %.

    At least .9 on average over draws of validation and test samples that are exchangeable, and for
    n validation samples spread about that by sqrt(.09 / n) even if nothing is wrong. Less than that
    says that test samples are others than validation samples, or that the choice of an epoch by
    validation made it look easier than it is. To name every class covers all, so it is read beside
    the size.

    Source: split conformal prediction; Papadopoulos et al., "Inductive Confidence Machines for
    Regression", ECML 2002; a threshold for each group: Vovk, "Conditional Validity of Inductive
    Conformal Predictors", ACML 2012.
    """
    p = probabilities(logits, target)
    held = p[np.arange(len(target)), target] >= _threshold(calibration)
    return np.asarray(weight @ held / weight.sum(axis=1))


@metric("split_conformal_size_90", tasks=("single_label",), better="lower")
def split_conformal_size_90(
    logits: Logits, target: Target, weight: Weight, calibration: Calibration
) -> Scores:
    """Mean number of classes in sets that are to hold the true one for 90 %.

    All classes where fewer than 9 validation samples have a say; none for a sample of which no
    class is likely enough.

    Source: as `split_conformal_coverage_90`.
    """
    size = (probabilities(logits, target) >= _threshold(calibration)).sum(axis=1)
    return np.asarray(weight @ size / weight.sum(axis=1))


def _threshold(calibration: Calibration) -> float:
    """Probability from which a class is in a set: of n true ones the ceil(.9 (n + 1))-th highest.

    A new sample is equally likely to fall into each of the n + 1 gaps between them, so that many of
    them, not .9 n, keep the promise; 0 where there are not so many.
    """
    n = len(calibration.target)
    p = probabilities(calibration.logits, calibration.target)
    highest = np.sort(p[np.arange(n), calibration.target])[::-1]
    place = int(np.ceil(LEVEL * (n + 1) - 1e-9))  # rounding must not ask for one more
    return float(highest[place - 1]) if place <= n else 0.0


@metric("aurc", tasks=("single_label",), better="lower")
def aurc(logits: Logits, target: Target, weight: Weight) -> Scores:
    """Area under the risk-coverage curve: error rate of the surest share, mean over all shares.

    Sureness is the largest probability; equally sure samples count as if in random order. Between
    two samples the curve is that of a part of the next one, so that copies of all samples change
    nothing.

    Source: Geifman and El-Yaniv, "Selective Classification for Deep Neural Networks", NeurIPS
    2017; Geifman et al., ICLR 2019.
    """
    sureness = probabilities(logits, target).max(axis=1)
    wrong = (logits.argmax(axis=1) != target).astype(float)
    groups, group = np.unique(-sureness, return_inverse=True)
    member = np.eye(len(groups))[group]  # (sample, group), the surest first
    share = weight @ member / weight.sum(axis=1, keepdims=True)
    errors = (weight * wrong) @ member / weight.sum(axis=1, keepdims=True)
    end = np.cumsum(share, axis=1)
    start, before = end - share, np.cumsum(errors, axis=1) - errors
    rate = np.divide(errors, share, out=np.zeros_like(share), where=share > 0)
    # the integral over c, from start to end, of (before + (c - start) rate) / c
    grown = np.divide(end, start, out=np.ones_like(end), where=start > 1e-12)
    area: Scores = (errors + (before - start * rate) * np.log(grown)).sum(axis=1)
    return area
