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
from mmbench.data.parsed import Arrays, Room, parsed
from mmbench.data.sample_files import Skipped

Read = Callable[[Path], UInt8[np.ndarray, "3 height width"] | None]


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
        read: Gives the pixels of a file, or None if the file says that there is no picture.
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
    x = room("x", (len(files), 3, *size), np.uint8)
    present = np.zeros(len(files), bool)
    bad = Skipped(skip_bad, name)
    for row, file in enumerate(files):
        if file is None:
            continue
        with bad.may_fail(f"picture {row + 1:,} of {len(files):,}"):
            pixels = read(file)
            if pixels is not None:
                x[row], present[row] = pixels, True
    return {"x": x, "present": present, "notes": np.array(bad.notes, dtype=str)}


def contents(files: Sequence[Path | None], root: Path) -> dict[str, str]:
    """Hash of the pictures in each folder, by the folder's path below the root."""
    folders: dict[Path, dict[str, str]] = {}
    for file in files:
        if file is not None and file.is_file():
            folders.setdefault(file.parent, {})[file.name] = content_of(file)
    return {str(one.relative_to(root)): digest(hashes) for one, hashes in folders.items()}
