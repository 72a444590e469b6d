"""Scores of classes and labels: worked by hand, by slow loops, and by two other libraries."""

import warnings

import numpy as np
import pytest
import torch
import torchmetrics.functional as tm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, softmax
from sklearn import metrics as sk

from mmbench.metrics.classification import f1_by_class
from mmbench.metrics.metric import score

SEEDS = st.integers(0, 2**31)
thorough = settings(derandomize=True, deadline=None, max_examples=12)


def single(name, logits, target, weight=None):
    return score(name, np.asarray(logits, float), np.asarray(target), "single_label", weight)


def multi(name, logits, target, weight=None):
    logits, target = np.asarray(logits, float), np.asarray(target, float)
    return score(name, logits, target, "multi_label", weight)


def classes(seed, n=30, outputs=4, *, present=None, ties=False, weights=False):
    """Random predictions; `present` classes only in the target."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, outputs)) * 2
    if ties:
        logits = np.round(logits)
    target = rng.choice(present or outputs, n)
    return logits, target, rng.random(n) if weights else None


def labels(seed, n=30, outputs=4, *, ties=False):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, outputs)) * 2
    if ties:
        logits = np.round(logits)
    return logits, (rng.random((n, outputs)) < 0.4).astype(float)


def quietly(function, *args, **kwargs):
    """Call an oracle that warns about what is undefined."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **kwargs)


# --- classes ---


SKLEARN_SINGLE = {
    "accuracy": lambda y, z, w: sk.accuracy_score(y, z.argmax(1), sample_weight=w),
    "balanced_accuracy": lambda y, z, w: sk.balanced_accuracy_score(
        y, z.argmax(1), sample_weight=w
    ),
    "macro_f1": lambda y, z, w: sk.f1_score(y, z.argmax(1), average="macro", sample_weight=w),
    "cohen_kappa": lambda y, z, w: sk.cohen_kappa_score(y, z.argmax(1), sample_weight=w),
    "log_loss": lambda y, z, w: sk.log_loss(
        y, softmax(z, 1), sample_weight=w, labels=range(z.shape[1])
    ),
    "brier": lambda y, z, w: sk.brier_score_loss(
        y, softmax(z, 1), sample_weight=w, labels=range(z.shape[1]), scale_by_half=False
    ),
}


@pytest.mark.parametrize("name", SKLEARN_SINGLE)
@pytest.mark.parametrize("present", [None, [0, 2], [1]], ids=["all", "two of four", "one of four"])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("weights", [False, True])
@thorough
@given(seed=SEEDS, n=st.integers(1, 40))
def test_class_scores_equal_those_of_scikit_learn(name, present, ties, weights, seed, n):
    logits, target, weight = classes(seed, n, present=present, ties=ties, weights=weights)
    expected = quietly(SKLEARN_SINGLE[name], target, logits, weight)
    found = single(name, logits, target, weight)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("outputs", [2, 3, 5])
@pytest.mark.parametrize("ties", [False, True])
@thorough
@given(seed=SEEDS)
def test_auroc_and_auprc_of_classes_equal_those_of_scikit_learn(outputs, ties, seed):
    logits, target, weight = classes(seed, 40, outputs, weights=True)
    if ties:  # whole rows repeat, so that their probabilities tie to the last digit
        logits = logits[np.random.default_rng(seed).integers(0, 6, 40)]
    p, onehot = softmax(logits, 1), np.eye(outputs)[target]
    scored = [c for c in range(outputs) if 0 < onehot[:, c].sum() < len(target)]
    auc = [sk.roc_auc_score(onehot[:, c], p[:, c], sample_weight=weight) for c in scored]
    ap = [sk.average_precision_score(onehot[:, c], p[:, c], sample_weight=weight) for c in scored]
    assert single("auroc", logits, target, weight) == pytest.approx(np.mean(auc), abs=1e-9)
    assert single("auprc", logits, target, weight) == pytest.approx(np.mean(ap), abs=1e-9)


