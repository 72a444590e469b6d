"""Presence tables: exact rates, nesting, and independence of everything but the keys."""

import hashlib
import math

import numpy as np
import pytest
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st

from mmbench.data.missingness.dependent import Mar, MnarLabel, MnarValue
from mmbench.data.missingness.fixed import Natural, Pattern, natural
from mmbench.data.missingness.incomplete import Incomplete
from mmbench.data.missingness.mcar import Mcar
from mmbench.data.missingness.measure import dependence, pattern_probability, realised
from mmbench.data.missingness.protocol import every_pattern, pattern_index, pattern_name
from mmbench.data.missingness.stream import Stream
from mmbench.data.missingness.values import label_value, modality_value, modality_values
from mmbench.data.samples import Samples

NAMES = ("audio", "image", "text", "video", "depth")
FROZEN = [
    [0.5589686446566798, 0.4911499911689289],
    [0.3322845982811554, 0.11358019900578142],
    [0.8398501451245495, 0.6818124519001438],
]  # uniform numbers of release 0.1
quick = settings(derandomize=True, deadline=None, max_examples=20)


def make_samples(n, size, *, seed=0, gaps=False, classes=3, ids=None):
    """Gaussian features of width 4, and classes that move their mean."""
    rng = np.random.default_rng(seed)
    target = rng.integers(0, classes, n)
    presence = np.ones((n, size), bool)
    if gaps:
        presence = rng.random((n, size)) < 0.6
        presence[np.arange(n), rng.integers(0, size, n)] = True
    return Samples(
        modalities=NAMES[:size],
        inputs={m: rng.normal(size=(n, 4)) + 0.5 * target[:, None] for m in NAMES[:size]},
        target=target,
        sample_id=np.arange(n) * 7 + 3 if ids is None else ids,
        presence=presence,
    )


@st.composite
def any_data(draw):
    """Arguments of `make_samples`, so that samples are made outside of strategies."""
    n = draw(st.integers(1, 40))
    ids = draw(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=n, max_size=n, unique=True))
    return {
        "n": n,
        "size": draw(st.integers(1, 5)),
        "seed": draw(st.integers(0, 9)),
        "gaps": draw(st.booleans()),
        "ids": np.array(ids, dtype=np.int64),
    }


NESTED = {
    "mcar": Mcar,
    "mar": lambda rate: Mar(rate, 2.0),
    "mnar_value": MnarValue,
    "mnar_label": lambda rate: MnarLabel(rate, -1.5),
    "natural + mcar": lambda rate: Natural(Mcar(rate)),
    "incomplete primary": lambda rate: Incomplete(rate, "primary"),
    "incomplete each": lambda rate: Incomplete(rate, "each"),
    "incomplete any": lambda rate: Incomplete(rate, "any"),
}
EVERY = {
    **{name: make(0.35) for name, make in NESTED.items()},
    "own rates": Mcar({"audio": 0.3}),
    "pattern": Pattern(("audio",)),
    "natural": natural(),
}


def highest_rate(samples):
    return 1 - len(samples) / samples.presence.sum()


def draw_or_skip(missingness, samples, mask_seed=0):
    """Draw where the rate can be reached; tells hypothesis to try other samples where not."""
    try:
        missingness.check(samples.modalities)
        return missingness.draw(samples, Stream(mask_seed, "train"))
    except ValueError as error:
        if "cannot be reached" not in str(error):
            raise
        reject()


# --- random numbers ----------------------------------------------------------------------


