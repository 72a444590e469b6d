"""Scores of predicted classes (one of C) and labels (any of C).

A one-dimensional target means classes, a two-dimensional one labels. A class is predicted by the
largest logit, a label by a logit above 0, that is a probability above 0.5. Every function takes
weights (resample, sample) and returns one score for each resample; see `metric`.
"""

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse, special

from mmbench.metrics.metric import Logits, Scores, Target, Weight, metric
from mmbench.metrics.weighted import Array, ratio, weighted_mean

ECE_BINS = 15
# probabilities below are scored as this one, as in scikit-learn: at most 36 nats a sample
SMALLEST_LOG = float(np.log(np.finfo(np.float64).eps))
PerClass = Float[Array, "resample output"]


@metric("accuracy", tasks=("single_label",), better="higher")
def accuracy(logits: Logits, target: Target, weight: Weight) -> Scores:
    """Share of samples whose class is predicted."""
    return weighted_mean(weight, (logits.argmax(axis=1) == target).astype(float))


@metric("balanced_accuracy", tasks=("single_label",), better="higher")
def balanced_accuracy(logits: Logits, target: Target, weight: Weight) -> Scores:
    """Mean recall of the classes that occur in the target."""
    hits, _, actual = _hits(logits, target, weight)
    return _mean_defined(ratio(hits, actual))


@metric("macro_f1", tasks=("single_label", "multi_label"), better="higher")
def macro_f1(logits: Logits, target: Target, weight: Weight) -> Scores:
    """Mean F1 of the classes.

    Of classes, those that occur neither in target nor in prediction are left out; a label of
    that kind counts 0. Both as in scikit-learn and torchmetrics.
    """
    f1 = _f1(*_hits(logits, target, weight))
    return _mean_defined(f1) if target.ndim == 1 else np.asarray(np.nan_to_num(f1).mean(axis=1))


@metric("micro_f1", tasks=("multi_label",), better="higher")
def micro_f1(logits: Logits, target: Target, weight: Weight) -> Scores:
    """F1 of all (sample, label) entries together; 0 if nothing is and nothing is predicted.

    For classes it would equal accuracy, and is not offered.
    """
    hits, predicted, actual = _hits(logits, target, weight)
    return np.nan_to_num(_f1(hits.sum(axis=1), predicted.sum(axis=1), actual.sum(axis=1)))


@metric("samples_f1", tasks=("multi_label",), better="higher")
def samples_f1(logits: Logits, target: Target, weight: Weight) -> Scores:
    """Mean over samples of the F1 of a sample's labels; 0 for a sample without any."""
    chosen, present = logits > 0, target > 0
    f1 = _f1(
        (chosen & present).sum(axis=1).astype(float),
        chosen.sum(axis=1).astype(float),
        present.sum(axis=1).astype(float),
    )
    return weighted_mean(weight, np.nan_to_num(f1))


@metric("auroc", tasks=("single_label", "multi_label"), better="higher")
def auroc(logits: Logits, target: Target, weight: Weight) -> Scores:
    """Area under the ROC curve, one class against the rest, mean over classes; ties count half.

    Samples are ranked by the odds of the class, so by its probability, never by its raw logit:
    a constant added to a sample's logits changes nothing. A class that every or no sample has is
    left out; NaN if none is left.
    """
    odds, present = _odds(logits, target), _one_hot(target, logits.shape[1])
    classes = range(1, 2) if target.ndim == 1 and logits.shape[1] == 2 else range(logits.shape[1])
    return _mean_defined(
        np.stack([_area_under_roc(odds[:, c], present[:, c], weight) for c in classes], axis=1)
    )


@metric("auprc", tasks=("single_label", "multi_label"), better="higher")
def auprc(logits: Logits, target: Target, weight: Weight) -> Scores:
    """Average precision (area under precision over recall, in steps), mean over classes.

    One class against the rest, both classes where there are two. A class that no sample has is
    left out; NaN if none is left.
    """
    odds, present = _odds(logits, target), _one_hot(target, logits.shape[1])
    return _mean_defined(
        np.stack(
            [_average_precision(odds[:, c], present[:, c], weight) for c in range(logits.shape[1])],
            axis=1,
        )
    )


