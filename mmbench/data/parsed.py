"""What readers make of a user's large files: parsed once a machine, then mapped by all."""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mmbench.data.cache import cached
from mmbench.data.files import content_of, stamp
from mmbench.data.helpers import helpers
from mmbench.data.progress import progress
from mmbench.data.unpacking import TooLargeError
from mmbench.sources import sources
from mmbench.store import ALONE, Claim, write_json

SMALL_BYTES = 2**20  # files below it are quicker read than looked up
MANY_FILES = 1000  # from which on all are not read again to learn that nothing has changed
PIECE_BYTES = 2**23  # decoded at a time; a piece that is done is not done again after a kill

Arrays = Mapping[str, NDArray[Any]]
Item = TypeVar("Item")
Piece = tuple[list[int], list[tuple[int, str]]]  # sizes of entries; numbers of bad items, and why


def refused(number: int, error: ValueError) -> None:
    """What cannot be read may not pass."""
    raise error


class Room:
    """Where a reader writes arrays that may be too large for memory.

    Args:
        folder: Of the files that they are mapped from; None = memory that no other process sees.
        held: Claim on that entry of the cache. A reader of many files calls `held.require` before
            each; `decode` does so before each piece.
    """

    def __init__(self, folder: Path | None, held: Claim = ALONE) -> None:
        self.folder, self.held = folder, held
        self.names: set[str] = set()

    def __call__(self, name: str, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """A new array of zeros."""
        self.names.add(name)
        if self.folder is None:
            return np.zeros(shape, dtype)
        file = self.folder / f"{name}.npy"
        x = np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=shape)
        if hasattr(os, "posix_fallocate"):  # a full disk is told now, not by a signal in between
            with file.open("r+b") as descriptor:
                os.posix_fallocate(descriptor.fileno(), 0, file.stat().st_size)
        return x

    def decode(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: Any,
        items: Sequence[Item],
        decode: Callable[[Item], NDArray[Any]],
        *,
        rows: Sequence[int] | NDArray[np.int_] | None = None,
        starts: NDArray[np.int64] | None = None,
        length: NDArray[np.int64] | None = None,
        refuse: Callable[[int, ValueError], None] = refused,
    ) -> NDArray[Any]:
        """A new array, into which pictures, volumes or sounds are decoded by all cores.

        A process that is killed in between has its work gone on with, piece by piece.

        Args:
            name: Of the array.
            shape: Of it.
            dtype: Of it: uint8 of pictures, float16 of volumes.
            items: What is decoded, such as a file a sample.
            decode: Gives the entry of an item, in whatever process and order. An entry may be
                shorter along its first axis; beyond it stay zeros.
            rows: Place of each item in the array; None = in order. Others stay zeros.
            starts: Of entries that fill several rows, one after another: the first of each.
            length: (row,) int64, gets the size of each entry along its first axis.
            refuse: Called in order with the number of an item that cannot be decoded, and why; it
                raises unless that may pass, and the entry stays zero.

        Returns:
            The array, not to be written to.
        """
        rows = np.arange(len(items)) if rows is None else np.asarray(rows)
        x = self._begun(name, shape, dtype)
        entry_bytes = int(np.prod(shape[1:])) * x.itemsize
        if starts is not None:
            entry_bytes = x.nbytes // max(1, len(items))
        each = max(1, PIECE_BYTES // max(1, entry_bytes))
        pieces = range(0, len(items), each)

        def piece(start: int) -> Piece:
            steps: list[int] = []
            bad: list[tuple[int, str]] = []
            # mapped for this piece alone: pages that were written do not stay in memory
            part = x if self.folder is None else np.load(self.folder / f"{name}.npy", "r+")
            for number in range(start, min(start + each, len(items))):
                steps.append(0)
                try:
                    entry = decode(items[number])
                except TooLargeError:
                    raise
                except ValueError as error:
                    bad.append((number, str(error)))
                    continue
                if starts is None:
                    part[rows[number], : len(entry)] = entry
                else:
                    part[starts[number] : starts[number] + len(entry)] = entry
                steps[-1] = len(entry)
            return steps, bad

        def recorded(start: int) -> Piece:
            assert self.folder is not None
            record = self.folder / f".{name}.{start}.json"
            if not record.exists():
                write_json(record, piece(start))
            steps, bad = json.loads(record.read_text(encoding="utf-8"))
            return steps, [(number, why) for number, why in bad]

        alone = self.folder is None or len(pieces) == 1
        with (
            nullcontext() if alone else helpers(recorded, pieces),
            progress(f"decoding {name}", len(items)) as show,
        ):
            for start in pieces:
                self.held.require()
                steps, bad = piece(start) if self.folder is None else recorded(start)
                for number, why in bad:
                    refuse(number, ValueError(why))
                if length is not None:
                    length[rows[start : start + len(steps)]] = steps
                show(start + len(steps))
        return x

    def _begun(self, name: str, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """A new array, or the one that an attempt began which was cut off."""
        if self.folder is None:
            return self(name, shape, dtype)
        records = list(self.folder.glob(f".{name}.*.json"))
        file = self.folder / f"{name}.npy"
        if not records or not file.exists():
            self(name, shape, dtype)
        self.names.add(name)
        x: NDArray[Any] = np.load(file, mmap_mode="r")
        assert (x.shape, x.dtype) == (shape, dtype), f"{name} is another array than was begun"
        return x


memory = Room(None)


def is_small(files: Sequence[Path]) -> bool:
    """Whether files are quicker read than looked up in the cache."""
    return sum(file.stat().st_size for file in files) < SMALL_BYTES


def content_of_all(files: Sequence[Path], stamps: Sequence[Sequence[int]] | None = None) -> str:
    """Hash of many files in order, known by their stamps once they were read, on this machine.

    Args:
        files: Or folders.
        stamps: Of each; None = they are looked up.
    """
    if stamps is None:
        stamps = [stamp(file) for file in files]

    def content() -> str:
        whole = hashlib.sha256()
        for file in files:
            one = content_of(file) if file.is_dir() else _sha256(file)
            whole.update(one.encode())
        return whole.hexdigest()

    def build(folder: Path, _: Claim) -> None:
        write_json(folder / "content.json", content())

    names = hashlib.sha256("\0".join(map(str, files)).encode())
    names.update(np.array(stamps).tobytes())
    try:
        folder = cached({"what": "content of files", "stamps": names.hexdigest()}, build)
    except OSError:  # the cache cannot be written, which is told when it is wanted for more
        return content()
    return str(json.loads((folder / "content.json").read_text(encoding="utf-8")))


def _sha256(file: Path) -> str:
    """As `content_of`, without a buffer that is larger than a picture."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def parsed(
    files: Sequence[Path], spec: Mapping[str, Any], read: Callable[[Room], Arrays], *, code: str
) -> Arrays:
    """Arrays that a reader makes of files, mapped from the cache unless the files are small.

    The cache keeps a copy of what the files hold, readable by its user alone. Where it cannot be
    written, every process reads the files itself, and the log says so.

    Args:
        files: What is read.
        spec: What else decides the arrays, in JSON's types: name and arguments of the reader.
        read: The reader. An array that may be too large for memory it writes where it is given
            room, and gives back under that name; entries that take long it decodes there
            (`Room.decode`).
        code: Module that the reader lies in; another source of it, or of what it imports, is
            another entry.

    Returns:
        What `read` gives; arrays must not be written to.

    Raises:
        ValueError: If a file is written to meanwhile.
    """
    stamps = [stamp(file) for file in files]
    if sum(size for size, *_ in stamps) < SMALL_BYTES:
        return read(memory)
    arrays: dict[str, NDArray[Any]] = {}

    def build(folder: Path, held: Claim) -> None:
        folder.chmod(0o700)  # the file may be readable by fewer people than a cache folder is
        room = Room(folder, held)
        try:
            arrays.update(read(room))
            for file, known in zip(files, stamps, strict=True):
                if stamp(file) != known:  # else another content would lie under this one's name
                    raise ValueError(f"{file} was written to while it was read; run it again")
        except ValueError:  # of a file that has to change: what was read of others is no help
            for part in folder.iterdir():
                part.unlink()
            raise
        for name in arrays.keys() - room.names:
            held.require()
            np.save(folder / f"{name}.npy", arrays[name], allow_pickle=False)

    if len(files) < MANY_FILES:
        content = [content_of(file) for file in files]
    else:
        content = [content_of_all(files, stamps)]
    key = {
        **spec,
        "code": sources(code),
        "content": content,
        "libraries": {"numpy": np.__version__, "pandas": pd.__version__},
    }
    try:
        folder = cached(key, build)
    except OSError as error:
        logging.getLogger(__name__).warning(
            "what is read of %s cannot be kept for other processes: %s", files[0], error
        )
        return arrays or read(memory)
    return {file.stem: np.load(file, mmap_mode="r") for file in folder.glob("*.npy")}
