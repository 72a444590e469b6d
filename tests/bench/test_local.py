"""Worker processes: their GPUs, and that one death costs one run."""

import contextlib
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from sweeps import NO_DATA, specs, visible
from waiting import wait_until

from mmbench.bench.executors import local
from mmbench.bench.executors.queue import Queue
from mmbench.bench.record import STAGES, find_run, read_predictions
from mmbench.store import claim


def test_made_up_gpu_ids_are_dealt_out_to_the_workers(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7, GPU-made-up ,3")
    assert local.gpus() == ["7", "GPU-made-up", "3"]
    assert local.default_workers() == 3
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert local.gpus() == []


def test_a_slot_has_as_many_gpus_as_its_runs_ask_for(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4")
    assert local.gpu_slots(1) == ["0", "1", "2", "3", "4"]
    assert local.gpu_slots(2) == ["0,1", "2,3"]
    assert local.gpu_slots(6) == []
    assert local.default_workers(devices=2) == 2
    [spec] = specs(methods=["zero_fill"], trainer={"devices": 3})
    assert local.devices_of([spec]) == 3
    assert local.devices_of([]) == 1


@pytest.mark.slow
def test_a_worker_sees_its_gpu_alone_before_it_imports_torch():
    pool = ProcessPoolExecutor(
        1,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=local._warm_up,
        initargs=("made-up-5", {**os.environ, "OMP_NUM_THREADS": "7"}),
    )
    with pool:
        assert pool.submit(visible).result() == ("made-up-5", "7")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about the allocator of glibc")
@pytest.mark.parametrize(("call", "kept"), [("keep_freed_memory()", True), ("", False)])
def test_memory_that_was_freed_costs_no_new_pages(call, kept):
    script = f"""
from resource import RUSAGE_SELF, getpagesize, getrusage
from mmbench.bench.executors.local import keep_freed_memory
{call}
bytearray(1 << 27)
before = getrusage(RUSAGE_SELF).ru_minflt
bytearray(1 << 27)
print((getrusage(RUSAGE_SELF).ru_minflt - before) * getpagesize() / (1 << 27))
"""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    shown = subprocess.run(
        [sys.executable, "-c", script], env=plain, check=True, stdout=subprocess.PIPE, text=True
    )
    faulted = float(shown.stdout)  # share of the block's pages
    assert faulted < 0.1 if kept else faulted > 0.9


def await_beginning(target):
    """Until a run has begun to write: into a private folder beside its own."""
    wait_until(lambda: list(target.parent.glob(f".{target.name}.*/log.txt")))


def mortals(folder, *deaths):
    """Entries of a suite: runs that wait to be killed so many times."""
    return [
        {
            "name": "sleeper.Mortal",
            "label": f"m{number}",
            "args": {"deaths": count, "marks": str(folder), "number": number},
        }
        for number, count in enumerate(deaths)
    ]


def begun(folder, number):
    """How often a mortal has begun."""
    file = folder / f"{number}.txt"
    return len(file.read_text().splitlines()) if file.exists() else 0


def its_process(before):
    """The worker process that is none of another test's, which may not all have been reaped."""
    [child] = [p for p in multiprocessing.active_children() if p.is_alive() and p not in before]
    return child


@pytest.mark.slow
def test_a_killed_run_is_tried_once_more_and_costs_no_other(tmp_path):
    planned = specs(methods=[*mortals(tmp_path, 2, 1), "majority"])
    kills, times = {planned[0].key: 2, planned[1].key: 1}, Counter()
    before = multiprocessing.active_children()
    ends = {spec.key: [] for spec in planned}
    for event in local.execute(Queue(planned, tmp_path), NO_DATA, workers=1):
        key = event.spec.key
        if event.outcome is not None:
            ends[key].append((event.outcome.state, event.again))
        elif kills.get(key):
            kills[key] -= 1
            times[key] += 1
            number = planned.index(event.spec)
            wait_until(lambda number=number, key=key: begun(tmp_path, number) == times[key])
            os.kill(its_process(before).pid, signal.SIGKILL)
    assert ends[planned[0].key] == [("failed", True), ("failed", False)]
    assert ends[planned[1].key] == [("failed", True), ("done", False)]
    assert ends[planned[2].key] == [("done", False)]
    twice, once, _ = (find_run(spec, tmp_path) for spec in planned)
    assert (twice.state, twice.why) == ("failed", "killed: by signal 9 (SIGKILL)")
    assert (twice.folder / "log.txt").is_file()  # what it had written is kept
    assert once.state == "done"


ENDS = """
import os, signal, sys
from mmbench.method import Method, Paper


class Ends(Method):
    '''A constant that ends its process in one of many ways.'''

    paper = Paper("ends")

    def __init__(self, task, how="none"):
        super().__init__(task)
        {"exit": lambda: sys.exit(3), "hard": lambda: os._exit(7),
         "term": lambda: os.kill(os.getpid(), signal.SIGTERM),
         "base": self.base, "none": lambda: None}[how]()

    def base(self):
        class Odd(BaseException):
            pass
        raise Odd("no Exception")

    def forward(self, batch):
        raise AssertionError
"""


@pytest.mark.slow
def test_whatever_ends_a_method_or_its_process_costs_that_run_alone(tmp_path, monkeypatch):
    (tmp_path / "ends_of_processes.py").write_text(ENDS)
    monkeypatch.syspath_prepend(str(tmp_path))
    ends = ("exit", "hard", "term", "base")
    planned = specs(
        methods=[
            *(
                {"name": "ends_of_processes.Ends", "args": {"how": how}, "label": how}
                for how in ends
            ),
            "majority",
        ],
        trainer={"max_epochs": 1, "accelerator": "cpu"},
    )
    ended = {}
    for event in local.execute(Queue(planned, tmp_path / "runs"), NO_DATA, workers=1):
        if event.outcome is not None:
            ended[event.spec.method_label] = event.outcome
    assert {name: ended[name].state for name in ends} == dict.fromkeys(ends, "failed")
    assert ended["exit"].why == "exit: the method ended the process by sys.exit(3)"
    assert ended["hard"].why == "killed: the worker process ended with exit code 7"
    assert ended["term"].why == "killed: by signal 15 (SIGTERM)"
    assert ended["base"].why == "error: Odd: no Exception"
    assert ended["majority"].state == "done"
    for spec in planned:
        found = find_run(spec, tmp_path / "runs", read_up_to=None)
        assert (found.state, found.why) == (
            ended[spec.method_label].state,
            ended[spec.method_label].why,
        )


@pytest.mark.slow
def test_a_worker_that_dies_between_two_runs_is_replaced(tmp_path):
    planned = specs(methods=["majority"], seeds=3)
    states = []
    for event in local.execute(Queue(planned, tmp_path), NO_DATA, workers=1):
        if event.outcome is None or event.again:
            continue
        states.append(event.outcome.state)
        for child in multiprocessing.active_children():
            child.kill()
            child.join()
    assert states == ["done"] * 3


@pytest.mark.slow
def test_a_run_that_somebody_is_at_is_waited_for_at_the_end(tmp_path):
    planned = specs(methods=["majority"], seeds=2)
    told = []
    with contextlib.ExitStack() as held:
        assert held.enter_context(claim(tmp_path / planned[0].folder)).ours
        for event in local.execute(Queue(planned, tmp_path), NO_DATA, workers=1):
            told.append((event.spec.seed, event.outcome and event.outcome.state))
            if told[-1] == (0, None):
                held.close()  # only now, so that it was handed out as a run of somebody's
    assert told == [(1, None), (1, "done"), (0, None), (0, "done")]


@pytest.mark.slow
def test_closing_ends_the_workers_and_leaves_a_run_that_will_run_again(tmp_path):
    planned = specs(trainer={"max_epochs": 10_000})[1:]
    threads = threading.active_count()
    events = local.execute(Queue(planned, tmp_path), NO_DATA, workers=1)
    next(events)
    await_beginning(tmp_path / planned[0].folder)
    events.close()
    assert multiprocessing.active_children() == []
    assert threading.active_count() == threads
    assert find_run(planned[0], tmp_path).state == "waiting"


@pytest.mark.slow
def test_predictions_depend_neither_on_the_number_of_workers_nor_on_the_order_of_runs(
    tmp_path, monkeypatch
):
    """Bytes of every prediction file: one worker, two workers, and two in another order."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    planned = specs(
        methods=["zero_fill", "mean_fusion", "shaspec", "moe_retriever"],
        seeds=2,
        trainer={"max_epochs": 2},
        limit=256,
    )
    orders = {
        "one": (planned, 1),
        "two": (planned, 2),
        "shuffled": ([planned[i] for i in np.random.default_rng(0).permutation(len(planned))], 2),
    }
    found = {}
    for name, (order, workers) in orders.items():
        for event in local.execute(Queue(order, tmp_path / name), NO_DATA, workers=workers):
            assert event.outcome is None or event.outcome.state == "done", event.outcome
        found[name] = {
            (spec.key, condition): read_predictions(find_run(spec, tmp_path / name), condition)
            for spec in planned
            for condition in ("complete", "mcar_0.3")
        }
    for other in ("two", "shuffled"):
        for key, arrays in found["one"].items():
            for name, array in arrays.items():
                assert array.tobytes() == found[other][key][name].tobytes(), (other, key, name)


OOM = """
import time
from pathlib import Path
from mmbench.methods.majority import Majority


def wait_until(is_so):
    end = time.monotonic() + 120
    while not is_so() and time.monotonic() < end:
        time.sleep(0.01)


class Greedy(Majority):
    '''Majority that has memory enough only while no run of `Other` goes on.

    At first it waits for one, so that it runs out of memory whatever begins when.
    '''

    def __init__(self, task, folder=""):
        super().__init__(task)
        self.folder = Path(folder)

    def prepare(self, train):
        super().prepare(train)
        first = not (self.folder / "greedy.txt").exists()
        with (self.folder / "greedy.txt").open("a") as file:
            file.write("begun\\n")
        if first:
            wait_until(lambda: list(self.folder.glob("other*.txt")))
        else:
            time.sleep(0.5)
        if list(self.folder.glob("other*.txt")):
            (self.folder / "failed").touch()
            raise MemoryError("made up")


class Other(Majority):
    '''Majority that takes a while, and waits until `Greedy` has failed.'''

    def __init__(self, task, folder="", number=0):
        super().__init__(task)
        self.mark = Path(folder) / f"other{number}.txt"

    def prepare(self, train):
        super().prepare(train)
        self.mark.touch()
        wait_until((self.mark.parent / "failed").exists)
        time.sleep(1)
        self.mark.unlink()
"""


@pytest.mark.slow
def test_a_run_that_ran_out_of_memory_is_tried_once_more_with_nothing_beside_it(
    tmp_path, monkeypatch
):
    (tmp_path / "memory_made_up.py").write_text(OOM)
    monkeypatch.syspath_prepend(str(tmp_path))
    args = {"folder": str(tmp_path)}
    others = [
        {"name": "memory_made_up.Other", "args": args | {"number": n}, "label": f"other{n}"}
        for n in range(4)
    ]
    greedy = {"name": "memory_made_up.Greedy", "args": args, "label": "greedy"}
    planned = specs(methods=[others[0], greedy, *others[1:]])
    ends = [
        (event.spec.method_label, event.outcome.state, event.again)
        for event in local.execute(Queue(planned, tmp_path / "runs"), NO_DATA, workers=2)
        if event.outcome is not None
    ]
    assert ends.count(("greedy", "failed", True)) == 1
    assert ends[-1] == ("greedy", "done", False)
    assert (tmp_path / "greedy.txt").read_text().count("begun") == 2
    assert sorted(e for e in ends[:-1] if e[0] != "greedy") == [
        (f"other{n}", "done", False) for n in range(4)
    ]


@pytest.mark.slow
def test_a_run_beyond_its_time_limit_is_a_failure_that_says_so(tmp_path):
    def planned(**trainer):
        return specs(trainer={"max_epochs": 100_000, **trainer})[1:]

    [spec] = planned(time_limit=0.02)
    assert spec.key == planned()[0].key  # it decides whether there is a result, not which
    events = local.execute(Queue([spec], tmp_path), NO_DATA, workers=1)
    next(events)
    await_beginning(tmp_path / spec.folder)  # meanwhile nobody looks how long it takes
    [event] = [event for event in events if event.outcome is not None]
    why = "time: longer than the 0.02 minutes of trainer.time_limit"
    assert (event.outcome.state, event.outcome.why, event.again) == ("failed", why, False)
    found = find_run(spec, tmp_path, read_up_to=None)
    assert (found.state, found.why) == ("failed", why)
    assert (found.folder / "log.txt").is_file()


@pytest.mark.slow
def test_a_process_that_shows_no_sign_of_life_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "SILENT_S", 3.0)
    monkeypatch.setattr("mmbench.bench.executors.local.heartbeat", lambda target: 1)
    planned = specs(methods=mortals(tmp_path, 1))
    before = multiprocessing.active_children()
    ends = []
    for event in local.execute(Queue(planned, tmp_path), NO_DATA, workers=1):
        if event.outcome is not None:
            ends.append((event.outcome.state, event.outcome.why, event.again))
        elif not ends:
            wait_until(lambda: begun(tmp_path, 0) == 1)
            os.kill(its_process(before).pid, signal.SIGSTOP)
            began = time.monotonic()
        else:
            assert time.monotonic() - began < 150  # as long as it takes without the change above
            monkeypatch.setattr(local, "SILENT_S", 1000.0)
    why = "killed: its process showed no sign of life for 3 s"
    assert ends[0] == ("failed", why, True)
    assert ends[1][0] == "done"


@pytest.mark.slow
def test_a_training_that_is_told_to_end_ends_at_once_and_is_no_failure_of_its_own(tmp_path):
    """As a cluster does that takes a node back; here this process, which is told too, is not."""
    planned = specs(trainer={"max_epochs": 100_000, "checkpoint_minutes": 0})[1:]
    before = multiprocessing.active_children()
    events = local.execute(Queue(planned, tmp_path), NO_DATA, workers=1)
    next(events)
    # until it is in the middle of its epochs
    wait_until(lambda: list((tmp_path / STAGES).rglob("*.ckpt")))
    os.kill(its_process(before).pid, signal.SIGTERM)
    began = time.monotonic()
    event = next(events)
    assert time.monotonic() - began < 60  # not after all of them
    assert (event.outcome.why, event.again) == ("killed: by signal 15 (SIGTERM)", True)
    events.close()
