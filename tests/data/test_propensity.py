import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from mmbench.data.propensity import CovariatePropensity, LabelPropensity, natural_weights
from mmbench.data.samples import Samples

# three patterns of two modalities: both, the first alone, the second alone
BOTH, FIRST, SECOND = [True, True], [True, False], [False, True]


def test_frequencies_worked_by_hand():
    presence = np.array([BOTH, BOTH, FIRST, BOTH, FIRST, FIRST])
    label = np.array([0, 0, 0, 1, 1, 1])
    fitted = LabelPropensity.fit(presence, label, classes=3, prior=2.0)
    assert fitted.patterns.tolist() == [FIRST, BOTH]
    assert fitted.shares.tolist() == [0.5, 0.5]
    # (n_rc + 2 * 1/2) / (3 + 2)
    np.testing.assert_allclose(fitted.table[:2], [[2 / 5, 3 / 5], [3 / 5, 2 / 5]])
    np.testing.assert_allclose(fitted.table[2], [0.5, 0.5])  # never seen: the overall share
    weights = fitted.weights(np.array([BOTH, FIRST, BOTH]), np.array([0, 0, 2]))
    np.testing.assert_allclose(weights, [0.5 / 0.6, 0.5 / 0.4, 1.0])


def test_a_condition_weighs_those_who_have_what_it_needs_and_drops_the_rest():
    presence = np.array([BOTH, BOTH, FIRST, SECOND, SECOND, SECOND])
    label = np.array([0, 0, 0, 0, 1, 1])
    fitted = LabelPropensity.fit(presence, label, classes=2, prior=1.0)
    # has the first modality: 3 of 6; of class 0 (3 + 1/2) / 5, of class 1 (0 + 1/2) / 3
    weights = fitted.weights(presence, label, needs=[True, False])
    np.testing.assert_allclose(weights, [0.5 / 0.7] * 3 + [0.0] * 3)
    weights = fitted.weights(np.array([BOTH]), np.array([1]), needs=[True, False])
    np.testing.assert_allclose(weights, [3.0])


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(2, 4), st.floats(0.1, 5))
def test_probabilities_sum_to_one(seed, modalities, prior):
    rng = np.random.default_rng(seed)
    presence = rng.random((50, modalities)) < 0.6
    presence[~presence.any(axis=1), 0] = True
    label = rng.integers(0, 3, 50)
    fitted = LabelPropensity.fit(presence, label, classes=3, prior=prior)
    np.testing.assert_allclose(fitted.probabilities(label).sum(axis=1), 1.0)
    assert (fitted.weights(presence, label) > 0).all()


def test_missingness_that_ignores_the_label_needs_no_weights():
    rng = np.random.default_rng(0)
    label = np.repeat([0, 1], 3000)
    presence = np.array([BOTH, FIRST])[rng.integers(0, 2, 6000)]
    fitted = LabelPropensity.fit(presence, label, classes=2)
    np.testing.assert_allclose(fitted.weights(presence, label), 1.0, atol=0.1)


def test_weighting_recovers_the_score_that_the_gaps_distort():
    rng = np.random.default_rng(1)
    n = 40000
    label = (rng.random(n) < 0.3).astype(int)
    both = rng.random(n) < np.where(label == 1, 0.2, 0.9)  # class 1 seldom has both
    presence = np.where(both[:, None], BOTH, FIRST)
    right = rng.random(n) < np.where(label == 1, 0.5, 0.95)  # and is the harder one
    truth = 0.7 * 0.95 + 0.3 * 0.5
    half = n // 2
    fitted = LabelPropensity.fit(presence[:half], label[:half], classes=2)
    seen = both[half:]
    weights = fitted.weights(presence[half:], label[half:])[seen]
    plain, weighted = right[half:][seen].mean(), np.average(right[half:][seen], weights=weights)
    assert plain > truth + 0.05
    assert weighted == pytest.approx(truth, abs=0.012)
    assert weights.mean() == pytest.approx(1.0, abs=0.03)


def test_the_covariate_model_is_the_penalised_multinomial_regression():
    rng = np.random.default_rng(2)
    x = rng.standard_normal((400, 4)) * [1, 5, 0.1, 1] + [0, 3, 0, 0]
    which = (x @ [1.0, 0.3, 0.0, 0.0] + rng.logistic(size=400) > 0.5).astype(int)
    which[x[:, 3] > 1.2] = 2
    presence = np.array([SECOND, FIRST, BOTH])[which]
    fitted = CovariatePropensity.fit(presence, x, ridge=1.0)
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    reference = LogisticRegression(C=1.0, max_iter=5000, tol=1e-10).fit(z, which)
    assert fitted.patterns.tolist() == [SECOND, FIRST, BOTH]
    np.testing.assert_allclose(fitted.probabilities(x), reference.predict_proba(z), atol=2e-4)
    np.testing.assert_allclose(fitted.probabilities(x).mean(axis=0), fitted.shares, atol=1e-5)


def test_weighting_by_covariates_recovers_the_score_that_the_gaps_distort():
    rng = np.random.default_rng(3)
    x = rng.standard_normal((20000, 2))
    both = rng.random(20000) < 1 / (1 + np.exp(-1.5 * x[:, 0]))
    right = rng.random(20000) < 1 / (1 + np.exp(-x[:, 0]))  # easy where it is complete
    presence = np.where(both[:, None], BOTH, FIRST)
    fitted = CovariatePropensity.fit(presence[:10000], x[:10000])
    weights = fitted.weights(presence[10000:], x[10000:])
    seen, hit = both[10000:], right[10000:]
    assert hit[seen].mean() > 0.6
    assert np.average(hit[seen], weights=weights[seen]) == pytest.approx(0.5, abs=0.03)


def test_a_constant_covariate_does_no_harm():
    presence = np.array([BOTH, FIRST, BOTH, FIRST])
    fitted = CovariatePropensity.fit(presence, np.ones((4, 1)))
    np.testing.assert_allclose(fitted.probabilities(np.ones((2, 1))), 0.5, atol=1e-6)


def samples(presence, target):
    presence = np.array(presence)
    names = ("a", "b")
    return Samples(
        modalities=names,
        inputs={name: np.zeros((len(presence), 1), np.float32) for name in names},
        target=np.array(target),
        sample_id=np.arange(len(presence), dtype=np.int64),
        presence=presence,
    )


def test_a_pattern_that_training_never_shows_is_refused_by_name():
    train, test = samples([BOTH, BOTH], [0, 1]), samples([FIRST], [0])
    with pytest.raises(ValueError, match="pattern 10 occurs here but never in training"):
        natural_weights(train, test, classes=2)
    with pytest.raises(ValueError, match="no training sample has all of the modalities 11"):
        natural_weights(test, test, classes=2, needs=BOTH)


def test_weights_by_label_of_a_regression_are_refused():
    train = samples([BOTH, FIRST], [[0.5], [1.0]])
    with pytest.raises(ValueError, match="weights by label need a single-label task"):
        natural_weights(train, train, classes=1)
