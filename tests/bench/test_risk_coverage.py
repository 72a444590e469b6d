"""The curve of errors among the surest answers."""

import numpy as np
import pytest
from scipy.special import logit

from mmbench.bench.risk_coverage import LEAST, coverages, risk_coverage
from mmbench.metrics.metric import score

SURE = np.array([0.9, 0.8, 0.7, 0.6])  # of class 1, four samples


def logits_of(sureness):
    return np.stack([np.zeros(len(sureness)), logit(sureness)], axis=1)


def test_the_error_rate_is_that_of_the_surest_samples_alone():
    target = np.array([1, 0, 1, 0])  # the second and the least sure are wrong
    found = risk_coverage(logits_of(SURE), target, np.array([0.25, 0.5, 0.75, 1.0]))
    assert found == pytest.approx([0, 1 / 2, 1 / 3, 1 / 2])


def test_equally_sure_samples_count_as_in_random_order():
    target = np.array([1, 1, 0, 0])
    even = np.array([0.25, 0.5, 1.0])
    for order in ([0, 1, 2, 3], [3, 2, 1, 0]):
        found = risk_coverage(logits_of(np.full(4, 0.7)), target[order], even)
        assert found == pytest.approx([0.5, 0.5, 0.5])


def test_the_area_under_a_fine_curve_is_the_metric():
    rng = np.random.default_rng(0)
    logits, target = rng.normal(size=(500, 4)), rng.integers(0, 4, 500)
    logits[::3] = np.round(logits[::3])  # ties
    fine = (np.arange(20_000) + 0.5) / 20_000
    area = risk_coverage(logits, target, fine).mean()
    assert area == pytest.approx(score("aurc", logits, target, "single_label"), abs=2e-3)
    everything = risk_coverage(logits, target, np.array([1.0]))
    assert everything == pytest.approx(1 - score("accuracy", logits, target, "single_label"))


def test_no_point_rests_on_a_handful_of_samples():
    shares = coverages(100, 50)
    assert shares[0] * 100 == pytest.approx(LEAST)
    assert shares[-1] == 1
    assert len(coverages(10_000, 50)) == 50
    assert coverages(3, 50).tolist() == [1.0]
