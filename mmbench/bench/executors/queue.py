"""What is left to run, as the folder says, handed out run by run.

Every worker has a queue of its own and there is no server: finished runs, claims and the notes of
other workers, all of them files, decide what is handed out. Two workers that take the same run
cost time and nothing else.
"""

import contextlib
import json
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Literal

from mmbench.bench.executors.order import Data, budget_s, data_of, in_order, joins
from mmbench.bench.executors.workers import Announcement, Peer, announced
from mmbench.bench.record import Outcome, Run, find_run, ran_out_of_memory
from mmbench.bench.result import read_result
from mmbench.bench.spec import RunSpec
from mmbench.store import identity, is_claimed, write_json

AGAIN = "again.json"  # in a suite's folder: what `mmbench run` found ended and wants repeated
MOST = 3  # tries of a run by one worker
SAMPLE = 5  # records that say how long runs of a method on a data set take
LOOK_AGAIN_S = 10.0  # between two looks for records of what is of unknown length

Again = Mapping[str, tuple[int, int]]  # key of a run -> `identity` of what is to be replaced
Openness = Literal["open", "alone", "claimed", "finished"]


@dataclass(frozen=True)
class Ticket:
    """A run that is handed out.

    Args:
        spec: Which.
        overwrite: Whether it is finished and is repeated.
        patient: Whether somebody claims it, who is waited for until it shows whether he is alive.
        alone: Whether nothing else may run on this machine: memory ran out before.
    """

    spec: RunSpec
    overwrite: bool = False
    patient: bool = False
    alone: bool = False


def repeated(todo: Sequence[Run]) -> Again:
    """What of some runs lies there now and is to be replaced."""
    marks = {run.spec.key: identity(run.folder) for run in todo}
    return {key: mark for key, mark in marks.items() if mark is not None}


def write_again(folder: Path, again: Again) -> None:
    """Leave for all workers what is to be repeated."""
    write_json(folder / AGAIN, again)


def read_again(folder: Path) -> Again:
    """What `write_again` left; nothing if nobody did.

    Raises:
        ValueError: If the file is damaged.
    """
    try:
        note = json.loads((folder / AGAIN).read_text(encoding="utf-8"))
        return {str(key): (int(inode), int(time_ns)) for key, (inode, time_ns) in note.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{folder / AGAIN} is damaged ({error}); `mmbench run` writes it anew"
        ) from error


class Durations:
    """How long runs take and how much memory, by records of the same method on the same data.

    Args:
        runs: Folder of all runs of the suite.
    """

    def __init__(self, runs: Path) -> None:
        self.runs = runs
        self._seconds: dict[tuple[str, str], deque[float]] = {}  # the newest of each kind
        self._expected: dict[tuple[str, str], float] = {}
        self._peaks: dict[tuple[str, str], float] = {}
        self._looked = -LOOK_AGAIN_S

    def of(self, spec: RunSpec) -> float | None:
        """Seconds that a run is expected to take; None if none like it has ended."""
        return self._expected.get(_kind(spec))

    def peak_mib(self, spec: RunSpec) -> float | None:
        """MiB that a run is expected to need at most; None if none like it has ended."""
        return self._peaks.get(_kind(spec))

    def add(self, spec: RunSpec, seconds: float) -> None:
        """Remember how long a run took, and what its record says of memory."""
        self._add(_kind(spec), seconds)
        folder = self.runs / spec.folder
        if (folder / "metrics.json").is_file():
            with contextlib.suppress(ValueError, OSError):
                self._add_peak(_kind(spec), read_result(folder).cost.peak_mib)

    def _add_peak(self, kind: tuple[str, str], peak_mib: float) -> None:
        self._peaks[kind] = max(self._peaks.get(kind, 0.0), peak_mib)

    def _add(self, kind: tuple[str, str], seconds: float) -> None:
        known = self._seconds.setdefault(kind, deque(maxlen=SAMPLE))
        known.append(seconds)
        self._expected[kind] = median(known)

    def look(self, specs: Sequence[RunSpec]) -> None:
        """Read some records of what is of unknown length."""
        if time.monotonic() - self._looked < LOOK_AGAIN_S:
            return
        self._looked = time.monotonic()
        for data, method in {_kind(spec): None for spec in specs if self.of(spec) is None}:
            files = self.runs.glob(f"{data}/*/{method}/[!.]*/metrics.json")
            for file in islice(files, SAMPLE):
                with contextlib.suppress(ValueError, OSError):  # damaged, or it went away
                    cost = read_result(file.parent).cost
                    self._add((data, method), cost.seconds)
                    self._add_peak((data, method), cost.peak_mib)


def _kind(spec: RunSpec) -> tuple[str, str]:
    data, _, method, _ = spec.folder.parts
    return data, method


