"""The real files of the data sets that users bring: counts, gaps, and a signal in every part."""

import importlib.util
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from datamodules.twins import avmnist as twin
from mmbench.data.missingness.fixed import natural
from mmbench.data.missingness.protocol import pattern_name
from mmbench.data.propensity import LabelPropensity, natural_weights
from mmbench.data.samples import SPLITS
from mmbench.data.scenario import Scenario
from mmbench.health import examine
from mmbench.registry import DATASETS

ROOT = Path(os.environ.get("MMBENCH_DATA", "data"))
SCENARIO = Scenario("natural", natural(), natural(), (natural(),))


def here(name):
    """Skips a set that the folder of the user's data does not hold."""
    there = (ROOT / name).is_dir() and (
        name != "breast_tcga" or importlib.util.find_spec("rdata") is not None
    )
    marks = [
        pytest.mark.data,
        pytest.mark.skipif(not there, reason=f"MMBENCH_DATA has no readable {name}"),
    ]
    return pytest.param(name, marks=marks)


def needs(name):
    def mark(test):
        for one in here(name).marks:
            test = one(test)
        return test

    return mark


def load(name, **arguments):
    data = DATASETS.get(name)(ROOT, SCENARIO, **arguments)
    return {split: data.load(split) for split in SPLITS}


def sizes(parts):
    return {split: len(part) for split, part in parts.items()}


def classes(*parts):
    return np.sum([np.bincount(part.target) for part in parts], axis=0).tolist()


def probe(parts, modality, c=1.0):
    """Accuracy of a linear model of one modality, on the test rows that have it."""
    column = parts["test"].modalities.index(modality)
    train, val, test = (parts[s].take(np.flatnonzero(parts[s].presence[:, column])) for s in SPLITS)
    x = np.concatenate([train.inputs[modality], val.inputs[modality]])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000))
    model.fit(x, np.concatenate([train.target, val.target]))
    return model.score(test.inputs[modality], test.target)


@pytest.mark.parametrize(
    ("name", "total"),
    [
        pytest.param(*here(name).values, total, marks=here(name).marks)
        for name, total in [
            ("cmu_mosi", 2199),
            ("rosmap", 351),
            ("three_sources", 416),
            ("breast_tcga", 220),
            ("hundred_leaves", 1600),
            ("bbc4view", 685),
        ]
    ],
)
def test_every_sample_is_in_one_split_and_shapes_are_as_described(name, total):
    data = DATASETS.get(name)(ROOT, SCENARIO)
    parts = load(name)
    ids = np.concatenate([part.sample_id for part in parts.values()])
    assert len(ids) == len(set(ids.tolist())) == total
    for part in parts.values():
        for modality in data.describe().modalities:
            assert part.inputs[modality.name].shape[1:] == modality.shape
            assert np.isfinite(part.inputs[modality.name]).all()


@needs("cmu_mosi")
def test_mosi_by_file():
    parts = load("cmu_mosi")
    assert len(parts["train"]) == 1447
    assert len(parts["test"]) + len(parts["val"]) == 752
    assert 0.27 < len(parts["val"]) / 752 < 0.33
    assert classes(*parts.values()) == [1023, 1176]
    constant = [np.ptp(part.inputs["video"], axis=0) == 0 for part in parts.values()]
    assert np.all(constant, axis=0).sum() == 32
    for modality, wanted in (("text", 0.753), ("audio", 0.541), ("video", 0.521)):
        right = sum(unseen(parts, split, modality) * len(parts[split]) for split in ("val", "test"))
        assert right / 752 == pytest.approx(wanted, abs=0.03)


@needs("cmu_mosi")
def test_mosi_is_validated_on_what_its_features_have_not_seen():
    parts = load("cmu_mosi")
    for modality in ("text", "video"):  # on held-out videos of train0 they are right on .98, .89
        assert unseen(parts, "val", modality) < 0.82


def unseen(parts, split, modality):
    """Accuracy on a split of a linear model that is trained on the training part alone."""
    nobody = parts["val"].take(np.arange(0))
    return probe(parts | {"val": nobody, "test": parts[split]}, modality, 0.01)


@needs("cmu_mosi")
def test_mosi_standard_partition_and_its_scores():
    parts = load("cmu_mosi", partition="standard", target="score")
    assert sizes(parts) == {"train": 1284, "val": 229, "test": 686}
    score = np.concatenate([part.target for part in parts.values()])[:, 0]
    assert (score == 0).sum() == 96
    assert ((score * 2) % 2 == 1).sum() == 52
    assert (score.min(), score.max()) == (-3, 3)


