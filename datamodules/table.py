"""Your own files: CSV, parquet or npz, one a modality, joined by id; no Python needed."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mmbench.data.files import locate, numbers, read_csv, read_npz
from mmbench.data.samples import SPLITS, Samples, Split
from mmbench.data.scenario import Scenario
from mmbench.data.splits import rows_of, stable_hash, stratified
from mmbench.data.task import Kind, Modality, Task, TaskKind
from mmbench.data.words import encode, vocabulary, words
from mmbench.datamodule import DataModule, Source
from mmbench.registry import suggest

VECTOR: Kind = "vector"
SPLIT_WORDS: dict[str, Split] = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test",
}  # fmt: skip


class Table(DataModule):
    """A data set of the user's, described by arguments alone.

    Format. The labels file has one row a sample: its id, one column (or several) to predict
    and, if there is one, a column that says train, val or test. Each modality has a file of its
    own with the same ids, in any order:

    - CSV or parquet (parquet needs `pip install pyarrow`): an id column; all other columns are
      numbers, the features of a `vector`. With kind `tokens` there is one other column, a text;
      its words are numbered by those that occur twice in the training split.
    - npz: arrays `id` (n,), `x` (n, ...) in the axes of the kind and, for sequences, tokens and
      bags, `length` (n,) if samples differ in length. Token ids begin at 1; 0 is padding.

    Missing by nature: a sample whose id does not occur in a modality's file, or whose row there
    is empty throughout, lacks that modality. A row that is empty in part is an error.

    Classes: the sorted values of the target column (numbers by size).

    Split: the column named by `split`, or shares of train, val and test: stratified by class,
    in the order of a hash of the id, with 5 folds whose test parts do not overlap as long as the
    test share is at most 1/5. Sample ids are the ids themselves if all of them are whole
    numbers, else a hash of each (BLAKE2b, 63 bits).

    Args:
        root: Folder that the file names below start from; they may also be absolute.
        scenario: See `DataModule`.
        files: Modality -> file; at least one.
        labels: Labels file, CSV or parquet.
        id: Name of the id column, in every file.
        target: Column to predict; several for multi_label and regression.
        split: A column of the labels file, or three shares that sum to 1.
        kinds: Modality -> kind; vector unless said otherwise.
        task: Classes to choose from, 0 / 1 for each column, or numbers.
        **common: Passed to `DataModule`; fold is 0 with a split column, 0..4 with shares.

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
        files: Mapping[str, str],
        labels: str,
        id: str = "id",
        target: str | Sequence[str] = "label",
        split: str | Sequence[float] = (0.7, 0.15, 0.15),
        kinds: Mapping[str, Kind] | None = None,
        task: TaskKind = "single_label",
        **common: Any,
    ) -> None:
        super().__init__(root, scenario, **common)
        if not files:
            raise ValueError("table needs at least one file: files={modality: file}")
        self.paths = dict(files)
        self.labels_file = labels
        self.id_column = id
        self.targets = [target] if isinstance(target, str) else list(target)
        self.split_by = split if isinstance(split, str) else tuple(split)
        self.kinds: dict[str, Kind] = dict.fromkeys(self.paths, VECTOR)
        self.kinds |= kinds or {}
        self.task_kind = task
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
        if isinstance(self.split_by, str) and self.fold:
            raise ValueError(
                f"fold {self.fold} was asked for, but the column {self.split_by!r} describes one "
                "partition, fold 0"
            )
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
        """Shapes and classes as the files have them; reads all files once."""
        return self._content[0]

    def load(self, split: Split) -> Samples:
        """Take one split of what the files hold.

        Raises:
            ValueError: If a file or a column is not there, an id repeats or has no label, a
                label is empty or a value no number; the message names the file and the row.
        """
        return self._content[1].take(rows_of(self._part, split))

    @cached_property
    def _table(self) -> pd.DataFrame:
        """The labels file, indexed by id (text)."""
        path = locate(self.root, self.labels_file)
        table = _read(path, self.id_column)
        by_split = [self.split_by] if isinstance(self.split_by, str) else []
        for column in [*self.targets, *by_split]:
            _column(table, column, path)
        if empty := [c for c in [*self.targets, *by_split] if table[c].isna().any()]:
            row = int(np.flatnonzero(table[empty[0]].isna())[0])
            raise ValueError(
                f"{path} row {_line(path, row)} (id {table.index[row]}): {empty[0]} is empty; "
                "give it a value or leave the row out"
            )
        return table

    @cached_property
    def _classes(self) -> list[Any]:
        return sorted(self._table[self.targets[0]].unique())

    def _target(self) -> NDArray[Any]:
        table, path = self._table, locate(self.root, self.labels_file)
        if self.task_kind == "single_label":
            number = {value: k for k, value in enumerate(self._classes)}
            return table[self.targets[0]].map(number).to_numpy(np.int64)
        values = numbers(table[self.targets], path)
        if self.task_kind == "multi_label" and not np.isin(values, (0, 1)).all():
            row, column = np.argwhere(~np.isin(values, (0, 1)))[0]
            raise ValueError(
                f"{path} row {_line(path, int(row))}: {self.targets[column]} is "
                f"{values[row, column]:g}, but the targets of a multi_label task are 0 or 1"
            )
        return values

    @cached_property
    def _ids(self) -> NDArray[np.int64]:
        names = self._table.index
        whole = names.str.fullmatch(r"0|-?[1-9]\d{0,17}").all()  # 18 digits always fit in int64
        return np.array([int(n) if whole else stable_hash(n) for n in names], dtype=np.int64)

    @cached_property
    def _part(self) -> NDArray[np.int64]:
        """Position in SPLITS of each sample."""
        if isinstance(self.split_by, str):
            said = self._table[self.split_by].astype(str).str.strip().str.lower()
            if (bad := ~said.isin(SPLIT_WORDS)).any():
                path, row = locate(self.root, self.labels_file), int(np.flatnonzero(bad)[0])
                raise ValueError(
                    f"{path} row {_line(path, row)}: {self.split_by} is {said.iloc[row]!r}, "
                    "but wanted is train, val or test"
                )
            part = said.map(lambda word: SPLITS.index(SPLIT_WORDS[word])).to_numpy(np.int64)
        else:
            _, val, test = self.split_by
            single = self.task_kind == "single_label"
            stratum = self._target() if single else np.zeros(len(self._ids), np.int64)
            part = stratified(
                self._ids, stratum, val=val, test=test, fold=self.fold, folds=self.folds
            )
        if empty := [split for split in SPLITS if not len(rows_of(part, split))]:
            raise ValueError(
                f"the {empty[0]} split of {self.labels_file} is empty; "
                f"split is {self.split_by!r} over {len(part)} rows"
            )
        return part

    @cached_property
    def _content(self) -> tuple[Task, Samples]:
        modalities, inputs, lengths = [], {}, {}
        presence = np.zeros((len(self._table), len(self.paths)), bool)
        for column, (name, file) in enumerate(self.paths.items()):
            path = locate(self.root, file)
            x, length, rows, vocab_size = self._modality(name, path)
            full = np.zeros((len(self._table), *x.shape[1:]), x.dtype)
            full[rows] = x
            inputs[name] = full
            presence[rows, column] = True
            modality = Modality(name, self.kinds[name], x.shape[1:], vocab_size)
            modalities.append(modality)
            if modality.has_lengths:
                lengths[name] = np.zeros(len(full), np.int64)
                lengths[name][rows] = length
        if not (some := presence.any(axis=1)).all():
            row = int(np.flatnonzero(~some)[0])
            path = locate(self.root, self.labels_file)
            raise ValueError(
                f"{path} row {_line(path, row)}: id {self._table.index[row]} is in no modality's "
                "file; leave the row out"
            )
        single = self.task_kind == "single_label"
        outputs = tuple(str(c) for c in self._classes) if single else tuple(self.targets)
        samples = Samples(
            modalities=tuple(self.paths),
            inputs=inputs,
            target=self._target(),
            sample_id=self._ids,
            presence=presence,
            lengths=lengths,
        )
        return Task(self.task_kind, tuple(modalities), outputs), samples

    def _modality(self, name: str, path: Path) -> "_Part":
        """Values, lengths, positions of their rows in the labels file, vocabulary size."""
        if _is_npz(path):
            return self._from_npz(name, path)
        table = _read(path, self.id_column)
        table = table[~table.isna().all(axis=1)]
        rows = self._rows(table.index, path)
        if self.kinds[name] == "vector":
            x: NDArray[Any] = numbers(table, path)
            return x, np.ones(len(x), np.int64), rows, 0
        if self.kinds[name] != "tokens" or table.shape[1] != 1:
            raise ValueError(
                f"{path} has the columns {[*table.columns]} beside the id, which makes no "
                f"{self.kinds[name]}: a CSV or parquet file holds a vector (numbers) or, of kind "
                "tokens, one column of text; for anything else take an npz file"
            )
        texts = table.iloc[:, 0].astype(str)
        ids = vocabulary(texts[self._part[rows] == SPLITS.index("train")])
        steps = max((len(words(text)) for text in texts), default=1)
        x, length = encode(texts.tolist(), ids, steps=max(steps, 1))
        return x, length, rows, 2 + len(ids)

    def _from_npz(self, name: str, path: Path) -> "_Part":
        content, kind = read_npz(path), self.kinds[name]
        for key in ("id", "x"):
            if key not in content:
                raise ValueError(f"{path} has no array {key}; it has {', '.join(content)}")
        x = content["x"]
        names = content["id"]
        if names.dtype.kind == "S":  # bytes
            names = np.char.decode(names, "utf-8")
        ids = pd.Index([str(one) for one in names.tolist()])
        if len(ids) != len(x) or len(content.get("length", x)) != len(x):
            sizes = {key: len(content[key]) for key in ("id", "x", "length") if key in content}
            raise ValueError(f"{path}: arrays must have one entry a sample, found {sizes}")
        _unique(ids, path)
        rows = self._rows(ids, path)
        if np.issubdtype(x.dtype, np.floating):
            flat = x.reshape(len(x), -1)
            there = ~np.isnan(flat).all(axis=1)
            if not (good := np.isfinite(flat[there]).all(axis=1)).all():
                raise ValueError(
                    f"{path} id {ids[there][~good][0]}: x holds NaN or infinity in part; fill it "
                    "in, or make the entry NaN throughout to mark it absent"
                )
        else:
            there = np.ones(len(x), bool)
        vocab_size = 0
        if kind == "tokens":
            if not np.issubdtype(x.dtype, np.integer) or (len(x) and x.min() < 0):
                raise ValueError(f"{path}: x of kind tokens needs whole numbers >= 0")
            vocab_size = int(x.max(initial=0)) + 1
        elif x.dtype != np.uint8 or kind != "image":
            x = x.astype(np.float32)
        steps = x.shape[1] if x.ndim > 1 else 1
        length = content.get("length", np.full(len(x), steps))
        if not ((length >= 1) & (length <= steps)).all():
            wrong = ids[~((length >= 1) & (length <= steps))][0]
            raise ValueError(f"{path} id {wrong}: length is not in 1..{steps}")
        return x[there], length[there].astype(np.int64), rows[there], vocab_size

    def _rows(self, ids: "pd.Index[str]", path: Path) -> NDArray[np.int_]:
        rows = self._table.index.get_indexer(ids)
        if (rows < 0).any():
            first = int(np.flatnonzero(rows < 0)[0])
            raise ValueError(
                f"{path}: id {ids[first]} ({int((rows < 0).sum())} in all) has no row in "
                f"{self.labels_file}; add its label or leave it out"
            )
        return np.asarray(rows)


