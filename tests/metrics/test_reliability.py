"""Reliability by hand, by a slow loop and by what it promises."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from mmbench.metrics.metric import score


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