@metric("cohen_kappa", tasks=("single_label",), better="higher")
def cohen_kappa(logits: Logits, target: Target, weight: Weight) -> Scores:
    """Agreement beyond chance (unweighted); NaN if one class is all there is and is predicted."""
    hits, predicted, actual = _hits(logits, target, weight)
    total = weight.sum(axis=1)
    agreement = hits.sum(axis=1) / total
    chance = (predicted * actual).sum(axis=1) / total**2
    # 1 - chance is a sum of few squares over a square, so rounding leaves at most a few ulp
    return ratio(agreement - chance, np.where(1 - chance > 1e-12, 1 - chance, 0.0))


@metric("log_loss", tasks=("single_label", "multi_label"), better="lower")
def log_loss(logits: Logits, target: Target, weight: Weight) -> Scores:
    """Mean cross-entropy in nats; for labels, mean over entries. At most 36 for an entry."""
    if target.ndim == 1:
        log_p = special.log_softmax(logits, axis=1)[np.arange(len(target)), target]
    else:
        log_p = special.log_expit(np.where(target > 0, logits, -logits))
    return weighted_mean(
        weight, -np.maximum(log_p, SMALLEST_LOG).reshape(len(target), -1).mean(axis=1)
    )


@metric("brier", tasks=("single_label", "multi_label"), better="lower")
def brier(logits: Logits, target: Target, weight: Weight) -> Scores:
    """Squared error of the probabilities: summed over classes (0..2), mean over labels (0..1).

    Source: Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather
    Review 78, 1950, Eq. 2; two classes are not halved.
    """
    error = (probabilities(logits, target) - _one_hot(target, logits.shape[1])) ** 2
    return weighted_mean(weight, error.sum(axis=1) if target.ndim == 1 else error.mean(axis=1))


@metric("ece", tasks=("single_label",), better="lower")
def ece(logits: Logits, target: Target, weight: Weight) -> Scores:
    """Expected calibration error of the predicted class, 15 bins of equal width.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, Eq. 3; bins are
    open to the left. Few samples raise it: compare methods on the same samples only.
    """
    confidence = probabilities(logits, target).max(axis=1)
    right = (logits.argmax(axis=1) == target).astype(float)
    of_sample = np.clip(np.ceil(confidence * ECE_BINS).astype(int) - 1, 0, ECE_BINS - 1)
    bins = np.eye(ECE_BINS)[of_sample] * (right - confidence)[:, None]
    gaps: Scores = np.abs(weighted_mean(weight, bins)).sum(axis=1)
    return gaps


@metric("f1_micro_logit05", tasks=("multi_label",), better="higher")
def f1_micro_logit05(logits: Logits, target: Target, weight: Weight) -> Scores:
    """Legacy: micro F1 with labels predicted by a logit above 0.5 (probability 0.62).

    What released code computes that hands raw logits to a metric with a threshold of 0.5; only
    for comparison with numbers published that way.
    """
    return micro_f1(logits - 0.5, target, weight)


def f1_by_class(
    logits: Float[np.ndarray, "sample output"], target: Target
) -> Float[Array, " output"]:
    """F1 of each class or label; NaN for one that occurs neither in target nor in prediction."""
    weight = np.ones((1, len(logits)))
    return np.asarray(_f1(*_hits(logits.astype(np.float64), target, weight))[0])


def _hits(logits: Logits, target: Target, weight: Weight) -> tuple[PerClass, PerClass, PerClass]:
    """Weight of the hits, the predictions and the occurrences of each class."""
    outputs = logits.shape[1]
    if target.ndim == 2:
        chosen, present = logits > 0, target > 0
        return (
            weight @ (chosen & present).astype(float),
            weight @ chosen.astype(float),
            weight @ present.astype(float),
        )
    chosen_class = logits.argmax(axis=1)
    right = chosen_class == target
    return (
        _sums(weight, target, outputs, where=right),
        _sums(weight, chosen_class, outputs),
        _sums(weight, target, outputs),
    )


def _sums(
    weight: Weight,
    group: Int[np.ndarray, " sample"],
    groups: int,
    *,
    where: Bool[np.ndarray, " sample"] | None = None,
) -> Float[Array, "resample group"]:
    """Sum the weights of the samples of each group; a sparse product, for groups are disjoint."""
    rows = np.arange(len(group)) if where is None else np.flatnonzero(where)
    members = sparse.csr_array(
        (np.ones(len(rows)), (group[rows], rows)), shape=(groups, len(group))
    )
    return np.asarray(members @ weight.T).T


