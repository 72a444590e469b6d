"""Pictures of a whole data set, decoded once a machine."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from mmbench.data.digest import digest
from mmbench.data.files import content_of
from mmbench.data.parsed import MANY_FILES, Arrays, Room, content_of_all, parsed
from mmbench.data.sample_files import Skipped

# an entry without channels says that the file has no picture
Read = Callable[[Path], UInt8[np.ndarray, "channel height width"]]


@dataclass(frozen=True)
class Pictures:
    """One modality of all samples.

    Args:
        x: 0..255, zeros where there is none; mapped, must not be written to.
        present: True = the sample has one.
        notes: Which bad ones were let pass.
    """

    x: UInt8[np.ndarray, "sample 3 height width"]
    present: Bool[np.ndarray, " sample"]
    notes: tuple[str, ...]


def decoded(
    files: Sequence[Path | None],
    read: Read,
    *,
    size: tuple[int, int],
    skip_bad: int,
    name: str,
    spec: Mapping[str, Any],
    code: str,
) -> Pictures:
    """Decode the pictures of a modality.

    Args:
        files: One a sample; None = it has none.
        read: Gives the pixels of a file, in 3 channels, or in none where it holds no picture.
        size: Height and width of what `read` gives.
        skip_bad: So many pictures may be unreadable or missing; their samples lack the modality.
        name: Of the modality.
        spec: What decides the pixels beside the files and their size, in JSON's types.
        code: Module that the reader lies in.

    Raises:
        ValueError: If more are bad; the message says which is the first, by number and name.
    """
    files_here = [file if file is not None and file.is_file() else None for file in files]
    key = {
        "what": "pictures",
        "name": name,
        "files": digest({str(row): file and file.name for row, file in enumerate(files)}),
        "here": digest({"here": [file is not None for file in files_here]}),
        "size": list(size),
        "skip_bad": skip_bad,
        **spec,
    }
    work = partial(_decode, files, read, size, skip_bad, name)
    arrays = parsed([file for file in files_here if file is not None], key, work, code=code)
    return Pictures(arrays["x"], arrays["present"], tuple(arrays["notes"].tolist()))


def _decode(
    files: Sequence[Path | None],
    read: Read,
    size: tuple[int, int],
    skip_bad: int,
    name: str,
    room: Room,
) -> Arrays:
    rows = [row for row, file in enumerate(files) if file is not None]
    channels = np.zeros(len(files), np.int64)
    bad = Skipped(skip_bad, name)

    def refuse(number: int, error: ValueError) -> None:
        with bad.may_fail(f"picture {rows[number] + 1:,} of {len(files):,}"):
            raise error

    x = room.decode(
        "x",
        (len(files), 3, *size),
        np.uint8,
        [file for file in files if file is not None],
        read,
        rows=rows,
        length=channels,
        refuse=refuse,
    )
    return {"x": x, "present": channels > 0, "notes": np.array(bad.notes, dtype=str)}


def contents(files: Sequence[Path | None], root: Path) -> dict[str, str]:
    """Hash of the pictures in each folder, by the folder's path below the root."""
    folders: dict[Path, set[Path]] = {}
    for file in files:
        if file is not None and file.is_file():
            folders.setdefault(file.parent, set()).add(file)
    return {
        str(folder.relative_to(root)): _content(sorted(inside))
        for folder, inside in folders.items()
    }


def _content(files: Sequence[Path]) -> str:
    """Hash of names and contents of the files of a folder."""
    if len(files) < MANY_FILES:
        return digest({file.name: content_of(file) for file in files})
    return digest({"names": [file.name for file in files], "all": content_of_all(files)})
