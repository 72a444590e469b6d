"""How samples in files of their own are decoded: into what, as told before any of them is kept."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmbench.data.arrays import Arrays, arrays_of
from mmbench.data.files import exact
from mmbench.data.sample_files import FileKind, read_array, read_picture, require_alike
from mmbench.data.sound import MELS, log_mel, read_wav, steps_of
from mmbench.data.task import WITH_LENGTHS, Kind

SOUND_HZ = 16_000  # that recordings are brought to


@dataclass(frozen=True)
class Decoder:
    """Of the files of a modality.

    Args:
        shape: Of an entry; its first axis may be shorter in some.
        dtype: Of the values.
        read: Gives the entry of a file; of length 0 where the file says that there is none.
        notes: What is turned, a line each.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[Path], NDArray[Any]]
    notes: tuple[str, ...] = ()


def decoder_of(
    kind: FileKind, files: Sequence[Path], size: tuple[int, int] | None = None
) -> Decoder:
    """Look at files and say how they are decoded; those that cannot be read are passed over here.

    Args:
        kind: Pictures, sounds, sequences or volumes.
        files: Of all samples.
        size: Height and width that pictures are brought to; None = those of the first.
    """
    if kind == "image":
        return _pictures(files, size)
    if kind == "sound":
        return _sounds(files)
    return _arrays(files, kind)


def _pictures(files: Sequence[Path], size: tuple[int, int] | None) -> Decoder:
    shape = (3, 1, 1) if size is None else (3, *size)
    for file in files if size is None else ():
        with suppress(ValueError):
            shape = read_picture(file, None).shape
            break

    def read(file: Path) -> NDArray[Any]:
        pixels = read_picture(file, size)
        if pixels.shape != shape:
            raise ValueError(
                f"{file} has {pixels.shape[1]} x {pixels.shape[2]} pixels, but those "
                f"before have {shape[1]} x {shape[2]}; say size: 224 (or another) to "
                "bring all to one size"
            )
        return pixels

    return Decoder(shape, np.dtype(np.uint8), read)


def _sounds(files: Sequence[Path]) -> Decoder:
    longest = 1
    for file in files:
        with suppress(ValueError):
            longest = max(longest, steps_of(file, SOUND_HZ))

    def read(file: Path) -> NDArray[Any]:
        return log_mel(read_wav(file, SOUND_HZ), SOUND_HZ)

    return Decoder((longest, MELS), np.dtype(np.float32), read)


def _arrays(files: Sequence[Path], kind: Kind) -> Decoder:
    """Of sequences, as long as the longest, or volumes."""
    first: tuple[Path, NDArray[Any]] | None = None
    shape: tuple[int, ...] = (1,)
    notes: tuple[str, ...] = ()
    longest, dtype = 1, np.dtype(np.float32)
    for file in files:
        with suppress(ValueError):
            array = read_array(file)
            if first is None:
                arrays = _single(array, file, kind)
                first, shape, notes = (file, array), arrays.x.shape[1:], arrays.notes
            require_alike(array, file, first, kind)
            longest = max(longest, len(array))
            if kind != "volume" and not np.can_cast(array.dtype, dtype):
                dtype = exact(array.astype(np.float64)).dtype

    def read(file: Path) -> NDArray[Any]:
        array = read_array(file)
        if first is not None:
            require_alike(array, file, first, kind)
        arrays = _single(array, file, kind)
        entry: NDArray[Any] = arrays.x[0].astype(dtype)
        return entry if arrays.present[0] else entry[:0]

    return Decoder((longest, *shape[1:]) if kind in WITH_LENGTHS else shape, dtype, read, notes)


def _single(array: NDArray[Any], file: Path, kind: Kind) -> Arrays:
    return arrays_of({"id": np.array([file.stem]), "x": array[None]}, file, kind)
