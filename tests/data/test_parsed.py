"""Large files are parsed once a machine, whatever happens to the processes that read them."""

import contextlib
import functools
import multiprocessing
import os
import signal
import stat
import threading
import time

import numpy as np
import pytest

from mmbench import store
from mmbench.data import cache, parsed, progress
from mmbench.data.ahead import ahead
from mmbench.data.cache import cache_folder
from mmbench.data.helpers import helpers

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


# --- entries that are decoded one by one ------------------------------------------------------

ITEMS = 40
WIDTH = 6
PIECE = 8  # items


def entry(file, item, dies_at=None):
    """A row that is shorter where the item is 9, and refused where it is 11; marks each call."""
    if item == dies_at:
        for start in range(0, dies_at - PIECE, PIECE):  # the pieces before are whole by then
            while not list(cache_folder().rglob(f".x.{start}.json")):
                time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    with file.with_name("decoded").open("a") as marks:
        marks.write(f"{item} ")
    if item == 11:
        raise ValueError("eleven")
    return np.full(3 if item == 9 else WIDTH, item, np.uint8)


def decoder(file, dies_at=None, bad=None):
    def read(room):
        length = np.zeros(ITEMS + 2, np.int64)
        x = room.decode(
            "x",
            (ITEMS + 2, WIDTH),
            np.uint8,
            range(ITEMS),
            functools.partial(entry, file, dies_at=dies_at),
            rows=np.arange(ITEMS)[::-1],
            length=length,
            **({} if bad is None else {"refuse": lambda number, why: bad.append((number, why))}),
        )
        return {"x": x, "length": length}

    return read


def decoded(file):
    marks = file.with_name("decoded")
    return [int(one) for one in marks.read_text().split()] if marks.exists() else []


def decode(file, **options):
    return parsed.parsed([file], {}, decoder(file, **options), code="mmbench.data.arrays")


@pytest.fixture
def pieces(monkeypatch):
    monkeypatch.setattr(parsed, "PIECE_BYTES", PIECE * WIDTH)


def as_wanted():
    x, length = np.zeros((ITEMS + 2, WIDTH), np.uint8), np.zeros(ITEMS + 2, np.int64)
    for item in range(ITEMS):
        length[ITEMS - 1 - item] = {9: 3, 11: 0}.get(item, WIDTH)
        x[ITEMS - 1 - item, : length[ITEMS - 1 - item]] = item
    return x, length


@pytest.mark.parametrize("small", [False, True])
def test_entries_are_decoded_to_their_rows_and_bad_ones_are_told_in_order(
    file, pieces, small, monkeypatch
):
    if small:
        monkeypatch.setattr(parsed, "SMALL_BYTES", 2**40)
    bad = []
    made = decode(file, bad=bad)
    for got, wanted in zip((made["x"], made["length"]), as_wanted(), strict=True):
        np.testing.assert_array_equal(got, wanted)
    assert [(number, str(why)) for number, why in bad] == [(11, "eleven")]
    assert sorted({*decoded(file)}) == list(range(ITEMS))
    assert isinstance(made["x"], np.memmap) == (not small)


def test_pieces_that_a_killed_process_had_decoded_are_not_decoded_again(file, pieces):
    dies = 3 * PIECE + 2
    child = FORK.Process(target=decode, args=(file,), kwargs={"dies_at": dies, "bad": []})
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    before, bad = decoded(file), []
    assert set(range(3 * PIECE)) <= set(before)
    made = decode(file, bad=bad)
    again = decoded(file)[len(before) :]
    assert min(again) >= 3 * PIECE
    assert sorted({*before, *again}) == list(range(ITEMS))
    np.testing.assert_array_equal(made["x"], as_wanted()[0])
    np.testing.assert_array_equal(made["length"], as_wanted()[1])
    assert [number for number, _ in bad] == [11]  # though it was another process that met it
    [folder] = cache_folder().iterdir()
    assert not folder.name.startswith(".")


