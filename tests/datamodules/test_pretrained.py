"""`features: pretrained` of the data sets that ship."""

from pathlib import Path

import numpy as np
import pytest

from datamodules.assets import shipped
from datamodules.openmoji import Openmoji
from mmbench.data import features
from mmbench.data.missingness import natural
from mmbench.data.samples import SPLITS
from mmbench.data.scenario import Scenario

SCENARIO = Scenario("natural", natural(), natural(), (natural(),))
CLASSES = (1, 2, 3)  # animals, flags, food
EACH = 8  # of each class


@pytest.fixture
def few(monkeypatch, tmp_path):
    """The real file, but a few samples of three classes, all of them in training but one."""
    arrays = shipped.read("openmoji", Openmoji.source.checksum)
    rows = np.concatenate([np.flatnonzero(arrays["target"] == c)[:EACH] for c in CLASSES])
    thin = {name: x[rows] if len(x) == len(arrays["target"]) else x for name, x in arrays.items()}
    thin["split"] = np.zeros_like(thin["split"])
    thin["split"][-2:] = 1, 2
    monkeypatch.setattr(shipped, "read", lambda name, checksum: thin)
    monkeypatch.setenv("MMBENCH_CACHE", str(tmp_path))
    return thin


def module(**arguments):
    return Openmoji(Path("no such folder"), SCENARIO, **arguments)


def test_a_task_is_described_before_anything_is_computed(monkeypatch):
    monkeypatch.setattr(features, "installed", lambda: {})
    monkeypatch.setattr("datamodules.openmoji.installed", lambda: {})
    monkeypatch.setattr("datamodules.openmoji.frozen_features", None)
    raw, pretrained = module().task, module(features="pretrained").task
    assert [(m.name, m.kind, m.shape) for m in pretrained.modalities] == [
        ("image", "vector", (1280,)),
        ("english", "vector", (384,)),
        ("german", "vector", (384,)),
    ]
    assert [m.kind for m in raw.modalities] == ["image", "tokens", "tokens"]
    assert raw.outputs == pretrained.outputs


def test_without_the_encoders_the_data_set_says_so_at_once(monkeypatch):
    monkeypatch.setattr(features, "PACKAGES", ("no-such-encoder",))
    module()
    with pytest.raises(ValueError, match=r"package no-such-encoder.*'mmbench\[pretrained\]'"):
        module(features="pretrained")


@pytest.mark.slow
def test_features_belong_to_their_samples_and_tell_the_classes_apart(few):
    for package in features.PACKAGES:
        pytest.importorskip(package.replace("-", "_"), reason="needs the extra `pretrained`")
    data, raw = module(features="pretrained"), module()
    for split in SPLITS:
        samples = data.load(split)
        assert samples.lengths == {}
        assert samples.presence.all()
        np.testing.assert_array_equal(samples.sample_id, raw.load(split).sample_id)
        np.testing.assert_array_equal(samples.target, raw.load(split).target)
        assert all(len(x) == len(samples) for x in samples.inputs.values())
    val = data.load("val").inputs
    np.testing.assert_allclose(
        val["image"], features.image_features(few["image"][-2:-1]), atol=1e-4
    )
    for name in ("english", "german"):
        text = few[f"{name}_text"].tolist()[-2:-1]
        np.testing.assert_allclose(val[name], features.text_features(text), atol=1e-5)

    # nearest mean of each class, from every second sample to the others
    train = data.load("train")
    for name, least in (("image", 0.8), ("english", 0.8), ("german", 0.5)):
        x, y = train.inputs[name], train.target
        means = np.stack([x[::2][y[::2] == c].mean(0) for c in CLASSES])
        nearest = np.linalg.norm(x[1::2, None] - means, axis=2).argmin(1)
        assert np.mean(np.take(CLASSES, nearest) == y[1::2]) >= least, name
