"""Reads the files a user brings; what is wrong with one is said in a line that names it."""

import hashlib
import json
import math
import os
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float32
from numpy.lib import format as npy
from numpy.typing import NDArray

from mmbench.data.unpacking import TooLargeError, require_matlab, require_size, require_stream

COMPRESSIONS = ("", ".xz", ".gz", ".bz2")


def locate(root: Path, name: str) -> Path:
    """Find a file of the user's, plain or compressed, or a folder of files.

    Args:
        root: Folder of the user's data.
        name: Path below it, `cmu_mosi/transcripts.csv`; a file may also end in .xz, .gz
            or .bz2 on top of that.

    Raises:
        ValueError: If the folder or the file is not there.
    """
    path = root / name
    if path.is_dir():
        return path
    for ending in COMPRESSIONS:
        file = path.with_name(path.name + ending)
        if file.is_file():
            return file
    if not root.is_dir():
        raise ValueError(
            f"no folder {root}; set --data-root or MMBENCH_DATA to the folder that has {name}"
        )
    folder = path.parent
    what = f"no file {path.name} in {folder}" if folder.is_dir() else f"no folder {folder}"
    raise ValueError(
        f"{what}; it is wanted as {path} (or compressed: .xz, .gz, .bz2), "
        "datamodules/README.md says where to get it"
    )


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turn whatever a library raises on a damaged file into one line that names the file.

    Only the library's call belongs inside: a decoder fails in any way, by `EOFError`,
    `zlib.error`, `MemoryError` or a plain `TypeError`.

    Args:
        path: The file.
        what: It should be, "CSV file".

    Raises:
        ValueError: If anything fails.
    """
    try:
        yield
    except TooLargeError:  # a good file, maybe
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} is no readable {what}: {reason[:300]}") from error


def stamp(path: Path) -> list[int]:
    """Size, time of change and inode: as long as they stay, so does the content.

    Those of a folder stay as long as nothing is added to it or taken away.
    """
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def content_of(path: Path) -> str:
    """Hash of a file, or of names in a folder; read once a process as long as its stamp stays."""
    return _content_of(path, tuple(stamp(path)))


@lru_cache(maxsize=1024)
def _content_of(path: Path, stamped: tuple[int, ...]) -> str:
    if path.is_dir():
        names = sorted(one.name for one in path.iterdir())
        return hashlib.sha256("\0".join(names).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_csv(path: Path, **options: Any) -> pd.DataFrame:
    """Read a CSV file with pandas.

    Raises:
        ValueError: If it is empty or no CSV.
    """
    with reading(path, "CSV file"):
        require_stream(path)
        table: pd.DataFrame = pd.read_csv(path, **options)
    return table


def read_texts(path: Path, *columns: str) -> pd.DataFrame:
    """Read a CSV file whose cells stay text: `01` is not 1, and `NA` is a word.

    Args:
        path: The file, with a header.
        columns: That it must have.

    Raises:
        ValueError: If it is no CSV, or lacks a column.
    """
    table = read_csv(path, dtype=str, keep_default_na=False)
    if lost := [name for name in columns if name not in table.columns]:
        raise ValueError(f"{path} has no column {lost[0]}; it has {[*table.columns][:20]}")
    return table


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: If it is none.
    """
    with reading(path, "JSON file"):
        return json.loads(path.read_text(encoding="utf-8"))


def read_matrix(path: Path, *, width: int) -> Float32[np.ndarray, "row column"]:
    """Read a CSV file of numbers without a header.

    Args:
        path: The file.
        width: Columns it must have.

    Raises:
        ValueError: If it has another width, or an entry is empty or no number.
    """
    table = read_csv(path, header=None)
    if table.shape[1] != width:
        raise ValueError(
            f"{path} has {table.shape[1]} columns, but {width} are expected; "
            "is it another version of the file?"
        )
    table.index = pd.RangeIndex(1, len(table) + 1)
    table.columns = pd.RangeIndex(1, width + 1)
    return numbers(table, path)


def numbers(table: pd.DataFrame, path: Path) -> Float32[np.ndarray, "row column"]:
    """Turn columns into numbers.

    Args:
        table: What was read; its index and its columns name an entry in messages.
        path: Where from.

    Raises:
        ValueError: If an entry is empty, infinite, or no number, `True` among them.
    """
    parsed = table.apply(pd.to_numeric, errors="coerce").to_numpy(np.float64, copy=True)
    parsed[:, [pd.api.types.is_bool_dtype(dtype) for dtype in table.dtypes]] = np.nan
    with np.errstate(over="ignore"):  # too large becomes infinity, which is refused below
        values: NDArray[np.float32] = parsed.astype(np.float32)
    if (bad := ~np.isfinite(values)).any():
        row, column = np.argwhere(bad)[0]
        raise ValueError(
            f"{path} row {table.index[row]}, column {table.columns[column]}: "
            f"{str(table.iat[row, column])!r} is no finite number"
        )
    return values


