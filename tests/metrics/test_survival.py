"""Scores of times to an event: worked by hand and by slow loops."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbench.data.survival import event_quantiles
from mmbench.metrics import survival
from mmbench.metrics.metric import higher_is_better, score, score_resampled

thorough = settings(derandomize=True, deadline=None, max_examples=20)


def outcomes(rng, n):
    """Times with ties, a third of them censored."""
    target = np.stack([rng.integers(1, 12, n), rng.random(n) < 0.67], axis=1).astype(float)
    target[:4] = [[3, 1], [6, 1], [9, 1], [12, 0]]
    return target


def concordance(risk, target):
    """Pair by pair, from the definition."""
    won = pairs = 0.0
    for time, event, r in zip(*target.T, risk, strict=True):
        for later, other, s in zip(*target.T, risk, strict=True):
            if event and (later > time or (later == time and not other)):
                pairs += 1
                won += 1.0 if r > s else 0.5 if r == s else 0.0
    return won / pairs


def uncensored(train, time):
    """Kaplan-Meier's estimate that a sample is not censored until a time."""
    left = 1.0
    for t in sorted({t for t, event in train if not event}):
        if t <= time:
            at_risk = sum(other > t or (other == t and not event) for other, event in train)
            left *= 1 - sum(other == t and not event for other, event in train) / at_risk
    return left


def brier(survival, target, train, time):
    total = 0.0
    for s, (t, event) in zip(survival, target, strict=True):
        if t > time:
            total += (1 - s) ** 2 / uncensored(train, time)
        elif event:
            total += s**2 / uncensored(train, t)
    return total / len(target)


@thorough
@given(seed=st.integers(0, 2**31), n=st.integers(4, 25))
def test_the_c_index_counts_comparable_pairs(seed, n):
    rng = np.random.default_rng(seed)
    target, risk = outcomes(rng, n), rng.integers(0, 5, n).astype(float)
    logits = risk[:, None] + np.array([-2.0, 0.0, 0.5])  # of a Cox model, at three times
    expected = concordance(risk, target)
    assert score("c_index", logits, target, "survival") == pytest.approx(expected, abs=1e-12)
    assert score("c_index", -logits, target, "survival") == pytest.approx(1 - expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_the_integrated_brier_score_weighs_by_the_censoring_of_training(seed):
    rng = np.random.default_rng(seed)
    train, target = outcomes(rng, 40), outcomes(rng, 30)
    times = event_quantiles(train, 4)
    hazard = np.cumsum(rng.random((30, 4)), axis=1)
    found = score("integrated_brier", np.log(hazard), target, "survival", train=train)
    inside = [k for k, t in enumerate(times) if target[:, 0].min() <= t < target[:, 0].max()]
    curve = [brier(np.exp(-hazard[:, k]), target, train, times[k]) for k in inside]
    counted = times[inside]
    expected = np.trapezoid(curve, counted) / (counted[-1] - counted[0])
    assert found == pytest.approx(expected, rel=1e-9)


def test_a_coin_scores_a_quarter_without_censoring_and_a_seer_nothing():
    target = np.stack([np.arange(1.0, 41), np.ones(40)], axis=1)
    times = event_quantiles(target, 8)
    coin = np.full((40, 8), np.log(np.log(2)))
    assert score("integrated_brier", coin, target, "survival", train=target) == pytest.approx(0.25)
    seer = np.where(target[:, :1] <= times, 5.0, -40.0)
    found = score("integrated_brier", seer, target, "survival", train=target)
    assert found == pytest.approx(0, abs=1e-9)
    assert not higher_is_better("integrated_brier")


def test_who_outlives_training_is_scored_until_its_end():
    train = np.stack([np.arange(1.0, 41), np.tile([1, 1, 0, 1], 10)], axis=1)
    target = train.copy()
    target[-5:] = [[39, 1], [50, 1], [60, 0], [70, 1], [80, 1]]
    logits = np.zeros((40, 8))
    found = score("integrated_brier", logits, target, "survival", train=train)
    longer = target.copy()
    longer[-4:, 0] += 1000
    assert found == score("integrated_brier", logits, longer, "survival", train=train)
    assert 0 < found < 1


@pytest.mark.parametrize(
    "target",
    [[[3.0, 0], [4, 0], [5, 0]], [[3.0, 1], [3, 1], [3, 1]], [[3.0, 1]]],
    ids=["no event", "one time", "one sample"],
)
def test_what_cannot_be_compared_has_no_score(target):
    train = outcomes(np.random.default_rng(0), 30)
    logits = np.random.default_rng(1).normal(size=(len(target), 4))
    for name in ("c_index", "integrated_brier"):
        assert np.isnan(score(name, logits, np.array(target), "survival", train=train))


def test_resampled_scores_are_those_of_repeated_rows(monkeypatch):
    rng = np.random.default_rng(2)
    train, target = outcomes(rng, 30), outcomes(rng, 20)
    logits = rng.normal(size=(20, 4))
    logits[::3] = 0.0  # ties of risk
    monkeypatch.setattr(survival, "PAIRS", 50)  # a few events at a time
    counts = rng.multinomial(20, np.full(20, 0.05), size=3).astype(float)
    for name in ("c_index", "integrated_brier"):
        found = score_resampled(name, logits, target, "survival", counts, train=train)
        rows = [np.repeat(np.arange(20), row.astype(int)) for row in counts]
        each = [score(name, logits[r], target[r], "survival", train=train) for r in rows]
        np.testing.assert_allclose(found, each, rtol=1e-12)


def test_targets_that_are_no_times_and_events_are_refused():
    good, logits = np.array([[1.0, 1], [2, 0]]), np.zeros((2, 3))
    with pytest.raises(ValueError, match="a time is -1, but times are above 0"):
        score("c_index", logits, good * [[-1, 1], [1, 1]], "survival")
    with pytest.raises(ValueError, match="an event is 2, but it is 1"):
        score("c_index", logits, good * [[1, 2], [1, 1]], "survival")
    with pytest.raises(ValueError, match="needs the targets of the training split"):
        score("integrated_brier", logits, good, "survival")


def test_a_missing_library_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "sksurv.metrics", None)
    with pytest.raises(ValueError, match="install the extra `survival`"):
        score("c_index", np.zeros((2, 1)), np.array([[1.0, 1], [2, 0]]), "survival")
