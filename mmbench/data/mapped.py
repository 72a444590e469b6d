"""Rows of arrays that lie in mapped files: no copy of them is made before somebody reads."""

import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

LARGE_BYTES = 2**26  # mapped arrays below it are copied: quicker than an index over them
READ_BYTES = 2**24  # read at a time where all of an array is looked at
HELD_BYTES = 2**27  # gathered before pages are let go: memory stays flat however large a file is


class MappedRows:
    """Rows of a mapped array, in any order; what is asked of it is gathered from the file.

    Args:
        values: (row, ...) mapped from a file.
        rows: Positions in it.
    """

    def __init__(self, values: NDArray[Any], rows: Int[np.ndarray, " sample"]) -> None:
        self.values = values
        self.rows = rows
        self._held = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """As of an array."""
        return len(self.rows), *self.values.shape[1:]

    @property
    def ndim(self) -> int:
        """As of an array."""
        return self.values.ndim

    @property
    def dtype(self) -> np.dtype[Any]:
        """As of an array."""
        return self.values.dtype

    @property
    def nbytes(self) -> int:
        """What a copy would take."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.rows)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """Entries as of an array, read from the file now."""
        first, *rest = key if isinstance(key, tuple) else (key,)
        if first is None or first is Ellipsis:
            return np.asarray(np.asarray(self)[key])
        some = self.gathered(self.rows[first])
        if not rest:
            return some
        if isinstance(first, slice | int | np.integer):
            whole = (slice(None),) if isinstance(first, slice) else ()
            return np.asarray(some[(*whole, *rest)])
        return self.gathered((self.rows[first], *rest))

    def read(
        self, samples: Int[np.ndarray, " row"], view: Int[np.ndarray, " row"] | None = None
    ) -> NDArray[Any]:
        """Some samples, in their order; of those that are drawn in part, a view says which."""
        del view
        return self.gathered(self.rows[samples])

    def gathered(self, place: Any) -> NDArray[Any]:
        """Entries of `values`, whose pages stay in the system's cache but not in this process."""
        some = np.asarray(self.values[place])
        self._held += some.nbytes
        if self._held > HELD_BYTES:
            self._held = 0
            _let_go(self.values)
        return some

    def take(self, some: NDArray[Any]) -> "MappedRows":
        """The same of some of the rows, by number or by a mask."""
        return MappedRows(self.values, self.rows[some])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """All rows, read into memory.

        Raises:
            ValueError: If a view is asked for, which there is not.
        """
        if copy is False:
            raise ValueError("rows of a mapped file have no array that could be referred to")
        return np.asarray(self.gathered(self.rows), dtype)


def _let_go(values: NDArray[Any]) -> None:
    base: Any = values
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)  # read once more, they come back from the cache


Values = NDArray[Any] | MappedRows


def is_mapped(values: Values) -> bool:
    """Whether values lie in a mapped file, and are so many that no copy is made of them."""
    if isinstance(values, MappedRows):
        return True
    return isinstance(values, np.memmap) and values.nbytes >= LARGE_BYTES


def at_rows(values: Values, rows: NDArray[Any]) -> Values:
    """These rows (or where a bool mask is True): an index over a mapped file, else a copy."""
    if isinstance(values, MappedRows):
        return values.take(rows)
    if is_mapped(values):
        return MappedRows(values, np.arange(len(values))[rows])
    copies: NDArray[Any] = values[rows]
    return copies


def chunks(values: Values) -> Iterator[slice]:
    """Slices of all rows that take no more than `READ_BYTES`, or hold a single row."""
    row_bytes = max(1, int(np.prod(values.shape[1:])) * values.dtype.itemsize)
    each = max(1, READ_BYTES // row_bytes)
    for start in range(0, len(values), each):
        yield slice(start, min(start + each, len(values)))