def exact(values: NDArray[np.float64]) -> NDArray[np.floating[Any]]:
    """Narrow to float32 where that changes no value; else the values as they are.

    Seconds since 1970 differ by less than what float32 keeps of them: scales take offsets off
    before anything is rounded.
    """
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
    return single if np.array_equal(single, values, equal_nan=True) else values


def read_matlab(path: Path, *names: str) -> list[NDArray[Any]]:
    """Read variables of a MATLAB file; a cell array comes as an object array.

    Raises:
        ValueError: If a variable is not in it, or it is no MATLAB file of version 4 to 7.2.
    """
    content = matlab_variables(path)
    for name in names:
        if name not in content:
            raise ValueError(
                f"{path} has no variable {name}; it has {', '.join(content) or 'nothing'}"
            )
    return [content[name] for name in names]


def matlab_variables(path: Path) -> dict[str, Any]:
    """Every variable of a MATLAB file, by name.

    Raises:
        ValueError: If it is no MATLAB file of version 4 to 7.2.
    """
    from scipy import io

    with reading(path, "MATLAB file"):
        require_matlab(path)
        try:
            content = io.loadmat(path)
        except NotImplementedError as error:  # version 7.3 is HDF5
            raise ValueError("it is one of 7.3; save it again with save(file, '-v7')") from error
    return {name: value for name, value in content.items() if not name.startswith("__")}


def dense(matrix: Any, *, width: int, what: str) -> Float32[np.ndarray, "row column"]:
    """Turn a matrix, sparse or not, into float32.

    Raises:
        ValueError: If it has another width, holds no real numbers, or NaN or infinity.
    """
    values: NDArray[Any] = np.asarray(matrix.toarray() if hasattr(matrix, "toarray") else matrix)
    if values.ndim != 2 or values.shape[1] != width:
        raise ValueError(f"{what} has the shape {values.shape}, but {width} columns are expected")
    _require_real(values, what)
    if not np.isfinite(values).all():
        row = int(np.argwhere(~np.isfinite(values))[0][0])
        raise ValueError(f"{what} row {row + 1} holds NaN or infinity")
    return values.astype(np.float32)


def class_numbers(
    labels: NDArray[Any], *, classes: int, first: int, what: str
) -> NDArray[np.int64]:
    """Turn labels first .. first + classes - 1 into 0 .. classes - 1.

    Raises:
        ValueError: If one is text, NaN, no whole number or out of range; the message names the
            row.
    """
    array = np.asarray(labels)
    _require_real(array, what)
    values = array.astype(np.float64).reshape(-1)
    good = np.isfinite(values) & (values == np.round(values))
    good &= (values >= first) & (values < first + classes)
    if not good.all():
        row = int(np.flatnonzero(~good)[0])
        raise ValueError(
            f"{what} row {row + 1}: label {values[row]:g} is none of {first}..{first + classes - 1}"
        )
    return values.astype(np.int64) - first


def _require_real(values: NDArray[Any], what: str) -> None:
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{what} holds {values.dtype}, but real numbers are expected")


def same_length(rows: dict[str, int]) -> int:
    """Check that files which belong together have as many rows, and say how many.

    Args:
        rows: File (or variable) -> its rows.

    Raises:
        ValueError: If they differ.
    """
    if len(set(rows.values())) != 1:
        raise ValueError(
            "as many rows are expected in each, but "
            + ", ".join(f"{name} has {n}" for name, n in rows.items())
        )
    return next(iter(rows.values()))


def read_npz(path: Path, names: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
    """Read arrays of an `.npz` file; no pickles.

    A header claims a shape, and room for it is made before anything is read. So what it claims is
    first compared with what the archive holds, and that with the memory of the machine.

    Args:
        path: The file.
        names: Of the arrays; None = all.

    Raises:
        ValueError: If it is no such file, lacks an array, holds Python objects, or claims more
            than it has.
    """
    with reading(path, "npz file of plain arrays"), zipfile.ZipFile(path) as archive:
        require_size(path, sum(entry.file_size for entry in archive.infolist()))
        entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
        for name in names or ():
            if name not in entries:
                raise ValueError(f"it has no array {name}; it has {', '.join(entries)}")
        return {name: _array(archive, entries[name]) for name in names or entries}


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> NDArray[Any]:
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    with archive.open(entry) as file:
        version = npy.read_magic(file)
        if version not in readers:
            raise ValueError(f"{entry.filename} is of version {version}, known are 1 and 2")
        shape, _, dtype = readers[version](file)
    if dtype.hasobject:
        raise ValueError(f"{entry.filename} holds Python objects, which are not read")
    claimed = math.prod(shape) * dtype.itemsize
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if min(shape, default=0) < 0 or claimed > min(entry.file_size, memory):
        raise ValueError(
            f"{entry.filename} claims the shape {shape} of {dtype}, {claimed:,} bytes, but the "
            f"archive holds {entry.file_size:,} and this machine has {memory:,}"
        )
    with archive.open(entry) as file:
        array: NDArray[Any] = npy.read_array(file, allow_pickle=False)
    return array
