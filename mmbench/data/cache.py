"""What is costly and depends on nothing but its description: made once, then read by all.

A folder a description, named by its hash. One process builds, others wait; a folder without
its end mark does not exist to readers, so a crash half-way costs the piece in flight.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor

from mmbench.data.digest import digest


def cache_folder() -> Path:
    """`$MMBENCH_CACHE`, else `mmbench` in the user's cache folder; may be deleted any time."""
    if chosen := os.environ.get("MMBENCH_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmbench"


def content(tensors: Iterable[Tensor]) -> str:
    """Name of what tensors hold, in whatever pieces it comes; shapes are for the caller to name."""
    found = hashlib.sha256()
    for x in tensors:
        found.update(x.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def cached(
    words: Mapping[str, Any], build: Callable[[Path], None], *, home: Path | None = None
) -> Path:
    """Folder whose content depends on `words` alone; built by the first that asks for it.

    Args:
        words: What decides the content, in JSON's types: data and their revision, encoder,
            settings. Kept beside the content as `words.json`.
        build: Writes the content into the folder that it is given. If an earlier attempt was
            cut off, the folder holds what that left, so a long build writes pieces by rename
            and goes on after the last one.
        home: Where the folders lie; None = `cache_folder()`.

    Returns:
        The folder, complete. Read arrays in it with `numpy.load(path, mmap_mode="r")`.
    """
    home = home or cache_folder()
    folder = home / digest(words)
    if folder.is_dir():
        return folder
    home.mkdir(parents=True, exist_ok=True)
    part = folder.with_suffix(".part")
    with FileLock(folder.with_suffix(".lock")):
        if not folder.is_dir():  # nobody finished it while we waited
            part.mkdir(exist_ok=True)
            build(part)
            (part / "words.json").write_text(json.dumps(words, indent=1), encoding="utf-8")
            part.rename(folder)
    return folder
