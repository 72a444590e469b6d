"""Threads of one run, the same however many runs go side by side."""

import contextlib
import os
from collections.abc import Iterator

import torch
from threadpoolctl import threadpool_limits

CHILDREN = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # what processes that a run starts look at


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch, numpy and child processes use so many threads; then put back what was before.

    Sums are split by thread, so the number decides the last bits of every result.

    Args:
        count: Threads, >= 1.
    """
    variables = {name: os.environ.get(name) for name in CHILDREN}
    before = torch.get_num_threads()
    os.environ.update(dict.fromkeys(CHILDREN, str(count)))
    torch.set_num_threads(count)
    try:
        with threadpool_limits(count):
            yield
    finally:
        torch.set_num_threads(before)
        for name, value in variables.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
