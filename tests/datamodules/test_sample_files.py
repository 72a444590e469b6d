"""Pictures and arrays in files of their own, through the command line and by their values."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from scipy.io import wavfile

from datamodules.table import Table
from mmbench.data import parsed
from mmbench.data.missingness.fixed import natural
from mmbench.data.samples import SPLITS
from mmbench.data.scenario import Scenario
from mmbench.data.sound import log_mel, read_wav

SCENARIO = Scenario("natural", natural(), natural(), (natural(),))
N = 40
IDS = [f"p{k}" for k in range(N)]
ASKED = {
    "files": {"photo": "photo.csv"},
    "labels": "labels.csv",
    "kinds": {"photo": "image"},
    "split": "split",
}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A grey picture of 6 x 4 pixels for each id but p3, as bright as its number."""
    monkeypatch.setenv("MMBENCH_CACHE", str(tmp_path / "cache"))
    split = ["train"] * 24 + ["val"] * 8 + ["test"] * 8
    labels = pd.DataFrame({"id": IDS, "label": ["a", "b"] * 20, "split": split})
    labels.to_csv(tmp_path / "labels.csv", index=False)
    (tmp_path / "photos").mkdir()
    names = [f"photos/{one}.png" for one in IDS]
    for k, name in enumerate(names):
        Image.new("L", (6, 4), 5 * k).save(tmp_path / name)
    names[3] = ""
    pd.DataFrame({"id": IDS, "file": names}).to_csv(tmp_path / "photo.csv", index=False)
    vitals = pd.DataFrame({"id": IDS, "pulse": range(N)})
    vitals.to_csv(tmp_path / "vitals.csv", index=False)
    return tmp_path


def table(root, **changes):
    return Table(root, SCENARIO, **ASKED | changes)


def both(root, **changes):
    """With a second modality, so that a picture may be absent."""
    return table(root, files={"photo": "photo.csv", "vitals": "vitals.csv"}, **changes)


@pytest.fixture
def mmbench(mmbench, root, monkeypatch):
    monkeypatch.chdir(root)
    return mmbench


def pictures(data):
    parts = [data.load(split) for split in SPLITS]
    x = np.concatenate([part.inputs["photo"] for part in parts])
    return x, np.concatenate([part.presence[:, 0] for part in parts])


@pytest.mark.parametrize("large", [False, True])
def test_a_column_of_paths_becomes_pictures_in_colour(root, large, monkeypatch):
    if large:  # kept in the cache, written there row by row
        monkeypatch.setattr(parsed, "SMALL_BYTES", 0)
    x, present = pictures(both(root))
    assert x.shape == (N, 3, 4, 6)
    assert x.dtype == np.uint8
    assert np.flatnonzero(~present).tolist() == [3]
    brightness = [0 if k == 3 else 5 * k for k in range(N)]
    assert (x == np.array(brightness)[:, None, None, None]).all()


def test_a_folder_of_pictures_named_by_id_is_the_same(root):
    (root / "photos" / "p3.png").unlink()
    (root / "photos" / "readme.txt").write_text("mine")
    files = {"photo": "photos", "vitals": "vitals.csv"}
    data = table(root, files=files)
    by_column, by_folder = pictures(both(root)), pictures(data)
    assert np.array_equal(by_column[0], by_folder[0])
    assert np.array_equal(by_column[1], by_folder[1])
    assert "photos: 1 others left out, such as readme.txt" in data.notes()
    Image.new("L", (6, 4)).save(root / "photos" / "p5.bmp")
    with pytest.raises(ValueError, match=r"photos row \d+: id p5 occurs a second time"):
        table(root, files=files).describe()


def test_pictures_are_brought_to_one_size(root):
    half = np.zeros((8, 12, 3), np.uint8)
    half[:, 6:] = 255
    Image.fromarray(half).save(root / "photos" / "p0.png")
    with pytest.raises(ValueError, match=r"p1.png has 4 x 6 pixels, but .* 8 x 12; say size: 224"):
        both(root).describe()
    x, _ = pictures(both(root, size=[4, 2]))
    assert x.shape == (N, 3, 4, 2)
    # bicubic over all pixels: the edge falls between the two columns
    assert x[0, :, :, 0].max() < 30
    assert x[0, :, :, 1].min() > 225
    assert (x[7] == 35).all()
    assert both(root, size=5).describe().modalities[0].shape == (3, 5, 5)
    with pytest.raises(ValueError, match="size must be a side or height and width, each >= 1"):
        both(root, size=0)


