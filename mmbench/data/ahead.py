"""Work done by a thread a little ahead of whoever takes what it gives."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


def ahead(work: Callable[[Key], Value], keys: Iterable[Key], *, depth: int) -> Iterator[Value]:
    """What `work` gives for each key, in their order.

    Keys are taken by the caller's thread, `depth` of them before they are asked for. What `work`
    raises is raised at its place in the order. The thread does not outlive the iterator.

    Args:
        work: Called once a key, by the thread.
        keys: In order.
        depth: Of the queue, >= 1: so many values are made, or being made, before they are taken.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="mmbench-ahead")
    queue: deque[Future[Value]] = deque()
    try:
        for key in keys:
            queue.append(pool.submit(work, key))
            if len(queue) > depth:
                yield queue.popleft().result()
        while queue:
            yield queue.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