class Queue:
    """The runs that one worker may take.

    Args:
        specs: In the order of the plan.
        runs: Folder of all runs of the suite.
        again: What is repeated although it has ended.
        minutes: After which nothing more is handed out; None = when all is done.
    """

    def __init__(
        self,
        specs: Sequence[RunSpec],
        runs: Path,
        *,
        again: Again | None = None,
        minutes: float | None = None,
    ) -> None:
        self.runs = runs
        self.again = again or {}
        self.durations = Durations(runs)
        self._limit_s = None if minutes is None else 60 * minutes
        self._began = time.monotonic()
        self._left = {spec.key: spec for spec in specs}
        self._flying: set[str] = set()
        self._chunk: deque[RunSpec] = deque()
        self._near: dict[int, Data] = {}  # slot -> data that it holds in memory
        self._aside: dict[str, list[RunSpec]] = {}  # what is not free to take, by why
        self._tries: Counter[str] = Counter()
        self._slots = 1
        self._me: Announcement | None = None

    @property
    def specs(self) -> tuple[RunSpec, ...]:
        """What is not known to be finished."""
        return tuple(self._left.values())

    @contextlib.contextmanager
    def opened(self, slots: int) -> Iterator[None]:
        """Count as a worker of so many slots while the body runs."""
        with announced(self.runs, slots) as me:
            self._slots, self._me = slots, me
            yield

    def openness(self, spec: RunSpec) -> tuple[Openness, Run]:
        """Whether a run may be taken.

        Returns:
            `open`, `alone` (but nothing beside it), `claimed` (somebody is at it) or `finished`,
            and what was found.
        """
        run = find_run(spec, self.runs)
        if run.state in ("waiting", "running"):
            return ("open" if run.state == "waiting" else "claimed"), run
        state: Openness = "open"
        if run.state != "broken" and self.again.get(spec.key) != identity(run.folder):
            if not run.again:
                return "finished", run
            state = "alone" if ran_out_of_memory(run.why) else "open"
        return ("claimed" if is_claimed(run.folder) else state), run

    def take(
        self, slot: int, *, idle: bool, fits: Callable[[RunSpec], bool] = lambda spec: True
    ) -> Ticket | None:
        """Hand out a run.

        First what nobody is at; then what ran out of memory, alone; then what others have taken
        and not begun; at last what others are at, in case they are dead.

        Args:
            slot: Which of the worker's slots asks.
            idle: Whether nothing runs in the others.
            fits: Says whether there is room for a run in the slot.

        Returns:
            The run; None if there is none, or none until one of this worker's ends.
        """
        near = self._near.get(slot)
        self._chunk = deque(spec for spec in self._chunk if self._has_time(spec))
        if not self._chunk:
            self._choose(near)
        if self._chunk:
            free = [spec for spec in self._chunk if fits(spec)]
            if not free:
                return None
            spec = next((each for each in free if data_of(each) == near), free[0])
            self._chunk.remove(spec)
            return self._hand_out(spec, slot)
        if alone := self._aside.get("alone"):
            return self._hand_out(alone[0], slot, alone=True) if idle else None
        for spec in reversed(self._aside.get("taken", [])):  # from the end that is begun last
            state, _ = self.openness(spec)
            if state == "open" and fits(spec):
                return self._hand_out(spec, slot)
            if state == "claimed":
                self._aside["claimed"].append(spec)
        for spec in filter(fits, self._aside.get("claimed", [])):
            return self._hand_out(spec, slot, patient=True)
        return None

    def put_back(self, ticket: Ticket) -> None:
        """Take back a run that never began."""
        self._flying.discard(ticket.spec.key)

    def ended(self, ticket: Ticket, outcome: Outcome) -> bool:
        """Note how a run ended; returns whether it is tried once more."""
        spec = ticket.spec
        self._flying.discard(spec.key)
        if outcome.state == "done" and outcome.work_s:
            self.durations.add(spec, outcome.wall_s)
        if outcome.state == "elsewhere":
            self._tries[spec.key] += 1  # a claim that is lost each time would not be the last
            again = not ticket.patient and self._tries[spec.key] < MOST
        else:
            self._tries[spec.key] += 1  # a failure that cannot be recorded would not be the last
            run = find_run(spec, self.runs)
            known = self.again.get(spec.key) == identity(run.folder)
            again = run.again and not known and self._tries[spec.key] < MOST
        if not again:
            self._left.pop(spec.key, None)
        return again

    def _hand_out(
        self, spec: RunSpec, slot: int, *, patient: bool = False, alone: bool = False
    ) -> Ticket:
        self._flying.add(spec.key)
        self._near[slot] = data_of(spec)
        target = self.runs / spec.folder
        planned = self.again.get(spec.key)
        overwrite = (
            planned is not None
            and planned == identity(target)
            and find_run(spec, self.runs).state in ("done", "skipped")
        )
        return Ticket(spec, overwrite, patient, alone)

    def _choose(self, near: Data | None) -> None:
        """Take some runs at once and say so; where two took the same, one chooses anew."""
        me = self._me
        assert me is not None, "a queue is opened before anything is taken"
        while True:
            others = me.others()
            self._pick(near, others)
            chosen = {spec.key for spec in self._chunk}
            if chosen != set(me.peer.chunk):
                me.take([spec.key for spec in self._chunk])
            if not any(chosen & set(peer.chunk) for peer in me.others_before()):
                return
            self._chunk.clear()

    def _pick(self, near: Data | None, others: Sequence[Peer]) -> None:
        """Find the first runs that are free, and note why others are not."""
        self._aside = {"alone": [], "taken": [], "claimed": []}
        left = [spec for key, spec in self._left.items() if key not in self._flying]
        self.durations.look(left)
        taken = {key for peer in others for key in peer.chunk}
        budget = budget_s(
            left,
            self.durations.of,
            slots=self._slots,
            slots_in_all=self._slots + sum(peer.slots for peer in others),
        )
        for spec in in_order(left, self.durations.of, near):
            if not joins(self._chunk, spec, self.durations.of, budget):
                break
            if not self._has_time(spec):
                continue
            if spec.key in taken:
                self._aside["taken"].append(spec)
                continue
            state, _ = self.openness(spec)
            if state == "finished":
                del self._left[spec.key]
            elif state == "open":
                self._chunk.append(spec)
            else:
                self._aside[state].append(spec)

    def _has_time(self, spec: RunSpec) -> bool:
        """Whether a run is expected to end in time.

        One that is longer than all the time that a worker has goes on from its checkpoints, in
        one worker after the other; each begins with it in the first half of its time.
        """
        if self._limit_s is None:
            return True
        left_s = self._limit_s - (time.monotonic() - self._began)
        return left_s > min(self.durations.of(spec) or 0.0, self._limit_s / 2)
