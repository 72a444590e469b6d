"""Methods that cost time and no processor, or fail, for tests of who does which run when."""

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
        marks: Folder in which each beginning leaves a line.
        number: Which of many, so that they differ in their key.
    """

    def __init__(self, task, *, seconds: float = 0.5, marks: str = "", number: int = 0) -> None:
        super().__init__(task)
        self.seconds = seconds
        self.mark = Path(marks) / f"{number}.txt"

    def prepare(self, train) -> None:
        """Not in the constructor, which is called where a suite is checked, too."""
        super().prepare(train)
        with self.mark.open("a") as file:
            file.write("begun\n")
        time.sleep(self.seconds)


class Failing(Majority):
    """Majority that fails in a run."""

    def prepare(self, train) -> None:
        raise RuntimeError("made up")
