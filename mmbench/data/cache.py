"""What is costly and depends on nothing but its description: made once, then read by all.

A folder a description, named by its hash, published whole by `mmbench.store`. One process builds
and others wait, as a rule; where claims do not work, several build and one is kept.
"""

import logging
import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from mmbench.data.digest import digest
from mmbench.store import (
    MARK,
    Claim,
    LostClaimError,
    attempt,
    checksums,
    claim,
    clean,
    damage,
    identity,
    publish,
    restore,
    write_json,
)


def cache_folder() -> Path:
    """`$MMBENCH_CACHE`, else `mmbench` in the user's cache folder; may be deleted any time."""
    if chosen := os.environ.get("MMBENCH_CACHE"):
        return Path(chosen)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmbench"
    except RuntimeError as error:
        raise ValueError("there is no home folder; set MMBENCH_CACHE to a folder") from error


def cached(
    spec: Mapping[str, Any], build: Callable[[Path, Claim], None], *, home: Path | None = None
) -> Path:
    """Folder whose content depends on `spec` alone; built by the first that asks for it.

    What lies there is read back before it is used, once a process: a damaged folder is named in
    the log, moved aside and built again.

    Args:
        spec: What decides the content, in JSON's types: data and their revision, encoder,
            settings, sources. Kept beside the content as `spec.json`.
        build: Writes the content into the private folder that it is given. If an earlier attempt
            was cut off, the folder may hold what that left, so a long build writes pieces by
            rename and goes on after the last one. It also gets the claim, and ends by
            `Claim.require` at the next step after that is lost: from then on this process is one
            of those that wait.
        home: Where the folders lie; None = `cache_folder()`.

    Returns:
        The folder, complete. Read arrays in it with `numpy.load(path, mmap_mode="r")`.
    """
    while True:
        try:
            return cached_unless_lost(spec, build, home=home)
        except LostClaimError as error:
            logging.getLogger(__name__).warning("%s of the cache: %s", digest(spec), error)


def cached_unless_lost(
    spec: Mapping[str, Any], build: Callable[[Path, Claim], None], *, home: Path | None = None
) -> Path:
    """`cached`, for a build that also ends where another claim than its own is lost: a stage's.

    Raises:
        LostClaimError: If one is lost while it builds.
    """
    folder = (home or cache_folder()) / digest(spec)
    restore(folder)
    if not _problem(folder):
        return folder
    clean(folder.parent)
    with claim(folder, until=lambda: not _problem(folder)) as held:
        while problem := _problem(folder):  # nobody finished it while we waited
            damaged = identity(folder)
            if damaged is not None:
                logging.getLogger(__name__).warning(
                    "%s is damaged and is made again: %s", folder, problem
                )
            with attempt(folder, go_on=True) as part:
                build(part, held)
                write_json(part / "spec.json", spec)
                write_json(part / MARK, {"files": checksums(part)})
                publish(part, folder, instead_of=damaged)
    return folder


def _problem(folder: Path) -> str:
    """Why a folder cannot be used; empty if it can."""
    mark = identity(folder)
    return "it is not there" if mark is None else _damage(folder, mark)


@lru_cache(maxsize=1024)
def _damage(folder: Path, mark: tuple[int, int]) -> str:
    """Read all of a published folder back; `mark` tells it from a later one of its name."""
    return damage(folder, MARK, read_up_to=None)
