"""AV-MNIST: pairs of one digit, each picture once, the same everywhere; idx and wav files."""

import tarfile

import numpy as np
import pytest

from datamodules.avmnist import read_idx
from mmbench.data.missingness.fixed import natural
from mmbench.data.samples import SPLITS
from mmbench.data.scenario import Scenario
from mmbench.health import examine
from mmbench.registry import DATASETS

SCENARIO = Scenario("natural", natural(), natural(), (natural(),))


@pytest.fixture
def root(tmp_path):
    DATASETS.get("avmnist").write_twin(tmp_path)
    return tmp_path


def avmnist(root):
    return DATASETS.get("avmnist")(root, SCENARIO)


def parts_of(root):
    data = avmnist(root)
    return {split: data.load(split) for split in SPLITS}


def test_a_pair_is_of_one_digit_and_each_picture_of_the_splits_file_occurs_once(root):
    used = {"train": [], "t10k": []}
    for split, samples in parts_of(root).items():
        file = "t10k" if split == "test" else "train"
        home = root / "avmnist/mnist"
        images = read_idx(home / f"{file}-images-idx3-ubyte", 3)
        labels = read_idx(home / f"{file}-labels-idx1-ubyte", 1)
        rows = {image.tobytes(): row for row, image in enumerate(images)}
        for image, digit in zip(samples.inputs["image"], samples.target, strict=True):
            row = rows[image.tobytes()]
            assert labels[row] == digit
            used[file].append(row)
    for rows in used.values():
        assert len(set(rows)) == len(rows)
    assert [len(one) for one in used.values()] == [180, 100]


def test_takes_decide_the_split(root):
    data = avmnist(root)
    names = data.names_of_ids()
    for split, takes in (("test", range(5)), ("val", range(5, 10)), ("train", range(10, 14))):
        samples = data.load(split)
        said = [names[int(one)].split("_") for one in samples.sample_id]
        assert {int(take) for *_, take in said} == set(takes)
        assert [int(digit) for digit, *_ in said] == samples.target.tolist()


def test_recordings_in_a_tar_file_in_any_order_make_the_same_pairs(root):
    before = parts_of(root)
    folder = root / "avmnist/fsdd"
    with tarfile.open(folder / "recordings.tar.gz", "w:gz") as tar:
        for path in sorted((folder / "recordings").glob("*.wav"), reverse=True):
            tar.add(path, f"recordings/{path.name}")
    for path in (folder / "recordings").glob("*"):
        path.unlink()
    (folder / "recordings").rmdir()
    data = avmnist(root)
    assert not examine(data).problems
    for split, samples in before.items():
        again = data.load(split)
        for name in samples.inputs:
            np.testing.assert_array_equal(again.inputs[name], samples.inputs[name])
        np.testing.assert_array_equal(again.lengths["sound"], samples.lengths["sound"])


def test_a_name_too_few_pictures_and_a_cut_off_file_are_refused_in_a_line(root):
    recordings = root / "avmnist/fsdd/recordings"
    (recordings / "3_ann_1.wav").rename(recordings / "three_ann_1.wav")
    with pytest.raises(ValueError, match=r"three_ann_1.wav is not called DIGIT_SPEAKER_TAKE.wav"):
        avmnist(root).load("train")
    (recordings / "three_ann_1.wav").rename(recordings / "3_ann_1.wav")
    labels = root / "avmnist/mnist/t10k-labels-idx1-ubyte"
    content = labels.read_bytes()
    labels.write_bytes(content[:8] + bytes(120))
    with pytest.raises(ValueError, match="has 0 pictures of 1, but 10 are said"):
        avmnist(root).load("test")
    labels.write_bytes(content[:-1])
    with pytest.raises(ValueError, match=r"says \[120\], but has 119 values"):
        avmnist(root).load("test")
    labels.write_bytes(b"\x1f\x8b" + content)
    with pytest.raises(ValueError, match=r"t10k-labels-idx1-ubyte is no readable idx file"):
        avmnist(root).load("test")
