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
import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from mmbench.bench.executors.queue import Queue, Ticket
from mmbench.bench.executors.sharing import Sharing
from mmbench.bench.record import MEMORY, Outcome, killed, record_failure
from mmbench.bench.spec import RunSpec
from mmbench.processes import end_with_parent
from mmbench.store import LEASE_S, heartbeat, leftovers, release

DEAD = (BrokenProcessPool, OSError, EOFError)  # what handing in a run raises then
ATTEMPTS = 3  # to start a worker, and to have it begin a run
ASK_S = 10.0  # between two questions of idle slots, since other workers may die
TOLD_S = 1.0  # in which a signal to all processes of a job has come to each
LOOK_S = 1.0  # between two looks whether a run takes too long
SILENT_S = 2 * LEASE_S  # after which a process that holds a claim, and does not say so, is ended


@dataclass(frozen=True)
class Event:
    """A run began (`outcome` is None) or ended on a worker.

    Args:
        worker: Number of the slot; None if it is elsewhere.
        spec: Which run.
        outcome: How it ended.
        again: Whether it is tried once more: somebody else was at it, or what ended it may heal.
    """

    worker: int | None
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


def gpu_slots(devices: int) -> list[str]:
    """GPUs of each slot, as CUDA_VISIBLE_DEVICES has them; those that fill no slot are left out.

    Args:
        devices: How many a run asks for.
    """
    ids = gpus()
    firsts = range(0, len(ids) - devices + 1, devices)
    return [",".join(ids[first : first + devices]) for first in firsts]


def devices_of(specs: Iterable[RunSpec]) -> int:
    """How many devices a slot needs for the runs of a suite, which share their trainer."""
    return max((spec.devices for spec in specs), default=1)


def require_devices(specs: Iterable[RunSpec]) -> None:
    """Refuse runs that ask for more devices than this machine has.

    Raises:
        ValueError: If one does.
    """
    # as text: what is no name of an accelerator is refused where the trainer is checked
    needs = {(spec.devices, str(spec.trainer_args.get("accelerator"))) for spec in specs}
    for devices, accelerator in needs:
        ids = [] if accelerator == "cpu" else gpus()
        count, kind = (len(ids), "GPU") if ids else (cores(), "core")
        if devices > max(count, 1):
            raise ValueError(
                f"trainer.devices: a run asks for {devices}, and this machine has {count} {kind}"
                f"{'' if count == 1 else 's'}; ask for fewer, or run where there are more"
            )