def test_what_helpers_do_not_do_is_done_by_this_process(file, pieces):
    me = os.getpid()

    def here(item):
        if os.getpid() != me:
            os._exit(3)
        return np.full(WIDTH, item, np.uint8)

    def read(room):
        return {"x": room.decode("x", (ITEMS, WIDTH), np.uint8, range(ITEMS), here)}

    x = parsed.parsed([file], {}, read, code="mmbench.data.arrays")["x"]
    assert x[:, 0].tolist() == list(range(ITEMS))


def test_helpers_do_what_they_can_and_end_with_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    done = tmp_path / "done"

    def work(piece):
        with done.open("a") as marks:
            marks.write(f"{piece} {os.getpid()}\n")
        if piece == 4:
            time.sleep(60)

    with helpers(work, range(5)):
        while not done.exists() or len(done.read_text().splitlines()) < 3:
            time.sleep(0.01)
    by_piece = dict(map(int, line.split()) for line in done.read_text().splitlines())
    assert set(by_piece) >= {4, 3, 1}  # one helper sleeps over its first
    assert os.getpid() not in by_piece.values()
    for process in by_piece.values():
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


def test_an_entry_that_may_not_fail_leaves_nothing_behind(file, pieces):
    with pytest.raises(ValueError, match="eleven"):
        decode(file)
    assert list(cache_folder().iterdir()) == []


def test_many_files_are_read_once_a_machine_to_know_their_content(file, monkeypatch):
    monkeypatch.setattr(parsed, "MANY_FILES", 2)
    (other := file.with_name("other")).write_bytes(b"x" * 2**21)

    def both():
        return parsed.parsed([file, other], {}, reader(file), code="mmbench.data.arrays")

    both()
    whole, read = parsed._sha256, []
    monkeypatch.setattr(parsed, "_sha256", lambda one: (read.append(one), whole(one))[1])
    assert same(file, both())
    assert read == []
    other.write_bytes(b"y" * 2**21)
    assert same(file, both())
    assert read == [file, other]
    assert reads(file) == 2


def test_how_far_it_is_stands_on_the_error_output_as_lines_where_there_is_no_terminal(
    monkeypatch, capsys
):
    with progress.progress("decoding x", 90_688) as show:
        show(1)
    assert capsys.readouterr().err == ""  # that was quick
    monkeypatch.setattr(progress, "PATIENCE_S", -1.0)
    with progress.progress("decoding x", 90_688) as show:
        show(1024)
        show(2048)
    assert capsys.readouterr().err == "decoding x: 1,024 of 90,688 after 0 s\n"


# --- threads that work ahead ------------------------------------------------------------------


def threads():
    return [one for one in threading.enumerate() if one.name.startswith("mmbench-ahead")]


def test_work_ahead_comes_in_order_and_no_further_ahead_than_the_queue_is_deep():
    done, gate = [], threading.Event()

    def work(key):
        gate.wait()
        done.append(key)
        return 10 * key

    values = ahead(work, range(20), depth=3)
    gate.set()
    for key in range(20):
        assert next(values) == 10 * key
        assert len(done) <= key + 1 + 3
        assert [one is threading.current_thread() for one in threads()] in ([], [False])
    assert next(values, None) is None
    assert done == list(range(20))
    assert threads() == []


def test_an_error_in_a_thread_is_raised_where_its_value_would_have_come():
    def work(key):
        if key == 2:
            raise KeyError("two")
        return key

    values = ahead(work, range(9), depth=4)
    assert [next(values), next(values)] == [0, 1]
    with pytest.raises(KeyError, match="two"):
        next(values)
    assert threads() == []


def test_who_stops_early_leaves_no_thread_and_no_work():
    done = []
    values = ahead(done.append, range(1000), depth=2)
    next(values)
    values.close()
    assert threads() == []
    assert len(done) <= 3
