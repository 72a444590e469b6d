"""A method that costs time and no processor, for tests of who does which run when."""

import os
import time
from pathlib import Path

from mmbench.methods.majority import Majority


def sleepers(marks, count, seconds):
    """Entries of a suite: runs that take so long, and leave a line in a file when they begin."""
    return [
        {
            "name": "sleeper.Sleeper",
            "label": f"s{number}",
            "args": {"seconds": seconds, "marks": str(marks), "number": number},
        }
        for number in range(count)
    ]


class Sleeper(Majority):
    """Majority, after a while.

    Args:
        seconds: How long a run takes at least.
        marks: Folder in which each beginning leaves a line; empty = none.
        number: Which of many, so that they differ in their key.
    """

    def __init__(self, task, *, seconds: float = 0.5, marks: str = "", number: int = 0) -> None:
        super().__init__(task)
        if marks and os.environ.get("SLEEPER"):  # not where a suite is only checked
            with (Path(marks) / f"{number}.txt").open("a") as file:
                file.write(f"{os.environ['SLEEPER']}\n")
            time.sleep(seconds)


class Failing(Majority):
    """Majority that fails in a run, though not where its suite is checked."""

    def __init__(self, task) -> None:
        super().__init__(task)
        if os.environ.get("SLEEPER"):
            raise RuntimeError("made up")
