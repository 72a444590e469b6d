"""A training by several processes of this machine, a device each, with one record."""

import multiprocessing
import os
import signal
import socket
import sys
import traceback
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from mmbench.bench.record import killed
from mmbench.bench.run.attempt import Ended, Steps
from mmbench.bench.run.failures import RankError, classify
from mmbench.bench.run.log import log_to
from mmbench.bench.run.threads import threads as threads_of
from mmbench.processes import end_with_parent
from mmbench.store import ALONE, Claim

LOOK_S = 1.0  # between two looks at the claim


def together(steps: Steps, count: int, folder: Path, held: Claim, *, threads: int) -> Ended:
    """Carry out a run by processes that train as one; the first evaluates and writes its record.

    All begin here and all end here. This process computes nothing: it hears of a process that
    fails or dies, which the others would wait for without end, and ends them all.

    Args:
        steps: What each of them does.
        count: How many.
        folder: The run's private folder.
        held: Claim of the run.
        threads: Of each process.

    Raises:
        RankError: If one of them failed or died.
        LostClaimError: If the claim is lost in between.
    """
    context = multiprocessing.get_context("spawn")  # CUDA and OpenMP do not survive a fork
    port = _free_port()
    processes: list[BaseProcess] = []
    speaking: dict[Connection, BaseProcess] = {}
    record: Ended | None = None
    try:
        for rank in range(count):
            ear, mouth = context.Pipe(duplex=False)
            words = (steps, rank, port, folder, threads, mouth)
            process = context.Process(target=_train, args=words)
            process.start()
            mouth.close()  # so that a death ends what can be heard
            processes.append(process)
            speaking[ear] = process
        while speaking:
            heard = wait(list(speaking), timeout=LOOK_S)
            for ear in [one for one in speaking if one in heard]:
                ended = _hear(ear, speaking.pop(ear))
                record = ended if ended.mark is not None else record
            held.require()
    finally:
        for begun in processes:
            begun.kill()
            begun.join()
    assert record is not None, "the first process writes the record"
    return record


def _hear(ear: Connection, process: BaseProcess) -> Ended:
    """How a process ended.

    Raises:
        RankError: If it failed or died.
    """
    try:
        said = ear.recv()
    except EOFError:
        process.join()
        code = process.exitcode or 0
        why = killed(-code) if code < 0 else f"killed: a process ended with exit code {code}"
        raise RankError(why) from None
    if isinstance(said, str):
        raise RankError(said)
    assert isinstance(said, Ended)
    return said


def _train(
    steps: Steps,
    rank: int,
    port: int,
    folder: Path,
    threads: int,
    mouth: Connection,
) -> None:
    """One of the processes: what Lightning reads of who it is stands in its environment."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who started all
    end_with_parent()
    os.environ |= {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if sys.platform == "linux":
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # a host's name need not lead anywhere
    with log_to(folder / "log.txt"), threads_of(threads):
        try:
            ended: Ended | str = steps(folder, ALONE)
        except BaseException as error:  # a plugin may raise anything, and call sys.exit
            traceback.print_exc()
            ended = classify(error)
        mouth.send(ended)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
