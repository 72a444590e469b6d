"""Ceilings where something went from inside modalities, three ways."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from datamodules.gaussian import Gaussian
from mmbench.bench.run.failures import LeakError
from mmbench.bench.run.scoring import _require_no_leak
from mmbench.data.scenario import Scenario

NATURAL = {"mechanism": "natural"}
FEATURES = {"mechanism": "features", "feature_rate": [0.0, 0.3, 0.6, 0.9]}
NOISE = {"mechanism": "noise", "snr_db": [20, 3]}
ALL = {
    "mechanism": "mcar + features + noise",
    "missing_rate": 0.3,
    "feature_rate": 0.4,
    "snr_db": 6,
}
MIXED = "mcar_0.3+features_0.4+noise_6db"
HIDDEN = ["features_0.6", "noise_3db", MIXED]


def data(*test, n_test=200, **given):
    scenario = Scenario.parse(
        {"name": "s", "train": NATURAL, "test": [*test] or [FEATURES, NOISE, ALL]}
    )
    made = Gaussian(Path(), scenario, n_test=n_test, n_train=300, n_val=20, **given)
    made.setup()
    return made


@pytest.fixture(scope="module")
def small():
    return data(width=4, nuisance_correlation=0.8, imbalance=3.0)


def posterior(made, condition):
    presence = made.condition_presence(condition)
    return made.bayes_posterior(made.split("test").samples, presence, made.conditions[condition])


def seen_by_a_method(made, condition):
    """Values in units and which of them are there, from the batches of evaluation."""
    gaps, presence, start = made.condition_gaps(condition), made.condition_presence(condition), 0
    values, there = [], []
    for batch in made.batches("test"):
        rows = torch.arange(start, start := start + len(batch))
        batch = batch.hide(~torch.from_numpy(presence[rows.numpy()])).with_gaps(gaps, rows)
        scales = [made._scales[name] for name in batch.modalities]
        parts = [
            batch.inputs[name].double() / scale.inverse_std + scale.mean
            for name, scale in zip(batch.modalities, scales, strict=True)
        ]
        observed = [
            batch.observed.get(
                name, batch.has(name)[:, None].expand(len(batch), made.world.bends[0].turn.shape[0])
            )
            for name in batch.modalities
        ]
        values.append(torch.cat(parts, 1))
        there.append(torch.cat(observed, 1))
    return torch.cat(values).numpy(), torch.cat(there).numpy()


def of_word(w, word):
    """Mean of all features, from the equations of the docstring."""
    return np.concatenate(
        [w.bends[m].turn @ (w.codes[m] @ word[w.seen[m]]) for m in range(len(w.codes))]
    )


def variance_of_noise(made, condition):
    snr = {"noise_3db": 3, MIXED: 6}.get(condition)
    spread = np.concatenate([1 / made._scales[m].inverse_std.numpy() for m in made.task.names])
    return np.zeros_like(spread) if snr is None else 10 ** (-snr / 10) * spread**2


@pytest.mark.parametrize("condition", HIDDEN)
def test_a_posterior_is_bayes_rule_on_what_a_method_is_shown(small, condition):
    w = small.world
    b = [w.bends[m].turn @ w.nuisances[m] for m in range(3)]
    cov = np.block(
        [[np.outer(b[i], b[j]) * (1 if i == j else 0.8) for j in range(3)] for i in range(3)]
    )
    cov += np.diag(w.noise**2 + variance_of_noise(small, condition))
    values, there = seen_by_a_method(small, condition)
    found = posterior(small, condition)
    for row in range(25):
        seen = there[row]
        joint = np.zeros(w.num_classes)
        for word, label, prior in zip(w.words, w.word_class, w.word_prior, strict=True):
            density = multivariate_normal(of_word(w, word)[seen], cov[np.ix_(seen, seen)])
            joint[label] += prior * density.pdf(values[row, seen])
        np.testing.assert_allclose(found[row], joint / joint.sum(), atol=2e-5)  # float32, ties


@pytest.mark.parametrize("condition", HIDDEN)
def test_a_posterior_is_what_sampling_the_nuisance_comes_to(small, condition):
    # given word and nuisance all features are independent, which needs no covariance at all
    w, rng, draws = small.world, np.random.default_rng(0), 40_000
    common = rng.standard_normal((draws, 1))
    c = np.sqrt(0.8) * common + np.sqrt(0.2) * rng.standard_normal((draws, 3))
    shift = np.concatenate(
        [np.outer(c[:, m], w.bends[m].turn @ w.nuisances[m]) for m in range(3)], axis=1
    )
    deviation = np.sqrt(w.noise**2 + variance_of_noise(small, condition))
    values, there = seen_by_a_method(small, condition)
    found = posterior(small, condition)
    for row in range(6):
        seen = there[row]
        joint = np.zeros(w.num_classes)
        for word, label, prior in zip(w.words, w.word_class, w.word_prior, strict=True):
            z = (values[row] - of_word(w, word) - shift)[:, seen] / deviation[seen]
            log = -0.5 * np.square(z).sum(axis=1)
            joint[label] += prior * np.exp(logsumexp(log) - np.log(draws))
        np.testing.assert_allclose(found[row], joint / joint.sum(), atol=0.02)


def test_ceilings_know_how_often_they_are_right_and_fall_with_what_goes():
    made = data(n_test=6000)
    target, right = made.split("test").samples.target, {}
    for condition in made.conditions:
        p = posterior(made, condition)
        right[condition] = (p.argmax(axis=1) == target).mean()
        error = np.sqrt(right[condition] * (1 - right[condition]) / len(target))
        assert abs(right[condition] - p.max(axis=1).mean()) < 4 * error, condition
    falls = ["natural", "features_0.3", "features_0.6", "features_0.9"]
    assert all(right[a] > right[b] + 0.05 for a, b in pairwise(falls))
    assert right["natural"] > right["noise_20db"] > right["noise_3db"] + 0.05


def test_who_reads_what_is_hidden_beats_the_ceiling_and_is_caught():
    made = data(n_test=1000)
    target = made.split("test").samples.target
    whole, half = np.log(posterior(made, "natural")), np.log(posterior(made, "features_0.6"))
    _require_no_leak("features_0.6", half, half, target)
    with pytest.raises(LeakError, match=r"under features_0\.6"):
        _require_no_leak("features_0.6", whole, half, target)


def test_where_values_decide_who_loses_a_modality_of_which_something_is_hidden_nothing_is_known():
    mar = {"mechanism": "mar + features", "missing_rate": 0.3, "strength": 2, "given": "primary"}
    made = data(
        mar | {"feature_rate": 0.5},
        {
            "mechanism": "mnar_label + features",
            "missing_rate": 0.3,
            "strength": 2,
            "feature_rate": 0.5,
        },
    )
    unknown, known = made.conditions
    assert posterior(made, unknown) is None
    assert posterior(made, known).shape == (200, 8)


def test_vectors_alone_are_gaussian():
    with pytest.raises(ValueError, match="found kinds: image; take synthetic"):
        data(kinds=("vector", "image"))
