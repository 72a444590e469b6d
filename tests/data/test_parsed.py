"""Large files are parsed once a machine, whatever happens to the processes that read them."""

import contextlib
import multiprocessing
import os
import stat
import time

import numpy as np
import pytest

from mmbench import store
from mmbench.data import cache, parsed
from mmbench.data.cache import cache_folder

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A file that is large enough to be kept, and a cache of the test's own."""
    monkeypatch.setenv("MMBENCH_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "numbers.txt"
    path.write_bytes(np.arange(2**18, dtype=np.float64).tobytes())
    return path


def reader(path, pause_s=0.0):
    """Reads a file of float64, and leaves a mark beside it each time."""

    def read(_):
        with path.with_name("reads").open("a") as marks:
            marks.write("x")
        time.sleep(pause_s)
        x = np.frombuffer(path.read_bytes())
        return {"x": x, "notes": np.array(["a", "bc"])}

    return read


def reads(path):
    marks = path.with_name("reads")
    return len(marks.read_text()) if marks.exists() else 0


def ask(path, pause_s=0.0, **spec):
    code = spec.pop("code", "mmbench.data.arrays")
    return parsed.parsed([path], {"what": "test", **spec}, reader(path, pause_s), code=code)


def same(path, found):
    return np.array_equal(found["x"], np.frombuffer(path.read_bytes()))


def test_another_process_maps_what_the_first_has_parsed(file):
    ask(file)

    def child():
        found = ask(file)
        assert isinstance(found["x"], np.memmap)
        assert same(file, found)
        assert found["notes"].tolist() == ["a", "bc"]

    other = FORK.Process(target=child)
    other.start()
    other.join()
    assert other.exitcode == 0
    assert reads(file) == 1


@pytest.mark.parametrize("claims_work", [True, False])
def test_processes_that_ask_at_once_all_get_the_right_values(file, claims_work, monkeypatch):
    if not claims_work:
        everybody = contextlib.nullcontext(store.Claim(ours=True))
        monkeypatch.setattr(cache, "claim", lambda *_, **__: everybody)

    def child():
        assert same(file, ask(file, pause_s=0.3))

    askers = [FORK.Process(target=child) for _ in range(4)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert [asker.exitcode for asker in askers] == [0] * 4
    assert (reads(file) == 1) == claims_work
    assert [one.name.startswith(".") for one in cache_folder().iterdir()] == [False]


def test_another_content_argument_or_source_is_another_entry(file):
    first = ask(file, width=1)
    assert same(file, ask(file, width=2))
    assert same(file, ask(file, width=1, code="mmbench.data.columns"))
    assert reads(file) == 3
    file.write_bytes(np.ones(2**18).tobytes())
    assert same(file, ask(file, width=1))
    assert first["x"][5] == 5.0
    assert reads(file) == 4


def test_a_small_file_leaves_nothing(file):
    file.write_bytes(np.arange(9.0).tobytes())
    assert same(file, ask(file))
    assert not cache_folder().exists()


def test_a_file_that_cannot_be_parsed_leaves_nothing(file):
    def fail(_):
        raise ValueError("row 7: no number")

    with pytest.raises(ValueError, match="row 7"):
        parsed.parsed([file], {}, fail, code="mmbench.data.arrays")
    assert list(cache_folder().iterdir()) == []


def test_a_file_that_is_written_to_while_it_is_read_is_refused(file):
    def read(_):
        os.utime(file, (1, 1))
        return {"x": np.zeros(3)}

    with pytest.raises(ValueError, match=r"numbers\.txt was written to while it was read"):
        parsed.parsed([file], {}, read, code="mmbench.data.arrays")
    assert [one for one in cache_folder().iterdir() if not one.name.startswith(".")] == []


def test_the_copy_is_readable_by_its_user_alone(file):
    ask(file)
    (folder,) = cache_folder().iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_without_a_cache_the_file_is_read_and_the_log_says_so(file, monkeypatch, caplog):
    monkeypatch.setenv("MMBENCH_CACHE", str(file / "below-a-file"))
    assert same(file, ask(file))
    assert "cannot be kept for other processes" in caplog.text
