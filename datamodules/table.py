"""Your own files: CSV, parquet or npz, one a modality, joined by id; no Python needed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mmbench.data.arrays import read_arrays
from mmbench.data.columns import features
from mmbench.data.files import locate
from mmbench.data.frames import (
    EMPTY_NUMBERS,
    Frame,
    likely_cause,
    read_frame,
    require_unique,
    to_numbers,
)
from mmbench.data.samples import SPLITS, Samples, Split
from mmbench.data.scenario import Scenario
from mmbench.data.splits import rows_of, stable_hash, stratified, stratified_groups
from mmbench.data.task import Kind, Modality, Task, TaskKind
from mmbench.data.vocabulary import encode, vocabulary, words
from mmbench.datamodule import DataModule, Source
from mmbench.registry import suggest

VECTOR: Kind = "vector"
SPLIT_WORDS: dict[str, Split] = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test",
}  # fmt: skip
BOOLEANS = {"true": "1", "false": "0"}


class Table(DataModule):
    """A data set of the user's, described by arguments alone.

    Files. The labels file has one row a sample: its id, one column (or several) to predict and,
    if there are any, columns of the split and of groups. Each modality has a file of its own with
    the same ids, in any order. CSV is separated by comma, semicolon (then decimals may be commas)
    or tab, `.csv`, `.tsv` or `.txt`, plain or compressed, in UTF-8; parquet needs
    `pip install pyarrow`; npz holds arrays.

    What a cell means. Ids, labels, words of the split, groups and texts are text, without spaces
    at the ends: `01` and `1` are two classes, `1.1` and `1.10` too, and `NA`, `None`, `nan` and
    `null` are words; only a cell with nothing in it is empty. (Whole numbers that parquet or npz
    hold as floats are `1`, not `1.0`.)

    Vectors (CSV or parquet). Every column beside the id is a feature, except those that are
    called like a target, the split or the group, and a first column without a name, which is
    the ids if there is no other, else left out if it counts the rows, else refused.

    - Numbers stay. `NA`, `NaN`, `null` and the like among numbers are empty cells.
    - `true` and `false` are 1 and 0.
    - Texts such as M and F are categories, one feature each for those that training shows.
    - Lists of equally many numbers (parquet) are as many features.
    - Refused by name, never cast: dates and times, numbers with something around them (`1,200`,
      `<5`, `12 %`), infinities, text that hardly repeats, numbers mixed with text.

    Texts (kind `tokens`, CSV or parquet). One column beside the id; its words are numbered by
    those that occur twice in the training split.

    Arrays (npz). `id` (n,), `x` (n, ...) in the axes of the kind and, for sequences, tokens and
    bags, `length` (n,) if samples differ in length; what lies beyond it is ignored. Token ids
    begin at 1; 0 is padding. Pictures are (n, channel, height, width), uint8 or float; (n,
    height, width, channel) is turned if the last axis is 1, 3 or 4 and the first is not, and
    (n, height, width) is grey. Complex numbers, dates and text are refused.

    Missing by nature: a sample whose id does not occur in a modality's file, whose row there is
    empty throughout, or whose entry is NaN throughout or of length 0, lacks that modality. Empty
    cells in part of a vector are filled with the median of the training split (of categories:
    the most frequent one), and `notes` counts them; NaN in part of anything else is an error.

    Classes: the texts of the target column, by size if all of them are numbers.

    Split: the column named by `split`, which says train, val or test, or numbers folds (0, 1,
    ... K - 1 or 1 ... K: fold k tests on the k-th, validates on the next and trains on the rest);
    or shares of train, val and test: stratified by class, in the order of a hash of the id, with
    5 folds whose test parts do not overlap as long as the test share is at most 1/5. With
    `group`, all samples of a group (a patient) lie in one split. Sample ids are the ids
    themselves if all of them are whole numbers, else a hash of each (BLAKE2b, 63 bits).

    Args:
        root: Folder that the file names below start from; they may also be absolute.
        scenario: See `DataModule`.
        files: Modality -> file; at least one.
        labels: Labels file, CSV or parquet.
        id: Name of the id column, in every file; `Unnamed: 0` for a first column without one.
        target: Column to predict; several for multi_label and regression.
        split: A column of the labels file, or three shares that sum to 1.
        group: A column of the labels file; samples of a group are never dealt to two splits.
        kinds: Modality -> kind; vector unless said otherwise.
        task: Classes to choose from, 0 / 1 for each column, or numbers.
        separator: Of labels in one cell, such as `|` in `Drama|Comedy`; multi_label with one
            target column. Labels are the words that occur, in the order of classes.
        unlabelled: Whether rows without a label, and rows of modalities without a row of labels,
            are refused or left out.
        indicators: Whether a feature that is empty for some training samples gets another beside
            it that says so (1 = was empty).
        **common: Passed to `DataModule`; fold is 0 with a column of train, val and test, below K
            with a column of folds, 0..4 with shares.

    Raises:
        ValueError: If the arguments do not fit together.
    """

    source = Source(citation="The user's own data.")
    folds: ClassVar[int] = 5
    files: ClassVar[tuple[str, ...]] = ()  # named by the arguments

    def __init__(
        self,
        root: Path,
        scenario: Scenario,
        *,
        files: Mapping[str | bool, str],
        labels: str,
        id: str = "id",
        target: str | Sequence[str] = "label",
        split: str | Sequence[float] = (0.7, 0.15, 0.15),
        group: str | None = None,
        kinds: Mapping[str | bool, Kind] | None = None,
        task: TaskKind = "single_label",
        separator: str | None = None,
        unlabelled: Literal["refuse", "drop"] = "refuse",
        indicators: bool = False,
        **common: Any,
    ) -> None:
        by_column = isinstance(split, str)
        fold = common.pop("fold", 0) if by_column else 0  # which there are, the column says
        super().__init__(root, scenario, **common)
        if by_column:
            self.fold = fold
        if not files:
            raise ValueError("table needs at least one file: files={modality: file}")
        self.paths = _names(files, "files")
        self.labels_file = labels
        self.files = (labels, *self.paths.values())  # type: ignore[misc]  # not of the class
        self.id_column = id
        self.targets = [target] if isinstance(target, str) else list(target)
        self.split_by = split if isinstance(split, str) else tuple(split)
        self.group_by = group
        self.kinds: dict[str, Kind] = dict.fromkeys(self.paths, VECTOR)
        self.kinds |= _names(kinds or {}, "kinds")
        self.task_kind = task
        self.separator = separator
        self.unlabelled = unlabelled
        self.indicators = indicators
        if unknown := [name for name in self.kinds if name not in self.paths]:
            raise ValueError(
                f"kinds names the modality {unknown[0]!r}, which has no file"
                f"{suggest(unknown[0], list(self.paths))}; files has {', '.join(self.paths)}"
            )
        if task == "single_label" and len(self.targets) != 1:
            raise ValueError(
                f"a single_label task has one target column, found {self.targets}; "
                "for several take task=multi_label or task=regression"
            )
        if separator is not None and (task != "multi_label" or len(self.targets) != 1):
            raise ValueError(
                f"separator {separator!r} is for one target column of a multi_label task, found "
                f"task={task} and target={self.targets}"
            )
        if separator == "":
            raise ValueError('separator is empty; say what stands between labels: separator="|"')
        if not isinstance(self.split_by, str) and (
            len(self.split_by) != 3
            or min(self.split_by) < 0
            or self.split_by[0] == 0
            or abs(sum(self.split_by) - 1) > 1e-6
        ):
            raise ValueError(
                f"split is {[*self.split_by]}, but wanted are three shares of train, val and "
                "test that sum to 1, or the name of a column"
            )

    def describe(self) -> Task:
        """Shapes and classes as the files have them; a process reads each file once."""
        return self._content[0]

    def load(self, split: Split) -> Samples:
        """Take one split of what the files hold.

        Raises:
            ValueError: If a file or a column is not there, an id repeats or has no label, a
                label is empty or a value no number; the message names the file and the row.
        """
        return self._content[1].take(rows_of(self._part, split))

    def notes(self) -> tuple[str, ...]:
        """What was left out, turned or filled in, a line each."""
        return (*self._labels.notes, *self._content[2])

    # --- labels ---

    @property
    def _roles(self) -> list[str]:
        """Columns of the labels file that are read, and that are no features anywhere."""
        split = [self.split_by] if isinstance(self.split_by, str) else []
        return list(dict.fromkeys([*self.targets, *split, *filter(None, [self.group_by])]))

    @cached_property
    def _labels(self) -> Frame:
        """The labels file, without rows that have no label if so asked."""
        frame = read_frame(locate(self.root, self.labels_file), self.id_column, only=self._roles)
        nothing = EMPTY_NUMBERS if self._of_numbers else ("",)
        for column in self._roles:
            empty = frame.text(column).isin(nothing if column in self.targets else ("",))
            if column in self.targets and self.unlabelled == "drop" and empty.any():
                frame = replace(
                    frame.take(np.flatnonzero(~empty)),
                    notes=(
                        *frame.notes,
                        f"{self.labels_file}: {int(empty.sum())} rows without {column} left out",
                    ),
                )
            elif empty.any():
                row = int(np.flatnonzero(empty)[0])
                way = (
                    "give it a value, or leave rows without a label out with unlabelled: drop "
                    "(samples without a label are not predicted)"
                    if column in self.targets
                    else "give it a value, or leave the row out"
                )
                raise ValueError(
                    f"{frame.where(row)}: {column} is empty ({int(empty.sum())} in all); {way}"
                )
        if not len(frame.ids):
            raise ValueError(f"{frame.path} has no row with a label")
        return frame

    @property
    def _of_numbers(self) -> bool:
        return self.task_kind != "single_label" and self.separator is None

    @cached_property
    def _outputs(self) -> list[str]:
        """Names of the classes, labels or regressed quantities."""
        if self._of_numbers:
            return self.targets
        text = self._labels.text(self.targets[0])
        found = set(text) if self.separator is None else {x for one in text for x in self._cut(one)}
        numbers, bad = to_numbers(pd.Series(sorted(found), dtype=object))
        if bad.any() or np.isnan(numbers).any():
            return sorted(found)
        return [name for _, name in sorted(zip(numbers.tolist(), sorted(found), strict=True))]

    def _cut(self, cell: str) -> list[str]:
        """Labels of one cell."""
        return [one.strip() for one in cell.split(self.separator) if one.strip()]

    @cached_property
    def _target(self) -> NDArray[Any]:
        frame = self._labels
        if not self._of_numbers:
            place = {name: k for k, name in enumerate(self._outputs)}
            text = frame.text(self.targets[0])
            if self.separator is None:
                return text.map(place).to_numpy(np.int64)
            found = np.zeros((len(text), len(place)), np.float32)
            for row, cell in enumerate(text):
                found[row, [place[one] for one in self._cut(cell)]] = 1.0
            return found
        columns = []
        for name in self.targets:
            text = frame.text(name)
            if self.task_kind == "multi_label":
                text = text.map(lambda one: BOOLEANS.get(one.lower(), one))
            values, bad = to_numbers(text, comma=frame.commas)
            if (bad | ~np.isfinite(values)).any():
                row = int(np.flatnonzero(bad | ~np.isfinite(values))[0])
                marks = [mark for mark in "|;,/" if mark in text[row]]
                hint = (
                    f'; if a cell holds several labels, say separator: "{marks[0]}"'
                    if self.task_kind == "multi_label" and len(self.targets) == 1 and marks
                    else ""
                )
                raise ValueError(
                    f"{frame.where(row)}, column {name}: {text[row]!r} is no finite number{hint}"
                )
            if self.task_kind == "multi_label" and not np.isin(values, (0, 1)).all():
                row = int(np.flatnonzero(~np.isin(values, (0, 1)))[0])
                raise ValueError(
                    f"{frame.where(row)}: {name} is {values[row]:g}, but the targets of a "
                    "multi_label task are 0 or 1"
                )
            columns.append(values)
        return np.stack(columns, axis=1)

    @cached_property
    def _ids(self) -> NDArray[np.int64]:
        names = self._labels.ids
        whole = names.str.fullmatch(r"0|-?[1-9]\d{0,17}").all()  # 18 digits always fit in int64
        return np.array([int(n) if whole else stable_hash(n) for n in names], dtype=np.int64)

    # --- split ---

    @cached_property
    def _part(self) -> NDArray[np.int64]:
        """Position in SPLITS of each sample."""
        part = self._given if isinstance(self.split_by, str) else self._dealt
        if self.group_by is not None:
            self._require_whole_groups(part)
        if empty := [split for split in SPLITS if not len(rows_of(part, split))]:
            raise ValueError(
                f"the {empty[0]} split of {self.labels_file} is empty; "
                f"split is {self.split_by!r} over {len(part)} rows"
            )
        return part

    @property
    def _given(self) -> NDArray[np.int64]:
        """As the column says: words, or numbers of folds."""
        assert isinstance(self.split_by, str)
        frame = self._labels
        said = frame.text(self.split_by).str.lower()
        number = said.where(said.str.fullmatch(r"\d{1,4}"), "-1").astype(int).to_numpy()
        first, count = number.min(), number.max() - number.min() + 1
        if (
            first in (0, 1)
            and count >= len(SPLITS)
            and set(number) == {*range(first, first + count)}
        ):
            self._require_fold(int(count), f"the column {self.split_by!r} has the folds")
            turn = (number - first - self.fold) % count
            return np.select([turn == 0, turn == 1], [SPLITS.index("test"), SPLITS.index("val")], 0)
        if (bad := ~said.isin(SPLIT_WORDS)).any():
            row = int(np.flatnonzero(bad)[0])
            raise ValueError(
                f"{frame.where(row)}: {self.split_by} is {said[row]!r}, but wanted is train, val "
                "or test, or, in all rows, the number of a fold: 0, 1, 2, ..."
            )
        self._require_fold(1, f"the column {self.split_by!r} describes one partition,")
        return said.map(lambda word: SPLITS.index(SPLIT_WORDS[word])).to_numpy(np.int64)

    def _require_fold(self, folds: int, what: str) -> None:
        self.folds = folds  # type: ignore[misc]  # known once the column is read
        if not 0 <= self.fold < folds:
            which = "fold 0" if folds == 1 else f"0..{folds - 1}"
            raise ValueError(f"fold {self.fold} was asked for, but {what} {which}")

    @property
    def _dealt(self) -> NDArray[np.int64]:
        """By shares."""
        assert not isinstance(self.split_by, str)
        _, val, test = self.split_by
        single = self.task_kind == "single_label"
        stratum = self._target if single else np.zeros(len(self._ids), np.int64)
        shares: dict[str, Any] = {"val": val, "test": test, "fold": self.fold, "folds": self.folds}
        if self.group_by is None:
            return stratified(self._ids, stratum, **shares)
        return stratified_groups(self._labels.text(self.group_by).to_numpy(str), stratum, **shares)

    def _require_whole_groups(self, part: NDArray[np.int64]) -> None:
        assert self.group_by is not None
        groups = self._labels.text(self.group_by)
        parts = pd.Series(part).groupby(groups.to_numpy(object)).agg(["min", "max"])
        cut = parts[parts["min"] != parts["max"]]
        if len(cut):
            low, high = (SPLITS[int(k)] for k in cut.iloc[0])
            raise ValueError(
                f"{self.labels_file}: {self.group_by} {cut.index[0]} has samples in {low} and in "
                f"{high} ({len(cut)} such in all), says the column {self.split_by!r}; one split a "
                f"{self.group_by} is wanted"
            )

    # --- modalities ---

    @cached_property
    def _content(self) -> tuple[Task, Samples, tuple[str, ...]]:
        modalities, inputs, lengths = [], {}, {}
        notes: list[str] = []
        n = len(self._labels.ids)
        presence = np.zeros((n, len(self.paths)), bool)
        for column, (name, file) in enumerate(self.paths.items()):
            found = self._modality(name, locate(self.root, file))
            if not len(found.rows):
                raise ValueError(
                    f"{locate(self.root, file)} has no row with a value, so that no sample has "
                    f"the modality {name}; fill it in, or take it out of files"
                )
            inputs[name] = np.zeros((n, *found.x.shape[1:]), found.x.dtype)
            inputs[name][found.rows] = found.x
            presence[found.rows, column] = True
            modality = Modality(name, self.kinds[name], found.x.shape[1:], found.vocab_size)
            modalities.append(modality)
            if modality.has_lengths:
                lengths[name] = np.zeros(n, np.int64)
                lengths[name][found.rows] = found.length
            notes += found.notes
        if not (some := presence.any(axis=1)).all():
            row = int(np.flatnonzero(~some)[0])
            frame = self._labels
            raise ValueError(
                f"{frame.path} row {frame.lines[row]}: id {frame.ids[row]} is in no modality's "
                f"file ({int((~some).sum())} such in all); leave the row out"
            )
        samples = Samples(
            modalities=tuple(self.paths),
            inputs=inputs,
            target=self._target,
            sample_id=self._ids,
            presence=presence,
            lengths=lengths,
        )
        task = Task(self.task_kind, tuple(modalities), tuple(self._outputs))
        return task, samples, tuple(notes)

    def _modality(self, name: str, path: Path) -> "_Found":
        """What a file holds of the labelled samples."""
        kind = self.kinds[name]
        if path.suffix == ".npz":
            return self._from_npz(kind, path)
        frame = read_frame(path, self.id_column, text=kind == "tokens").without(self._roles)
        rows, notes = self._rows(frame.ids, path)
        frame = frame.take(np.flatnonzero(rows >= 0))
        rows = rows[rows >= 0]
        notes = [*frame.notes, *notes]
        if kind == "vector":
            return self._vector(frame, rows, notes)
        if kind != "tokens" or len(frame.names) != 1:
            raise ValueError(
                f"{path} has the columns {[*frame.names]} beside the id, which makes no "
                f"{kind}: a CSV or parquet file holds a vector (numbers) or, of kind "
                "tokens, one column of text; for anything else take an npz file"
            )
        texts = frame.text(frame.names[0])
        there = (texts != "").to_numpy(bool)
        texts, rows = texts[there], rows[there]
        ids = vocabulary(texts[self._trains(rows)])
        steps = max((len(words(text)) for text in texts), default=1)
        x, length = encode(texts.tolist(), ids, steps=max(steps, 1))
        return _Found(x, rows, length, 2 + len(ids), notes)

    def _from_npz(self, kind: Kind, path: Path) -> "_Found":
        arrays = read_arrays(path, kind)
        require_unique(arrays.ids, path)
        rows, notes = self._rows(arrays.ids, path)
        kept = (rows >= 0) & arrays.present
        x, length, rows = arrays.x[kept], arrays.length[kept], rows[kept]
        notes = [*arrays.notes, *notes]
        if kind == "vector" and (self.indicators or np.isnan(x).any()):
            names = tuple(str(k) for k in range(x.shape[1]))
            frame = Frame(
                path, arrays.ids[kept], names, x.astype(np.float64), {}, np.arange(len(x))
            )
            return self._vector(frame, rows, notes)
        vocab_size = int(arrays.x.max(initial=0)) + 1 if kind == "tokens" else 0
        return _Found(x, rows, length, vocab_size, notes)

    def _vector(self, frame: Frame, rows: NDArray[np.int_], notes: list[str]) -> "_Found":
        found = features(frame, self._trains(rows), indicators=self.indicators)
        rows = rows[found.present]
        length = np.ones(len(rows), np.int64)
        return _Found(found.x[found.present], rows, length, 0, [*notes, *found.notes])

    def _trains(self, rows: NDArray[np.int_]) -> NDArray[np.bool_]:
        """Which of these rows of the labels file are of the training split."""
        trains: NDArray[np.bool_] = self._part[rows] == SPLITS.index("train")
        return trains

    def _rows(self, ids: "pd.Index[str]", path: Path) -> tuple[NDArray[np.int_], list[str]]:
        """Position of each id in the labels file, -1 = has none and is left out; and notes."""
        wanted = self._labels.ids
        rows = np.asarray(wanted.get_indexer(ids))
        lost = rows < 0
        if not lost.any():
            return rows, []
        first = ids[int(np.flatnonzero(lost)[0])]
        if lost.all():
            why = likely_cause(ids, wanted, (path.name, self.labels_file))
            raise ValueError(f"{path}: none of its {len(ids)} ids is in {self.labels_file}; {why}")
        if self.unlabelled == "refuse":
            raise ValueError(
                f"{path}: id {first} ({int(lost.sum())} in all) has no row in {self.labels_file}; "
                "add its label, or leave such rows out with unlabelled: drop"
            )
        return rows, [f"{path.name}: {int(lost.sum())} rows without a label left out"]


@dataclass(frozen=True)
class _Found:
    """What a file holds of one modality.

    Args:
        x: Values of the samples that have it.
        rows: Their positions in the labels file.
        length: Their lengths; 1 for kinds without.
        vocab_size: Of tokens, else 0.
        notes: What was left out or filled in.
    """

    x: NDArray[Any]
    rows: NDArray[np.int_]
    length: NDArray[np.int64]
    vocab_size: int
    notes: list[str]


def _names(given: Mapping[Any, Any], what: str) -> dict[str, Any]:
    """A mapping from modalities, whose names YAML left as text."""
    for name in given:
        if isinstance(name, bool):
            raise ValueError(
                f"{what} has the modality {name}: YAML reads on, off, yes, no, true and false as "
                'truth values; put the name in quotes, such as "on"'
            )
    return dict(given)