def scrambled(z):
    """SplitMix64's output function in Python's unbounded integers."""
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def key(*words):
    digest = hashlib.blake2b("\0".join(map(str, words)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


@quick
@given(
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5),
    st.integers(0, 2**40),
    st.sampled_from(["train", "val", "test"]),
    st.text(max_size=5),
)
def test_uniform_numbers_are_those_of_a_loop_over_python_integers(ids, mask_seed, split, purpose):
    found = Stream(mask_seed, split).uniform(np.array(ids, np.int64), ["a", "b"], purpose)
    for row, sample in enumerate(ids):
        base = scrambled((sample * 0x9E3779B97F4A7C15 + key("row", mask_seed, split)) % 2**64)
        for column, name in enumerate("ab"):
            z = scrambled((base + key("column", purpose, name)) % 2**64)
            assert found[row, column] == (z >> 11) / 2**53


@quick
@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4), st.integers(0, 6))
def test_numbers_of_places_are_the_sequence_of_splitmix64(ids, count):
    found = Stream(2, "val").places(np.array(ids, np.int64), count, "text", "token")
    assert found.shape == (len(ids), count)
    for row, sample in enumerate(ids):
        base = scrambled((sample * 0x9E3779B97F4A7C15 + key("row", 2, "val")) % 2**64)
        state = (base + key("places", "token", "text")) % 2**64
        for place in range(count):
            state = (state + 0x9E3779B97F4A7C15) % 2**64
            assert found[row, place] == (scrambled(state) >> 11) / 2**53


def test_numbers_of_places_fill_the_unit_interval_and_are_uncorrelated():
    u = Stream(3, "train").places(np.arange(20_000), 10, "image", "patch")
    counts = np.bincount((u.reshape(-1) * 64).astype(int), minlength=64)
    assert ((counts - u.size / 64) ** 2 / (u.size / 64)).sum() < 110
    assert np.abs(np.corrcoef(u.T)[np.triu_indices(10, 1)]).max() < 4 / math.sqrt(20_000)
    other = Stream(3, "train").places(np.arange(20_000), 10, "image", "feature")
    assert abs(np.corrcoef(u[:, 0], other[:, 0])[0, 1]) < 4 / math.sqrt(20_000)


def test_uniform_numbers_never_change_between_releases():
    found = Stream(0, "test").uniform(np.array([0, 1, 10**9]), ["audio", "text"])
    assert found.tolist() == FROZEN


def test_uniform_numbers_fill_the_unit_interval_evenly_and_columns_are_uncorrelated():
    n = 200_000
    u = Stream(3, "train").uniform(np.arange(n), ["a", "b", "c"])
    counts = np.stack([np.bincount((x * 64).astype(int), minlength=64) for x in u.T])
    chi2 = ((counts - n / 64) ** 2 / (n / 64)).sum(axis=1)
    assert (chi2 < 110).all()  # 63 degrees of freedom: beyond 110 once in 4,000
    neighbours = np.corrcoef(u[1:, 0], u[:-1, 0])[0, 1]
    worst = np.abs(np.corrcoef(u.T)[np.triu_indices(3, 1)]).max()
    assert max(worst, abs(neighbours)) < 4 / math.sqrt(n)


@pytest.mark.parametrize(
    ("stream", "name", "purpose"),
    [
        (Stream(1, "train"), "a", "entry"),
        (Stream(0, "val"), "a", "entry"),
        (Stream(0, "train"), "b", "entry"),
        (Stream(0, "train"), "a", "limit"),
    ],
)
def test_every_part_of_the_key_gives_other_numbers(stream, name, purpose):
    ids = np.arange(1000)
    base = Stream(0, "train").uniform(ids, ["a"])[:, 0]
    other = stream.uniform(ids, [name], purpose)[:, 0]
    assert abs(np.corrcoef(base, other)[0, 1]) < 0.13
    assert not np.isclose(base, other).any()


# --- what holds for every mechanism ------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
@quick
@given(data=any_data())
def test_nothing_is_revealed_and_something_is_kept(name, data):
    samples = make_samples(**data)
    presence = draw_or_skip(EVERY[name], samples)
    assert not (presence & ~samples.presence).any()
    assert presence.any(axis=1).all()


