"""What missing modalities cost: worked by hand, by slow loops, and by what each number promises."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbench.metrics.degradation import (
    acquired,
    area_under_rate_curve,
    cost_of_absence,
    effective_sample_size,
    inequity,
    inverse_probability_score,
    loss_from,
    mean_over_patterns,
    pooled_over_patterns,
    slope,
    worst_pattern,
)
from mmbench.metrics.metric import score

nan = np.nan
thorough = settings(derandomize=True, deadline=None, max_examples=50)
THREE = {"a": 0.5, "t": 0.7, "v": 0.4, "a+t": 0.8, "a+v": 0.6, "t+v": 0.7, "a+t+v": 0.9}


def test_the_area_under_a_curve_is_its_mean_height():
    rates = np.array([0.0, 0.2, 0.6])
    # trapezoids: 0.2 wide and 0.8 high on average, 0.4 wide and 0.6 high
    scores = np.array([[0.9, 0.7, 0.5], [0.3, 0.3, 0.3], [0.9, nan, 0.5]])
    found = area_under_rate_curve(rates, scores)
    np.testing.assert_allclose(found, [(0.2 * 0.8 + 0.4 * 0.6) / 0.6, 0.3, nan])


@thorough
@given(order=st.permutations(range(4)), a=st.floats(-1, 1), b=st.floats(-1, 1))
def test_a_straight_curve_has_its_slope_and_its_middle_in_any_order(order, a, b):
    rates = np.array([0.1, 0.2, 0.5, 0.7])[list(order)]
    assert slope(rates, a + b * rates) == pytest.approx(b, abs=1e-9)
    assert area_under_rate_curve(rates, a + b * rates) == pytest.approx(a + b * 0.4, abs=1e-9)


def test_the_slope_is_that_of_least_squares():
    rates, scores = np.array([0.0, 0.3, 0.5, 0.9]), np.array([0.9, 0.85, 0.5, 0.4])
    assert slope(rates, scores) == pytest.approx(np.polyfit(rates, scores, 1)[0])
    assert np.isnan(slope(rates, np.where(rates == 0.3, nan, scores)))


@pytest.mark.parametrize("rates", [[0.3], [0.3, 0.3, 0.5]])
@pytest.mark.parametrize("function", [slope, area_under_rate_curve])
def test_a_curve_needs_two_different_rates(function, rates):
    with pytest.raises(ValueError, match="two or more different missing rates, found"):
        function(np.array(rates), np.zeros(len(rates)))


def test_losses_are_positive_where_it_got_worse():
    assert loss_from(0.9, 0.7, "higher") == pytest.approx(0.2)
    assert loss_from(0.3, 0.5, "lower") == pytest.approx(0.2)
    assert np.isnan(loss_from(nan, 0.5, "lower"))


def test_the_worst_pattern_depends_on_the_direction():
    assert worst_pattern(THREE, "higher") == ("v", 0.4)
    assert worst_pattern(THREE, "lower") == ("a+t+v", 0.9)


def test_a_hole_may_be_the_worst_pattern():
    name, value = worst_pattern(THREE | {"a": nan}, "higher")
    assert name == ""
    assert np.isnan(value)
    assert np.isnan(mean_over_patterns(THREE | {"a": nan}))
    assert np.isnan(mean_over_patterns({}))


def test_mean_and_pooled_scores_differ_where_patterns_differ_in_size():
    target = {"a": np.array([0]), "a+t": np.array([0, 1, 1])}
    logits = {"a": np.array([[0.0, 1]]), "a+t": np.array([[1.0, 0], [0, 1], [0, 1]])}
    single = {p: score("accuracy", logits[p], target[p], "single_label") for p in target}
    assert mean_over_patterns(single) == 0.5
    assert pooled_over_patterns("accuracy", logits, target, "single_label") == 0.75


def test_pooling_needs_targets_for_the_same_patterns():
    with pytest.raises(ValueError, match=r"patterns \['a'\], targets for \['t'\]"):
        pooled_over_patterns("mae", {"a": np.zeros((1, 1))}, {"t": np.zeros((1, 1))}, "regression")


def test_the_cost_of_absence_is_as_worked_by_hand():
    costs = cost_of_absence(THREE, ("a", "t", "v"), "higher")
    # a beside t, v, and t+v: 0.8 - 0.7, 0.6 - 0.4, 0.9 - 0.7
    assert costs["a"] == pytest.approx((0.1 + 0.2 + 0.2) / 3)
    assert costs["t"] == pytest.approx((0.3 + 0.3 + 0.3) / 3)
    assert costs["v"] == pytest.approx((0.1 + 0.0 + 0.1) / 3)
    assert inequity(costs) == pytest.approx(0.3 - 0.2 / 3)


def test_with_two_modalities_the_cost_is_the_drop_from_complete():
    costs = cost_of_absence({"a": 0.5, "t": 0.7, "t+a": 0.8}, ("a", "t"), "higher")
    assert costs == {"a": pytest.approx(0.1), "t": pytest.approx(0.3)}
    costs = cost_of_absence({"a": 0.5, "t": 0.7, "t+a": 0.4}, ("a", "t"), "lower")
    assert costs == {"a": pytest.approx(0.3), "t": pytest.approx(0.1)}


@thorough
@given(worth=st.lists(st.floats(-1, 1), min_size=2, max_size=4))
def test_modalities_that_add_up_cost_what_they_are_worth(worth):
    names = [f"m{i}" for i in range(len(worth))]
    scores = {
        "+".join(pattern): sum(worth[names.index(name)] for name in pattern)
        for size in range(1, len(names) + 1)
        for pattern in itertools.combinations(names, size)
    }
    costs = cost_of_absence(scores, names, "higher")
    assert list(costs.values()) == pytest.approx(worth, abs=1e-9)
    assert inequity(costs) == pytest.approx(max(worth) - min(worth), abs=1e-9)


def test_a_pattern_that_was_not_tested_leaves_the_costs_that_need_it_unknown():
    scores = {name: value for name, value in THREE.items() if name != "v"}
    costs = cost_of_absence(scores, ("a", "t", "v"), "higher")
    assert np.isnan(costs["a"])
    assert costs["v"] == pytest.approx(0.2 / 3)
    assert np.isnan(inequity(costs))
    assert np.isnan(cost_of_absence({"a": 0.5}, ("a",), "higher")["a"])


def test_a_pattern_with_an_unknown_modality_is_refused():
    with pytest.raises(ValueError, match="the pattern 'a\\+w' names 'w'"):
        cost_of_absence({"a+w": 0.5}, ("a", "v"), "higher")


def test_the_effective_sample_size_is_that_of_kish():
    assert effective_sample_size(np.full(7, 0.3)) == pytest.approx(7)
    assert effective_sample_size(np.array([5.0, 0, 0])) == pytest.approx(1)
    assert effective_sample_size(np.array([1.0, 3.0])) == pytest.approx(16 / 10)
    assert effective_sample_size(np.zeros(3)) == 0.0


def test_modalities_are_acquired_in_random_best_and_worst_order():
    scores = {"a": 0.5, "b": 0.4, "c": 0.1, "a+b": 0.55, "c+a": 0.7, "b+c": 0.9, "a+b+c": 0.95}
    found = acquired(scores, ("a", "b", "c"), "higher")
    assert found["random"] == pytest.approx([1 / 3, 2.15 / 3, 0.95])
    assert found["best"] == pytest.approx([0.5, 0.7, 0.95])  # after a, not the best pair of all
    assert found["worst"] == pytest.approx([0.1, 0.7, 0.95])
    errors = acquired({s: 1 - v for s, v in scores.items()}, ("a", "b", "c"), "lower")
    assert errors["best"] == pytest.approx([0.5, 0.3, 0.05])


def test_an_order_ends_where_a_pattern_is_a_hole():
    scores = {"a": 0.5, "b": 0.4, "a+b": math.nan}
    found = acquired(scores, ("a", "b"), "higher")
    for order in found.values():
        assert np.isfinite(order[0])
        assert np.isnan(order[1])


def test_inverse_probabilities_undo_who_was_seen():
    rng = np.random.default_rng(0)
    target = rng.integers(0, 2, 200_000)
    # class 1 is easier (90 % right, not 60 %) and is seen four times as often
    right = rng.random(len(target)) < np.where(target == 1, 0.9, 0.6)
    logits = np.eye(2)[np.where(right, target, 1 - target)]
    probability = np.where(target == 1, 0.8, 0.2)
    seen = rng.random(len(target)) < probability
    part = logits[seen], target[seen], "single_label"
    found, size = inverse_probability_score("accuracy", *part, probability[seen])
    assert found == pytest.approx(0.75, abs=0.005)
    assert score("accuracy", *part) == pytest.approx(0.84, abs=0.005)
    # half the weight lies on the fifth of the seen that are of class 0
    assert size / seen.sum() == pytest.approx(1 / (0.8 * 0.625**2 + 0.2 * 2.5**2), abs=0.01)


@pytest.mark.parametrize("wrong", [0.0, 1.5, nan])
def test_probabilities_of_being_seen_lie_above_zero_and_not_above_one(wrong):
    with pytest.raises(ValueError, match=r"probability in \(0, 1\]"):
        inverse_probability_score(
            "mae", np.zeros((2, 1)), np.zeros((2, 1)), "regression", np.array([0.5, wrong])
        )
