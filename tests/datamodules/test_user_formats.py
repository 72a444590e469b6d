"""Recordings, MATLAB files and h5ad as the data set `table` reads them."""

import sys

import numpy as np
import pandas as pd
import pytest
from scipy import io, sparse
from scipy.io import wavfile

from mmbench.data.guess import guess
from mmbench.data.missingness.fixed import natural
from mmbench.data.samples import SPLITS
from mmbench.data.scenario import Scenario
from mmbench.data.sound import log_mel, read_wav
from mmbench.registry import DATASETS

SCENARIO = Scenario("natural", natural(), natural(), (natural(),))
N = 40
IDS = [f"p{k:02d}" for k in range(N)]


@pytest.fixture
def root(tmp_path):
    """Labels, values of a vector, and recordings of all but the first three."""
    rng = np.random.default_rng(0)
    labels = pd.DataFrame({"id": IDS, "label": np.arange(N) % 2})
    labels.to_csv(tmp_path / "labels.csv", index=False)
    x = rng.standard_normal((N, 4)).round(3)
    table = pd.DataFrame(x, columns=list("abcd"))
    table.insert(0, "id", IDS)
    table.to_csv(tmp_path / "lab.csv", index=False)
    (tmp_path / "voice").mkdir()
    for k, name in enumerate(IDS[3:]):
        sound = rng.normal(0, 3_000, 1_000 + 40 * k).astype(np.int16)
        wavfile.write(tmp_path / "voice" / f"{name}.wav", 8_000, sound)
    return tmp_path


def table(root, **arguments):
    return DATASETS.get("table")(root, SCENARIO, labels="labels.csv", **arguments)


def content(data, name):
    """Id -> what a sample has of a modality, without padding."""
    found = {}
    for split in SPLITS:
        samples = data.load(split)
        column = samples.modalities.index(name)
        for k, one in enumerate(samples.sample_id.tolist()):
            if samples.presence[k, column]:
                x = samples.inputs[name][k]
                steps = samples.lengths[name][k] if name in samples.lengths else len(x)
                found[data.names_of_ids()[one]] = x[:steps]
    return found


def test_a_folder_and_a_column_of_recordings_become_the_same_log_mel_sequences(root):
    rows = pd.DataFrame({"id": IDS, "path": ["", "", "", *(f"voice/{one}.wav" for one in IDS[3:])]})
    rows.to_csv(root / "voice.csv", index=False)
    kinds = {"voice": "sound"}
    of_folder = table(root, files={"lab": "lab.csv", "voice": "voice"}, kinds=kinds)
    of_column = table(root, files={"lab": "lab.csv", "voice": "voice.csv"}, kinds=kinds)
    modality = of_folder.describe().modalities[1]
    assert (modality.kind, modality.shape[1]) == ("sequence", 40)
    one, other = content(of_folder, "voice"), content(of_column, "voice")
    assert list(one) == list(other)
    assert set(one) == set(IDS[3:])
    for name, steps in one.items():
        np.testing.assert_array_equal(steps, other[name])
        expected = log_mel(read_wav(root / "voice" / f"{name}.wav", 16_000), 16_000)
        np.testing.assert_array_equal(steps, expected)


def test_a_bad_recording_is_named_and_may_be_skipped(root):
    (root / "voice/p05.wav").write_bytes(b"none")
    arguments = {"files": {"lab": "lab.csv", "voice": "voice"}, "kinds": {"voice": "sound"}}
    with pytest.raises(ValueError, match=r"p05.wav is no readable wav file.*skip_bad: 1"):
        table(root, **arguments).load("train")
    data = table(root, **arguments, skip_bad=1)
    assert set(content(data, "voice")) == {*IDS[3:]} - {"p05"}
    assert any("p05.wav" in note for note in data.notes())


def test_init_takes_a_folder_of_recordings_for_sound(root):
    found = guess(root)
    assert found.args["kinds"] == {"voice": "sound"}
    assert not found.unknown


def test_a_matlab_file_is_read_like_an_npz_file(root):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((N, 6, 2))
    length = rng.integers(1, 7, N)
    np.savez(root / "ecg.npz", id=np.array(IDS), x=x, length=length)
    cells = np.array(IDS, dtype=object)[:, None]
    io.savemat(root / "cells.mat", {"id": cells, "x": x, "length": length})
    io.savemat(root / "letters.mat", {"id": np.array(IDS), "x": x, "length": length[:, None]})
    kinds = {"ecg": "sequence"}
    expected = content(table(root, files={"ecg": "ecg.npz"}, kinds=kinds), "ecg")
    assert len(expected) == N
    for name in ("cells.mat", "letters.mat"):
        found = content(table(root, files={"ecg": name}, kinds=kinds), "ecg")
        assert list(found) == list(expected)
        for one, steps in found.items():
            np.testing.assert_array_equal(steps, expected[one])


def test_a_sparse_matlab_matrix_with_numbers_as_ids_is_a_vector(root):
    pd.DataFrame({"id": range(N), "label": np.arange(N) % 2}).to_csv(
        root / "labels.csv", index=False
    )
    x = sparse.random(N, 5, 0.5, random_state=0)
    io.savemat(root / "genes.mat", {"id": np.arange(N), "x": x})
    data = table(root, files={"genes": "genes.mat"})
    found = np.concatenate([data.load(split).inputs["genes"] for split in SPLITS])
    ids = np.concatenate([data.load(split).sample_id for split in SPLITS])
    np.testing.assert_allclose(found, x.toarray()[ids], rtol=1e-6)


def test_a_matlab_file_that_cannot_be_meant_is_refused_in_a_line(root):
    io.savemat(root / "a.mat", {"x": np.ones((N, 2))})
    with pytest.raises(ValueError, match=r"a.mat has no array id; it has x"):
        table(root, files={"a": "a.mat"}).load("train")
    cells = np.empty((N, 1), dtype=object)
    for cell in range(N):
        cells[cell, 0] = np.array(["p1", "p2"])
    io.savemat(root / "a.mat", {"id": cells, "x": np.ones((N, 2))})
    with pytest.raises(ValueError, match=r"a.mat: a cell of id holds no single text or number"):
        table(root, files={"a": "a.mat"}).load("train")
    (root / "a.mat").write_bytes(b"\x89HDF no")
    with pytest.raises(ValueError, match=r"a.mat is no readable MATLAB file"):
        table(root, files={"a": "a.mat"}).load("train")


def test_without_anndata_h5ad_is_refused_with_what_to_install(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "anndata", None)  # as where it is not installed
    (root / "lab.h5ad").write_bytes(b"\x89HDF")
    with pytest.raises(ValueError, match=r"lab.h5ad is no readable h5ad .*pip install anndata"):
        table(root, files={"lab": "lab.h5ad"}).load("train")


@pytest.mark.parametrize("form", ["dense", "sparse"])
def test_h5ad_is_read_like_a_table_of_its_observations(root, form):
    anndata = pytest.importorskip("anndata", reason="h5ad is read by the extra anndata")
    values = pd.read_csv(root / "lab.csv").set_index("id")
    genes = anndata.AnnData(values.iloc[5:].astype("float32"))
    if form == "sparse":
        genes.X = sparse.csr_matrix(genes.X)
    genes.write_h5ad(root / "lab.h5ad")
    found = content(table(root, files={"lab": "lab.h5ad", "all": "lab.csv"}), "lab")
    assert set(found) == set(IDS[5:])
    for name, x in found.items():
        np.testing.assert_allclose(x, values.loc[name], rtol=1e-6)
