"""Presence tables as small files, for checking, for sharing, and to drive a run.

A file is text: header lines that begin with `#`, then one line a sample.

    # mmbench presence table, version 1
    # drawn: {"mask_seed": 0, "mechanism": "mcar", "missing_rate": 0.3, "split": "test"}
    # sha256: 6f0c...
    sample_id,audio,text
    17,1,0

1 = the sample has the modality. The checksum covers every line but its own.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from jaxtyping import Float, Int

from mmbench.data.missingness import (
    Labels,
    Law,
    PatternProbability,
    Scores,
    Stream,
    find,
    pattern_index,
)
from mmbench.data.samples import PresenceArray, Samples

JSON = Any  # what json.dumps takes: None, bool, int, float, str, lists and string-keyed dicts
TITLE = "# mmbench presence table, version 1"


@dataclass(frozen=True)
class PresenceTable:
    """Which modalities each sample shows.

    Args:
        modalities: Names, in the order of the columns of `presence`.
        sample_id: Unique.
        presence: True = shown; at least one in every row.
        drawn: How it was drawn, for people: mechanism, rates, mask seed, split.

    Raises:
        ValueError: If sizes differ, an id repeats, or a row is empty.
    """

    modalities: tuple[str, ...]
    sample_id: Int[np.ndarray, " sample"]
    presence: PresenceArray
    drawn: Mapping[str, JSON] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.presence.shape != (len(self.sample_id), len(self.modalities)):
            raise ValueError(
                f"{len(self.sample_id)} sample ids and {len(self.modalities)} modalities, but "
                f"presence has the shape {self.presence.shape}"
            )
        ids, counts = np.unique(self.sample_id, return_counts=True)
        if (counts > 1).any():
            raise ValueError(f"sample id {ids[counts > 1][0]} occurs {counts.max()} times")
        if not self.presence.any(axis=1).all():
            lost = self.sample_id[~self.presence.any(axis=1)][0]
            raise ValueError(f"sample {lost} shows no modality at all; one must stay")

    @cached_property
    def _lines(self) -> tuple[str, str]:
        head = f"{TITLE}\n# drawn: {json.dumps(dict(self.drawn), sort_keys=True)}\n"
        rows = zip(self.sample_id.tolist(), self.presence.astype(int).tolist(), strict=True)
        body = [",".join(map(str, (sample, *shown))) for sample, shown in rows]
        return head, "\n".join([",".join(("sample_id", *self.modalities)), *body, ""])

    @property
    def checksum(self) -> str:
        """SHA-256 of the file's lines without its own."""
        return hashlib.sha256("".join(self._lines).encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Write the file; the same table gives the same bytes."""
        head, body = self._lines
        path.write_text(f"{head}# sha256: {self.checksum}\n{body}", encoding="utf-8", newline="\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file and check it against its own checksum.

        Raises:
            ValueError: If it cannot be read, is no presence table, or has been changed.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} cannot be read as a presence table: {error}") from None
        lines = text.split("\n", 4)
        if (
            len(lines) < 5
            or lines[0] != TITLE
            or not lines[1].startswith("# drawn: ")
            or not lines[2].startswith("# sha256: ")
            or not lines[3].startswith("sample_id,")
        ):
            raise ValueError(f"{path} is no presence table: it must begin with {TITLE!r}")
        said = lines[2].removeprefix("# sha256: ")
        found = hashlib.sha256("\n".join([*lines[:2], *lines[3:]]).encode()).hexdigest()
        if said != found:
            raise ValueError(
                f"{path} has been changed: its checksum is {found[:12]}..., the file says "
                f"{said[:12]}...; export it again"
            )
        names = tuple(lines[3].split(",")[1:])
        try:
            cells = np.array(lines[4].replace("\n", ",").split(",")[:-1], dtype=np.int64)
            cells = cells.reshape(-1, 1 + len(names))
            drawn = json.loads(lines[1].removeprefix("# drawn: "))
        except ValueError:
            raise ValueError(f"{path} is no presence table: a line is no row of integers") from None
        if not np.isin(cells[:, 1:], (0, 1)).all():
            raise ValueError(f"{path} is no presence table: presence must be 0 or 1")
        try:
            return cls(names, cells[:, 0], cells[:, 1:] == 1, drawn)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def over(self, samples: Samples) -> PresenceArray:
        """Return the rows of these samples, in their order and that of their modalities.

        Raises:
            ValueError: If modalities differ, a sample is not in the table, or the table shows
                what a sample lacks by nature.
        """
        if set(self.modalities) != set(samples.modalities):
            raise ValueError(
                f"the presence table has the modalities {', '.join(self.modalities)}, "
                f"the data have {', '.join(samples.modalities)}"
            )
        order = np.argsort(self.sample_id, kind="stable")
        place = np.searchsorted(self.sample_id, samples.sample_id, sorter=order)
        rows = order[np.minimum(place, len(order) - 1)] if len(order) else place
        lost = (
            self.sample_id[rows] != samples.sample_id if len(order) else np.ones(len(samples), bool)
        )
        if lost.any():
            raise ValueError(
                f"sample {samples.sample_id[lost][0]} is not in the presence table, nor are "
                f"{lost.sum() - 1} others of {len(samples)}; export it from the same data"
            )
        columns = [self.modalities.index(name) for name in samples.modalities]
        presence: PresenceArray = self.presence[rows][:, columns]
        if (beyond := presence & ~samples.presence).any():
            row, column = np.argwhere(beyond)[0]
            raise ValueError(
                f"the presence table shows {samples.modalities[column]} of sample "
                f"{samples.sample_id[row]}, which lacks it by nature"
            )
        return presence


@dataclass(frozen=True)
class Table:
    """A presence table from a file decides what is shown.

    Args:
        path: File written by `PresenceTable.save`; relative to the working directory. One file
            may hold the samples of several splits.
        checksum: Its SHA-256, as its header says; empty = any.
    """

    path: str
    checksum: str = ""
    mechanism: ClassVar[str] = "table"

    def __post_init__(self) -> None:
        for key, value in (("path", self.path), ("checksum", self.checksum)):
            if not isinstance(value, str):
                raise ValueError(f"{key} must be a word, found {value!r}")

    @property
    def label(self) -> str:
        """`table_<name of the file>`."""
        return f"table_{Path(self.path).stem}"

    @property
    def nominal_rate(self) -> float | None:
        """None: it is set by a file."""
        return None

    def load(self) -> PresenceTable:
        """Read the file.

        Raises:
            ValueError: If it is no table, or not the one with the checksum.
        """
        table = PresenceTable.load(Path(self.path))
        if self.checksum and table.checksum != self.checksum:
            raise ValueError(
                f"{self.path} is not the table that the scenario names: its checksum is "
                f"{table.checksum[:12]}..., the scenario says {self.checksum[:12]}..."
            )
        return table

    def check(self, names: tuple[str, ...]) -> None:
        """See `Missingness`; reads the file."""
        found = self.load().modalities
        for name in found:
            find(name, names)
        for name in names:
            find(name, found)

    def draw(self, samples: Samples, stream: Stream) -> PresenceArray:
        """See `Missingness`; nothing is random."""
        return self.load().over(samples)

    def law(self, samples: Samples) -> Law:
        """See `Missingness`; the rows must be those of `samples`, whose patterns are certain."""
        presence = self.load().over(samples)

        def probability(score: Scores, label: Labels, natural: PresenceArray) -> PatternProbability:
            found: Float[np.ndarray, "row pattern"]
            found = np.zeros((len(presence), 1 << presence.shape[1]))
            found[np.arange(len(presence)), pattern_index(presence)] = 1.0
            return found

        return probability
