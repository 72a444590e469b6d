"""Reads tables that users bring, CSV and its kin or parquet: a cell means what its owner wrote.

Text stays text until a task asks for a number. `01` and `1` are two words, and so are `NA` and
`None`; only a cell with nothing in it is empty. In a column of numbers alone those words are what
other programs write for an empty cell, and count as one.
"""

import csv
import json
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mmbench.data.files import reading, stamp
from mmbench.data.parsed import Arrays, is_small, parsed
from mmbench.data.unpacking import OPEN, VALUE, require_parquet, require_size, require_stream
from mmbench.registry import suggest

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}
EMPTY_NUMBERS = ("", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NULL", "null", "None")
UNNAMED = re.compile(r"|Unnamed: 0|__index_level_0__")  # what pandas and pyarrow call it
PEEK = 20  # rows that tell a separator at each line's end from names of rows
KEPT_FILES = 8  # parsed files that a process remembers
WHOLE = 2**53  # above it, float64 skips whole numbers

ANNDATA = ".h5ad"
ARCHIVES = (".zip", ".tar", ".tgz", ".zst", ".7z", ".rar", ".lz4")
csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a text, or a line split wrongly, may be long


@dataclass(frozen=True)
class Frame:
    """What a file holds, beside its ids.

    Args:
        path: The file.
        ids: As text, without spaces at the ends; unique.
        names: Of its columns, in order; genes may share one.
        numbers: (row, number) the columns that hold numbers alone, NaN where a cell is empty.
        others: Position in `names` -> the column as the file has it: text, where "" is an empty
            cell, or what a parquet file holds (lists, dates, ...).
        lines: Number of each row in the file, for messages.
        commas: Whether numbers may have decimal commas.
        notes: What was left out in reading, a line each.
    """

    path: Path
    ids: "pd.Index[str]"
    names: tuple[str, ...]
    numbers: NDArray[np.float64]
    others: Mapping[int, "pd.Series[Any]"]
    lines: NDArray[np.int_]
    commas: bool = False
    notes: tuple[str, ...] = ()

    @property
    def numeric(self) -> list[int]:
        """Positions in `names` of the columns of `numbers`."""
        return [k for k in range(len(self.names)) if k not in self.others]

    def where(self, row: int) -> str:
        """File, row (as an editor counts the lines of a CSV file) and id."""
        return f"{self.path} row {self.lines[row]} (id {self.ids[row]})"

    @property
    def places(self) -> list[str]:
        """`where` of all rows."""
        pairs = zip(self.lines.tolist(), self.ids.tolist(), strict=True)
        return [f"{self.path} row {line} (id {one})" for line, one in pairs]

    def take(self, rows: NDArray[Any]) -> "Frame":
        """Return the rows at these positions, or where a mask is True."""
        return replace(
            self,
            ids=self.ids[rows],
            numbers=self.numbers[rows],
            others={k: x.iloc[rows].reset_index(drop=True) for k, x in self.others.items()},
            lines=self.lines[rows],
        )

    def without(self, names: Sequence[str]) -> "Frame":
        """Return it without the columns that are called so, if it has them."""
        columns = [k for k, name in enumerate(self.names) if name not in names]
        if len(columns) == len(self.names):
            return self
        numeric = [j for j, k in enumerate(self.numeric) if self.names[k] not in names]
        gone = [name for name in self.names if name in names]
        return replace(
            self,
            names=tuple(self.names[k] for k in columns),
            numbers=self.numbers[:, numeric],
            others={new: self.others[old] for new, old in enumerate(columns) if old in self.others},
            notes=(
                *self.notes,
                f"{self.path.name}: left out {', '.join(gone)}, which give the target away or deal "
                "the samples, and so are no features",
            ),
        )

    def text(self, name: str) -> "pd.Series[str]":
        """A column as text, without spaces at the ends; "" where it is empty.

        Raises:
            ValueError: If it holds dates, lists or anything else that has no one text.
        """
        k = self.names.index(name)
        if k in self.others:
            return as_text(self.others[k], self.path, name)
        return as_text(pd.Series(self.numbers[:, self.numeric.index(k)]), self.path, name)


def read_frame(
    path: Path, id_column: str, *, only: Sequence[str] | None = None, text: bool = False
) -> Frame:
    """Read a file, once a process as long as it stays as it is; a large one once a machine.

    Separator: comma, semicolon or tab, the one that makes the id a column of the header; tab for
    `.tsv`. Where it is the semicolon, numbers may have decimal commas. A separator at each line's
    end adds no column. A first column without a name is the names of the rows: the ids if there
    is no other column of that name, else it is left out.

    Args:
        path: `.csv`, `.tsv` or `.txt`, plain or compressed, UTF-8; or `.parquet`; or `.h5ad`, whose
            ids are the names of observations, whatever the id column is called.
        id_column: Its name; `Unnamed: 0` for a first column without one.
        only: These columns alone, each as text; None = all.
        text: Whether a column that holds nothing but numbers is text as well.

    Raises:
        ValueError: If it cannot be read, lacks a column or repeats an id; the message names file
            and row and says what to do.
    """
    names = None if only is None else tuple(only)
    numbers = only is None and not text

    def read() -> Frame:
        return _read(path, tuple(stamp(path)), id_column, names, numbers=numbers)

    if is_small([path]):
        return read()
    spec = {"what": "table", "name": path.name, "id": id_column, "only": names, "numbers": numbers}
    try:
        arrays = parsed([path], spec, lambda _: _as_arrays(read()), code=__name__)
    except _NoTextError:
        return read()
    ids, columns, positions, *others = json.loads(arrays["text"].tobytes())
    return Frame(
        path=path,
        ids=pd.Index(ids, dtype=object),
        names=tuple(columns),
        numbers=arrays["numbers"],
        others={k: pd.Series(x, dtype=object) for k, x in zip(positions, others, strict=True)},
        lines=arrays["lines"],
        commas=bool(arrays["commas"]),
        notes=tuple(arrays["notes"].tolist()),
    )


class _NoTextError(ValueError):
    """A parquet file holds columns that are neither numbers nor text, which no array keeps."""


def _as_arrays(frame: Frame) -> Arrays:
    """A frame for the cache: numbers, and all that is text side by side."""
    if not all(is_text(column) for column in frame.others.values()):
        raise _NoTextError
    others = [as_text(frame.others[k], frame.path, frame.names[k]).tolist() for k in frame.others]
    text = json.dumps([frame.ids.tolist(), list(frame.names), list(frame.others), *others])
    return {
        "text": np.frombuffer(text.encode(), np.uint8),
        "numbers": frame.numbers,
        "lines": frame.lines,
        "commas": np.array(frame.commas),
        "notes": np.array(frame.notes, dtype=str),
    }


@lru_cache(maxsize=KEPT_FILES)
def _read(
    path: Path,
    stamped: tuple[int, ...],
    id_column: str,
    only: tuple[str, ...] | None,
    *,
    numbers: bool,
) -> Frame:
    del stamped  # part of the cache's key alone: a file that was edited is read again
    commas = False
    if path.suffix in ARCHIVES:
        raise ValueError(
            f"{path} is an archive of a kind that is not read; unpack it, or compress the file "
            f"itself ({', '.join(OPEN)})"
        )
    if _is_parquet(path):
        columns, notes = _parquet(path, id_column)
    elif path.suffix == ANNDATA:
        columns, notes = _annotated(path, id_column), []
    elif {".csv", ".tsv", ".txt"} & _endings(path):
        columns, notes, commas = _csv(path, id_column, only, numbers=numbers)
    else:
        raise ValueError(f"{path} is none of .csv, .tsv, .parquet, .h5ad, .npz and .mat")
    ids = pd.Index(as_text(columns.pop(0)[1], path, id_column), dtype=object)
    if only is not None:
        columns = [columns[_position(name, [n for n, _ in columns], path)] for name in only]
    elif numbers:
        columns = _numbers_of_text(columns, path, commas=commas)
    is_number = [numbers and _is_number(x) for _, x in columns]
    first_line = 1 if _is_parquet(path) or path.suffix == ANNDATA else 2
    if (ids == "").any():
        raise ValueError(
            f"{path} row {int(np.flatnonzero(ids == '')[0]) + first_line}: {id_column} is empty"
        )
    require_unique(ids, path, first_line)
    return Frame(
        path=path,
        ids=ids,
        names=tuple(name for name, _ in columns),
        numbers=_matrix([x for k, (_, x) in enumerate(columns) if is_number[k]], len(ids)),
        others={k: x for k, (_, x) in enumerate(columns) if not is_number[k]},
        lines=np.arange(len(ids)) + first_line,
        commas=commas,
        notes=tuple(notes),
    )


_Columns = list[tuple[str, "pd.Series[Any]"]]  # name and values; the first are the ids


def columns_of(path: Path) -> list[str]:
    """Names of a table's columns as far as they can be told without the ids; "" for none.

    Raises:
        ValueError: If it cannot be read.
    """
    if _is_parquet(path):
        with reading(path, "parquet file"):
            try:
                from pyarrow import parquet
            except ImportError as error:
                raise ValueError("the package for it is missing; pip install pyarrow") from error
            names: list[str] = parquet.read_schema(path).names
            return ["" if UNNAMED.fullmatch(name) else name for name in names]
    if path.suffix == ANNDATA:
        with reading(path, "h5ad file"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = _anndata().read_h5ad(path, backed="r")
            names = content.var_names.astype(str).tolist()
            content.file.close()
        return names
    with reading(path, "CSV file"):
        require_stream(path)
    return _head(path, "")[1]


def require_unique(ids: "pd.Index[str]", path: Path, first_line: int = 1) -> None:
    """Refuse ids that occur twice."""
    repeated = ids.duplicated()
    if repeated.any():
        row = int(np.flatnonzero(repeated)[0])
        others = ids[repeated].nunique() - 1
        raise ValueError(
            f"{path} row {row + first_line}: id {ids[row]} occurs a second time, "
            f"{int((ids == ids[row]).sum())} times in all"
            f"{f', and {others} more ids repeat' if others else ''}; one row a sample is wanted: "
            "join the rows of a sample, or give each an id of its own"
        )


def likely_cause(ids: "pd.Index[str]", wanted: "pd.Index[str]", files: tuple[str, str]) -> str:
    """Say how the ids of two files that share none may come to differ.

    Args:
        ids: Of the one file.
        wanted: Of the other; neither is empty.
        files: What to call them.
    """
    example = f"ids of {files[0]} look like {ids[0]!r}, of {files[1]} like {wanted[0]!r}"
    changes: tuple[tuple[Callable[[str], str], str], ...] = (
        (lambda one: re.sub(r"[\W_]+", ".", one), "they differ in . - _ or spaces"),
        (str.casefold, "they differ in capitals"),
        (lambda one: one.lstrip("0"), "they differ in leading zeros"),
        (lambda one: one.removesuffix(".0"), "some are written with .0"),
    )
    for change, why in changes:
        changed = {change(one) for one in wanted}
        if sum(change(one) in changed for one in ids) > len(ids) / 2:
            return f"{example}: {why}"
    for long, short, file in ((ids, wanted, files[0]), (wanted, ids, files[1])):
        begins = [one for one in short if long[0].startswith(one)]
        if begins:
            rest = long[0].removeprefix(max(begins, key=len))
            return f"{example}: those of {file} go on, here with {rest!r}"
    return example


def as_text(column: "pd.Series[Any]", path: Path, name: str) -> "pd.Series[str]":
    """A column as text; see `Frame.text`. Whole numbers that a file holds as floats are `1`."""
    filled = column.notna()
    values = column[filled]
    entries = values.tolist()
    if pd.api.types.is_float_dtype(values.dtype):
        if (values.abs() > WHOLE).any():
            raise ValueError(
                f"{path} column {name} holds floats beyond 2^53, such as {values.max():g}, which "
                "are not exact; save it as text or as whole numbers"
            )
        texts = [str(int(v)) if float(v).is_integer() else str(v) for v in values.to_numpy()]
    elif all(isinstance(v, str) for v in entries):
        texts = [v.strip() for v in entries]
    elif all(isinstance(v, bool | int | np.integer | np.bool_) for v in entries):
        texts = [str(v) for v in entries]
    else:
        value = values.iloc[0]
        raise ValueError(
            f"{path} column {name} holds {type(value).__name__}, such as {value!r}; save it as text"
        )
    result = np.full(len(column), "", dtype=object)
    result[filled.to_numpy(bool)] = texts
    return pd.Series(result, dtype=object)


def to_numbers(
    text: "pd.Series[str]", *, comma: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Numbers that texts stand for.

    Args:
        text: Without spaces at the ends.
        comma: Whether decimals are written `0,5`.

    Returns:
        The numbers, NaN where there is none, and which texts are neither number nor empty.
    """
    empty = text.isin(EMPTY_NUMBERS)
    plain = text.where(~empty, None)
    if comma and text.str.contains(",", regex=False).any():  # then a point groups thousands
        plain = plain.where(~text.str.contains(".", regex=False), "?")
        plain = plain.str.replace(",", ".", regex=False)
    numbers = pd.to_numeric(plain, errors="coerce").to_numpy(np.float64)  # what fails is told
    return numbers, np.isnan(numbers) & ~empty.to_numpy(bool)


def _endings(path: Path) -> set[str]:
    return {ending.lower() for ending in path.suffixes}


def _is_parquet(path: Path) -> bool:
    return ".parquet" in _endings(path)


def _is_number(column: "pd.Series[Any]") -> bool:
    return pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_complex_dtype(
        column.dtype
    )


def is_text(column: "pd.Series[Any]") -> bool:
    """Whether a column holds text and, maybe, empty cells."""
    return not _is_number(column) and all(isinstance(v, str) for v in column[column.notna()])


def _matrix(columns: Sequence["pd.Series[Any]"], rows: int) -> NDArray[np.float64]:
    values = np.empty((rows, len(columns)), np.float64)
    for k, column in enumerate(columns):
        values[:, k] = column.to_numpy(np.float64, na_value=np.nan)
    return values


def _position(name: str, names: Sequence[str], path: Path) -> int:
    """Where a column is.

    Raises:
        ValueError: If there is none, or two of them.
    """
    if name not in names:
        has = [n for n in names if n]
        raise ValueError(
            f"{path} has no column {name!r}{suggest(name, has)}; "
            f"it has {', '.join(has[:10])}{', ...' if len(has) > 10 else ''}"
        )
    if names.count(name) > 1:
        raise ValueError(f"{path} has {names.count(name)} columns {name!r}; rename all but one")
    return names.index(name)


def _ids_first(
    names: list[str], id_column: str, path: Path, first: "pd.Series[str] | None"
) -> tuple[int, list[str]]:
    """Position of the ids, and notes; decides what a first column without a name is.

    Args:
        names: As the file has them.
        id_column: See `read_frame`.
        path: The file.
        first: The first column as text, if it has no name.
    """
    if first is None:
        return _position(id_column, names, path), []
    if UNNAMED.fullmatch(id_column):
        return 0, []
    begins = ", ".join(repr(one) for one in first[:2])
    count = sorted(first) in (_count(0, len(first)), _count(1, len(first)))
    if id_column in names:
        if not count:
            raise ValueError(
                f"{path}: its first column has no name and begins {begins}; give it a name to "
                "use it, or leave it out (pandas: to_csv(index=False), R: row.names = FALSE)"
            )
        return _position(id_column, names, path), [
            f"{path.name}: the first column has no name and counts the rows; left out"
        ]
    if count:
        raise ValueError(
            f"{path} has no column {id_column!r}, and its first column, which has no name, only "
            'counts the rows; if that is the id, say id: "Unnamed: 0" or name it '
            f"{id_column} in the file"
        )
    return 0, [f"{path.name}: the ids are the first column, which has no name"]


def _count(start: int, rows: int) -> list[str]:
    return sorted(str(k) for k in range(start, start + rows))


def _numbers_of_text(columns: _Columns, path: Path, *, commas: bool) -> _Columns:
    """Columns with those that hold numbers written as text turned into numbers.

    Raises:
        ValueError: If some columns have decimal commas and others decimal points.
    """
    result: _Columns = []
    written: dict[str, str] = {}  # decimal mark -> a column that has it
    for name, column in columns:
        result.append((name, column))
        if not is_text(column):
            continue
        text = as_text(column, path, name)
        numbers, bad = to_numbers(text, comma=commas)
        result[-1] = (name, text if bad.any() else pd.Series(numbers))
        if commas and not bad.any():
            written |= {mark: name for mark in ",." if text.str.contains(mark, regex=False).any()}
    if len(written) == 2:
        raise ValueError(
            f"{path}: column {written[',']} has decimal commas and column {written['.']} has "
            "points; write all decimals in one way"
        )
    return result


# --- CSV --------------------------------------------------------------------------------------


def _csv(
    path: Path, id_column: str, only: tuple[str, ...] | None, *, numbers: bool
) -> tuple[_Columns, list[str], bool]:
    """Columns, the ids first; notes; and whether numbers may have decimal commas."""
    with reading(path, "CSV file"):
        require_stream(path)
    separator, names = _head(path, id_column)
    for name in only or ():
        _position(name, names, path)
    options: dict[str, Any] = {
        "sep": separator, "names": range(len(names)), "header": 0, "index_col": False,
        "keep_default_na": False, "low_memory": False, "encoding": "utf-8-sig",
    }  # fmt: skip
    first = None
    if UNNAMED.fullmatch(names[0]):
        first = as_text(_text_columns(path, [0], options)[0], path, "first")
    place, notes = _ids_first(names, id_column, path, first)
    unnamed = [k for k, name in enumerate(names) if name == "" and k not in (0, place)]
    if numbers and separator != ";":
        table = _parsed(path, options | {"na_values": EMPTY_NUMBERS, "dtype": {place: str}})
        cells = {k: table[k] for k in range(len(names))}
        text = [k for k in cells if k != place and not _is_number(cells[k])]
        if cells[place].isna().any() or text:  # words that only look like an empty number
            cells |= _text_columns(path, [place, *text], options)
    else:
        wanted = [k for k, name in enumerate(names) if only is None or name in only]
        cells = _text_columns(path, sorted({place, len(names) - 1, *unnamed, *wanted}), options)
    _require_rectangle(path, separator, len(names), cells[len(names) - 1])
    for k in unnamed:
        if not cells[k].isin(["", np.nan]).all():
            value = next(v for v in cells[k] if v not in ("", np.nan))
            raise ValueError(
                f"{path}: column {k + 1} has no name and holds {value!r}; give it a name, or take "
                "it out"
            )
    chosen = [k for k in cells if k not in (place, *unnamed) and not (k == 0 and first is not None)]
    columns = [(id_column, cells[place]), *((names[k], cells[k]) for k in sorted(chosen))]
    return columns, notes, separator == ";"


def _head(path: Path, id_column: str) -> tuple[str, list[str]]:
    """Separator and names of the columns, "" for one without."""
    wanted = (id_column, "") if UNNAMED.fullmatch(id_column) else (id_column,)
    best: tuple[tuple[bool, int], str, list[list[str]]] | None = None
    for separator in ("\t",) if ".tsv" in _endings(path) else SEPARATORS:
        rows = list(islice(_records(path, separator), PEEK))
        if not rows:
            raise ValueError(f"{path} is empty")
        header = [name.strip() for name in rows[0]]
        rank = (any(name in header for name in wanted), len(header))
        if best is None or rank > best[0]:
            best = rank, separator, [header, *rows[1:]]
    assert best is not None
    _, separator, (names, *body) = best
    if body and all(len(row) == len(names) + 1 for row in body):  # one cell more than names
        ends = all(row[-1].strip() == "" for row in body)
        names = [*names, ""] if ends else ["", *names]  # R's write.table names no first column
    return separator, names


def _records(path: Path, separator: str) -> Iterator[list[str]]:
    """Rows as the csv module splits them; lines without anything are none."""
    opened = OPEN.get(path.suffix, open)
    with reading(path, "CSV file"):
        try:
            with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
                yield from (row for row in csv.reader(file, delimiter=separator) if row)
        except UnicodeDecodeError as error:
            raise ValueError(
                f"no UTF-8 text ({error.reason} at byte {error.start}); save it as CSV UTF-8"
            ) from error


def _text_columns(
    path: Path, positions: Sequence[int], options: Mapping[str, Any]
) -> dict[int, "pd.Series[Any]"]:
    """Columns as text, "" where a cell is empty."""
    chosen = {"usecols": list(positions), "dtype": str, "na_values": []}
    table = _parsed(path, {**options, **chosen})
    return {k: table[k] for k in positions}


def _parsed(path: Path, options: Mapping[str, Any]) -> pd.DataFrame:
    with reading(path, "CSV file"), warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # cells that it would drop
        table: pd.DataFrame = pd.read_csv(path, **options)
    return table


def _require_rectangle(path: Path, separator: str, width: int, last: "pd.Series[Any]") -> None:
    """Refuse rows that end early, which pandas fills with empty cells."""
    if not last.isna().any() and not (last == "").any():
        return
    for row, cells in enumerate(_records(path, separator)):
        if row and len(cells) < width:
            raise ValueError(
                f"{path} row {row + 1} has {len(cells)} cells, but {width} are expected; "
                "is a line cut off?"
            )


# --- parquet ----------------------------------------------------------------------------------


def _parquet(path: Path, id_column: str) -> tuple[_Columns, list[str]]:
    with reading(path, "parquet file"):
        try:
            require_parquet(path)
            table = pd.read_parquet(path)
        except ImportError as error:
            raise ValueError("the package for it is missing; pip install pyarrow") from error
    names = [str(name) for name in table.columns]
    index_is_id = table.index.name == id_column or (
        table.index.name is None and not isinstance(table.index, pd.RangeIndex)
    )
    if id_column not in names and index_is_id:
        table = table.reset_index()
        names = [id_column, *names]
    columns = [_plain(table.iloc[:, k].reset_index(drop=True)) for k in range(table.shape[1])]
    first = None
    if names and UNNAMED.fullmatch(names[0]):
        first = as_text(columns[0], path, "first")
    place, notes = _ids_first(names, id_column, path, first)
    chosen = [k for k in range(len(names)) if k != place and not (k == 0 and first is not None)]
    return [(id_column, columns[place]), *((names[k], columns[k]) for k in chosen)], notes


def _plain(column: "pd.Series[Any]") -> "pd.Series[Any]":
    """A categorical column as what its categories are."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return column.astype(column.cat.categories.dtype)
    return column


# --- h5ad -------------------------------------------------------------------------------------


def _anndata() -> Any:
    try:
        import anndata
    except ImportError as error:
        raise ValueError("the package for it is missing; pip install anndata") from error
    return anndata


def _annotated(path: Path, id_column: str) -> _Columns:
    """Names of observations, then a column of X for each variable."""
    with reading(path, "h5ad file"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names that repeat; those of observations are refused
        content = _anndata().read_h5ad(path)
        if content.X is None:
            raise ValueError("it has no X")
        require_size(path, content.n_obs * content.n_vars * VALUE)
        x = content.X.toarray() if hasattr(content.X, "toarray") else np.asarray(content.X)
    ids = pd.Series(content.obs_names.to_numpy(str), dtype=object)
    names = content.var_names.astype(str)
    return [(id_column, ids), *((name, pd.Series(x[:, k])) for k, name in enumerate(names))]
