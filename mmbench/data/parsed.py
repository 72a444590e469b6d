"""What readers make of a user's large files: parsed once a machine, then mapped by all."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mmbench.data.cache import cached
from mmbench.data.files import content_of, stamp
from mmbench.sources import sources
from mmbench.store import ALONE, Claim

SMALL_BYTES = 2**20  # files below it are quicker read than looked up

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Room:
    """Where a reader writes arrays that may be too large for memory.

    Args:
        folder: Of an entry of the cache; None = memory, which no other process sees.
        held: On that entry. A reader of many files calls `held.require` before each.
        names: Of the arrays that lie in the folder.
    """

    folder: Path | None = None
    held: Claim = ALONE
    names: set[str] = field(default_factory=set)

    def array(self, name: str, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """A new array, of zeros."""
        if self.folder is None:
            return np.zeros(shape, dtype)
        self.names.add(name)
        file = self.folder / f"{name}.npy"
        return np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=shape)


def is_small(files: Sequence[Path]) -> bool:
    """Whether files are quicker read than looked up in the cache."""
    return sum(file.stat().st_size for file in files) < SMALL_BYTES


def parsed(
    files: Sequence[Path], spec: Mapping[str, Any], read: Callable[[Room], Arrays], *, code: str
) -> Arrays:
    """Arrays that a reader makes of files, mapped from the cache unless the files are small.

    The cache keeps a copy of what the files hold, readable by its user alone. Where it cannot be
    written, every process reads the files itself, and the log says so.

    Args:
        files: What is read.
        spec: What else decides the arrays, in JSON's types: name and arguments of the reader.
        read: The reader. An array that may be too large for memory it writes into one of the
            room that it is given, and gives back under the name that it has there.
        code: Module that the reader lies in; another source of it, or of what it imports, is
            another entry.

    Returns:
        What `read` gives; arrays must not be written to.

    Raises:
        ValueError: If a file is written to meanwhile.
    """
    if is_small(files):
        return read(Room())
    stamps = [stamp(file) for file in files]
    arrays: dict[str, NDArray[Any]] = {}

    def build(folder: Path, held: Claim) -> None:
        folder.chmod(0o700)  # the file may be readable by fewer people than a cache folder is
        room = Room(folder, held)
        arrays.update(read(room))
        for file, known in zip(files, stamps, strict=True):
            if stamp(file) != known:  # else another content would lie under this one's name
                raise ValueError(f"{file} was written to while it was read; run it again")
        for name in arrays.keys() - room.names:
            held.require()
            np.save(folder / f"{name}.npy", arrays[name], allow_pickle=False)

    key = {
        **spec,
        "code": sources(code),
        "content": [content_of(file) for file in files],
        "libraries": {"numpy": np.__version__, "pandas": pd.__version__},
    }
    try:
        folder = cached(key, build)
    except OSError as error:
        logging.getLogger(__name__).warning(
            "what is read of %s cannot be kept for other processes: %s", files[0], error
        )
        return arrays or read(Room())
    return {file.stem: np.load(file, mmap_mode="r") for file in folder.glob("*.npy")}