@pytest.mark.parametrize("name", EVERY)
@quick
@given(data=any_data(), order=st.randoms(use_true_random=False))
def test_the_order_of_samples_does_not_matter(name, data, order):
    samples = make_samples(**data)
    rows = list(range(len(samples)))
    order.shuffle(rows)
    presence = draw_or_skip(EVERY[name], samples)
    again = draw_or_skip(EVERY[name], samples.take(np.array(rows)))
    np.testing.assert_array_equal(again, presence[rows])


@pytest.mark.parametrize("name", NESTED)
@quick
@given(data=any_data(), low=st.floats(0, 1), high=st.floats(0, 1))
def test_what_is_absent_at_a_low_rate_is_absent_at_a_higher_one(name, data, low, high):
    samples = make_samples(**data)
    low, high = sorted((low * highest_rate(samples), high * highest_rate(samples)))
    less = draw_or_skip(NESTED[name](low), samples)
    more = draw_or_skip(NESTED[name](high), samples)
    assert not (more & ~less).any()


@pytest.mark.parametrize("name", NESTED)
def test_at_rate_zero_nothing_is_hidden_and_the_condition_is_named_so(name):
    samples = make_samples(50, 3, gaps=True)
    missingness = NESTED[name](0.0)
    np.testing.assert_array_equal(missingness.draw(samples, Stream(0, "train")), samples.presence)
    assert missingness.label == ("natural" if name.startswith("natural") else "complete")


@pytest.mark.parametrize("name", EVERY)
@quick
@given(data=any_data())
def test_the_law_is_a_distribution_over_what_a_row_can_show(name, data):
    samples = make_samples(**data)
    draw_or_skip(EVERY[name], samples)
    law = pattern_probability(EVERY[name], samples)
    assert law.shape == (len(samples), 2 ** len(samples.modalities))
    assert (law >= 0).all()
    np.testing.assert_allclose(law.sum(axis=1), 1, rtol=1e-12)
    beyond = (every_pattern(len(samples.modalities)) & ~samples.presence[:, None]).any(axis=2)
    assert (law[beyond] == 0).all()
    assert (law[:, 0] == 0).all()


@pytest.mark.parametrize("name", ["mcar", "mar", "mnar_value", "mnar_label"])
@quick
@given(data=any_data(), share=st.floats(0.01, 1))
def test_the_expected_share_of_hidden_entries_is_the_nominal_rate(name, data, share):
    samples = make_samples(**data)
    rate = share * highest_rate(samples)
    assume(rate > 1e-3)
    law = pattern_probability(NESTED[name](rate), samples)
    shown = (law @ every_pattern(len(samples.modalities))).sum()
    assert 1 - shown / samples.presence.sum() == pytest.approx(rate, abs=1e-9)


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("name", [*EVERY, "three own rates"])
def test_patterns_come_up_as_often_as_the_law_says(name, gaps):
    own = Mcar({"audio": 0.5, "image": 0.3, "text": 0.1})
    few = make_samples(6, 3, gaps=gaps, seed=4)
    copies = 30_000
    many = repeated(few, copies)
    presence = EVERY.get(name, own).draw(many, Stream(0, "test"))
    law = pattern_probability(EVERY.get(name, own), many)
    codes = pattern_index(presence).reshape(copies, 6)
    for row in range(6):
        share = np.bincount(codes[:, row], minlength=8) / copies
        spread = np.sqrt(law[row] * (1 - law[row]) / copies)
        assert (np.abs(share - law[row]) <= 4.5 * spread + 1e-12).all()


def repeated(samples, copies):
    """The same rows many times over, under ids of their own."""
    rows = np.tile(np.arange(len(samples)), copies)
    return Samples(
        modalities=samples.modalities,
        inputs={name: x[rows] for name, x in samples.inputs.items()},
        target=samples.target[rows],
        sample_id=np.arange(len(rows)),
        presence=samples.presence[rows],
    )


# --- missing completely at random --------------------------------------------------------


