"""Runs on this machine: warm worker processes, each with its own GPU if there are any.

A worker takes one run after the other and imports torch once; without GPUs it is imported once
for all workers. Each worker is a process pool of one, so that a worker that dies takes down its
own run and nothing else.
"""

import contextlib
import ctypes
import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections import Counter, deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbench.bench.record import Outcome, killed, record_failure
from mmbench.bench.spec import RunSpec
from mmbench.store import leftovers

ATTEMPTS = 3  # to start a worker, and to have it begin a run


@dataclass(frozen=True)
class Event:
    """A run began (`outcome` is None) or ended on a worker.

    Args:
        worker: Number of the worker.
        spec: Which run.
        outcome: How it ended.
        again: Whether it is tried once more: somebody else was at it, or the worker died before.
    """

    worker: int
    spec: RunSpec
    outcome: Outcome | None = None
    again: bool = False


def gpus() -> list[str]:
    """Ids of the GPUs that this process may use, found without starting CUDA here.

    Honours CUDA_VISIBLE_DEVICES as it stands, made-up ids included.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [part.strip() for part in visible.split(",") if part.strip() not in ("", "-1")]
    devices = Path("/proc/driver/nvidia/gpus")
    return [str(i) for i, _ in enumerate(devices.iterdir())] if devices.is_dir() else []


def default_workers() -> int:
    """One worker a GPU; without GPUs one a core that this process may use, at most 8."""
    return len(gpus()) or min(cores(), 8)


def cores() -> int:
    """Cores this process may use, which in a container or a job are fewer than the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def execute(
    specs: Sequence[RunSpec], runs: Path, root: Path, *, workers: int, overwrite: bool = False
) -> Generator[Event, None, None]:
    """Carry out runs and report each beginning and end.

    Closing the generator (Ctrl-C does) ends the workers at once; the runs in flight are lost and
    all finished ones stay.

    Args:
        specs: In the order in which to start them.
        runs: Folder of all runs of the suite.
        root: Folder of the user's data.
        workers: How many at a time, >= 1.
        overwrite: Whether finished runs are repeated.
    """
    ids = gpus()
    waiting = deque((spec, False) for spec in specs)
    pools: dict[int, _Worker] = {}
    flying: dict[Future[Any], tuple[int, RunSpec, bool]] = {}
    lost: Counter[str] = Counter()  # times that a worker died, by key of the run it was given

    def start(worker: int) -> Iterator[Event]:
        if not waiting:
            return
        spec, patient = waiting.popleft()
        gpu = ids[worker % len(ids)] if ids else None
        for _ in range(ATTEMPTS):
            if worker not in pools:
                pools[worker] = _Worker(gpu)
            try:
                future = pools[worker].submit(_work, spec, runs, root, overwrite, patient)
                break
            except (BrokenProcessPool, OSError):  # it, or the server that forks, died between runs
                pools.pop(worker).end()
        else:
            yield Event(worker, spec)
            yield Event(worker, spec, Outcome("failed", "no worker process could be started"))
            yield from start(worker)
            return
        flying[future] = (worker, spec, patient)
        yield Event(worker, spec)

    try:
        for worker in range(min(workers, len(specs))):
            yield from start(worker)
        while flying:
            done, _ = wait(flying, return_when=FIRST_COMPLETED)
            for future in done:
                worker, spec, patient = flying.pop(future)
                try:
                    outcome = future.result()
                except BrokenProcessPool:
                    outcome = Outcome("failed", pools.pop(worker).end())
                    lost[spec.key] += 1
                    if lost[spec.key] < ATTEMPTS and not leftovers(runs / spec.folder):
                        waiting.appendleft((spec, patient))  # it died before it began this run
                        yield Event(worker, spec, outcome, again=True)
                        yield from start(worker)
                        continue
                    with contextlib.suppress(OSError):  # without it the run is still waiting
                        record_failure(spec, runs, outcome.why)
                except OSError as error:  # the disk is too full even for a record of the failure
                    outcome = Outcome("failed", f"disk: {error}")
                again = outcome.state == "elsewhere" and not patient
                if again:  # at the end, when there is nothing else to do
                    waiting.append((spec, True))
                yield Event(worker, spec, outcome, again)
                yield from start(worker)
    finally:
        for pool in pools.values():
            pool.kill()