def test_a_picture_means_what_its_owner_saw(root):
    paper = Image.new("RGBA", (6, 4), (0, 0, 0, 0))
    paper.putpixel((0, 0), (10, 20, 30, 255))
    paper.save(root / "photos" / "p0.png")
    turned = Image.new("RGB", (4, 6), "white")
    turned.putpixel((0, 0), (0, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn right by 90 degrees
    turned.save(root / "photos" / "p1.png", exif=exif)
    x, _ = pictures(both(root))
    assert x[0, :, 0, 0].tolist() == [10, 20, 30]
    assert (x[0, :, 1:] == 255).all()
    assert x[1, :, 0, 5].tolist() == [0, 0, 0]
    assert x[1].sum() == 255 * 3 * 23
    Image.fromarray(np.full((4, 6), 3000, np.uint16)).save(root / "photos" / "p2.png")
    with pytest.raises(ValueError, match=r"id p2.*p2.png is no readable picture: .* not 8 bits"):
        both(root).describe()


def test_bad_pictures_are_named_and_as_many_pass_as_are_allowed(root, mmbench):
    (root / "photos" / "p7.png").write_bytes(b"no picture")
    (root / "photos" / "p9.png").unlink()
    words = ["files.photo=photo.csv", "kinds.photo=image", "files.vitals=vitals.csv"]
    words = ["table", *words, "labels=labels.csv", "split=split", "--data-root", root]
    code, _, error = mmbench("data", "describe", *words)
    assert code == 2
    assert error.count("\n") == 1
    assert "photo.csv row 9 (id p7)" in error
    assert "p7.png is no readable picture" in error
    assert "skip_bad: 1 lets it pass" in error
    code, _, error = mmbench("data", "describe", *words, "--skip-bad", 1)
    assert code == 2
    assert "row 11 (id p9): no file" in error
    assert "1 bad samples passed before (skip_bad: 2 lets it pass)" in error
    code, out, _ = mmbench("data", "describe", *words, "--skip-bad", 2)
    assert code == 0
    assert "photo.csv: 2 bad samples left out by skip_bad: 2" in " ".join(out.split())
    _, present = pictures(both(root, skip_bad=2))
    assert np.flatnonzero(~present).tolist() == [3, 7, 9]


def test_pictures_are_part_of_what_the_data_are_made_of(root):
    before = both(root).content()
    Image.new("L", (6, 4), 77).save(root / "photos" / "p0.png")
    assert both(root).content() != before
    (root / "photos" / "p9.png").unlink()
    missing = both(root, skip_bad=1).content()
    Image.new("L", (6, 4), 1).save(root / "photos" / "p9.png")
    assert both(root, skip_bad=1).content() != missing


def test_a_run_reads_pictures_and_its_record_counts_the_bad_ones(root, mmbench):
    (root / "photos" / "p7.png").write_bytes(b"no picture")
    args = ASKED | {"files": {"photo": "photo.csv", "vitals": "vitals.csv"}, "size": 8}
    suite = {
        "name": "own",
        "data": [{"name": "table", "args": args | {"skip_bad": 1}}],
        "methods": ["zero_fill"],
        "scenarios": ["natural"],
        "seeds": 1,
        "trainer": {"max_epochs": 1},
    }
    (root / "suite.yaml").write_text(yaml.safe_dump(suite))
    code, out, error = mmbench("run", "suite.yaml", "--data-root", root, "--results", root / "r")
    assert code == 0, out + error
    (metrics,) = (root / "r").rglob("metrics.json")
    notes = json.loads(metrics.read_text())["notes"]
    assert any("1 bad samples left out by skip_bad: 1" in note for note in notes)


def test_a_folder_of_arrays_named_by_id_is_read_like_an_npz_file(root):
    rng = np.random.default_rng(0)
    steps = [rng.normal(size=(1 + k % 5, 2)).astype(np.float32) for k in range(N)]
    (root / "ecg").mkdir()
    for one, x in zip(IDS, steps, strict=True):
        np.save(root / "ecg" / f"{one}.npy", x)
    data = table(root, files={"ecg": "ecg"}, kinds={"ecg": "sequence"})
    train = data.load("train")
    assert train.inputs["ecg"].shape == (24, 5, 2)
    assert train.lengths["ecg"].tolist() == [1 + k % 5 for k in range(24)]
    assert np.array_equal(train.inputs["ecg"][3, :4], steps[3])
    assert not train.inputs["ecg"][3, 4:].any()
    np.save(root / "ecg" / "p4.npy", np.zeros((3, 7)))
    with pytest.raises(ValueError, match=r"p4.npy holds \(3, 7\) of float64, but p0.npy \(1, 2\)"):
        table(root, files={"ecg": "ecg"}, kinds={"ecg": "sequence"}).describe()
    np.save(root / "ecg" / "p4.npy", np.array([print]), allow_pickle=True)
    with pytest.raises(ValueError, match=r"p4.npy is no readable npy file of a plain array"):
        table(root, files={"ecg": "ecg"}, kinds={"ecg": "sequence"}).describe()
    with pytest.raises(ValueError, match=r"ecg has no file named by id that ends in .png"):
        table(root, files={"ecg": "ecg"}, kinds={"ecg": "image"}).describe()


def test_what_is_decoded_to_mapped_files_is_what_small_files_give(root, monkeypatch):
    """Sequences of float64 and an absent one, sounds at two rates, and bags in two formats."""
    rng = np.random.default_rng(0)
    for folder in ("ecg", "talk", "slide"):
        (root / folder).mkdir()
    for k, one in enumerate(IDS[:-1]):
        steps = rng.normal(size=(1 + k % 5, 2))
        np.save(root / "ecg" / f"{one}.npy", np.full((2, 2), np.nan) if k == 2 else steps)
        rate = (8000, 44100)[k % 2]
        wave = (1000 * rng.normal(size=rate // 20 + 7 * k)).astype(np.int16)
        wavfile.write(root / "talk" / f"{one}.wav", rate, wave)
        bag = rng.normal(size=(2 + k, 3)).astype(np.float16)
        if k % 2:
            np.save(root / "slide" / f"{one}.npy", bag)
        else:
            torch.save(torch.from_numpy(bag), root / "slide" / f"{one}.pt")
    names = ("ecg", "talk", "slide", "vitals")
    files = {name: name for name in names[:3]} | {"vitals": "vitals.csv"}
    kinds = {"ecg": "sequence", "talk": "sound", "slide": "bag"}

    def whole():
        data = table(root, files=files, kinds=kinds, most=12)
        return data, data.load("train"), data.load("test")

    _, small, _ = whole()
    monkeypatch.setattr(parsed, "SMALL_BYTES", 0)
    monkeypatch.setattr(parsed, "PIECE_BYTES", 400)  # several files each
    data, train, test = whole()
    for name in names:
        np.testing.assert_array_equal(small.inputs[name], train.inputs[name])
    assert isinstance(train.inputs["slide"].values, np.memmap)
    assert train.inputs["slide"].dtype == np.float16
    assert len(train.inputs["slide"].values) == sum(2 + k for k in range(39))  # nothing is padded
    assert train.inputs["ecg"].dtype == np.float64
    assert train.presence[2].tolist() == [False, True, True, True]
    assert test.presence[-1].tolist() == [False, False, False, True]
    assert train.lengths["slide"].tolist() == [min(2 + k, 12) for k in range(24)]
    for k in (0, 1):
        wave = read_wav(root / "talk" / f"p{k}.wav", 16_000)
        np.testing.assert_array_equal(
            train.inputs["talk"][k][: train.lengths["talk"][k]], log_mel(wave, 16_000)
        )
    assert data.notes()[-1] == (
        "slide: 28 samples have more than 12 instances; so many are drawn, in training others "
        "every epoch"
    )
    (root / "slide" / "p7.npy").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"p7.npy is no readable npy file .*skip_bad: 1 lets it"):
        whole()
    data = table(root, files=files, kinds=kinds, most=12, skip_bad=1)
    assert not data.load("train").presence[7, 2]