def _f1(
    hits: Float[Array, "*shape"],
    predicted: Float[Array, "*shape"],
    actual: Float[Array, "*shape"],
) -> Float[Array, "*shape"]:
    """2 TP / (2 TP + FP + FN); NaN where the class is neither there nor predicted."""
    return ratio(2 * hits, predicted + actual)


def _mean_defined(per_class: PerClass) -> Scores:
    """Mean over the classes that are defined; NaN where none is."""
    defined = ~np.isnan(per_class)
    total = np.where(defined, per_class, 0.0).sum(axis=1)
    return ratio(total, defined.sum(axis=1).astype(float))


def _one_hot(target: Target, outputs: int) -> Bool[np.ndarray, "sample output"]:
    return target > 0 if target.ndim == 2 else target[:, None] == np.arange(outputs)


def probabilities(logits: Logits, target: Target) -> Float[Array, "sample output"]:
    """Softmax over classes, sigmoid of each label."""
    p = special.softmax(logits, axis=1) if target.ndim == 1 else special.expit(logits)
    return np.asarray(p)


def _odds(logits: Logits, target: Target) -> Float[Array, "sample output"]:
    """Log odds of each class: ordered as its probability, but not rounded to 1 when sure."""
    if target.ndim == 2:
        return logits
    if logits.shape[1] == 2:
        odds = logits[:, 1] - logits[:, 0]
        return np.stack([-odds, odds], axis=1)
    log_p = special.log_softmax(logits, axis=1)
    top = log_p.argmax(axis=1)[:, None]
    others = np.array(log_p)
    np.put_along_axis(others, top, -np.inf, axis=1)
    # any class but the likeliest has p <= 1/2, where 1 - p is exact enough
    rest = np.log1p(-np.exp(others))
    np.put_along_axis(rest, top, special.logsumexp(others, axis=1, keepdims=True), axis=1)
    return np.asarray(log_p - rest)


def _area_under_roc(
    order: Float[Array, " sample"], present: Bool[np.ndarray, " sample"], weight: Weight
) -> Scores:
    """Chance that a sample with the class outranks one without; ties count half."""
    score, some, others = _levels(order, present)
    tied = some & others
    # a run of scores without the class and the run with it above them are one step: what is lost
    # to the class lies below all that has it, but for ties
    begins = np.ones(len(some), bool)
    begins[1:] = tied[1:] | tied[:-1] | (others[1:] & ~others[:-1])
    step = np.cumsum(begins) - 1
    of_sample, steps = step[score], int(step[-1]) + 1
    half = np.ones(steps)
    half[step[tied]] = 0.5
    with_class = _sums(weight, of_sample, steps, where=present).T  # (step, resample)
    without = _sums(weight, of_sample, steps, where=~present).T
    total = without.sum(axis=0)
    below = np.cumsum(without, axis=0)
    below -= without * (1 - half)[:, None]
    won = np.einsum("sr,sr->r", with_class, below)
    return ratio(won, with_class.sum(axis=0) * total)


def _average_precision(
    order: Float[Array, " sample"], present: Bool[np.ndarray, " sample"], weight: Weight
) -> Scores:
    """Mean precision at the thresholds of the samples that have the class."""
    score, some, _ = _levels(-order, present)
    # scores that nobody with the class has are one step with the next that somebody has; what
    # lies after the last of those changes no precision, and is a step of its own
    step = np.concatenate([[0], np.cumsum(some)[:-1]])
    of_sample, steps = step[score], int(step[-1]) + 1
    with_class = _sums(weight, of_sample, steps, where=present).T  # (step, resample)
    chosen = np.cumsum(_sums(weight, of_sample, steps).T, axis=0)
    precision = np.cumsum(with_class, axis=0)
    total = precision[-1].copy()
    precision /= np.maximum(chosen, np.finfo(np.float64).tiny)  # 0 where nobody is chosen yet
    return ratio(np.einsum("sr,sr->r", with_class, precision), total)


def _levels(
    order: Float[Array, " sample"], present: Bool[np.ndarray, " sample"]
) -> tuple[Int[np.ndarray, " sample"], Bool[np.ndarray, " level"], Bool[np.ndarray, " level"]]:
    """Number the different scores from the lowest.

    A curve turns at few of them, and adding up only there is what makes thousands of resamples
    cheap.

    Returns:
        The number of each sample's score; which scores samples with the class have, and which
        those without it.
    """
    scores, level = np.unique(order, return_inverse=True)
    some = np.bincount(level, present, len(scores)) > 0
    others = np.bincount(level, ~present, len(scores)) > 0
    return level, some, others