def test_two_modalities_at_30_percent_have_the_threshold_worked_by_hand():
    # p - p^2 / 2 = 0.3 has the root p = 1 - sqrt(1 - 0.6)
    p = Mcar(0.3).absence_probability(make_samples(1, 2))
    np.testing.assert_allclose(p, 1 - math.sqrt(0.4), rtol=1e-12)


def test_own_rates_have_the_thresholds_worked_by_hand():
    # p = r + c with c = (0.7 + c)(0.2 + c) / 2, that is c^2 - 1.1 c + 0.14 = 0
    c = (1.1 - math.sqrt(1.1**2 - 4 * 0.14)) / 2
    p = Mcar({"audio": 0.7, "image": 0.2}).absence_probability(make_samples(1, 2))
    np.testing.assert_allclose(p[0], [0.7 + c, 0.2 + c], rtol=1e-12)


@quick
@given(n=st.integers(1, 30), size=st.integers(2, 4), share=st.floats(0, 1))
def test_mcar_is_a_loop_over_entries_against_one_threshold(n, size, share):
    samples = make_samples(n, size)
    missingness = Mcar(share * (size - 1) / size)
    p = missingness.absence_probability(samples)[0, 0]
    u = Stream(5, "val").uniform(samples.sample_id, samples.modalities)
    expected = np.ones((n, size), bool)
    for i in range(n):
        for m in range(size):
            expected[i, m] = not (u[i, m] < p and u[i, m] != u[i].max())
    np.testing.assert_array_equal(missingness.draw(samples, Stream(5, "val")), expected)


@quick
@given(data=any_data(), pick=st.data())
def test_mcar_on_complete_data_does_not_depend_on_which_other_samples_there_are(data, pick):
    whole = make_samples(**{**data, "gaps": False})
    some = np.array(pick.draw(st.lists(st.booleans(), min_size=len(whole), max_size=len(whole))))
    assume(some.any())
    rate = 0.4 * highest_rate(whole)
    stream = Stream(0, "train")
    np.testing.assert_array_equal(
        Mcar(rate).draw(whole.take(some), stream), Mcar(rate).draw(whole, stream)[some]
    )


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 1.0])
def test_mcar_realises_its_rate(size, share):
    rate = share * (size - 1) / size
    samples = make_samples(40_000, size)
    presence = Mcar(rate).draw(samples, Stream(0, "train"))
    # entries of a sample push each other out, so their mean varies less than if independent
    assert (~presence).mean() == pytest.approx(rate, abs=4 * math.sqrt(0.25 / presence.size))
    if share == 1:
        assert (presence.sum(axis=1) == 1).all()


@quick
@given(data=any_data(), pick=st.data())
def test_own_rates_are_the_expected_shares_of_each_modality(data, pick):
    samples = make_samples(**data)
    names = samples.modalities
    rates = {name: pick.draw(st.floats(0, 0.4), label=name) for name in names}
    missingness = Mcar(rates)
    draw_or_skip(missingness, samples)
    shown = pattern_probability(missingness, samples) @ every_pattern(len(names))
    for column, name in enumerate(names):
        there = samples.presence[:, column].sum()
        if there:
            hidden = 1 - shown[:, column].sum() / there
            assert hidden == pytest.approx(rates[name], abs=1e-6)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_equal_own_rates_are_the_same_as_one_rate_up_to_the_limit(size):
    samples = make_samples(300, size)
    for rate in (0.2, (size - 1) / size):
        own = Mcar(dict.fromkeys(samples.modalities, rate)).absence_probability(samples)
        np.testing.assert_allclose(own, Mcar(rate).absence_probability(samples), atol=1e-5)


def test_a_modality_without_a_rate_of_its_own_always_stays():
    samples = make_samples(2000, 3)
    presence = Mcar({"audio": 0.9, "text": 0.5}).draw(samples, Stream(0, "train"))
    assert presence[:, 1].all()
    assert (~presence).mean(axis=0) == pytest.approx([0.9, 0, 0.5], abs=0.05)


