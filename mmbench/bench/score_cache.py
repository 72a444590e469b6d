"""Numbers that take long to compute from predictions, kept until a run below them changes."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmbench.bench.record import Run, fingerprint
from mmbench.store import write_json

FILE = "computed.json"  # beside the runs; may be deleted at any time


class ScoreCache:
    """A file of numbers by name, each with a mark of the runs that it was computed from.

    Made anew for each table: it looks once whether a run has changed.

    Args:
        folder: Folder of the runs, where the file lies; None = nothing is kept.
    """

    def __init__(self, folder: Path | None) -> None:
        self._path = None if folder is None else folder / FILE
        self._entries: dict[str, Any] = {}
        self._new = False
        self._marks: dict[tuple[tuple[Path, str], ...], str] = {}  # many names, the same runs
        if self._path is not None and self._path.is_file():
            try:
                record = json.loads(self._path.read_text(encoding="utf-8"))
            except (ValueError, RecursionError):
                record = None  # cut off or edited: compute again
            self._entries = record if isinstance(record, dict) else {}

    def __call__(
        self, name: Sequence[str], runs: Sequence[Run], make: Callable[[], list[float]]
    ) -> list[float]:
        """Return the numbers of that name; computed if they are not there, or not of these runs.

        Args:
            name: What the numbers are.
            runs: All finished runs that they depend on.
            make: Computes them.
        """
        if self._path is None:
            return make()
        key, mark = json.dumps(list(name)), self._mark(runs)
        entry = self._entries.get(key)
        if not (isinstance(entry, list) and len(entry) == 2 and entry[0] == mark):
            entry = self._entries[key] = [mark, make()]
            self._new = True
        return [math.nan if number is None else number for number in entry[1]]

    def _mark(self, runs: Sequence[Run]) -> str:
        same = tuple((run.folder, run.state) for run in runs)
        if same not in self._marks:
            self._marks[same] = fingerprint(runs)
        return self._marks[same]

    def write(self) -> None:
        """Write the file by rename if there is anything new."""
        if self._new and self._path is not None:
            write_json(self._path, self._entries)
            self._new = False