@needs("cmu_mosi")
def test_mosi_text_features_know_the_labels_of_most_standard_test_rows():
    data = DATASETS.get("cmu_mosi")(ROOT, SCENARIO, partition="standard")
    parts = {split: data.load(split) for split in SPLITS}
    seen = (data._index.loc[data._index["split"] == "test", "part"] == "train").to_numpy()
    assert seen.sum() == 558
    known, fresh = (
        probe(parts | {"test": parts["test"].take(r)}, "text", 0.01) for r in (seen, ~seen)
    )
    assert known > 0.88
    assert fresh < 0.78


@needs("cmu_mosi")
def test_mosi_words_carry_the_sentiment():
    parts = load("cmu_mosi", text="tokens")
    bags = {}
    for split, part in parts.items():
        bags[split] = np.zeros((len(part), 1300))
        rows = np.repeat(np.arange(len(part)), part.inputs["text"].shape[1])
        np.add.at(bags[split], (rows, part.inputs["text"].ravel()), 1.0)
        bags[split][:, :2] = 0  # padding and unknown words
    model = LogisticRegression(C=0.3, max_iter=1000).fit(bags["train"], parts["train"].target)
    assert model.score(bags["test"], parts["test"].target) > 0.65


@needs("rosmap")
def test_rosmap():
    parts = load("rosmap")
    assert len(parts["test"]) == 106
    assert classes(*parts.values()) == [169, 182]
    wanted = {"mrna": 0.821, "methylation": 0.660, "mirna": 0.708}
    assert {m: probe(parts, m, 0.01) for m in wanted} == pytest.approx(wanted, abs=0.03)


@needs("three_sources")
def test_three_sources():
    parts = load("three_sources")
    assert classes(*parts.values()) == [104, 60, 54, 49, 89, 60]
    presence = np.concatenate([part.presence for part in parts.values()])
    names = parts["train"].modalities
    found = Counter(pattern_name(row, names) for row in presence)
    assert sorted(found.values()) == sorted([169, 81, 70, 43, 32, 12, 9])
    assert found["guardian"] == 9
    assert found["reuters"] == 12
    assert (~presence.all(axis=1)).mean() == pytest.approx(0.594, abs=0.001)
    for part in parts.values():
        for column, name in enumerate(names):
            told = part.inputs[name].any(axis=1)
            np.testing.assert_array_equal(told, part.presence[:, column])


@needs("three_sources")
@pytest.mark.parametrize(
    ("name", "wanted"), [("bbc", 0.935), ("guardian", 0.924), ("reuters", 0.905)]
)
def test_each_of_the_three_sources_tells_the_topic(name, wanted):
    right = []
    for fold in range(5):
        parts = load("three_sources", fold=fold)
        column = parts["test"].modalities.index(name)
        x, y = {}, {}
        for split, part in parts.items():
            there = part.presence[:, column]
            counts = np.log1p(part.inputs[name][there])
            x[split] = counts / np.linalg.norm(counts, axis=1, keepdims=True)
            y[split] = part.target[there]
        model = LogisticRegression(C=10, max_iter=2000)
        model.fit(np.r_[x["train"], x["val"]], np.r_[y["train"], y["val"]])
        right += (model.predict(x["test"]) == y["test"]).tolist()
    assert np.mean(right) == pytest.approx(wanted, abs=0.03)


@needs("three_sources")
def test_three_sources_gaps_depend_on_the_topic_and_weights_undo_it():
    parts = load("three_sources")
    train, test = parts["train"], parts["test"]
    table = LabelPropensity.fit(train.presence, train.target, classes=6)
    complete = table.patterns.all(axis=1)
    chance = table.table[:, complete].ravel()
    assert chance.max() > 2 * chance.min()  # business against health
    weights = natural_weights(train, test, classes=6, needs=[True, True, True])
    seen = test.presence.all(axis=1)
    assert ((weights > 0) == seen).all()
    share = np.bincount(test.target, minlength=6) / len(test)

    def distance(w):
        mix = np.bincount(test.target[seen], weights=w[seen], minlength=6)
        return np.abs(mix / mix.sum() - share).sum()

    assert distance(weights) < distance(np.ones(len(test)))


