"""Times at which survival is scored, and the way from outputs to curves."""

import numpy as np
import pytest
from sksurv.linear_model import CoxPHSurvivalAnalysis
from sksurv.nonparametric import nelson_aalen_estimator
from sksurv.util import Surv

from mmbench.data.survival import (
    SurvivalScale,
    breslow,
    event_quantiles,
    reason_no_outcome,
    reason_not_comparable,
)
from mmbench.data.task import Modality, Task

X = (Modality("x", "vector", (2,)),)
COX = Task("survival", X, ("log risk",))
HAZARDS = Task("survival", X, ("first", "second", "third", "fourth"))


def outcomes(n=60, *, tied=True):
    rng = np.random.default_rng(0)
    time = rng.integers(1, 15, n) if tied else 1 + rng.permutation(n)
    return np.stack([time, rng.random(n) < 0.6], axis=1).astype(float)


@pytest.mark.parametrize("tied", [True, False])
def test_survival_of_a_cox_model_is_that_of_a_library(tied):
    target, x = outcomes(tied=tied), np.random.default_rng(1).normal(size=(60, 2))
    y = Surv.from_arrays(target[:, 1] > 0, target[:, 0])
    model = CoxPHSurvivalAnalysis(ties="breslow").fit(x, y)
    log_risk = x @ model.coef_
    scale = SurvivalScale.fit(COX, target).with_baseline(target, log_risk)
    expected = [f(scale.times) for f in model.predict_survival_function(x)]
    survival = np.exp(-np.exp(scale.undo(log_risk[:, None])))
    np.testing.assert_allclose(survival, expected, atol=1e-9)
    shifted = scale.with_baseline(target, log_risk + 900)  # a log risk has no zero of its own
    np.testing.assert_allclose(shifted.undo(log_risk[:, None] + 900), scale.undo(log_risk[:, None]))


def test_without_a_model_the_baseline_is_that_of_nelson_and_aalen():
    target = outcomes()
    times, hazard = nelson_aalen_estimator(target[:, 1] > 0, target[:, 0])
    counted = hazard > 0
    found = breslow(target, np.zeros(60), times[counted])
    np.testing.assert_allclose(np.exp(found), hazard[counted], rtol=1e-12)


def test_survival_of_hazards_is_the_product_of_what_remains():
    scale = SurvivalScale.fit(HAZARDS, outcomes())
    logits = np.random.default_rng(2).normal(size=(5, 4))
    survival = np.exp(-np.exp(scale.undo(logits)))
    np.testing.assert_allclose(survival, np.cumprod(1 / (1 + np.exp(logits)), axis=1))
    assert np.isfinite(scale.undo(np.array([[-1e4] * 4, [1e4] * 4]))).all()


def test_intervals_end_at_quantiles_of_the_events_and_hold_their_ends():
    time = np.arange(1.0, 13)
    target = np.stack([time, time % 3 > 0], axis=1)  # events at 1 2 4 5 7 8 10 11
    scale = SurvivalScale.fit(HAZARDS, target)
    assert scale.times.tolist() == [2, 5, 8, 11]
    assert scale.apply(np.array([[0.1, 1], [2, 1], [2.1, 0], [11, 1], [12, 0]])).tolist() == [
        [0, 1], [0, 1], [1, 0], [3, 1], [4, 0],
    ]  # fmt: skip


def test_a_log_risk_is_learned_from_times_as_they_are():
    target = outcomes()
    scale = SurvivalScale.fit(COX, target)
    np.testing.assert_array_equal(scale.apply(target), target)
    assert scale.apply(target).dtype == np.float32


def test_what_cannot_be_learned_or_compared_is_named():
    target = outcomes()
    with pytest.raises(ValueError, match="no event occurs in training"):
        SurvivalScale.fit(COX, target * [1, 0])
    with pytest.raises(ValueError, match=r"20 intervals need 20 different times.*found 13"):
        event_quantiles(target, 20)
    assert SurvivalScale.fit(Task("regression", X, ("age",)), target) is None
    assert reason_no_outcome(target) == reason_not_comparable(target) == ""
    assert reason_not_comparable(target * [1, 0]) == "has no event"
    assert "still at risk" in reason_not_comparable(np.array([[5.0, 1], [5, 1], [4, 0]]))
    assert not reason_not_comparable(np.array([[5.0, 1], [5, 0]]))
    with pytest.raises(ValueError, match="at least 3 intervals, found 2"):
        Task("survival", X, ("first", "second"))
