"""Processes that do a long piece of work from its end, while this one begins at the start.

Nobody waits, and nothing has to be told: a piece that is done is seen to be done, two processes may
now and then do the same one, and what a helper does not do, for whatever reason, this one does.
"""

import os
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress


@contextmanager
def helpers(work: Callable[[int], object], pieces: Sequence[int]) -> Iterator[None]:
    """Let every core but one do pieces, as long as the body lasts; nowhere but on Linux.

    Args:
        work: Does a piece unless it is done. It may run twice at once for one piece.
        pieces: All of them.
    """
    count = len(os.sched_getaffinity(0)) - 1 if hasattr(os, "sched_getaffinity") else 0
    processes = [_helper(work, pieces[::-1][k::count]) for k in range(count)]
    try:
        yield
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)


def _helper(work: Callable[[int], object], pieces: Sequence[int]) -> int:
    """Number of a new process, a copy of this one that holds nothing but what it works with."""
    parent = os.getpid()
    with warnings.catch_warnings():
        # of threads that a copy does not have: decoders wait for none of theirs
        warnings.filterwarnings("ignore", ".*fork", DeprecationWarning)
        process = os.fork()
    if process:
        return process
    try:
        for piece in pieces:
            if os.getppid() != parent:
                break
            work(piece)
    finally:
        os._exit(0)  # an error is met again by who does the piece instead