def test_the_rate_speaks_of_the_entries_that_nature_left():
    samples = make_samples(40_000, 3, gaps=True)
    found = realised(
        Mcar(0.3).draw(samples, Stream(0, "train")), samples.presence, samples.modalities
    )
    assert found.simulated_missing_rate == pytest.approx(0.3, abs=0.01)
    gaps = (~samples.presence).mean()
    assert found.natural_missing_rate == pytest.approx(gaps)
    assert found.missing_rate == pytest.approx(gaps + (1 - gaps) * found.simulated_missing_rate)
    composed = Natural(Mcar(0.3)).draw(samples, Stream(0, "train"))
    np.testing.assert_array_equal(composed, Mcar(0.3).draw(samples, Stream(0, "train")))


# --- missing depending on values or labels -----------------------------------------------


def test_one_standard_deviation_of_the_label_multiplies_the_log_probability_as_documented():
    samples = make_samples(1000, 3, classes=2)
    p = MnarLabel(0.3, strength=1.2).absence_probability(samples)[:, 0]
    z = (samples.target - samples.target.mean()) / samples.target.std()
    log_p = np.log(p)
    apart = z[samples.target == 1][0] - z[samples.target == 0][0]
    ratio = log_p[samples.target == 1][0] / log_p[samples.target == 0][0]
    assert ratio == pytest.approx(math.exp(-1.2 * apart))


def test_the_law_of_a_race_is_the_one_worked_by_hand_for_two_modalities():
    samples = make_samples(500, 2)
    missingness = MnarValue(0.3, strength=0.8)
    p = missingness.absence_probability(samples)
    x = modality_values(samples)
    w = np.exp(-0.8 * (x - x.mean(axis=0)) / x.std(axis=0))
    both = p[:, 0] * p[:, 1]
    only_first = (1 - p[:, 0]) * p[:, 1] + both * w[:, 0] / w.sum(axis=1)
    law = pattern_probability(missingness, samples)
    np.testing.assert_allclose(law[:, 1], only_first, rtol=1e-9)
    np.testing.assert_allclose(law[:, 3], (1 - p[:, 0]) * (1 - p[:, 1]), rtol=1e-9)


@pytest.mark.parametrize("make", [MnarValue, MnarLabel])
def test_without_strength_they_draw_what_mcar_draws(make):
    samples = make_samples(3000, 3, gaps=True)
    for rate in (0.1, 0.4):
        np.testing.assert_array_equal(
            make(rate, strength=0.0).draw(samples, Stream(0, "train")),
            Mcar(rate).draw(samples, Stream(0, "train")),
        )


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.6])
@pytest.mark.parametrize("strength", [-3.0, 0.5, 5.0])
@pytest.mark.parametrize("make", [Mar, MnarValue, MnarLabel])
def test_dependent_mechanisms_realise_their_rate(make, strength, rate):
    samples = make_samples(20_000, 3)
    presence = make(rate, strength).draw(samples, Stream(0, "train"))
    # entries of a sample go together, so count samples, not entries
    assert (~presence).mean() == pytest.approx(rate, abs=4 * 0.5 / math.sqrt(20_000))


def test_mar_never_hides_what_it_depends_on_and_looks_at_nothing_else():
    samples = make_samples(4000, 3)
    missingness = Mar(0.4, 2.0, given="image")
    presence = missingness.draw(samples, Stream(0, "train"))
    assert presence[:, 1].all()
    law, x, label = missingness.law(samples), modality_values(samples), label_value(samples)
    other = x.copy()
    other[:, [0, 2]] = np.nan
    np.testing.assert_array_equal(
        law(other, np.full_like(label, np.nan), samples.presence),
        law(x, label, samples.presence),
    )
    high = x[:, 1] > np.median(x[:, 1])
    assert (~presence[high]).mean() > (~presence[~high]).mean() + 0.2


