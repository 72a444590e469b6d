"""The traps of Harvard-FairVision, glaucoma."""

import numpy as np
import pytest

from datamodules.harvard_glaucoma import HarvardGlaucoma
from mmbench.data.missingness.fixed import natural
from mmbench.data.samples import SPLITS
from mmbench.data.scenario import Scenario
from mmbench.health import examine

SCENARIO = Scenario("natural", natural(), natural(), (natural(),))


@pytest.fixture
def root(tmp_path):
    HarvardGlaucoma.write_twin(tmp_path)
    return tmp_path


def data_of(root, **changes):
    return HarvardGlaucoma(root, SCENARIO, **{"size": 24} | changes)


def files(root, part="Training"):
    return sorted((root / "harvard_glaucoma" / part).glob("data_*.npz"))


def change(path, **arrays):
    with np.load(path) as content:
        np.savez(path, **dict(content) | arrays)


def test_a_volume_becomes_its_middle_slice_or_the_mean_of_three_and_a_fundus_is_turned(root):
    path = files(root)[0]
    with np.load(path) as content:
        volume, fundus, label = (content[n] for n in ("oct_bscans", "slo_fundus", "glaucoma"))
    samples = data_of(root).load("train")
    assert samples.modalities == ("oct", "fundus")
    assert samples.target[0] == label
    mean = data_of(root, slices="mean").load("train")
    for channel in range(3):
        assert np.array_equal(samples.inputs["oct"][0, channel], volume[4])
        expected = np.round(volume[3:6].astype(float).mean(axis=0))
        assert np.array_equal(mean.inputs["oct"][0, channel], expected)
        assert np.array_equal(samples.inputs["fundus"][0, channel], fundus.T)


def test_an_empty_array_is_natural_missingness(root):
    for split, part in zip(SPLITS, ("Training", "Validation", "Test"), strict=True):
        samples = data_of(root).load(split)
        there = []
        for path in files(root, part):
            with np.load(path) as content:
                there.append([content[n].size > 0 for n in ("oct_bscans", "slo_fundus")])
        assert np.array_equal(samples.presence, there)
    assert not samples.presence.all()


def test_folders_that_were_renamed_are_the_same_set(root):
    before = data_of(root).load("test")
    for old, new in (("Training", "train"), ("Validation", "val"), ("Test", "test")):
        (root / "harvard_glaucoma" / old).rename(root / "harvard_glaucoma" / new)
    after = data_of(root).load("test")
    assert np.array_equal(before.inputs["oct"], after.inputs["oct"])
    assert examine(data_of(root)).problems == ()


def test_a_person_in_two_folders_is_told(root):
    path = files(root)[0]
    (root / "harvard_glaucoma" / "Test" / path.name).write_bytes(path.read_bytes())
    message = f"train and test share 1 subject, such as {path.stem}"
    assert examine(data_of(root)).problems == (message,)


def test_a_bad_file_is_named_and_as_many_pass_as_are_allowed(root):
    bad = files(root)[16]
    bad.write_bytes(bad.read_bytes()[:200])
    with pytest.raises(ValueError, match=rf"file 17 of 100: .*{bad.name} is no readable npz"):
        data_of(root).describe()
    data = data_of(root, skip_bad=1)
    assert len(data.load("train")) == 59
    assert any(bad.name in note for note in data.notes())


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"glaucoma": np.array(2)}, "glaucoma must be 0 or 1"),
        ({"slo_fundus": np.full((4, 4), 300.0)}, "slo_fundus has values outside 0..255"),
        ({"oct_bscans": np.zeros((4, 4), np.uint8)}, r"oct_bscans is \(4, 4\) of uint8"),
        ({"slo_fundus": np.array([["a"]])}, "slo_fundus is .* but 2 axes of numbers are expected"),
    ],
)
def test_an_array_that_is_something_else_is_named(root, arrays, message):
    path = files(root)[2]
    change(path, **arrays)
    with pytest.raises(ValueError, match=message) as error:
        data_of(root).load("train")
    assert path.name in str(error.value)