_Part = tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int_], int]


def _is_npz(path: Path) -> bool:
    return path.name.endswith(".npz")


def _read(path: Path, id_column: str) -> pd.DataFrame:
    """A CSV or parquet file with its ids, as text, for an index."""
    if ".parquet" in path.suffixes:
        try:
            table = pd.read_parquet(path)
        except ImportError as error:
            raise ValueError(
                f"{path} is a parquet file and the package that reads it is missing; "
                "pip install pyarrow"
            ) from error
        except Exception as error:  # pyarrow raises its own kinds
            raise ValueError(f"{path} is no readable parquet file: {error}") from error
        if id_column not in table.columns and table.index.name == id_column:
            table = table.reset_index()
    elif ".csv" in path.suffixes:
        table = read_csv(path, dtype={id_column: str})
    else:
        raise ValueError(f"{path} is none of .csv, .parquet and .npz")
    _column(table, id_column, path)
    if table[id_column].isna().any():
        row = int(np.flatnonzero(table[id_column].isna())[0])
        raise ValueError(f"{path} row {_line(path, row)}: {id_column} is empty")
    table[id_column] = table[id_column].astype(str).str.strip()
    _unique(pd.Index(table[id_column]), path)
    return table.set_index(id_column)


def _unique(ids: "pd.Index[str]", path: Path) -> None:
    repeated = ids.duplicated()
    if repeated.any():
        row = int(np.flatnonzero(repeated)[0])
        raise ValueError(
            f"{path} row {_line(path, row)}: id {ids[row]} occurs a second time; "
            "one row a sample is wanted"
        )


def _column(table: pd.DataFrame, column: str, path: Path) -> None:
    if column not in table.columns:
        has = [str(c) for c in table.columns]
        raise ValueError(
            f"{path} has no column {column!r}{suggest(column, has)}; "
            f"it has {', '.join(has[:10])}{', ...' if len(has) > 10 else ''}"
        )


def _line(path: Path, row: int) -> int:
    """The line of a CSV file, counted from 1 with its header; else the row, from 1."""
    return row + 2 if ".csv" in path.suffixes else row + 1