def test_the_law_can_be_asked_about_made_up_rows():
    samples = make_samples(200, 2)
    law = MnarLabel(0.3, 2.0).law(samples)
    nothing = np.full((3, 2), np.nan)
    table = law(nothing, np.array([0.0, 1.0, 2.0]), np.ones((3, 2), bool))
    own = pattern_probability(MnarLabel(0.3, 2.0), samples)
    for c in range(3):
        np.testing.assert_array_equal(
            own[samples.target == c], np.tile(table[c], ((samples.target == c).sum(), 1))
        )
    assert (np.diff(table[:, 3]) < 0).all()  # later classes are complete less often


def test_a_mask_alone_tells_the_class_under_mnar_label_and_nothing_under_mcar():
    samples = make_samples(20_000, 3, classes=3)
    prior = np.bincount(samples.target) / len(samples)
    for missingness, leaks in ((Mcar(0.4), False), (MnarLabel(0.4, 1.5), True)):
        presence = missingness.draw(samples, Stream(0, "test"))
        ask = missingness.law(samples)
        blank = np.full((3, 3), np.nan)
        table = ask(blank, np.arange(3.0), np.ones((3, 3), bool))
        guess = (prior[:, None] * table).argmax(axis=0)[pattern_index(presence)]
        accuracy = (guess == samples.target).mean()
        assert (accuracy > prior.max() + 0.1) == leaks
        assert leaks or accuracy == pytest.approx(prior.max(), abs=1e-12)


def test_a_constant_score_hides_at_random():
    samples = make_samples(500, 2, classes=1)
    np.testing.assert_array_equal(
        MnarLabel(0.3, 5.0).draw(samples, Stream(0, "train")),
        Mcar(0.3).draw(samples, Stream(0, "train")),
    )


# --- exact numbers of incomplete samples -------------------------------------------------


@quick
@given(
    n=st.integers(1, 60),
    size=st.integers(2, 4),
    eta=st.floats(0, 1),
    missing=st.sampled_from(["primary", "secondary", "each", "any"]),
)
def test_exactly_round_eta_n_samples_are_incomplete(n, size, eta, missing):
    presence = Incomplete(eta, missing).draw(make_samples(n, size), Stream(0, "train"))
    assert (~presence.all(axis=1)).sum() == round(eta * n)
    lost = (~presence).sum(axis=0)
    if missing == "each":
        assert lost.sum() == round(eta * n)
        assert lost.max() - lost.min() <= 1
    if missing in ("primary", "secondary"):
        assert lost.sum() == lost[int(missing == "secondary")]


def test_any_draws_every_incomplete_pattern_equally_often():
    presence = Incomplete(1.0, "any").draw(make_samples(12_000, 3), Stream(0, "train"))
    counts = np.bincount(pattern_index(presence), minlength=8)
    assert counts[0] == counts[7] == 0
    assert np.abs(counts[1:7] - 2000).max() < 4.5 * math.sqrt(2000 * 5 / 6)


def test_among_gaps_the_share_is_of_those_that_can_lose_the_modality():
    samples = make_samples(1000, 3, gaps=True)
    can = samples.presence[:, 2] & (samples.presence.sum(axis=1) > 1)
    presence = Incomplete(0.7, "text").draw(samples, Stream(0, "train"))
    assert (samples.presence & ~presence).sum(axis=0).tolist() == [0, 0, round(0.7 * can.sum())]


# --- patterns, counts and scores ---------------------------------------------------------


def test_a_sample_that_cannot_show_the_pattern_keeps_what_it_has():
    samples = make_samples(200, 3, gaps=True)
    presence = Pattern(("text", "audio")).draw(samples, Stream(0, "test"))
    shown = samples.presence & [True, False, True]
    lacks = ~shown.any(axis=1)
    assert lacks.any()
    np.testing.assert_array_equal(presence[~lacks], shown[~lacks])
    np.testing.assert_array_equal(presence[lacks], samples.presence[lacks])


