"""Your own files: CSV, parquet, h5ad, npz, MATLAB, one a modality, joined by id; no Python."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mmbench.data.bags import MOST
from mmbench.data.entries import Joined, ModalityFile
from mmbench.data.features import TEXT_PACKAGE, installed, text_folder
from mmbench.data.files import content_of, locate
from mmbench.data.frames import EMPTY_NUMBERS, Frame, read_frame, to_numbers
from mmbench.data.parsed import MANY_FILES, content_of_all
from mmbench.data.pieces import files_of
from mmbench.data.sample_files import FileKind, sides
from mmbench.data.samples import SPLITS, Samples, Split
from mmbench.data.scenario import Scenario
from mmbench.data.splits import (
    SPLIT_WORDS,
    rows_of,
    stable_hash,
    stratified,
    stratified_groups,
)
from mmbench.data.survival import SurvivalScale, reason_no_outcome, reason_not_comparable
from mmbench.data.task import FEWEST_INTERVALS, Task, TaskKind
from mmbench.data.texts import PACKAGED
from mmbench.datamodule import DataModule, Source
from mmbench.registry import suggest

VECTOR: FileKind = "vector"
BOOLEANS = {"true": "1", "false": "0"}
TIME_AND_EVENT = ("time", "event")  # target columns of survival, unless the user names others
INTERVALS = 8


class Table(DataModule):
    """A data set of the user's, described by arguments alone.

    Files. The labels file has one row a sample: its id, one column (or several) to predict and,
    if there are any, columns of the split and of groups. Each modality has a file of its own with
    the same ids, in any order. CSV is separated by comma, semicolon (then decimals may be commas)
    or tab, `.csv`, `.tsv` or `.txt`, plain or compressed, in UTF-8; parquet needs
    `pip install pyarrow`; npz and MATLAB files hold arrays; h5ad (`pip install anndata`) holds
    vectors: X, with the names of observations as ids.

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
    those that occur twice in the training split. With `tokenizer`, texts are cut into the ids of
    a published model's own vocabulary, which its weights need, and an npz file is taken to hold
    such ids.

    Arrays (npz, or `.mat` up to version 7.2, where ids may be a cell array and what is flat is a
    column). `id` (n,), `x` (n, ...) in the axes of the kind and, for sequences, tokens and
    bags, `length` (n,) if samples differ in length; what lies beyond it is ignored. Token ids
    begin at 1; 0 is padding. Pictures are (n, channel, height, width), uint8 or float; (n,
    height, width, channel) is turned if the last axis is 1, 3 or 4 and the first is not, and
    (n, height, width) is grey. Complex numbers, dates and text are refused.

    Pictures in files of their own (kind `image`): a CSV or parquet file with one column of paths
    beside the id, which start from `root`; or, in place of a file, a folder of pictures named by
    id (`p1.jpg`). They are read in colour, turned as the camera was held, transparent parts white,
    and brought to `size`; more than 8 bits a channel are refused. A folder of `.npy` arrays named
    by id, of any other kind, is read like an npz file of them.

    Bags in files of their own (kind `bag`): a folder of files named by id, each of the instances
    of one sample, (instance, feature): `.npy`, a tensor in `.pt`, or `features` in `.h5`, as CLAM
    writes patches of slides; none of it NaN. They keep their type, float16 for one, and are padded
    when they are read, of each sample at most `most`.

    Recordings (kind `sound`): a column of paths to wav files, or a folder of them named by id. They
    become sequences of 40 log-mel bands, a step every 10 ms, of one channel at 16 kHz; see
    `mmbench.data.sound`.

    Missing by nature: a sample whose id does not occur in a modality's file, whose row there is
    empty throughout, or whose entry is NaN throughout or of length 0, lacks that modality. Empty
    cells in part of a vector are filled with the median of the training split (of categories:
    the most frequent one), and `notes` counts them; NaN in part of anything else is an error.

    Classes: the texts of the target column, by size if all of them are numbers.

    Survival: two target columns, a time above 0 in any unit and an event, 1 or true where it
    occurred then, 0 or false where the sample was last seen without it. Shares are stratified by
    event. Methods learn hazards of intervals that end at quantiles of the training event times, or
    the log risk of Cox; see `intervals`.

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
        target: Column to predict; several for multi_label and regression; time and event, in this
            order, for survival. None = label; of survival time and event.
        split: A column of the labels file, or three shares that sum to 1.
        group: A column of the labels file; samples of a group are never dealt to two splits.
        kinds: Modality -> kind, or `sound` for recordings; vector unless said otherwise.
        task: Classes to choose from, 0 / 1 for each column, numbers, or times to an event.
        intervals: Of survival, whose hazards are learned, >= 3; 0 = none, the log risk of Cox; None
            = 8.
        separator: Of labels in one cell, such as `|` in `Drama|Comedy`; multi_label with one
            target column. Labels are the words that occur, in the order of classes.
        unlabelled: Whether rows without a label are refused, left out (drop), or in no split and
            predicted by every run (predict, see `predictions/unlabelled.csv` of a run). Rows of
            modalities without a row in the labels file are refused, or left out by drop and
            predict.
        indicators: Whether a feature that is empty for some training samples gets another beside
            it that says so (1 = was empty).
        tokenizer: Folder of a published model, whose tokenizer cuts all texts, or `packaged` for
            that of MiniLM (extra `pretrained`); None = words numbered by the training split.
        max_tokens: Of a text, >= 1; longer ones are cut. None = the longest text decides, or what
            the tokenizer's model reads at most.
        size: Pixels that pictures in files of their own are brought to, a side or height and width;
            None = all of a modality have one size.
        most: Instances of a bag in a file of its own, >= 1; of more, training draws others every
            epoch, validation and test always the same ones.
        skip_bad: Of a modality, so many samples may be bad, >= 0: their file unreadable or missing,
            or a cell of their row refused. They lack the modality, and `notes` names them.
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
        target: str | Sequence[str] | None = None,
        split: str | Sequence[float] = (0.7, 0.15, 0.15),
        group: str | None = None,
        kinds: Mapping[str | bool, FileKind] | None = None,
        task: TaskKind = "single_label",
        intervals: int | None = None,
        separator: str | None = None,
        unlabelled: Literal["refuse", "drop", "predict"] = "refuse",
        indicators: bool = False,
        tokenizer: str | None = None,
        max_tokens: int | None = None,
        size: int | Sequence[int] | None = None,
        most: int = MOST,
        skip_bad: int = 0,
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
        if target is None:
            target = TIME_AND_EVENT if task == "survival" else "label"
        self.targets = [target] if isinstance(target, str) else list(target)
        self.split_by = split if isinstance(split, str) else tuple(split)
        self.group_by = group
        self.kinds: dict[str, FileKind] = dict.fromkeys(self.paths, VECTOR)
        self.kinds |= _names(kinds or {}, "kinds")
        self.task_kind = task
        self.intervals = INTERVALS if intervals is None else intervals
        self.separator = separator
        self.unlabelled = unlabelled
        self.indicators = indicators
        self.max_tokens = max_tokens
        self.size = None if size is None else sides(size)
        if most < 1:
            raise ValueError(f"most must be at least 1, found {most}")
        self.most = most
        self.skip_bad = skip_bad
        self.packaged = tokenizer == PACKAGED
        self.tokenizer = None if tokenizer is None else self._folder(tokenizer)
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
        if task == "survival" and len(self.targets) != 2:
            raise ValueError(
                "a survival task has two target columns, time and event, such as "
                f"target=[days, died]; found {self.targets}"
            )
        if intervals is not None and task != "survival":
            raise ValueError(f"intervals={intervals} belongs to task=survival, found task={task}")
        if self.intervals and self.intervals < FEWEST_INTERVALS:
            raise ValueError(
                f"intervals must be 0, the log risk of Cox, or at least {FEWEST_INTERVALS}, found "
                f"{self.intervals}"
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

    def _folder(self, tokenizer: str) -> Path:
        """Folder of a tokenizer, whose files are then among those of the data set."""
        if "tokens" not in self.kinds.values():
            raise ValueError(
                f"tokenizer {tokenizer!r} cuts texts, but no modality is of kind tokens; say "
                "kinds={notes: tokens}, or leave it out"
            )
        if self.packaged:
            return text_folder()
        folder = self.root / tokenizer
        files = [f"{tokenizer}/{file.name}" for file in files_of(folder)]
        self.files = (*self.files, *files)  # type: ignore[misc]
        return folder

    def ingredients(self) -> dict[str, dict[str, str]]:
        """See `DataModule`."""
        result = super().ingredients()
        for name in self.paths:
            samples = self._file(name).samples
            files = [
                file if file.is_file() else file.parent  # it may appear there later
                for file in (samples.files if samples else ())
            ]
            if len(files) >= MANY_FILES:
                some = [file for file in files if file.exists()]
                result["files"][f"{name}: {len(some)} files"] = content_of_all(some)
                continue
            for file in files:
                short = file.relative_to(self.root) if file.is_relative_to(self.root) else file
                if file.exists():
                    result["files"][str(short)] = content_of(file)
        if self.packaged:
            result["distributions"] |= {TEXT_PACKAGE: installed()[TEXT_PACKAGE]}
        return result

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

    def names_of_ids(self) -> Mapping[int, str]:
        """The ids as the files have them."""
        return dict(zip(self._ids.tolist(), self._joined, strict=True))

    def unlabelled_samples(self) -> Samples | None:
        """Rows without a label, if they are to be predicted."""
        samples = self._content[1]
        labelled = len(self._labels.ids)
        return samples.take(np.arange(labelled, len(samples))) if labelled < len(samples) else None

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
        """The labels file, without rows that have no label."""
        frame, bare = self._all_labels, self._bare
        if not bare.any():
            return frame
        if bare.all():
            raise ValueError(f"{frame.path} has no row with a label")
        fate = "left out" if self.unlabelled == "drop" else "predicted and in no split"
        note = f"{self.labels_file}: {int(bare.sum())} rows without a label {fate}"
        return replace(frame.take(np.flatnonzero(~bare)), notes=(*frame.notes, note))

    @cached_property
    def _all_labels(self) -> Frame:
        path = locate(self.root, self.labels_file)
        frame = read_frame(path, self.id_column, only=self._roles)
        if not len(frame.ids):
            raise ValueError(f"{path} has no row with a label")
        return frame

    @cached_property
    def _bare(self) -> NDArray[np.bool_]:
        """Which rows of the labels file have no label.

        Raises:
            ValueError: If one has none and that is refused, or another cell of a row is empty.
        """
        frame = self._all_labels
        bare = np.zeros(len(frame.ids), bool)
        nothing = EMPTY_NUMBERS if self._of_numbers else ("",)
        for column in self.targets:
            bare |= frame.text(column).isin(nothing).to_numpy(bool)
        for column in self._roles:
            empty = frame.text(column).isin(nothing if column in self.targets else ("",))
            if column not in self.targets:
                empty &= ~bare  # what is in no split needs no word for it
            elif self.unlabelled != "refuse":
                continue
            if empty.any():
                row = int(np.flatnonzero(empty)[0])
                way = (
                    "give it a value, leave rows without a label out with unlabelled: drop, or "
                    "have every run predict them with unlabelled: predict"
                    if column in self.targets
                    else "give it a value, or leave the row out"
                )
                raise ValueError(
                    f"{frame.where(row)}: {column} is empty ({int(empty.sum())} in all); {way}"
                )
        return bare

    @property
    def _of_numbers(self) -> bool:
        return self.task_kind != "single_label" and self.separator is None

    @cached_property
    def _outputs(self) -> list[str]:
        """Names of the classes, labels, regressed quantities or intervals."""
        if self.task_kind == "survival":
            hazards = [f"hazard {number}" for number in range(1, self.intervals + 1)]
            return hazards or ["log risk"]
        if self._of_numbers:
            return self.targets
        text = self._labels.text(self.targets[0])
        classes = (
            set(text) if self.separator is None else {x for one in text for x in self._cut(one)}
        )
        numbers, bad = to_numbers(pd.Series(sorted(classes), dtype=object))
        if bad.any() or np.isnan(numbers).any():
            return sorted(classes)
        return [name for _, name in sorted(zip(numbers.tolist(), sorted(classes), strict=True))]

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
            targets = np.zeros((len(text), len(place)), np.float32)
            for row, cell in enumerate(text):
                targets[row, [place[one] for one in self._cut(cell)]] = 1.0
            return targets
        columns = []
        for name in self.targets:
            text = frame.text(name)
            if self.task_kind == "multi_label" or (
                self.task_kind == "survival" and name == self.targets[1]
            ):
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
        target = np.stack(columns, axis=1)
        if self.task_kind == "survival":
            bad_rows = np.flatnonzero((target[:, 0] <= 0) | ~np.isin(target[:, 1], (0, 1)))
            if len(bad_rows):
                row, names = int(bad_rows[0]), " and ".join(self.targets)
                raise ValueError(f"{frame.where(row)}, {names}: {reason_no_outcome(target[[row]])}")
        return target

    @property
    def _joined(self) -> "pd.Index[str]":
        """Names of the samples: those with a label, then those that are only predicted."""
        if self.unlabelled != "predict":
            return self._labels.ids
        return self._labels.ids.append(self._all_labels.ids[self._bare])

    @cached_property
    def _ids(self) -> NDArray[np.int64]:
        names = self._joined
        whole = names.str.fullmatch(r"0|-?[1-9]\d{0,17}").all()  # 18 digits always fit in int64
        return np.array([int(n) if whole else stable_hash(n) for n in names], dtype=np.int64)

    # --- split ---

    @cached_property
    def _part(self) -> NDArray[np.int64]:
        """Position in SPLITS of each sample."""
        part = self._given if isinstance(self.split_by, str) else self._dealt
        if self.group_by is not None:
            self._require_whole_groups(part)
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
        ids = self._ids[: len(self._labels.ids)]
        stratum = np.zeros(len(ids), np.int64)
        if self.task_kind == "single_label":
            stratum = self._target
        elif self.task_kind == "survival":
            stratum = self._target[:, 1].astype(np.int64)
        shares: dict[str, Any] = {"val": val, "test": test, "fold": self.fold, "folds": self.folds}
        if self.group_by is None:
            return stratified(ids, stratum, **shares)
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
        labelled = len(self._labels.ids)
        train = np.zeros(len(self._joined), bool)
        train[:labelled] = self._part == SPLITS.index("train")
        other: Literal["refuse", "drop"] = "refuse" if self.unlabelled == "refuse" else "drop"
        joined = Joined(self.labels_file, self._joined, train, other)
        entries = [self._file(name).read(joined) for name in self.paths]
        presence = np.stack([one.present for one in entries], axis=1)
        if not (some := presence.any(axis=1)).all():
            row = int(np.flatnonzero(~some)[0])
            frame = self._all_labels
            line = frame.lines[frame.ids.get_loc(self._joined[row])]
            raise ValueError(
                f"{frame.path} row {line}: id {self._joined[row]} is in no modality's "
                f"file ({int((~some).sum())} such in all); leave the row out"
            )
        if empty := [split for split in SPLITS if not len(rows_of(self._part, split))]:
            way = (
                "; rows without a label are in no split: deal the others by three shares, such as "
                "split: [0.7, 0.15, 0.15]"
                if self._bare.any()
                else ""
            )
            raise ValueError(
                f"the {empty[0]} split of {self.labels_file} is empty; "
                f"split is {self.split_by!r} over {len(self._part)} rows{way}"
            )
        target = np.zeros((len(self._joined), *self._target.shape[1:]), self._target.dtype)
        target[:labelled] = self._target
        modalities = tuple(one.modality for one in entries)
        samples = Samples(
            modalities=tuple(self.paths),
            inputs={one.modality.name: one.x for one in entries},
            target=target,
            sample_id=self._ids,
            presence=presence,
            lengths={one.modality.name: one.length for one in entries if one.modality.has_lengths},
        )
        task = Task(self.task_kind, modalities, tuple(self._outputs))
        if task.kind == "survival":
            self._require_survival(task)
        return task, samples, tuple(note for one in entries for note in one.notes)

    def _require_survival(self, task: Task) -> None:
        """Refuse splits of which no survival can be learned, or none scored."""
        for split in SPLITS:
            target = self._target[rows_of(self._part, split)]
            try:
                if split == "train":
                    SurvivalScale.fit(task, target)
            except ValueError as error:
                raise ValueError(f"{self.labels_file}: {error}") from error
            if problem := reason_not_comparable(target):
                raise ValueError(
                    f"{self.labels_file}: the {split} split {problem}, so that it has no c_index; "
                    "deal it more samples"
                )

    def _file(self, name: str) -> ModalityFile:
        return ModalityFile(
            name,
            self.kinds[name],
            locate(self.root, self.paths[name]),
            self.root,
            self.id_column,
            no_features=self._roles,
            indicators=self.indicators,
            tokenizer=self.tokenizer,
            max_tokens=self.max_tokens,
            size=self.size,
            most=self.most,
            skip_bad=self.skip_bad,
        )


def _names(given: Mapping[Any, Any], what: str) -> dict[str, Any]:
    """A mapping from modalities, whose names YAML left as text."""
    for name in given:
        if isinstance(name, bool):
            raise ValueError(
                f"{what} has the modality {name}: YAML reads on, off, yes, no, true and false as "
                'truth values; put the name in quotes, such as "on"'
            )
    return dict(given)
