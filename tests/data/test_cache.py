import json
import multiprocessing
import time

import numpy as np
import pytest

from mmbench.data import cache
from mmbench.data.cache import cache_folder, cached, digest


def test_it_is_built_once(tmp_path):
    built = []

    def build(folder, held):
        built.append(1)
        np.save(folder / "x.npy", np.arange(3))

    first = cached({"data": "a"}, build, home=tmp_path)
    again = cached({"data": "a"}, build, home=tmp_path)
    other = cached({"data": "b"}, build, home=tmp_path)

    assert first == again != other
    assert len(built) == 2
    assert np.load(first / "x.npy", mmap_mode="r").tolist() == [0, 1, 2]
    assert json.loads((first / "spec.json").read_text()) == {"data": "a"}


def test_order_of_words_does_not_matter():
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1}) != digest({"a": 1, "b": [3]})


def test_a_build_that_was_cut_off_goes_on_with_its_pieces(tmp_path):
    def build(folder, held):
        for piece in range(3):
            file = folder / f"{piece}.npy"
            if not file.exists():
                built.append(piece)
                np.save(file, np.zeros(1))
                if len(built) == 2:
                    raise OSError("disk full")

    built = []
    with pytest.raises(OSError, match="disk full"):
        cached({"x": 1}, build, home=tmp_path)
    assert not (tmp_path / digest({"x": 1})).exists()

    folder = cached({"x": 1}, build, home=tmp_path)
    assert built == [0, 1, 2]
    assert len(list(folder.glob("*.npy"))) == 3


def slow_build(folder, held):
    with (folder.parent / "builds.txt").open("a") as file:
        file.write("x")
    time.sleep(0.5)
    np.save(folder / "x.npy", np.ones(2))


def ask(home):
    cached({"shared": True}, slow_build, home=home)


def test_others_wait_for_the_one_that_builds(tmp_path):
    context = multiprocessing.get_context("fork")
    askers = [context.Process(target=ask, args=(tmp_path,)) for _ in range(3)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert [asker.exitcode for asker in askers] == [0, 0, 0]
    assert (tmp_path / "builds.txt").read_text() == "x"


def test_the_folder_can_be_chosen(monkeypatch, tmp_path):
    monkeypatch.setenv("MMBENCH_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"
    monkeypatch.delenv("MMBENCH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "mmbench"


@pytest.mark.parametrize("fault", ["zeros", "cut", "gone", "mark"])
def test_a_damaged_folder_is_named_and_built_again(tmp_path, fault, caplog):
    def build(folder, held):
        np.save(folder / "x.npy", np.arange(300))

    folder = cached({"x": 1}, build, home=tmp_path)
    file = folder / "x.npy"
    size = file.stat().st_size
    if fault == "zeros":
        file.write_bytes(bytes(size))
    elif fault == "cut":
        file.write_bytes(file.read_bytes()[:-8])
    elif fault == "gone":
        file.unlink()
    else:
        (folder / "files.json").write_text("{")
    cache._damage.cache_clear()  # another process asks
    assert cached({"x": 1}, build, home=tmp_path) == folder
    assert np.load(file).tolist() == list(range(300))
    assert "is damaged and is made again" in caplog.text
    assert [item.name for item in tmp_path.iterdir()] == [folder.name]