@thorough
@given(seed=SEEDS, outputs=st.integers(2, 5))
def test_class_scores_equal_those_of_torchmetrics_where_all_classes_occur(seed, outputs):
    logits, target, _ = classes(seed, 60, outputs)
    target[:outputs] = np.arange(outputs)
    z, y = torch.from_numpy(logits), torch.from_numpy(target)
    p = z.softmax(1)
    expected = {
        "accuracy": tm.classification.multiclass_accuracy(z, y, outputs, average="micro"),
        "balanced_accuracy": tm.classification.multiclass_accuracy(z, y, outputs),
        "macro_f1": tm.classification.multiclass_f1_score(z, y, outputs),
        "auroc": tm.classification.multiclass_auroc(p, y, outputs),
        "auprc": tm.classification.multiclass_average_precision(p, y, outputs),
        "cohen_kappa": tm.classification.multiclass_cohen_kappa(z, y, outputs),
        "ece": tm.classification.multiclass_calibration_error(p, y, outputs),
    }
    for name, value in expected.items():
        assert single(name, logits, target) == pytest.approx(float(value), abs=2e-6), name


@thorough
@given(seed=SEEDS)
def test_macro_f1_leaves_out_classes_that_nobody_has_and_nobody_predicts(seed):
    logits, target, _ = classes(seed, 25, 4, present=[0, 2])
    logits[:, 3] = -50
    expected = tm.classification.multiclass_f1_score(
        torch.from_numpy(logits), torch.from_numpy(target), 4
    )
    assert single("macro_f1", logits, target) == pytest.approx(float(expected), abs=1e-6)
    without = single("macro_f1", logits[:, :3], target)
    assert single("macro_f1", logits, target) == pytest.approx(without)


def test_a_constant_prediction_scores_as_worked_by_hand():
    # three quarters are class 0, and class 0 is always predicted
    logits, target = np.tile([1.0, 0.0], (4, 1)), np.array([0, 0, 0, 1])
    assert single("accuracy", logits, target) == 0.75
    assert single("balanced_accuracy", logits, target) == 0.5
    # F1 of class 0: 2 * 3 / (4 + 3) = 6/7; of class 1: 0
    assert single("macro_f1", logits, target) == pytest.approx(3 / 7)
    assert single("auroc", logits, target) == 0.5
    # average precision of one step: the share of the class, 3/4 and 1/4
    assert single("auprc", logits, target) == pytest.approx(0.5)
    assert single("cohen_kappa", logits, target) == 0.0
    p = 1 / (1 + np.exp(-1))
    assert single("log_loss", logits, target) == pytest.approx(
        -(0.75 * np.log(p) + 0.25 * np.log(1 - p))
    )
    assert single("brier", logits, target) == pytest.approx(0.75 * 2 * (1 - p) ** 2 + 0.5 * p**2)
    assert single("ece", logits, target) == pytest.approx(abs(0.75 - p))


def test_one_class_in_the_split_leaves_ranking_scores_and_kappa_undefined():
    logits, target = np.array([[2.0, 0], [3, 1]]), np.array([0, 0])
    assert np.isnan(single("auroc", logits, target))
    assert np.isnan(single("cohen_kappa", logits, target))
    assert single("auprc", logits, target) == 1.0  # of class 0, the only one that has samples
    assert single("balanced_accuracy", logits, target) == 1.0


@thorough
@given(seed=SEEDS, n=st.integers(1, 40))
def test_kappa_of_one_class_stays_undefined_for_any_weights(seed, n):
    weight = np.random.default_rng(seed).random(n)
    logits = np.tile([2.0, 0.0], (n, 1))
    assert np.isnan(single("cohen_kappa", logits, np.zeros(n, int), weight))


def test_one_sample_has_an_accuracy_but_no_auroc():
    assert single("accuracy", [[1, 0]], [0]) == 1.0
    assert single("macro_f1", [[1, 0]], [1]) == 0.0
    assert np.isnan(single("auroc", [[1, 0]], [0]))