def test_patterns_are_named_in_the_order_of_the_columns_and_numbered_by_bits():
    names = ("audio", "image", "text")
    assert [pattern_name(row, names) for row in every_pattern(3)] == [
        "", "audio", "image", "audio+image", "text", "audio+text", "image+text", "audio+image+text",
    ]  # fmt: skip
    assert pattern_index(every_pattern(3)).tolist() == list(range(8))


def test_natural_and_simulated_gaps_are_counted_apart():
    there = np.array([[1, 1], [1, 0], [1, 1], [1, 1]], bool)
    shown = np.array([[1, 1], [1, 0], [0, 1], [0, 1]], bool)
    found = realised(shown, there, ("audio", "text"))
    assert found.missing_rate == 3 / 8
    assert found.incomplete_rate == 3 / 4
    assert found.natural_missing_rate == 1 / 8
    assert found.simulated_missing_rate == 2 / 7
    assert list(found.patterns.items()) == [("text", 2), ("audio", 1), ("audio+text", 1)]


def test_scores_are_means_over_what_is_no_padding():
    samples = Samples(
        modalities=("vector", "steps", "image", "words"),
        inputs={
            "vector": np.array([[1.0, 3.0], [np.nan, np.nan]]),
            "steps": np.array(
                [[[1.0, 2.0], [5.0, 6.0], [99, 99]], [[2.0, 4.0], [99, 99], [99, 99]]]
            ),
            "image": np.array([[[[0, 255]]], [[[250, 252]]]], np.uint8),
            "words": np.array([[5, 7, 9], [5, 0, 0]]),
        },
        target=np.array([0, 1]),
        sample_id=np.array([1, 2]),
        presence=np.array([[1, 1, 1, 1], [0, 1, 1, 1]], bool),
        lengths={"steps": np.array([2, 1]), "words": np.array([3, 1])},
    )
    np.testing.assert_array_equal(modality_value(samples, "vector"), [2.0, np.nan])
    np.testing.assert_array_equal(modality_value(samples, "steps"), [3.5, 3.0])
    np.testing.assert_array_equal(modality_value(samples, "image"), [127.5, 251.0])
    np.testing.assert_array_equal(modality_value(samples, "words"), [3.0, 1.0])


def test_a_mask_that_is_the_label_carries_the_entropy_of_the_label():
    samples = make_samples(4000, 2, classes=2)
    presence = np.stack([np.ones(4000, bool), samples.target == 1], axis=1)
    q = samples.target.mean()
    entropy = -q * math.log(q) - (1 - q) * math.log(1 - q)
    assert dependence(presence, samples).label == pytest.approx(entropy - 1 / 8000, abs=1e-12)


def test_dependence_tells_the_mechanisms_apart():
    samples = make_samples(20_000, 3)
    found = {}
    for name, m in {"mcar": Mcar(0.3), "mar": Mar(0.3, 2.0), "label": MnarLabel(0.3, 2.0)}.items():
        found[name] = dependence(m.draw(samples, Stream(0, "train")), samples)
    assert found["mcar"].label < 2e-3
    assert max(found["mcar"].value.values()) < 2e-3
    assert found["label"].label > 0.2
    assert found["mar"].value["audio"] > 2 * found["mar"].value["text"] > 0.02


def test_common_masks_shrink_the_error_of_a_difference_between_methods():
    samples = make_samples(200, 3)
    rng = np.random.default_rng(0)
    weight, hard = rng.dirichlet(np.ones(3), 200), rng.random(200)

    def accuracy(mask_seed, skill):
        presence = Mcar(0.5).draw(samples, Stream(mask_seed, "test"))
        return (skill * (weight * presence).sum(axis=1) > hard).mean()

    shared = [accuracy(i, 1.0) - accuracy(i, 0.9) for i in range(60)]
    apart = [accuracy(i, 1.0) - accuracy(1000 + i, 0.9) for i in range(60)]
    assert np.std(apart) > 2 * np.std(shared)