class _Worker:
    """A process pool of one."""

    def __init__(self, gpu: str | None) -> None:
        self._pool = _pool(gpu)
        self._process: Any = None
        self._out_of_memory = 0

    def submit(self, *work: Any) -> Future[Any]:
        """Hand in a run.

        Raises:
            BrokenProcessPool: If the process has died.
        """
        self._out_of_memory = _oom_kills()
        future = self._pool.submit(*work)
        [self._process] = (self._pool._processes or {}).values()
        return future

    def end(self) -> str:
        """Clear away a process that died; returns by what, as far as one can know."""
        self._pool.shutdown(wait=True, cancel_futures=True)  # then its exit code is known
        code = None if self._process is None else self._process.exitcode
        if code is None or code >= 0:
            return f"killed: the worker process ended with exit code {code}"
        memory = "; memory ran out" if _oom_kills() > self._out_of_memory else ""
        return killed(-code) + memory

    def kill(self) -> None:
        """End it at once; a polite SIGTERM is held back by lightning until the fit ends."""
        for process in list((self._pool._processes or {}).values()):
            process.kill()
        self._pool.shutdown(wait=False, cancel_futures=True)


def _oom_kills() -> int:
    """How many processes the kernel has ended for want of memory, here and in this container."""
    count = 0
    for file in (Path("/proc/vmstat"), Path("/sys/fs/cgroup/memory.events")):
        with contextlib.suppress(OSError):
            for line in file.read_text(encoding="utf-8").splitlines():
                name, _, value = line.partition(" ")
                count += int(value) if name == "oom_kill" else 0
    return count


def _pool(gpu: str | None) -> ProcessPoolExecutor:
    # CUDA and OpenMP do not survive a fork once they run. Workers with a GPU are therefore spawned;
    # without GPUs they are forked off a server that imported everything and ran nothing
    context = multiprocessing.get_context("forkserver" if gpu is None else "spawn")
    context.set_forkserver_preload(["mmbench.bench.run.run"])
    return ProcessPoolExecutor(
        max_workers=1,
        mp_context=context,
        initializer=_warm_up,
        initargs=(gpu, dict(os.environ)),
    )


def _warm_up(gpu: str | None, environment: dict[str, str]) -> None:
    """Prepare a worker: its environment, its GPU before CUDA starts, then the imports."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    os.environ.clear()  # a worker of a server begins with what that one was started with
    os.environ.update(environment)
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    keep_freed_memory()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import mmbench.bench.run.run  # noqa: F401 - imported once a worker, not once a run

    # half a million objects of the imports need not be visited again after every run
    gc.collect()
    gc.freeze()


def keep_freed_memory() -> None:
    """Let this process keep the memory that tensors free, for the tensors of its next step.

    glibc gives the kernel back what was a large block or the end of the heap, and in every
    training step the kernel has to find and to zero the same pages again. Where the C library is
    another, nothing changes.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        trim_threshold, mmap_max = -1, -4  # as in malloc.h
        libc.mallopt(trim_threshold, -1)
        libc.mallopt(mmap_max, 0)


def _end_with_parent() -> None:
    """A worker whose parent was killed would train on for nobody."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # only workers come here
    parent.join()
    os._exit(1)


def _work(spec: RunSpec, runs: Path, root: Path, overwrite: bool, wait: bool) -> Outcome:
    from mmbench.bench.run.run import run

    return run(spec, runs, root, overwrite=overwrite, wait=wait)
