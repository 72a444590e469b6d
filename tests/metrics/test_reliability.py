"""Reliability by hand, by a slow loop and by what it promises."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from mmbench.metrics import reliability
from mmbench.metrics.metric import Calibration, score, score_resampled


def single(name, logits, target):
    return score(name, np.asarray(logits, np.float32), np.asarray(target), "single_label")


def rows(n, seed=0, signal=2.0, classes=4):
    rng = np.random.default_rng(seed)
    target = rng.integers(0, classes, n)
    return rng.normal(size=(n, classes)) + signal * np.eye(classes)[target], target


def test_sets_are_the_smallest_that_hold_the_true_class_nine_times_of_ten():
    logits, target = rows(400)
    p = special.softmax(logits.astype(np.float32).astype(float), axis=1)
    own = p[np.arange(400), target]
    best = max(t for t in own if (own >= t).mean() >= 0.9)  # a slow search for the threshold
    expected = (p >= best).sum(1).mean()
    assert single("conformal_size_90", logits, target) == pytest.approx(expected)
    assert 1 < expected < 4
    better, _ = rows(400, signal=4.0)
    assert single("conformal_size_90", better, target) < expected


def test_a_method_that_knows_nothing_names_every_class():
    logits, target = np.zeros((50, 4)), rows(50)[1]
    assert single("conformal_size_90", logits, target) == 4


def test_risk_by_hand():
    # surest right, next wrong, last right: 0 up to a third, then (c - 1/3) / c, then (1/3) / c
    logits = np.log([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]])
    expected = (1 / 3 - np.log(2) / 3) + np.log(3 / 2) / 3
    assert single("aurc", logits, [0, 1, 0]) == pytest.approx(expected)
    share = (np.arange(100_000) + 0.5) / 100_000  # the same area in small steps
    risk = np.where(share < 1 / 3, 0, np.where(share < 2 / 3, share - 1 / 3, 1 / 3) / share)
    assert risk.mean() == pytest.approx(expected, abs=1e-6)


@given(seed=st.integers(0, 50))
def test_equally_sure_samples_count_as_in_random_order(seed):
    rng = np.random.default_rng(seed)
    logits = np.zeros((12, 3))
    target = rng.integers(0, 3, 12)
    assert single("aurc", logits, target) == pytest.approx((target != 0).mean())
    order = rng.permutation(12)
    mixed = np.round(rng.random((12, 3)), 1)
    found = single("aurc", mixed, target)
    assert single("aurc", mixed[order], target[order]) == pytest.approx(found)


# --- sets whose threshold comes from other samples ----------------------------------------------

COVERAGE, SIZE = "split_conformal_coverage_90", "split_conformal_size_90"


def calibrated(name, logits, target, calibration, weight=None):
    known = Calibration(np.asarray(calibration[0], np.float32), calibration[1])
    return score(name, logits, target, "single_label", weight, known)


def mean_coverage(n, draws=1500, test=20):
    """Over draws of n validation and some test samples of one law."""
    found = []
    for seed in range(draws):
        logits, target = rows(n + test, seed)
        found.append(calibrated(COVERAGE, logits[n:], target[n:], (logits[:n], target[:n])))
    return np.mean(found), draws, test


def too_low(n):
    """Whether coverage of exchangeable samples is lower than chance allows, 4 standard errors."""
    covered, draws, test = mean_coverage(n)
    expected = np.ceil(0.9 * (n + 1)) / (n + 1)
    # in one draw, samples share a threshold: beta-binomial
    variance = expected * (1 - expected) * (1 / test + (1 - 1 / test) / (n + 2))
    return covered < expected - 4 * np.sqrt(variance / draws), covered - expected


@pytest.mark.parametrize("n", [9, 20, 33])
def test_exchangeable_samples_are_covered_as_often_as_promised(n):
    lower, off = too_low(n)
    assert not lower
    assert abs(off) < 0.015  # nor much more often: no set is larger than it has to be


def test_a_threshold_without_the_correction_for_few_samples_covers_too_few(monkeypatch):
    def uncorrected(calibration):
        p = special.softmax(calibration.logits, axis=1)
        own = np.sort(p[np.arange(len(p)), calibration.target])[::-1]
        return own[int(np.ceil(0.9 * len(own))) - 1]

    monkeypatch.setattr(reliability, "_threshold", uncorrected)
    assert too_low(20)[0]


def test_sets_by_a_slow_search_for_the_threshold():
    logits, target = rows(60, seed=3)
    known, truth = rows(29, seed=4)
    p = special.softmax(known.astype(np.float32).astype(float), axis=1)
    own = p[np.arange(29), truth]
    # of 30 gaps between 29 values 27 keep the promise
    threshold = max(t for t in own if (own >= t).sum() >= 27)
    held = special.softmax(logits, axis=1) >= threshold
    assert calibrated(COVERAGE, logits, target, (known, truth)) == held[range(60), target].mean()
    assert calibrated(SIZE, logits, target, (known, truth)) == pytest.approx(held.sum(1).mean())
    weight = np.arange(60.0)
    expected = np.average(held.sum(1), weights=weight)
    assert calibrated(SIZE, logits, target, (known, truth), weight) == pytest.approx(expected)


def test_where_too_few_samples_have_a_say_every_class_is_named():
    logits, target = rows(10)
    assert calibrated(SIZE, logits, target, rows(8)) == 4
    assert calibrated(COVERAGE, logits, target, rows(8)) == 1
    assert calibrated(SIZE, logits, target, (np.zeros((0, 4)), np.zeros(0, int))) == 4


def test_what_calibrates_by_other_samples_is_undefined_without_them_and_has_no_resamples():
    logits, target = rows(30)
    assert np.isnan(score(SIZE, logits, target, "single_label"))
    assert np.isnan(score_resampled(SIZE, logits, target, "single_label", np.ones((3, 30)))).all()
    broken = rows(30)[0]
    broken[0] = np.nan
    assert np.isnan(calibrated(SIZE, logits, target, (broken, target)))