# --- what is refused ---------------------------------------------------------------------


@pytest.mark.parametrize("make", [Mcar, Mar, MnarValue, MnarLabel])
def test_a_rate_beyond_the_limit_is_refused_by_naming_the_limit(make):
    make(0.667).check(("audio", "image", "text"))  # the limit as the message prints it
    message = (
        r"missing rate 0.7 cannot be reached with 3 modalities: one is always kept, "
        r"so the highest rate is \(M - 1\) / M = 0.667"
    )
    with pytest.raises(ValueError, match=message):
        make(0.7).check(("audio", "image", "text"))


@pytest.mark.parametrize("make", [Mcar, Mar, MnarValue, MnarLabel])
def test_a_rate_that_natural_gaps_forbid_is_refused_when_drawn(make):
    samples = make_samples(100, 3, gaps=True)
    limit = highest_rate(samples)
    assert limit < 0.6
    with pytest.raises(ValueError, match=f"some are missing by nature.*{limit:.3f}"):
        make(0.66).draw(samples, Stream(0, "train"))


@pytest.mark.parametrize("gaps", [False, True])
def test_a_capped_rate_hides_as_much_as_can_be_and_below_that_what_was_asked(gaps):
    samples = make_samples(400, 3, gaps=gaps)
    beyond = Mcar(0.9, capped=True)
    beyond.check(samples.modalities)
    shown = beyond.draw(samples, Stream(0, "train"))
    assert (shown.sum(axis=1) == 1).all()
    assert (shown <= samples.presence).all()
    plain, capped = (Mcar(0.4, c).draw(samples, Stream(0, "train")) for c in (False, True))
    np.testing.assert_array_equal(plain, capped)
    assert (shown <= capped).all(), "nested"


def test_rates_of_their_own_cannot_be_capped():
    with pytest.raises(ValueError, match="capped goes with one missing_rate"):
        Mcar({"text": 0.7}, capped=True)


@pytest.mark.parametrize("rates", [{"audio": 0.8, "image": 0.4}, {"audio": 1.0, "image": 0.01}])
def test_own_rates_that_cannot_be_reached_together_are_refused(rates):
    with pytest.raises(ValueError, match="cannot be reached together"):
        Mcar(rates).check(("audio", "image"))


@pytest.mark.parametrize(
    ("missingness", "message"),
    [
        (Mcar({"adio": 0.3}), "no modality named 'adio'; did you mean 'audio'"),
        (Mar(0.3, given="txt"), "no modality named 'txt'; did you mean 'text'"),
        (Incomplete(0.3, "imge"), "no modality named 'imge'; did you mean 'image'"),
        (Incomplete(0.3, "both"), "both speaks of two modalities, there are 3; write each"),
        (Pattern(("audio", "vidio")), "no modality named 'vidio'"),
        (Natural(Pattern(("nothing",))), "no modality named 'nothing'"),
    ],
)
def test_modalities_that_do_not_exist_are_refused(missingness, message):
    with pytest.raises(ValueError, match=message):
        missingness.check(("audio", "image", "text"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mcar(30.0), r"missing_rate must be a share from 0 to 1 \(0.3 is 30 %\), found 30"),
        (lambda: Mcar(math.nan), "missing_rate must be a share"),
        (lambda: Mcar({}), "missing_rate names no modality"),
        (lambda: Mcar({"text": -0.1}), "missing_rate.text must be a share"),
        (lambda: MnarLabel(0.3, math.inf), "strength must be finite, found inf"),
        (lambda: Incomplete(1.5, "text"), "incomplete_rate must be a share"),
        (lambda: Pattern(()), "present names no modality"),
    ],
)
def test_values_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
