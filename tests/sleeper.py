"""Methods that wait, or fail, for tests of who does which run when."""

import os
import time
from pathlib import Path

from mmbench.methods.majority import Majority
from mmbench.methods.zero_fill import ZeroFill


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


class Marked(Majority):
    """Majority that leaves a mark when it begins.

    Args:
        marks: Folder in which each beginning leaves a line.
        number: Which of many, so that they differ in their key.
    """

    def __init__(self, task, *, marks: str = "", number: int = 0) -> None:
        super().__init__(task)
        self.mark = Path(marks) / f"{number}.txt"

    def prepare(self, train) -> None:
        """Not in the constructor, which is called where a suite is checked, too."""
        super().prepare(train)
        with self.mark.open("a") as file:
            file.write("begun\n")


class Sleeper(Marked):
    """Majority, after a while and, if there is one, behind a gate.

    Args:
        seconds: How long a run takes at least.
        marks: See `Marked`.
        number: See `Marked`.
    """

    def __init__(self, task, *, seconds: float = 0.5, marks: str = "", number: int = 0) -> None:
        super().__init__(task, marks=marks, number=number)
        self.seconds = seconds

    def prepare(self, train) -> None:
        super().prepare(train)
        time.sleep(self.seconds)
        gate, marks = self.mark.with_name("gate"), self.mark.parent
        if gate.exists() and len(list(marks.glob("*.txt"))) > int(gate.read_text()):
            self.mark.with_suffix(".held").touch()
            while gate.exists():
                time.sleep(0.01)


def shut_gate(marks, after):
    """Let only so many sleepers end, or one fewer each slot, until the file returned is removed.

    Args:
        marks: Their folder.
        after: At least as many as there are slots, so that one ends; or 0 for none.
    """
    gate = Path(marks) / "gate"
    gate.write_text(str(after))
    return gate


def held(marks):
    """How many sleepers wait at the gate."""
    return len(list(Path(marks).glob("*.held")))


class Mortal(Marked):
    """Majority that waits for its process to be killed, before it goes on in another one.

    Args:
        deaths: How often it waits.
        marks: See `Marked`.
        number: See `Marked`.
    """

    def __init__(self, task, *, deaths: int = 1, marks: str = "", number: int = 0) -> None:
        super().__init__(task, marks=marks, number=number)
        self.deaths = deaths

    def prepare(self, train) -> None:
        """Mark first, so that who kills it knows that it has begun."""
        super().prepare(train)
        while len(self.mark.read_text().splitlines()) <= self.deaths:
            time.sleep(0.01)


class Meeting(ZeroFill):
    """Zero filling that trains when runs have begun in two processes.

    Args:
        marks: Folder in which each process leaves a file.
    """

    def __init__(self, task, *, marks: str = "", **settings) -> None:
        super().__init__(task, **settings)
        self.marks = Path(marks)

    def prepare(self, train) -> None:
        """Whoever comes first waits for the other."""
        super().prepare(train)
        (self.marks / f"{os.getpid()}.here").touch()
        while len(list(self.marks.glob("*.here"))) < 2:
            time.sleep(0.01)


class Failing(Majority):
    """Majority that fails in a run."""

    def prepare(self, train) -> None:
        raise RuntimeError("made up")