def default_workers(per_gpu: int | None = 1, devices: int = 1) -> int:
    """As many runs at a time as there are slots on GPUs; without any, one a core, at most 8.

    Args:
        per_gpu: How many share the GPUs of a slot; None = as many as find room.
        devices: How many a run asks for.
    """
    return Sharing(gpu_slots(devices), per_gpu).slots or max(1, min(cores(), 8) // devices)


def cores() -> int:
    """Cores this process may use, which in a container or a job are fewer than the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def execute(
    queue: Queue, root: Path, *, workers: int, per_gpu: int | None = 1
) -> Generator[Event, None, None]:
    """Carry out what a queue hands out, until it has no more, and report each beginning and end.

    Closing the generator (Ctrl-C does) ends the worker processes at once; the runs in flight go on
    from their checkpoints next time, and all finished ones stay.

    Args:
        queue: What is to be done.
        root: Folder of the user's data.
        workers: Runs at a time, >= 1; each has a process of its own, which starts one for each
            device where a run asks for several.
        per_gpu: How many of them share a GPU; None = as many as find room.
    """
    sharing = Sharing(gpu_slots(devices_of(queue.specs)), per_gpu)
    pools: dict[int, _Worker] = {}
    flying: dict[Future[Any], _Flight] = {}
    lost: Counter[str] = Counter()  # times that a process died before it began, by key of its run

    def at_work() -> dict[int, RunSpec]:
        return {flight.slot: flight.ticket.spec for flight in flying.values()}

    def start(slot: int, ticket: Ticket) -> Iterator[Event]:
        for _ in range(ATTEMPTS):
            if slot not in pools:
                pools[slot] = _Worker(sharing.gpu(slot))
            try:
                shared = 1 + len(sharing.beside(slot, at_work()))
                future = pools[slot].submit(_work, ticket, queue.runs, root, shared)
            except DEAD:  # it, or the server that forks, died between runs
                pools.pop(slot).end()
            else:
                flying[future] = _Flight(slot, ticket, queue.runs / ticket.spec.folder)
                yield Event(slot, ticket.spec)
                return
        yield Event(slot, ticket.spec)
        outcome = Outcome("failed", "no worker process could be started")
        yield Event(slot, ticket.spec, outcome, queue.ended(ticket, outcome))

    def end(flight: _Flight, future: Future[Any]) -> Event:
        ticket = flight.ticket
        spec = ticket.spec
        try:
            outcome: Outcome = future.result()
        except BrokenProcessPool:
            outcome = Outcome("failed", flight.why or pools[flight.slot].end())
            if outcome.why == killed(signal.SIGTERM):
                time.sleep(TOLD_S)  # a cluster tells all at once: then this process ends here
            del pools[flight.slot]
            lost[spec.key] += 1
            if lost[spec.key] < ATTEMPTS and not leftovers(flight.target):
                queue.put_back(ticket)
                return Event(flight.slot, spec, outcome, again=True)
            with contextlib.suppress(OSError):  # without it the run is still waiting
                record_failure(spec, queue.runs, outcome.why)
        except OSError as error:  # the disk is too full even for a record of the failure
            outcome = Outcome("failed", f"disk: {error}")
        return Event(flight.slot, spec, outcome, queue.ended(ticket, outcome))

    with queue.opened(workers):
        try:
            ask = 0.0  # when idle slots ask again
            while True:
                idle = sorted(set(range(workers)) - at_work().keys())
                alone = any(flight.ticket.alone for flight in flying.values())
                nothing: set[str | None] = set()  # GPUs that nothing is there for
                while idle and not alone and time.monotonic() >= ask:
                    slot = idle.pop(0)
                    if sharing.gpu(slot) in nothing:
                        continue
                    fits = partial(
                        sharing.fits,
                        slot=slot, flying=at_work(), peak_mib=queue.durations.peak_mib,
                    )  # fmt: skip
                    ticket = queue.take(slot, idle=not flying, fits=fits)
                    if ticket is None:
                        if not flying:
                            return
                        nothing.add(sharing.gpu(slot))
                    else:
                        alone = ticket.alone
                        yield from start(slot, ticket)
                if nothing:
                    ask = time.monotonic() + ASK_S
                done, _ = wait(flying, timeout=LOOK_S, return_when=FIRST_COMPLETED)
                if done:
                    ask = 0.0
                for future in done:
                    event = end(flying[future], future)
                    del flying[future]
                    yield event
                for flight in flying.values():
                    if not flight.why and (why := flight.overdue()):
                        flight.why = why
                        pools[flight.slot].interrupt()
        finally:
            for each in pools.values():
                each.interrupt()
            for each in pools.values():
                each.end()  # Python's own clearing up would race with that of a pool
            for flight in flying.values():
                pool = pools.get(flight.slot)
                if pool is not None and pool.process is not None:
                    release(flight.target, pool.process)


class _Flight:
    """A run that a worker process is at."""

    def __init__(self, slot: int, ticket: Ticket, target: Path) -> None:
        self.slot = slot
        self.ticket = ticket
        self.target = target
        self.why = ""  # it was ended, once it was
        self._began = self._beaten = time.monotonic()
        self._beat = heartbeat(target)

    def overdue(self) -> str:
        """Why the process has to be ended; empty if it need not."""
        if self.ticket.patient:  # it may still wait for somebody else, who is at it
            return ""
        now = time.monotonic()
        limit = self.ticket.spec.trainer_args.get("time_limit")
        if limit is not None and now - self._began > 60 * limit:
            return f"time: longer than the {limit:g} minutes of trainer.time_limit"
        beat = heartbeat(self.target)
        if beat is None or beat != self._beat:
            self._beat, self._beaten = beat, now
        if now - self._beaten > SILENT_S:
            return f"killed: its process showed no sign of life for {SILENT_S:.0f} s"
        return ""


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
        memory = MEMORY if _oom_kills() > self._out_of_memory else ""
        return killed(-code) + memory

    @property
    def process(self) -> int | None:
        """Number of its process."""
        return None if self._process is None else self._process.pid

    def interrupt(self) -> None:
        """End it at once; a polite SIGTERM is held back by lightning until the fit ends."""
        for process in list((self._pool._processes or {}).values()):
            process.kill()


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
    signal.signal(signal.SIGTERM, _end_at_once)
    os.environ.clear()  # a worker of a server begins with what that one was started with
    os.environ.update(environment)
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    keep_freed_memory()
    end_with_parent()  # it would train on for nobody
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


def _end_at_once(number: int, frame: FrameType | None) -> None:
    """End as the signal ends a process: a fit would hold it back and be recorded as a failure."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _work(ticket: Ticket, runs: Path, root: Path, shared: int) -> Outcome:
    from mmbench.bench.run.run import run

    return run(
        ticket.spec, runs, root, overwrite=ticket.overwrite, wait=ticket.patient, shared=shared
    )