def test_auroc_is_the_share_of_pairs_in_order_with_ties_counted_half():
    rng = np.random.default_rng(0)
    score_1 = np.round(rng.normal(size=50))
    target = rng.integers(0, 2, 50)
    won = [(a > b) + 0.5 * (a == b) for a in score_1[target == 1] for b in score_1[target == 0]]
    logits = np.stack([np.zeros(50), score_1], axis=1)
    assert single("auroc", logits, target) == pytest.approx(np.mean(won))


def test_auroc_of_two_classes_ranks_by_the_difference_of_logits_not_by_raw_logits():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(200, 2)) + 3 * rng.normal(size=(200, 1))  # a shared offset
    target = (logits[:, 1] - logits[:, 0] + rng.normal(size=200) > 0).astype(int)
    right = sk.roc_auc_score(target, logits[:, 1] - logits[:, 0])
    raw = np.mean([sk.roc_auc_score(target == c, logits[:, c]) for c in range(2)])
    assert single("auroc", logits, target) == pytest.approx(right)
    assert abs(right - raw) > 0.1


@pytest.mark.parametrize("outputs", [2, 3])
def test_auroc_still_ranks_predictions_whose_probability_rounds_to_one(outputs):
    logits = np.zeros((4, outputs))
    logits[:, 1] = [50, 60, 70, 80]
    assert single("auroc", logits, [0, 0, 1, 1]) == 1.0
    assert single("auroc", logits, [1, 1, 0, 0]) == 0.0


def test_calibration_bins_are_open_to_the_left():
    # confidence 0.6 = 9/15 belongs to the bin (8/15, 9/15], with 0.55; 0.61 to the next
    p = np.array([0.6, 0.55, 0.61])
    logits = np.log(np.stack([p, 1 - p], axis=1))
    # bin one: one right and one wrong of (0.6, 0.55); bin two: one right of 0.61
    expected = (2 * abs(0.5 - 0.575) + abs(1 - 0.61)) / 3
    assert single("ece", logits, [0, 1, 0]) == pytest.approx(expected)


def test_a_certain_error_costs_a_bounded_log_loss():
    assert single("log_loss", [[1000.0, 0.0]], [1]) == pytest.approx(-np.log(2.0**-52))


# --- labels ---


SKLEARN_MULTI = {
    "macro_f1": lambda y, z: sk.f1_score(y, z > 0, average="macro"),
    "micro_f1": lambda y, z: sk.f1_score(y, z > 0, average="micro"),
    "samples_f1": lambda y, z: sk.f1_score(y, z > 0, average="samples"),
    "f1_micro_logit05": lambda y, z: sk.f1_score(y, z > 0.5, average="micro"),
    "log_loss": lambda y, z: np.mean(
        [sk.log_loss(y[:, c], expit(z[:, c]), labels=[0, 1]) for c in range(z.shape[1])]
    ),
    "brier": lambda y, z: np.mean(
        [sk.brier_score_loss(y[:, c], expit(z[:, c]), labels=[0, 1]) for c in range(z.shape[1])]
    ),
}


@pytest.mark.parametrize("name", SKLEARN_MULTI)
@pytest.mark.parametrize("ties", [False, True])
@thorough
@given(seed=SEEDS, n=st.integers(1, 30), outputs=st.integers(2, 5))
def test_label_scores_equal_those_of_scikit_learn(name, ties, seed, n, outputs):
    logits, target = labels(seed, n, outputs, ties=ties)
    expected = quietly(SKLEARN_MULTI[name], target.astype(int), logits)
    assert multi(name, logits, target) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("ties", [False, True])
@thorough
@given(seed=SEEDS)
def test_auroc_and_auprc_of_labels_equal_those_of_both_libraries(ties, seed):
    logits, target = labels(seed, 40, 3, ties=ties)
    target[0], target[1] = 0, 1
    z, y = torch.from_numpy(logits), torch.from_numpy(target).int()
    auc = sk.roc_auc_score(target, logits)
    ap = sk.average_precision_score(target, logits)
    assert multi("auroc", logits, target) == pytest.approx(auc)
    assert multi("auprc", logits, target) == pytest.approx(ap)
    p = z.sigmoid()
    assert auc == pytest.approx(float(tm.classification.multilabel_auroc(p, y, 3)), abs=1e-6)
    other = float(tm.classification.multilabel_average_precision(p, y, 3))
    assert ap == pytest.approx(other, abs=1e-6)


