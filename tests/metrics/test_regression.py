"""Scores of regressed values: worked by hand and by other libraries."""

import numpy as np
import pytest
import torch
import torchmetrics.functional as tm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk

from mmbench.metrics.metric import score, score_resampled

SEEDS = st.integers(0, 2**31)
thorough = settings(derandomize=True, deadline=None, max_examples=20)


def regress(name, predicted, target, weight=None):
    predicted, target = np.asarray(predicted, float), np.asarray(target, float)
    if predicted.ndim == 1:
        predicted, target = predicted[:, None], target[:, None]
    return score(name, predicted, target, "regression", weight)


def values(seed, n=30, outputs=2, offset=0.0):
    rng = np.random.default_rng(seed)
    target = rng.normal(size=(n, outputs)) + offset
    return target + rng.normal(size=(n, outputs)), target, rng.random(n)


SKLEARN = {
    "mae": sk.mean_absolute_error,
    "mse": sk.mean_squared_error,
    "r2": sk.r2_score,
}


@pytest.mark.parametrize("name", SKLEARN)
@pytest.mark.parametrize("offset", [0.0, 1e5])
@thorough
@given(seed=SEEDS, n=st.integers(2, 30), outputs=st.integers(1, 3))
def test_errors_equal_those_of_scikit_learn(name, offset, seed, n, outputs):
    predicted, target, weight = values(seed, n, outputs, offset)
    for w in (None, weight):
        expected = SKLEARN[name](target, predicted, sample_weight=w)
        assert regress(name, predicted, target, w) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("offset", [0.0, 1e5])
@thorough
@given(seed=SEEDS, n=st.integers(3, 30))
def test_pearson_equals_that_of_scipy(offset, seed, n):
    predicted, target, _ = values(seed, n, 2, offset)
    expected = np.mean([stats.pearsonr(predicted[:, c], target[:, c])[0] for c in range(2)])
    assert regress("pearson", predicted, target) == pytest.approx(expected, abs=1e-6)


@thorough
@given(seed=SEEDS)
def test_scores_equal_those_of_torchmetrics(seed):
    predicted, target, _ = values(seed, 20, 1)
    x, y = torch.from_numpy(predicted[:, 0]), torch.from_numpy(target[:, 0])
    expected = {
        "mae": tm.mean_absolute_error(x, y),
        "mse": tm.mean_squared_error(x, y),
        "rmse": tm.mean_squared_error(x, y, squared=False),
        "r2": tm.r2_score(x, y),
        "pearson": tm.pearson_corrcoef(x, y),
    }
    for name, value in expected.items():
        assert regress(name, predicted, target) == pytest.approx(float(value), abs=1e-6), name


def test_weighted_pearson_equals_that_of_the_weighted_covariance():
    predicted, target, weight = values(5, 20, 1)
    covariance = np.cov(predicted[:, 0], target[:, 0], aweights=weight)
    expected = covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])
    assert regress("pearson", predicted, target, weight) == pytest.approx(expected)


@thorough
@given(constant=st.floats(-1e6, 1e6), seed=SEEDS, n=st.integers(2, 30))
def test_constant_values_have_no_correlation_and_constant_targets_no_r2(constant, seed, n):
    varied, _, weight = values(seed, n, 1)
    same = np.full((n, 1), constant)
    for w in (None, weight):
        assert np.isnan(regress("pearson", same, varied, w))
        assert np.isnan(regress("pearson", varied, same, w))
        assert np.isnan(regress("r2", varied, same, w))


def test_predicting_the_mean_explains_nothing():
    assert regress("r2", np.full(7, 3.0), np.arange(7.0)) == pytest.approx(0.0)


@thorough
@given(seed=SEEDS, often=st.floats(0.01, 50))
def test_a_resample_of_one_sample_has_no_correlation(seed, often):
    predicted, target, _ = values(seed, 9, 1, offset=7.3)
    weight = np.eye(9) * often
    for name in ("pearson", "r2"):
        assert np.isnan(score_resampled(name, predicted, target, "regression", weight)).all()


def test_one_sample_has_an_error_but_no_correlation():
    assert regress("mae", [1.0], [3.0]) == 2.0
    assert regress("rmse", [1.0], [3.0]) == 2.0
    assert np.isnan(regress("pearson", [1.0], [3.0]))


def test_acc2_leaves_out_neutral_targets():
    target = [-2.0, -0.1, 0.0, 0.2, 3.0]
    predicted = [-1.0, 0.3, 1.0, 0.0, 0.5]
    # right: first and last; a prediction of 0 counts as negative; the neutral one is left out
    assert regress("acc2", predicted, target) == 0.5
    assert np.isnan(regress("acc2", [1.0], [0.0]))


def test_acc7_clips_predictions_and_rounds_to_seven_classes():
    target = [-3.0, -1.4, 0.4, 1.6, 3.0, 2.0]
    predicted = [-9.0, -0.6, 0.6, 2.4, 2.4, 2.5]
    # classes -3 -1 0 2 3 2 against -3 -1 1 2 2 2 (2.5 rounds to even)
    assert regress("acc7", predicted, target) == pytest.approx(4 / 6)


def test_acc7_is_undefined_on_another_scale():
    assert np.isnan(regress("acc7", [1.0, 2.0], [1.0, 3.5]))
