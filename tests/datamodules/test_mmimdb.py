"""The traps of MM-IMDb, as a folder and as an hdf5 file."""

import importlib.util
import json

import numpy as np
import pytest

from datamodules.mmimdb import GENRES, Mmimdb
from mmbench.data import parsed
from mmbench.data.missingness.fixed import natural
from mmbench.data.samples import SPLITS
from mmbench.data.scenario import Scenario
from mmbench.health import examine

SCENARIO = Scenario("natural", natural(), natural(), (natural(),))
HAS_H5PY = importlib.util.find_spec("h5py") is not None
needs_h5py = pytest.mark.skipif(not HAS_H5PY, reason="the hdf5 file is read by the extra data")
HDF5 = "mmimdb/multimodal_imdb.hdf5"


@pytest.fixture
def root(tmp_path):
    Mmimdb.write_twin(tmp_path)
    return tmp_path


def data_of(root, **changes):
    return Mmimdb(root, SCENARIO, **{"size": 8} | changes)


def film(root, name):
    path = root / "mmimdb" / "dataset" / f"{name}.json"
    return path, json.loads(path.read_text())


def lists(root):
    return json.loads((root / "mmimdb" / "split.json").read_text())


def test_films_are_those_of_the_official_lists_with_their_genres(root):
    data = data_of(root)
    names = data.names_of_ids()
    for split, part in zip(SPLITS, ("train", "dev", "test"), strict=True):
        samples = data.load(split)
        said = lists(root)[part]
        assert [names[one] for one in samples.sample_id.tolist()] == said
        for row, name in enumerate(said):
            genres = {genre for genre, y in zip(GENRES, samples.target[row], strict=True) if y}
            assert genres == set(film(root, name)[1]["genres"]) - {"News"}
    assert len(set(GENRES)) == 23


def test_the_text_is_the_outline_or_the_first_plot_or_the_longest(root):
    name = lists(root)["train"][0]
    path, content = film(root, name)
    content |= {"plot": ["one two", "one two three four"], "plot outline": "one two three"}
    path.write_text(json.dumps(content))
    assert data_of(root).index.texts["text"][0] == "one two three"
    assert data_of(root, plot="longest").index.texts["text"][0] == "one two three four"
    del content["plot outline"]
    path.write_text(json.dumps(content))
    assert data_of(root).index.texts["text"][0] == "one two"
    path.write_text(json.dumps(content | {"plot": []}))
    data = data_of(root)
    assert data.load("train").presence[0].tolist() == [True, False]
    assert data_of(root, plot="longest").load("train").presence[0].tolist() == [True, False]


def test_another_plot_is_another_content(root):
    one = data_of(root).content()
    path, content = film(root, lists(root)["test"][0])
    path.write_text(json.dumps(content | {"plot outline": "another"}))
    assert data_of(root).content() != one


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"genres": "Drama"}, "genres must be a list of texts, found 'Drama'"),
        ({"genres": None}, "genres must be a list of texts, found 'None'"),
        ({"plot": [1]}, "plot must be a list of texts"),
    ],
)
def test_a_film_that_says_something_else_is_named(root, change, message):
    path, content = film(root, lists(root)["dev"][1])
    path.write_text(json.dumps(content | change))
    with pytest.raises(ValueError, match=message) as error:
        data_of(root).describe()
    assert path.name in str(error.value)
    path.write_text("{")
    with pytest.raises(ValueError, match=f"{path.name} is no readable JSON file"):
        data_of(root).describe()


@needs_h5py
@pytest.mark.parametrize("large", [False, True])
def test_the_hdf5_file_is_two_vectors_in_the_splits_that_it_names(root, large, monkeypatch):
    import h5py

    if large:
        monkeypatch.setattr(parsed, "SMALL_BYTES", 0)
    with h5py.File(root / HDF5, "r+") as file:
        file["features"][3] = np.nan  # a plot without a known word
        image, words, genres = (file[n][:] for n in ("vgg_features", "features", "genres"))
        ids = [one.decode() for one in file["imdb_ids"][:]]
    data = data_of(root, hdf5=HDF5)
    assert [(m.kind, m.shape) for m in data.describe().modalities] == [
        ("vector", (4096,)),
        ("vector", (300,)),
    ]
    assert data.describe().outputs == GENRES
    begin = 0
    for split, part in zip(SPLITS, ("train", "dev", "test"), strict=True):
        samples = data.load(split)
        rows = slice(begin, begin + len(lists(root)[part]))
        begin = rows.stop
        assert [data.names_of_ids()[one] for one in samples.sample_id.tolist()] == ids[rows]
        assert np.array_equal(samples.inputs["image"], image[rows])
        assert np.array_equal(samples.target, genres[rows])
        present = np.isfinite(words[rows]).all(axis=1)
        assert np.array_equal(samples.presence[:, 1], present)
        assert np.array_equal(samples.inputs["text"][present], words[rows][present])
    assert examine(data).problems == ()
    assert begin == len(ids)


@needs_h5py
def test_another_hdf5_file_is_refused_in_one_line(root):
    import h5py

    with pytest.raises(ValueError, match="has no texts; leave tokenizer and max_tokens out"):
        data_of(root, hdf5=HDF5, max_tokens=5)
    with h5py.File(root / HDF5, "r+") as file:
        del file["genres"]
    with pytest.raises(ValueError, match="hdf5 file of MM-IMDb: it has no genres; it has features"):
        data_of(root, hdf5=HDF5).describe()
    (root / HDF5).write_bytes(b"no such file")
    with pytest.raises(ValueError, match="is no readable hdf5 file of MM-IMDb"):
        data_of(root, hdf5=HDF5).describe()


@pytest.mark.skipif(HAS_H5PY, reason="h5py is installed")
def test_without_h5py_the_hdf5_file_says_what_to_install(root):
    (root / HDF5).write_bytes(b"a file")
    with pytest.raises(ValueError, match="needs a package that is missing; pip install h5py"):
        data_of(root, hdf5=HDF5).describe()