@thorough
@given(seed=SEEDS, n=st.integers(2, 30))  # it squeezes the axis of one sample away
def test_label_f1_equals_that_of_torchmetrics_with_probabilities(seed, n):
    logits, target = labels(seed, n, 3)
    p, y = torch.from_numpy(logits).sigmoid(), torch.from_numpy(target).int()
    for name, average in (("macro_f1", "macro"), ("micro_f1", "micro")):
        other = tm.classification.multilabel_f1_score(p, y, 3, average=average)
        assert multi(name, logits, target) == pytest.approx(float(other), abs=1e-6)
    by_sample = tm.classification.multilabel_f1_score(
        p[..., None], y[..., None], 3, average="micro", multidim_average="samplewise"
    )
    found = multi("samples_f1", logits, target)
    assert found == pytest.approx(float(by_sample.mean()), abs=1e-6)


def test_labels_score_as_worked_by_hand():
    logits = np.array([[1.0, -1, 0.2], [-1, -1, -1], [2, 2, -2]])
    target = np.array([[1, 1, 0], [0, 0, 0], [1, 1, 1]])
    # predicted: 1 0 1 / 0 0 0 / 1 1 0; hits: 1 0 0 / 0 0 0 / 1 1 0
    assert multi("micro_f1", logits, target) == pytest.approx(2 * 3 / (4 + 5))
    # label by label: 2*2/(2+2), 2*1/(1+2), 0
    assert multi("macro_f1", logits, target) == pytest.approx((1 + 2 / 3 + 0) / 3)
    # sample by sample: 2*1/(2+2), nothing there and nothing predicted = 0, 2*2/(2+3)
    assert multi("samples_f1", logits, target) == pytest.approx((0.5 + 0 + 0.8) / 3)
    # at a logit of 0.5 the third label of the first sample is not predicted
    assert multi("f1_micro_logit05", logits, target) == pytest.approx(2 * 3 / (3 + 5))


def test_a_label_that_no_sample_has_counts_nothing_in_auroc_and_zero_in_macro_f1():
    logits, target = np.array([[1.0, -1], [-1, -1]]), np.array([[1, 0], [0, 0]])
    assert multi("auroc", logits, target) == 1.0
    assert multi("auprc", logits, target) == 1.0
    assert multi("macro_f1", logits, target) == 0.5


def test_no_label_anywhere_leaves_ranking_scores_undefined():
    logits, target = np.array([[1.0, -1], [-1, -1]]), np.zeros((2, 2))
    assert np.isnan(multi("auroc", logits, target))
    assert np.isnan(multi("auprc", logits, target))
    assert multi("samples_f1", logits, target) == 0.0


def test_infinite_logits_of_labels_are_certain_probabilities():
    logits, target = np.array([[np.inf, -np.inf], [-np.inf, np.inf]]), np.eye(2)
    assert multi("brier", logits, target) == 0.0
    assert multi("log_loss", logits, target) == 0.0
    assert multi("auroc", logits, target) == 1.0


# --- class by class ---


@thorough
@given(seed=SEEDS, n=st.integers(1, 30))
def test_f1_by_class_equals_scikit_learn_and_is_undefined_for_unseen_classes(seed, n):
    logits, target, _ = classes(seed, n, 4, present=[0, 2])
    logits[:, 3] = -50
    found = f1_by_class(logits, target)
    expected = quietly(
        sk.f1_score, target, logits.argmax(1), average=None, labels=range(4), zero_division=np.nan
    )
    np.testing.assert_allclose(found, expected)
    assert np.isnan(found[3])


def test_f1_by_label_equals_scikit_learn():
    logits, target = labels(3)
    expected = sk.f1_score(target, logits > 0, average=None)
    np.testing.assert_allclose(f1_by_class(logits, target), expected)
