import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from mmbench.data.task import Modality, Task
from mmbench.layers.prior import output_prior

FEW = settings(derandomize=True, deadline=None, max_examples=50)


def task(kind, outputs):
    return Task(kind, (Modality("x", "vector", (1,)),), tuple(f"c{k}" for k in range(outputs)))


def test_class_frequencies_are_smoothed_by_one_sample_a_class():
    found = output_prior(task("single_label", 3), torch.tensor([0, 0, 0, 1, 0]))
    wanted = [math.log(5 / 8), math.log(2 / 8), math.log(1 / 8)]
    assert found.tolist() == pytest.approx(wanted)


def test_label_frequencies_are_smoothed_by_a_sample_with_and_one_without():
    target = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    found = output_prior(task("multi_label", 2), target)
    assert found.tolist() == pytest.approx([math.log(3 / 2), math.log(1 / 4)])


def test_the_prior_of_quantities_is_their_mean():
    target = torch.tensor([[1.0, -4.0], [2.0, 0.0]])
    assert output_prior(task("regression", 2), target).tolist() == [1.5, -2.0]


@FEW
@given(st.lists(st.integers(0, 4), max_size=40))
def test_class_probabilities_sum_to_one_and_none_is_zero(classes):
    prior = output_prior(task("single_label", 5), torch.tensor(classes, dtype=torch.long))
    assert prior.exp().sum().item() == pytest.approx(1)
    assert prior.isfinite().all()
    counts = np.bincount(np.array(classes, dtype=int), minlength=5)
    assert np.array_equal(
        np.argsort(prior.numpy(), kind="stable"), np.argsort(counts, kind="stable")
    )


@FEW
@given(
    nps.arrays(
        np.float32, st.tuples(st.integers(1, 20), st.just(2)), elements=st.sampled_from([0.0, 1.0])
    )
)
def test_label_odds_are_finite_and_turn_over_with_the_labels(labels):
    target, kind = torch.from_numpy(labels), task("multi_label", 2)
    prior = output_prior(kind, target)
    assert prior.isfinite().all()
    torch.testing.assert_close(output_prior(kind, 1 - target), -prior, atol=1e-5, rtol=1e-5)


def test_no_other_constant_has_a_lower_cross_entropy_on_many_samples():
    target = torch.tensor([0] * 6000 + [1] * 3000 + [2] * 1000)
    prior = output_prior(task("single_label", 3), target)

    def loss(logits):
        return torch.nn.functional.cross_entropy(logits.expand(10000, 3), target).item()

    for k in range(3):
        for step in (-0.1, 0.1):
            moved = prior.clone()
            moved[k] += step
            assert loss(prior) < loss(moved)
