"""Synthetic data: the planted bits are where they should be, and the posterior is the posterior."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, multivariate_normal
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

from datamodules.synthetic import RESIDUAL, Bend, Synthetic, World
from mmbench.data.missingness.dependent import Mar, MnarLabel, MnarValue
from mmbench.data.missingness.fixed import Natural, Pattern
from mmbench.data.missingness.incomplete import Incomplete
from mmbench.data.missingness.mcar import Mcar
from mmbench.data.missingness.protocol import Missingness, pattern_index
from mmbench.data.missingness.stream import Stream
from mmbench.data.missingness.table import FromTable
from mmbench.data.missingness.values import modality_values
from mmbench.data.samples import Samples
from mmbench.data.scenario import Scenario

PLAIN = Mcar(0.0)
DEFAULTS = {
    "num_modalities": 3,
    "width": 8,
    "redundant": 1,
    "unique": (1,),
    "synergistic": 1,
    "noise": 0.6,
    "nuisance_correlation": 0.5,
    "imbalance": 1.0,
    "kinds": ("vector",),
    "seed": 0,
}


def world(**changes) -> World:
    return World.make(**(DEFAULTS | changes))


def posterior(w: World, s: Samples, presence: np.ndarray) -> np.ndarray:
    joint = w.joint(s, presence)
    return joint / joint.sum(axis=1, keepdims=True)


def module(missingness: Missingness = PLAIN, **changes) -> Synthetic:
    scenario = Scenario("test", missingness, missingness, (missingness,))
    return Synthetic(Path(), scenario, **changes)


def patterns(m: int) -> list[np.ndarray]:
    return [np.array(p) for p in itertools.product([False, True], repeat=m) if any(p)]


def everyone(pattern: np.ndarray, n: int) -> np.ndarray:
    return np.tile(pattern, (n, 1))


# --- generation ---


def test_class_is_redundant_bit_unique_bit_and_parity_of_private_bits():
    w = world(noise=0.01, nuisance_correlation=1.0)
    s = w.sample("train", 300)
    bits = []
    for m in range(3):
        u = w.latent(s, m, np.arange(300))
        # away from the nuisance, the codes can be read by least squares
        design = np.column_stack([w.codes[m], w.nuisances[m]])
        bits.append(np.linalg.lstsq(design, u.T)[0][:-1] < 0)
    carried = [[*range(len(b))] for b in bits]
    assert [len(c) for c in carried] == [3, 2, 2]  # redundant, unique to m0, private
    redundant = bits[0][0]
    assert (bits[1][0] == redundant).all()
    assert (bits[2][0] == redundant).all()
    parity = bits[0][2] ^ bits[1][1] ^ bits[2][1]
    assert (s.target == 4 * redundant + 2 * bits[0][1] + parity).all()
    # any two private bits say nothing about the parity
    assert abs(np.corrcoef(bits[0][2] ^ bits[1][1], parity)[0, 1]) < 0.2


def test_first_samples_do_not_depend_on_how_many_are_drawn():
    w = world(kinds=("vector", "bag", "image"), imbalance=3.0)
    few, many = w.sample("val", 7), w.sample("val", 50)
    assert (few.target == many.target[:7]).all()
    assert (few.sample_id == many.sample_id[:7]).all()
    assert (few.lengths["m1"] == many.lengths["m1"][:7]).all()
    for name in few.modalities:
        assert np.array_equal(few.inputs[name], many.inputs[name][:7])


def test_splits_share_a_world_but_no_sample():
    w = world()
    splits = [w.sample(split, 40) for split in ("train", "val", "test")]
    ids = np.concatenate([s.sample_id for s in splits])
    assert len(np.unique(ids)) == 120
    x = np.concatenate([s.inputs["m0"] for s in splits])
    assert len(np.unique(x, axis=0)) == 120


def test_another_seed_makes_another_world_and_the_same_seed_the_same():
    a, b, c = world(seed=1).sample("train", 5), world(seed=1).sample("train", 5), world(seed=2)
    assert np.array_equal(a.inputs["m2"], b.inputs["m2"])
    assert not np.array_equal(a.inputs["m2"], c.sample("train", 5).inputs["m2"])


def test_first_class_outnumbers_the_last_by_the_imbalance():
    w = world(imbalance=8.0)
    counts = np.bincount(w.sample("train", 20_000).target, minlength=8)
    ratio = 8.0 ** (-np.arange(8) / 7)
    assert chisquare(counts, 20_000 * ratio / ratio.sum()).pvalue > 1e-3


@pytest.mark.parametrize("rho", [0.0, 0.6, 1.0])
def test_noise_and_nuisance_have_the_covariance_of_the_model(rho: float):
    w = world(width=3, redundant=2, unique=(), synergistic=0, nuisance_correlation=rho)
    s = w.sample("train", 40_000)  # without private bits there is one word a class
    every = np.arange(len(s))
    u = np.concatenate([w.latent(s, m, every) - w.means(m)[s.target] for m in range(3)], axis=1)
    b = np.concatenate(w.nuisances)
    same = np.kron(np.eye(3), np.ones((3, 3)))
    expected = 0.36 * np.eye(9) + np.where(same, 1.0, rho) * np.outer(b, b)
    error = np.sqrt((expected**2 + np.outer(*[np.diag(expected)] * 2)) / len(s))
    assert (np.abs(u.T @ u / len(s) - expected) < 4.5 * error).all()
    assert np.allclose(w.covariance([0, 1, 2]), expected)


@settings(derandomize=True, deadline=None, max_examples=25)
@given(width=st.integers(2, 20), seed=st.integers(0, 10**6))
def test_bend_can_be_undone_and_leaves_the_first_coordinate(width: int, seed: int):
    rng = np.random.default_rng(seed)
    bend = Bend.draw(rng, width)
    u = 3 * rng.standard_normal((5, width))
    assert np.allclose(bend.undo(bend(u)), u, atol=1e-12)
    assert np.array_equal(bend(u)[:, 0], u[:, 0])
    assert not np.allclose(bend(u), u)


@pytest.mark.parametrize("kind", ["vector", "sequence", "bag", "image"])
def test_every_kind_hides_the_same_latent_vector(kind: str):
    rows = np.arange(60)
    plain, dressed = world(), world(kinds=(kind,))
    u = plain.latent(plain.sample("test", 60), 1, rows)
    assert np.allclose(dressed.latent(dressed.sample("test", 60), 1, rows), u, atol=1e-5)


@pytest.mark.parametrize("kind", ["vector", "sequence", "bag", "image"])
def test_mean_of_all_entries_is_proportional_to_the_first_latent_coordinate(kind: str):
    w = world(kinds=(kind,))
    s = w.sample("test", 50)
    x = s.inputs["m0"].astype(np.float64)
    sums = x.reshape(50, -1).sum(axis=1) / s.lengths.get("m0", 1)
    u = w.latent(s, 0, np.arange(50))[:, 0]
    entries = 64 if kind == "image" else 8
    assert np.allclose(sums / np.sqrt(entries), u, atol=1e-5)


@pytest.mark.parametrize("kind", ["sequence", "bag"])
def test_steps_vary_around_the_latent_vector_and_end_at_the_length(kind: str):
    w = world(kinds=(kind,))
    s = w.sample("train", 2000)
    assert set(s.lengths["m0"]) == {4, 5, 6, 7, 8}
    x = s.inputs["m0"]
    padding = np.arange(8) >= s.lengths["m0"][:, None]
    assert (x[padding] == 0).all()
    longest = x[s.lengths["m0"] == 8] @ w.bends[0].turn
    r = w.bends[0].undo(longest)
    r -= r.mean(axis=1, keepdims=True)
    if kind == "bag":  # one of eight degrees of freedom goes to the mean
        assert r.var() == pytest.approx(RESIDUAL**2 * 7 / 8, rel=0.05)
    else:
        neighbours = np.square(np.diff(r, axis=1)).mean()
        assert neighbours == pytest.approx(RESIDUAL**2 / 8, rel=0.05)
        assert np.square(r[:, 7] - r[:, 0]).mean() > 5 * neighbours


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_modalities": 7}, "num_modalities must lie in 2..6, found 7"),
        ({"unique": (1, 0, 0, 1)}, "unique lists 4 modalities, but there are 3"),
        ({"kinds": ()}, "kinds is empty"),
        ({"redundant": -1}, "must be >= 0"),
        ({"redundant": 0, "unique": (), "synergistic": 0}, "no bits"),
        ({"redundant": 3, "synergistic": 5}, "19 bits"),
        ({"redundant": 9}, "11 bits"),
        ({"width": 2}, "width must lie in 3..64 to hold 3 bits, found 2"),
        ({"noise": 0.0}, "noise must be > 0"),
        ({"nuisance_correlation": 1.1}, "must lie in 0..1, found 1.1"),
        ({"seed": -1}, "data_seed must be >= 0"),
        ({"imbalance": 0.5}, "imbalance must be >= 1"),
    ],
)
def test_arguments_out_of_range_are_refused(changes: dict, words: str):
    with pytest.raises(ValueError, match=words.replace("..", r"\.\.")):
        world(**changes)


def test_a_split_without_samples_is_refused():
    with pytest.raises(ValueError, match=r"n_val must lie in 1\.\.1000000000, found 0"):
        module(n_val=0)


# --- posterior of a fixed pattern ---


def enumerated(w: World, s: Samples, pattern: np.ndarray) -> np.ndarray:
    """Bayes' rule word by word from the density of the docstring."""
    there = np.flatnonzero(pattern).tolist()
    u = np.concatenate([w.latent(s, m, np.arange(len(s))) for m in there], axis=1)
    width, rho = len(w.nuisances[0]), w.nuisance_correlation
    cov = np.zeros((len(there), width, len(there), width))
    for (i, m), (j, k) in itertools.product(enumerate(there), repeat=2):
        cov[i, :, j, :] = (1.0 if m == k else rho) * np.outer(w.nuisances[m], w.nuisances[k])
        if m == k:
            cov[i, :, j, :] += w.noise**2 * np.eye(width)
    cov = cov.reshape(len(there) * width, -1)
    joint = np.zeros((len(s), len(w.class_names)))
    for word, label, prior in zip(w.words, w.word_class, w.word_prior, strict=True):
        mean = np.concatenate([w.codes[m] @ word[w.seen[m]] for m in there])
        joint[:, label] += prior * multivariate_normal(mean, cov).pdf(u)
    return joint / joint.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("rho", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("pattern", patterns(3), ids=str)
def test_posterior_equals_enumeration_of_all_words(pattern: np.ndarray, rho: float):
    w = world(nuisance_correlation=rho, imbalance=4.0, synergistic=2, width=5, noise=0.9)
    s = w.sample("test", 40)
    found = posterior(w, s, everyone(pattern, 40))
    assert np.allclose(found, enumerated(w, s, pattern), atol=1e-9)


@pytest.mark.parametrize("pattern", patterns(3), ids=str)
def test_posterior_knows_how_often_it_is_right(pattern: np.ndarray):
    w = world(kinds=("vector", "image", "bag"))
    s = w.sample("test", 10_000)
    found = posterior(w, s, everyone(pattern, len(s)))
    right = found.argmax(axis=1) == s.target
    error = np.sqrt(right.mean() * (1 - right.mean()) / len(s))
    assert abs(right.mean() - found.max(axis=1).mean()) < 4 * error


def test_mixed_patterns_give_each_row_the_posterior_of_its_own():
    w = world()
    s = w.sample("test", 90)
    presence = np.stack([patterns(3)[i % 7] for i in range(90)])
    found = posterior(w, s, presence)
    for pattern in patterns(3):
        rows = (presence == pattern).all(axis=1)
        assert np.allclose(found[rows], posterior(w, s, everyone(pattern, 90))[rows], atol=1e-12)


@pytest.mark.parametrize("mechanism", [Mcar(0.4), MnarValue(0.4), MnarLabel(0.4)])
def test_posterior_never_reads_an_absent_entry(mechanism: Missingness):
    data = module(mechanism, kinds=("vector", "bag", "image"), n_test=200)
    s = data.samples("test")
    presence = mechanism.draw(s, Stream(0, "test"))
    inputs = {name: x.copy() for name, x in s.inputs.items()}
    for m, x in enumerate(inputs.values()):
        x[~presence[:, m]] = np.nan
    poisoned = replace(s, inputs=inputs, target=0 * s.target, presence=presence)
    clean = data.bayes_posterior(s, presence, mechanism)
    assert np.array_equal(data.bayes_posterior(poisoned, presence, mechanism), clean)


def test_posterior_reads_columns_by_name_when_modalities_are_left_out():
    w = world()
    s = w.sample("test", 30)
    pair = posterior(w, s.only(["m2", "m0"]), np.ones((30, 2), bool))
    assert np.allclose(pair, posterior(w, s, everyone(np.array([True, False, True]), 30)))


def test_parity_is_a_fair_coin_short_of_all_modalities():
    w = world(redundant=0, unique=(), synergistic=1)
    s = w.sample("test", 50)
    assert np.allclose(posterior(w, s, everyone(np.array([True, True, False]), 50)), 0.5)
    assert posterior(w, s, np.ones((50, 3), bool)).max(axis=1).mean() > 0.9


def test_posterior_has_a_finite_logarithm_even_where_noise_is_tiny():
    data = module(noise=0.001, n_test=50)
    found = data.bayes_posterior(data.samples("test"), np.ones((50, 3), bool), PLAIN)
    assert np.isfinite(np.log(found)).all()
    assert np.allclose(found.sum(axis=1), 1.0)


# --- the mask as evidence ---

MECHANISMS = [
    Mcar(0.5),
    Mcar({"m0": 0.6}),
    Mar(0.4, given="m1"),
    MnarLabel(0.4, strength=1.5),
    MnarValue(0.3),
    MnarValue(0.6, strength=-2.0),
    Incomplete(0.7, "any"),
    Pattern(("m0", "m2")),
    Natural(MnarValue(0.4)),
]


def drawn(data: Synthetic, mechanism: Missingness) -> tuple[Samples, np.ndarray, np.ndarray]:
    s = data.samples("test")
    presence = mechanism.draw(s, Stream(0, "test"))
    found = data.bayes_posterior(s, presence, mechanism)
    assert found is not None
    return s, presence, found


@pytest.mark.parametrize("mechanism", MECHANISMS, ids=lambda m: m.label)
def test_posterior_is_calibrated_under_every_mechanism(mechanism: Missingness):
    data = module(mechanism, n_test=20_000, unique=(1,), synergistic=0, imbalance=2.0)
    s, presence, found = drawn(data, mechanism)
    right = found.argmax(axis=1) == s.target
    variance = right.mean() * (1 - right.mean())
    assert abs(right.mean() - found.max(axis=1).mean()) < 4 * np.sqrt(variance / len(s))
    # the residual of every class averages out among the samples that show the same
    residual = np.eye(4)[s.target] - found
    for pattern in np.unique(presence, axis=0):
        rows = (presence == pattern).all(axis=1)
        error = np.sqrt((found[rows] * (1 - found[rows])).sum(axis=0)) + 1e-9
        assert (np.abs(residual[rows].sum(axis=0)) < 4.5 * error).all()


@pytest.mark.parametrize("mechanism", [MnarLabel(0.4, strength=1.5), MnarValue(0.5, strength=3.0)])
def test_mask_is_evidence_where_it_depends_on_what_is_hidden(mechanism: Missingness):
    data = module(mechanism, n_test=5000)
    s, presence, found = drawn(data, mechanism)
    blind = posterior(data.world, s, presence)
    every = np.arange(len(s))
    gain = np.log(found[every, s.target]) - np.log(blind[every, s.target])
    assert gain.mean() > 4 * gain.std() / np.sqrt(len(s))


@pytest.mark.parametrize(
    "mechanism", [Mcar(0.4), Mar(0.4), Mar(0.02, strength=8.0), Incomplete(0.5, "any")]
)
def test_mask_is_no_evidence_where_it_does_not(mechanism: Missingness):
    data = module(mechanism, n_test=300)
    s, presence, found = drawn(data, mechanism)
    assert np.allclose(found, posterior(data.world, s, presence), atol=1e-12)


def test_label_mechanism_multiplies_by_the_chance_of_the_pattern():
    mechanism = MnarLabel(0.4, strength=1.5)
    data = module(mechanism, n_test=100)
    s, presence, found = drawn(data, mechanism)
    law = mechanism.law(s)
    expected = posterior(data.world, s, presence)
    for row, c in itertools.product(range(100), range(8)):
        chance = law(np.full((1, 3), np.nan), np.array([float(c)]), np.ones((1, 3), bool))
        expected[row, c] *= chance[0, pattern_index(presence[row : row + 1])[0]]
    assert np.allclose(found, expected / expected.sum(axis=1, keepdims=True), atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mechanism", "kinds"),
    [
        (MnarValue(0.4), ("vector",)),
        (MnarValue(0.65, 2.5), ("image", "bag", "sequence")),
        (MnarValue(2 / 3, -1.0), ("vector",)),
    ],
)
def test_value_mechanism_averages_the_law_over_the_hidden_values(
    mechanism: MnarValue, kinds: tuple
):
    """Against the mechanism's own law on a grid of hidden scores, word by word."""
    data = module(mechanism, n_test=400, kinds=kinds, noise=0.8)
    s, presence, found = drawn(data, mechanism)
    w, law, observed = data.world, mechanism.law(s), modality_values(s)
    grid, weight = np.polynomial.hermite_e.hermegauss(60)
    kept = [np.flatnonzero((presence == p).all(axis=1))[:3] for p in np.unique(presence, axis=0)]
    for row in np.concatenate(kept):
        shown = presence[row]
        hidden = np.flatnonzero(~shown).tolist()
        joint = np.zeros(8)
        for word, label, prior in zip(w.words, w.word_class, w.word_prior, strict=True):
            u = np.concatenate(
                [w.latent(s, m, np.array([row]))[0] for m in np.flatnonzero(shown).tolist()]
            )
            mean = np.concatenate(
                [w.codes[m] @ word[w.seen[m]] for m in np.flatnonzero(shown).tolist()]
            )
            cov = w.covariance(np.flatnonzero(shown).tolist())
            likelihood = multivariate_normal(mean, cov).pdf(u)
            points = np.array(list(itertools.product(grid, repeat=len(hidden))))
            weights = np.array(list(itertools.product(weight, repeat=len(hidden)))).prod(axis=1)
            values = np.tile(observed[row], (len(points), 1))
            for column, m in enumerate(hidden):
                first = w.codes[m][0] @ word[w.seen[m]] + w.noise * points[:, column]
                entries = 64 if data.task.modalities[m].kind == "image" else 8
                values[:, m] = first / np.sqrt(entries)
            complete = np.ones((len(points), 3), bool)
            chance = law(values, np.full(len(points), np.nan), complete)
            pattern = pattern_index(shown[None])[0]
            joint[label] += prior * likelihood * (weights @ chance[:, pattern]) / weights.sum()
        assert np.allclose(found[row], joint / joint.sum(), rtol=1e-5, atol=1e-9)


def test_classes_that_nothing_tells_apart_are_named_equally_often():
    mechanism = Pattern(("m2",))
    data = module(mechanism, n_test=4000, redundant=0, unique=(1,), synergistic=0)
    _, _, found = drawn(data, mechanism)
    assert np.allclose(found, 0.5, atol=1e-6)
    assert abs(found.argmax(axis=1).mean() - 0.5) < 4 * 0.5 / np.sqrt(4000)


def test_a_limit_changes_no_posterior():
    mechanism = MnarValue(0.4)
    data = module(mechanism, n_test=500)
    s, presence, found = drawn(data, mechanism)
    some = np.array([3, 77, 410])
    few = data.bayes_posterior(s.take(some), presence[some], mechanism)
    assert np.allclose(few, found[some], atol=1e-12)


def test_a_table_from_a_file_has_no_posterior_since_nothing_says_how_it_was_drawn():
    data = module(n_test=40)
    s = data.samples("test")
    assert data.bayes_posterior(s, s.presence, FromTable("anything.csv")) is None


def test_a_mechanism_that_never_leaves_a_pattern_is_refused():
    data = module(n_test=20)
    s = data.samples("test")
    with pytest.raises(ValueError, match=r"a sample shows m0\+m1, which m2 never leaves"):
        data.bayes_posterior(s, everyone(np.array([True, True, False]), 20), Pattern(("m2",)))


# --- as a data module ---


def test_scenario_is_laid_over_the_data():
    data = module(Mcar(0.5), kinds=("vector", "bag", "image"), n_train=100, batch_size=100)
    batch = next(iter(data.batches("train")))
    assert {name: tuple(x.shape[1:]) for name, x in batch.inputs.items()} == {
        "m0": (8,), "m1": (8, 8), "m2": (1, 8, 8),
    }  # fmt: skip
    assert not batch.presence.all()
    assert (batch.inputs["m2"][~batch.has("m2")] == 0).all()
    assert data.task.outputs[5] == "c101"


def test_fewer_modalities_keep_a_posterior():
    mechanism = MnarValue(0.4)
    data = module(mechanism, modalities=["m2", "m0"], n_test=4000, synergistic=0)
    s, _, found = drawn(data, mechanism)
    assert s.modalities == ("m2", "m0")
    right = found.argmax(axis=1) == s.target
    error = np.sqrt(right.mean() * (1 - right.mean()) / len(s))
    assert abs(right.mean() - found.max(axis=1).mean()) < 4 * error


# --- defaults ---


def test_every_pattern_of_the_defaults_lies_between_chance_and_certainty():
    w = world()
    s = w.sample("test", 4000)
    for pattern in patterns(3):
        right = (posterior(w, s, everyone(pattern, 4000)).argmax(axis=1) == s.target).mean()
        assert 1.5 / 8 < right < 0.97


def test_a_small_network_comes_within_six_points_of_the_bound_on_complete_data():
    w = world()
    train, test = w.sample("train", 1000), w.sample("test", 4000)
    x, y = (np.concatenate(list(s.inputs.values()), axis=1) for s in (train, test))
    scale = StandardScaler().fit(x)
    network = MLPClassifier(
        (128, 128), max_iter=40, n_iter_no_change=10, tol=0.0, learning_rate_init=3e-3,
        batch_size=64, alpha=0.01, random_state=0,
    )  # fmt: skip
    with pytest.warns(UserWarning, match="Maximum iterations"):
        network.fit(scale.transform(x), train.target)
    best = posterior(w, test, np.ones((4000, 3), bool)).argmax(axis=1) == test.target
    assert best.mean() - 0.06 < network.score(scale.transform(y), test.target) < best.mean() + 0.01
