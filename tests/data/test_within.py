"""What goes inside modalities: exact rates, nesting, keys, and what a batch says of it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbench.data.missingness import mechanisms
from mmbench.data.missingness.composed import Composed
from mmbench.data.missingness.fixed import Natural
from mmbench.data.missingness.mcar import Mcar
from mmbench.data.missingness.stream import Stream
from mmbench.data.missingness.within import (
    Features,
    Patches,
    Segments,
    Tokens,
    WhiteNoise,
    gaps,
    keep_last,
)
from mmbench.data.samples import Samples
from mmbench.data.scenario import Scenario
from mmbench.data.stored import Stored, observed_by
from mmbench.data.task import Modality

SOUND = Modality("sound", "sequence", (20, 3))
NOTE = Modality("note", "tokens", (15,), vocab_size=9)
PICTURE = Modality("picture", "image", (3, 10, 9))
LAB = Modality("lab", "vector", (30,))
ALL = (SOUND, NOTE, PICTURE, LAB)
MAKE = {
    "segments": (Segments, SOUND),
    "tokens": (Tokens, NOTE),
    "patches": (Patches, PICTURE),
    "features": (Features, LAB),
}
quick = settings(derandomize=True, deadline=None, max_examples=20)
rates = st.floats(0.01, 1.0)


def samples(n=50, *, seed=0, ids=None):
    rng = np.random.default_rng(seed)
    return Samples(
        modalities=tuple(m.name for m in ALL),
        inputs={
            "sound": rng.standard_normal((n, 20, 3)),
            "note": rng.integers(1, 9, (n, 15)),
            "picture": rng.standard_normal((n, 3, 10, 9)),
            "lab": rng.standard_normal((n, 30)),
        },
        target=rng.integers(0, 2, n),
        sample_id=np.arange(n) * 5 + 2 if ids is None else ids,
        presence=np.ones((n, 4), bool),
        lengths={"sound": rng.integers(1, 21, n), "note": rng.integers(1, 16, n)},
    )


def observed(name, rate, data=None, mask_seed=0):
    make, modality = MAKE[name]
    gap = make(rate).gap(modality, data or samples(), Stream(mask_seed, "train"))
    return gap.observed


def valid(name, data):
    _, modality = MAKE[name]
    if modality.name not in data.lengths:
        return np.ones_like(observed(name, 0.5, data))
    return np.arange(modality.shape[0]) < data.lengths[modality.name][:, None]


@pytest.mark.parametrize("name", MAKE)
@given(low=rates, high=rates)
@quick
def test_what_is_gone_at_a_low_rate_is_gone_at_a_higher_one_and_something_stays(name, low, high):
    low, high = sorted((low, high))
    data = samples()
    few, many = observed(name, low, data), observed(name, high, data)
    assert not (many & ~few).any()
    assert many.reshape(len(data), -1).any(1).all()
    assert not (few & ~valid(name, data)).any()


@pytest.mark.parametrize("name", MAKE)
def test_a_mask_depends_on_mask_seed_id_and_place_and_not_on_who_is_beside(name):
    data = samples()
    whole = observed(name, 0.5, data)
    rows = np.array([41, 3, 17])
    np.testing.assert_array_equal(observed(name, 0.5, data.take(rows)), whole[rows])
    assert (observed(name, 0.5, data, mask_seed=1) != whole).any()


@pytest.mark.parametrize("name", ["tokens", "patches", "features"])
@pytest.mark.parametrize("rate", [0.2, 0.5, 0.8])
def test_the_share_that_goes_is_the_rate(name, rate):
    data = samples(4000)
    inside = valid(name, data)
    if inside.ndim == 2 and name == "tokens":
        inside &= (data.lengths["note"] > 8)[:, None]  # what is kept last counts for little
    gone = (~observed(name, rate, data) & inside).sum() / inside.sum()
    assert gone == pytest.approx(rate, abs=0.02)


def test_a_segment_is_contiguous_and_as_long_as_the_rate_says():
    data = samples(300)
    steps = data.lengths["sound"]
    for rate in (0.25, 0.5, 0.75):
        gone = ~observed("segments", rate, data) & valid("segments", data)
        edges = np.abs(np.diff(np.pad(gone.astype(int), ((0, 0), (1, 1))), axis=1)).sum(1)
        length = gone.sum(1)
        whole = length >= np.floor(rate * steps)  # elsewhere the last one of a short one stays
        assert (edges <= 2)[whole & (steps > 1)].all()
        assert (np.abs(length - rate * steps) <= 1).all()


def test_a_segment_worked_by_hand():
    # four steps at 1/8, 3/8, 5/8, 7/8; c = 1/2: at r = 1/2 the segment is [1/4, 3/4)
    x, c = np.array([1, 3, 5, 7]) / 8, 0.5
    gone_at = np.where(x < c, 1 - x / c, (x - c) / (1 - c))
    np.testing.assert_allclose(gone_at, [0.75, 0.25, 0.25, 0.75])
    seen = keep_last(gone_at[None], 0.5)
    np.testing.assert_array_equal(seen, [[True, False, False, True]])


def test_the_entry_that_goes_last_stays_and_padding_never_does():
    gone_at = np.array([[0.1, 0.9, 0.5, 0.95], [0.2, 0.1, 0.3, 0.4]])
    inside = np.array([[True, True, True, False], [True, True, False, False]])
    np.testing.assert_array_equal(
        keep_last(gone_at, 1.0, inside),
        [[False, True, False, False], [True, False, False, False]],
    )


def test_a_patch_is_gone_in_all_channels_and_as_a_whole_and_edges_are_cut():
    data = samples(6)
    gap = Patches(0.5, patch_size=4).gap(PICTURE, data, Stream(0, "val"))
    assert gap.observed.shape == (6, 3, 3)
    stored = Stored(torch.from_numpy(data.inputs["picture"]).float(), None, None, gap)
    rows = torch.tensor([4, 0])
    x, _ = stored.read(rows)
    seen = stored.observed(rows)
    assert seen.shape == (2, 10, 9)
    for row, sample in enumerate(rows.tolist()):
        for i in range(10):
            for j in range(9):
                there = gap.observed[sample, i // 4, j // 4]
                assert seen[row, i, j] == there
                expected = data.inputs["picture"][sample, :, i, j] * there
                np.testing.assert_allclose(x[row, :, i, j], expected, rtol=1e-6)


@pytest.mark.parametrize(("snr_db", "deviation"), [(0.0, 1.0), (20.0, 0.1), (-6.0206, 2.0)])
def test_noise_has_the_ratio_asked_for_and_one_ratio_scales_another(snr_db, deviation):
    data = samples(500)
    rows = np.arange(500)
    noise = WhiteNoise(snr_db).gap(SOUND, data, Stream(0, "train")).noise.of(rows)
    assert noise.shape == (500, 20, 3)
    assert noise.std() == pytest.approx(deviation, rel=0.02)
    assert noise.mean() == pytest.approx(0, abs=0.02 * deviation)
    base = WhiteNoise(0.0).gap(SOUND, data, Stream(0, "train")).noise.of(rows)
    np.testing.assert_allclose(noise, deviation * base, rtol=1e-4)
    alone = WhiteNoise(snr_db).gap(SOUND, data, Stream(0, "train")).noise.of(np.array([7]))
    np.testing.assert_array_equal(alone[0], noise[7])


def test_noise_is_added_where_something_is_there_and_nothing_is_called_gone():
    data = samples(8)
    stored = Stored(
        torch.from_numpy(data.inputs["sound"]).float(),
        None,
        torch.from_numpy(data.lengths["sound"]),
        WhiteNoise(0.0).gap(SOUND, data, Stream(0, "train")),
    )
    x, steps = stored.read(torch.arange(8))
    inside = torch.arange(20) < steps[:, None]
    assert not x[~inside].any()
    assert (x - torch.from_numpy(data.inputs["sound"]).float())[inside].std() > 0.8
    assert torch.equal(stored.observed(torch.arange(8)), inside)


def test_two_mechanisms_touch_their_own_modalities_and_noise_joins_them():
    data = samples()
    both = gaps((Segments(0.3), WhiteNoise(10.0), Features(0.2)), ALL, data, Stream(0, "train"))
    assert set(both) == {"sound", "picture", "lab"}
    assert both["sound"].observed is not None
    assert both["sound"].noise is not None
    assert both["picture"].observed is None
    assert observed_by(both["picture"], torch.arange(2), (2, 3, 10, 9)).shape == (2, 10, 9)


def test_a_rate_of_one_modality_leaves_the_others_whole():
    data = samples()
    other = Modality("pulse", "sequence", (20, 3))
    one = gaps((Segments({"sound": 0.5}),), (SOUND, NOTE), data, Stream(0, "train"))
    assert set(one) == {"sound"}
    with pytest.raises(ValueError, match="no modality named 'smell'"):
        Segments({"smell": 0.5}).check(("sound",))
    with pytest.raises(ValueError, match="segments speaks of modalities of kind sequence"):
        gaps((Segments(0.5),), (NOTE, LAB), data, Stream(0, "train"))
    assert other.kind in Segments.kinds


def parsed(entry, **keys):
    spec = {"name": "s", "train": {"mechanism": "natural"}, "test": entry} | keys
    return Scenario.parse(spec).conditions(("a", "b"))


@pytest.mark.parametrize(
    ("entry", "made", "label"),
    [
        (
            {"mechanism": "mcar + segments", "missing_rate": 0.3, "segment_rate": 0.2},
            Composed(Mcar(0.3), (Segments(0.2),)),
            "mcar_0.3+segments_0.2",
        ),
        (
            {"mechanism": "segments", "segment_rate": 0.2},
            Composed(Natural(), (Segments(0.2),)),
            "segments_0.2",
        ),
        (
            {"mechanism": "natural + mcar + tokens + noise", "missing_rate": 0.3, "snr_db": 10}
            | {"token_rate": {"a": 0.5}},
            Composed(Natural(Mcar(0.3)), (Tokens({"a": 0.5}), WhiteNoise(10.0))),
            "natural+mcar_0.3+tokens_a_0.5+noise_10db",
        ),
        (
            {"mechanism": "patches", "patch_rate": 0.5, "patch_size": 8},
            Composed(Natural(), (Patches(0.5, 8),)),
            "patches_0.5_size_8",
        ),
        (
            {"mechanism": "mcar + features", "missing_rate": 0.0, "feature_rate": 0.0},
            Composed(Mcar(0.0), (Features(0.0),)),
            "complete",
        ),
    ],
)  # fmt: skip
def test_compositions_are_written_with_a_plus_and_named_by_what_they_hide(entry, made, label):
    assert parsed(entry) == {label: made}


def test_a_list_is_a_grid_for_what_goes_within_too():
    entry = {"mechanism": "mcar + segments", "missing_rate": [0.1, 0.3], "segment_rate": [0.0, 0.5]}
    assert list(parsed(entry)) == [
        "mcar_0.1", "mcar_0.1+segments_0.5", "mcar_0.3", "mcar_0.3+segments_0.5",
    ]  # fmt: skip
    curve = parsed({"mechanism": "segments", "segment_rate": [0.1, 0.5]})
    assert [one.nominal_rate for one in curve.values()] == [0.1, 0.5]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"mechanism": "mcar + segmets", "missing_rate": 0.3}, "did you mean 'segments'"),
        ({"mechanism": "mcar + incomplete", "missing_rate": 0.3}, "at most one mechanism"),
        ({"mechanism": "segments + segments", "segment_rate": 0.3}, "is none"),
        ({"mechanism": "segments + natural", "segment_rate": 0.3}, "natural comes first"),
        ({"mechanism": "every_pattern + segments", "segment_rate": 0.3}, "is none"),
        ({"mechanism": "mcar + segments", "missing_rate": 0.3}, "'segment_rate' of mcar \\+ segm"),
        ({"mechanism": "mcar + segments", "missing_rate": 0.3, "segment_rate": 2}, "a share from"),
        ({"mechanism": "mcar + segments", "rate": 0.3}, "unknown key 'rate'"),
        ({"mechanism": "patches", "patch_rate": 0.3, "patch_size": 0}, "1 pixel or more"),
        ({"mechanism": "patches", "patch_rate": 0.3, "patch_size": 2.5}, "a whole number"),
        ({"mechanism": "noise", "snr_db": "loud"}, "snr_db must be a number"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(entry, message):
    with pytest.raises(ValueError, match=message) as error:
        parsed(entry)
    assert "\n" not in str(error.value)


def test_full_access_to_what_is_hidden_inside_is_refused():
    entry = {"mechanism": "segments", "segment_rate": 0.3}
    scenario = Scenario.parse({"name": "s", "train": entry, "test": entry, "regime": "full_access"})
    with pytest.raises(ValueError, match="scenario 's': train: full_access shows"):
        scenario.check(("a", "b"))


def test_mechanisms_are_found_by_their_files():
    assert {"mcar", "mar", "incomplete", "pattern", "table", *MAKE, "noise"} <= set(
        mechanisms.names()
    )
    assert mechanisms.get("segments") is Segments
    with pytest.raises(ValueError, match="no mechanism named 'mcarr'; did you mean 'mcar'"):
        mechanisms.get("mcarr")
