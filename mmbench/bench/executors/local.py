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
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbench.bench.record import Outcome, finish
from mmbench.bench.spec import RunSpec


@dataclass(frozen=True)
class Event:
    """A run began (`outcome` is None) or ended on a worker."""

    worker: int
    spec: RunSpec
    outcome: Outcome | None = None


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
    threads = max(1, cores() // workers)
    waiting = deque(specs)
    pools: dict[int, ProcessPoolExecutor] = {}
    flying: dict[Future[Any], tuple[int, RunSpec]] = {}

    def start(worker: int) -> Iterator[Event]:
        if not waiting:
            return
        spec = waiting.popleft()
        if worker not in pools:
            gpu = ids[worker % len(ids)] if ids else None
            pools[worker] = _pool(gpu, threads)
        flying[pools[worker].submit(_work, spec, runs, root, overwrite)] = (worker, spec)
        yield Event(worker, spec)

    try:
        for worker in range(min(workers, len(specs))):
            yield from start(worker)
        while flying:
            done, _ = wait(flying, return_when=FIRST_COMPLETED)
            for future in done:
                worker, spec = flying.pop(future)
                try:
                    outcome = future.result()
                except BrokenProcessPool:
                    pools.pop(worker).shutdown(wait=False)
                    outcome = Outcome("failed", "killed: the worker process ended; out of memory?")
                    with contextlib.suppress(OSError):  # without it the run counts as broken
                        (runs / spec.folder).mkdir(parents=True, exist_ok=True)
                        finish(runs / spec.folder, "failed.json", {"why": outcome.why})
                except OSError as error:  # the disk is too full even for a record of the failure
                    outcome = Outcome("failed", f"disk: {error}")
                yield Event(worker, spec, outcome)
                yield from start(worker)
    finally:
        for pool in pools.values():
            for process in list((pool._processes or {}).values()):
                process.kill()  # a polite SIGTERM is held back by lightning until the fit ends
            pool.shutdown(wait=False, cancel_futures=True)


def _pool(gpu: str | None, threads: int) -> ProcessPoolExecutor:
    # CUDA and OpenMP do not survive a fork once they run. Workers with a GPU are therefore spawned;
    # without GPUs they are forked off a server that imported everything and ran nothing
    context = multiprocessing.get_context("forkserver" if gpu is None else "spawn")
    context.set_forkserver_preload(["mmbench.bench.run.run"])
    return ProcessPoolExecutor(
        max_workers=1,
        mp_context=context,
        initializer=_warm_up,
        initargs=(gpu, threads, dict(os.environ)),
    )


def _warm_up(gpu: str | None, threads: int, environment: dict[str, str]) -> None:
    """Prepare a worker: its environment, its GPU before CUDA starts, threads, then the imports."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    os.environ.clear()  # a worker of a server begins with what that one was started with
    os.environ.update(environment)
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    keep_freed_memory()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    import mmbench.bench.run.run  # noqa: F401 - imported once a worker, not once a run

    torch.set_num_threads(threads)
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


def _work(spec: RunSpec, runs: Path, root: Path, overwrite: bool) -> Outcome:
    from mmbench.bench.run.run import run

    return run(spec, runs, root, overwrite=overwrite)
