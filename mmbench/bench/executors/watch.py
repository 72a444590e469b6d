"""A sweep that workers elsewhere carry out, as its files show it."""

import time
from collections.abc import Callable, Generator

from mmbench.bench.executors.local import Event
from mmbench.bench.executors.queue import Queue
from mmbench.bench.executors.workers import live
from mmbench.bench.record import Outcome
from mmbench.bench.result import read_result

LOOK_S = 2.0


def watch(queue: Queue, alive: Callable[[], int | None]) -> Generator[Event, None, None]:
    """Report each ending until all have ended, or until no worker is left.

    Args:
        queue: What is to be done; nothing is taken from it.
        alive: As of `Placement`.
    """
    left = list(queue.specs)
    while True:
        nobody = alive() == 0 and not live(queue.runs)  # asked first: the last may end meanwhile
        still = []
        for spec in left:
            state, run = queue.openness(spec)
            if state != "finished":
                still.append(spec)
                continue
            seconds = read_result(run.folder).cost.seconds if run.state == "done" else 0.0
            yield Event(None, spec, Outcome(run.state, run.why, seconds))
        left = still
        if nobody or not left:
            return
        time.sleep(LOOK_S)