@needs("breast_tcga")
def test_breast_tcga():
    parts = load("breast_tcga")
    assert classes(parts["train"], parts["val"]) == [45, 30, 75]
    assert classes(parts["test"]) == [21, 14, 35]
    assert not parts["test"].presence[:, 2].any()
    assert parts["train"].presence.all()
    assert parts["val"].presence.all()
    assert probe(parts, "mirna", 0.01) > 0.8
    assert probe(parts, "mrna", 0.01) > 0.9
    with pytest.raises(ValueError, match="pattern 110 occurs here but never in training"):
        natural_weights(parts["train"], parts["test"], classes=3)


@needs("hundred_leaves")
def test_hundred_leaves():
    parts = load("hundred_leaves")
    assert classes(*parts.values()) == [16] * 100
    every = np.concatenate([part.inputs["texture"] for part in parts.values()])
    ids = np.concatenate([part.sample_id for part in parts.values()])
    every = every[np.argsort(ids)]
    np.testing.assert_allclose(every[0], every[1:16].mean(axis=0), atol=1e-6)
    margin = np.concatenate([part.inputs["margin"] for part in parts.values()]) * 512
    np.testing.assert_allclose(margin, np.round(margin), atol=0.01)
    assert max(part.inputs["shape"].max() for part in parts.values()) < 0.004
    assert probe(parts, "margin") > 0.6


@needs("bbc4view")
def test_bbc4view():
    parts = load("bbc4view")
    assert classes(*parts.values()) == [134, 82, 226, 70, 173]
    for part in parts.values():
        for name in part.modalities:
            part.inputs[name][:] = np.log1p(part.inputs[name])
    assert min(probe(parts, name, 0.01) for name in parts["train"].modalities) > 0.75


@needs("mimic_iv_demo")
def test_mimic_the_open_demo_has_these_stays_and_no_notes():
    last = DATASETS.get("mimic_iv")(ROOT, SCENARIO, folder="mimic_iv_demo")
    assert not examine(last).problems
    parts = {split: last.load(split) for split in SPLITS}
    assert {split: len(part) for split, part in parts.items()} == {"train": 34, "val": 7, "test": 7}
    assert sum(int(part.target.sum()) for part in parts.values()) == 17
    every = DATASETS.get("mimic_iv")(
        ROOT, SCENARIO, folder="mimic_iv_demo", visits="every", codes="tokens"
    )
    presence = np.concatenate([every.load(split).presence for split in SPLITS])
    assert len(presence) == 213
    assert presence.mean(axis=0) == pytest.approx([0.892, 0, 1], abs=1e-3)


@needs("fsdd")
def test_avmnist_the_real_recordings_have_their_counts_and_a_signal(tmp_path, monkeypatch):
    """With generated pictures, as many as MNIST's of the rarest digit are enough."""
    monkeypatch.setattr(twin, "PICTURES", {"train": 300, "t10k": 40})
    twin.write(tmp_path / "more")
    home = tmp_path / "more/avmnist"
    (home / "TWIN.txt").unlink()
    for path in (home / "fsdd/recordings").glob("*"):
        path.unlink()
    (home / "fsdd/recordings").rmdir()
    (home / "fsdd/recordings.tar.xz").symlink_to(next((ROOT / "fsdd").glob("recordings*")))
    data = DATASETS.get("avmnist")(tmp_path / "more", SCENARIO)
    assert not examine(data).problems  # 3,000 recordings, 300 of the test, 30 of each digit
    parts = {split: data.load(split) for split in SPLITS}
    assert [len(parts[split]) for split in SPLITS] == [2_400, 300, 300]
    assert data.notes() == ("17 recordings cut to 100 steps",)
    for part in parts.values():
        steps = np.arange(100) < part.lengths["sound"][:, None]
        means = (part.inputs["sound"] * steps[:, :, None]).sum(1) / steps.sum(1)[:, None]
        part.inputs["sound"] = means  # type: ignore[index]
    assert probe(parts, "sound") > 0.75


@needs("avmnist")
def test_avmnist_is_whole_and_pictures_have_a_signal():
    data = DATASETS.get("avmnist")(ROOT, SCENARIO)
    assert not examine(data).problems
    parts = {split: data.load(split) for split in SPLITS}
    assert [len(parts[split]) for split in SPLITS] == [2_400, 300, 300]
    for part in parts.values():
        part.inputs["image"] = part.inputs["image"].reshape(len(part), -1)  # type: ignore[index]
    assert probe(parts, "image", c=0.01) > 0.8
