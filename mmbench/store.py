"""Everything that is written: made in private, flushed, and published by one rename.

No lock, lease or clock has to work for what lies on disk to be whole. Whatever is published is
never changed again; who comes second throws its own away. A claim says that somebody is at it, so
that others take something else; where claims fail, work is done twice and thrown away once.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from filelock import LeaseSettingsMismatch, SoftFileLease, Timeout
from numpy.typing import NDArray

LEASE_S = 90.0  # of silence on a contender's own clock, after which it takes a claim over
HEARTBEAT_S = 30.0
LOOK_S = 0.2  # between two looks while waiting
MARK = "files.json"  # in what `data.cache` made: checksums of what it held when published
LEFT = "left"  # in the place of a process: an attempt that its maker gave up
OLD = "-old"  # after a process: what was moved aside, whole, until the new one is published
GONE = "-gone"  # after a process: what is being removed
PRIVATE = re.compile(
    r"\.(?P<target>.+)\.[0-9a-f]{12}\.(?P<maker>left|\d+)(?P<mark>-old|-gone)?\.[0-9a-f]{8}"
)
ABANDONED_S = 86400.0  # after which an attempt that nobody claims is nobody's

Files = dict[str, dict[str, Any]]  # path inside a folder -> size and checksum


# --- files ------------------------------------------------------------------------------------


def write_text(path: Path, text: str, *, errors: str = "strict") -> None:
    """Write a file, so that a reader finds the whole of it or what was there before."""
    write_file(path, lambda part: part.write_text(text, "utf-8", errors, newline="\n"))


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON: what is not a number becomes null.

    Raises:
        TypeError: If JSON has no such value.
    """
    text = json.dumps(_strict(value), indent=1, allow_nan=False)
    write_text(path, text + "\n")


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays; read them with `numpy.load(path, allow_pickle=False)`."""

    def write(part: Path) -> None:
        with part.open("wb") as file:  # numpy would add a suffix to the name
            np.savez(file, allow_pickle=False, **arrays)

    write_file(path, write)


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file by any means, so that a reader finds the whole of it or what was there before.

    Args:
        path: Its final name.
        write: Writes the file that it is given, of another name.
    """
    part = private(path)
    try:
        write(part)
        if not any(f".{_here()}." in name for name in path.parts):
            _flush(part)  # a private folder is flushed as a whole when it is published
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _strict(value: Any) -> Any:
    if isinstance(value, float) and not np.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _strict(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(inner) for inner in value]
    return value


# --- folders ----------------------------------------------------------------------------------


def private(path: Path, mark: str = "") -> Path:
    """A name beside `path` that no other process, on no other machine, ever takes."""
    maker = LEFT if mark == LEFT else f"{os.getpid()}{mark}"
    return path.with_name(f".{path.name}.{_here()}.{maker}.{secrets.token_hex(4)}")


@contextlib.contextmanager
def attempt(target: Path, *, go_on: bool = False) -> Iterator[Path]:
    """A private folder in which the content of `target` is made; what is left of it is removed.

    Args:
        target: Where it is to be published, by `publish`.
        go_on: Whether an attempt that was cut off on this machine is gone on with, and whether
            this one, unless it is empty, is left for others if it ends by an exception.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = private(target)
    if not (go_on and any(_rename(past, part) for past in leftovers(target))):
        part.mkdir()
    for past in leftovers(target, "", OLD, GONE):
        _remove(past, target)
    try:
        yield part
    except BaseException:
        if go_on and any(part.iterdir()):
            _rename(part, private(target, LEFT))
        raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def leftovers(target: Path, *marks: str) -> list[Path]:
    """Attempts of processes of this machine that are no more, the newest first.

    Those of other machines, or from before a restart, may be at work or half on disk: not listed.

    Args:
        target: What was attempted.
        *marks: `OLD` for what they had moved aside instead, `GONE` for what they were removing;
            without any, the attempts themselves.
    """
    parts = []
    for name, part in _privates(target.parent, f".{target.name}.{_here()}."):
        if (name["mark"] or "") not in (marks or ("",)) or not part.is_dir():
            continue
        if name["maker"] == LEFT or not _is_alive(int(name["maker"])):
            with contextlib.suppress(FileNotFoundError):
                parts.append((part.stat().st_mtime_ns, part))
    return [part for _, part in sorted(parts, reverse=True)]


def _privates(folder: Path, prefix: str = ".") -> Iterator[tuple[re.Match[str], Path]]:
    """What lies in a folder under names of `private`: asked for each run, among thousands."""
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(prefix) and (name := PRIVATE.fullmatch(entry.name)):
                yield name, folder / entry.name


def restore(target: Path) -> None:
    """Put back what was moved aside by a process that died before it published the new one."""
    if not target.exists():
        any(_rename(aside, target) for aside in leftovers(target, OLD))


def moved_aside(target: Path) -> Path | None:
    """What still counts of a published folder that is not there: it waits for its successor.

    Until that appears, it is whole, whoever moved it, and whether they live.
    """
    try:
        changed = target.parent.stat().st_mtime_ns
    except FileNotFoundError:
        return None
    # the clock of file systems ticks slowly: a folder may change twice at one time
    fresh = abs(time.time_ns() - changed) < 10**9
    look = _moved_aside_in.__wrapped__ if fresh else _moved_aside_in
    parts = look(target.parent, changed).get(target.name)
    return parts[-1] if parts else None


def targets_in(folder: Path) -> list[Path]:
    """What is published in a folder, and what only lies there moved aside; by their names."""
    published = [path.name for path in folder.glob("[!.]*")]
    return [folder / name for name in sorted({*published, *_moved_aside_in.__wrapped__(folder, 0)})]


@lru_cache(maxsize=1024)
def _moved_aside_in(folder: Path, changed: int) -> dict[str, list[Path]]:
    """Name -> what was moved aside of it, the last at the end; `changed` tells states apart."""
    parts = [(name, part) for name, part in _privates(folder) if name["mark"] == OLD]
    of: dict[str, list[Path]] = {}
    for name, part in sorted(parts, key=lambda one: _age(one[1])):
        of.setdefault(name["target"], []).append(part)
    return of


def _age(folder: Path) -> int:
    seen = identity(folder)
    return 0 if seen is None else seen[1]


def clean(folder: Path) -> None:
    """Remove attempts in a folder that are left behind, by whatever machine.

    They are if nothing in them was written for `ABANDONED_S` and nobody claims their target. What
    was moved aside is put back where nothing was published in its place.
    """
    for name, part in list(_privates(folder)):
        if not part.is_dir():
            continue
        target = folder / name["target"]
        if time.time() - _last_written(part) < ABANDONED_S or is_claimed(target):
            continue
        if not (name["mark"] == OLD and _rename(part, target)):
            _remove(part, target)


def _last_written(folder: Path) -> float:
    """When anything in a folder was written last; now, if it is going away."""
    try:
        return max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
    except FileNotFoundError:
        return time.time()


def publish(part: Path, target: Path, *, instead_of: tuple[int, int] | None = None) -> bool:
    """Give a finished private folder its final name.

    Args:
        part: Made by `attempt`.
        target: Its final name.
        instead_of: `identity` of the published folder that may be replaced; None = none may.

    Returns:
        Whether it was published; otherwise another was quicker and `part` is removed.
    """
    for file in part.rglob("*"):
        _flush(file)
    _flush(part)
    aside: Path | None = None
    published = False
    try:
        while not (published := _rename(part, target)):
            if instead_of is None or identity(target) not in (instead_of, None):
                shutil.rmtree(part)
                return False
            aside = private(target, OLD)
            if not _rename(target, aside):
                aside = None
            elif identity(aside) != instead_of:  # another was quicker: what is theirs goes back
                if not _rename(aside, target):
                    _remove(aside, target)
                aside = None
    finally:
        if aside is not None and (published or not _rename(aside, target)):
            _remove(aside, target)
    _flush(target.parent)
    return True


def remove(target: Path) -> None:
    """Remove a published folder at once for every reader, and what was moved aside of it."""
    for part in _moved_aside_in.__wrapped__(target.parent, 0).get(target.name, []):
        _remove(part, target)  # first: without the folder, the last of them would count again
    _remove(target, target)


def _remove(folder: Path, target: Path) -> None:
    """Remove what lies beside `target`, unless another takes it up at this moment."""
    mine = private(target, GONE)
    if _rename(folder, mine):
        if mine.is_symlink() or mine.is_file():
            mine.unlink()
        else:
            shutil.rmtree(mine, ignore_errors=True)


def identity(folder: Path) -> tuple[int, int] | None:
    """What tells a published folder from another of its name; None if there is none."""
    try:
        stat = folder.lstat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_mtime_ns


def _rename(old: Path, new: Path) -> bool:
    """Rename a folder; False if the new name is taken or the old one is gone."""
    try:
        old.rename(new)
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            return False
        raise
    return True


def _flush(path: Path) -> None:
    """Have a file's or folder's content on the disk, where the file system can."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EROFS):
            raise
    finally:
        os.close(descriptor)


@lru_cache(maxsize=1)
def _here() -> str:
    """This machine since it started and this space of process numbers, as part of a file name.

    Containers may share a host's name and number their processes alike.
    """
    words = [socket.gethostname()]
    with contextlib.suppress(OSError):
        words.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8"))
    with contextlib.suppress(OSError):
        words.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:12]


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's
    return True


# --- checksums --------------------------------------------------------------------------------


def checksums(folder: Path) -> Files:
    """Size and SHA-256 of every file in a folder; hidden ones are not content."""
    return {
        str(file.relative_to(folder)): {"bytes": file.stat().st_size, "sha256": _sha256(file)}
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not file.name.startswith(".")
    }


def damage(folder: Path, mark: str, *, read_up_to: int | None = 0) -> str:
    """What is wrong with a folder; empty if nothing.

    Args:
        folder: A published folder.
        mark: Name of the JSON file in it that has its `checksums` under `files`.
        read_up_to: Files of at most so many bytes are read back, all if None; of others the size
            has to do.
    """
    try:
        files = json.loads((folder / mark).read_text(encoding="utf-8"))["files"]
        known_by_name = {name: (known["bytes"], known["sha256"]) for name, known in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"{mark} is damaged"
    if outside := [name for name in files if name.startswith("/") or ".." in name.split("/")]:
        return f"{mark} names {outside[0]}, which leads out of the folder"
    for name, (known_size, known_sum) in known_by_name.items():
        file = f"{folder}/{name}"  # of many runs, paths as objects take most of the time
        try:
            size = os.stat(file).st_size  # noqa: PTH116
            is_read = size == known_size and (read_up_to is None or size <= read_up_to)
            found_sum = _sha256(file) if is_read else known_sum
        except FileNotFoundError:
            return f"{name} is missing"
        except (OSError, ValueError) as error:  # no name that a file can have
            return f"{name[:60]!a} cannot be read: {error.__class__.__name__}"
        if size != known_size:
            return f"{name} has {size} bytes instead of {known_size}"
        if found_sum != known_sum:
            return f"{name} holds other bytes than were written"
    return ""


def _sha256(file: Path | str) -> str:
    with open(file, "rb") as content:  # noqa: PTH123
        return hashlib.file_digest(content, "sha256").hexdigest()


# --- claims -----------------------------------------------------------------------------------


class LostClaimError(RuntimeError):
    """Another process took over what this one was at."""


@dataclass(frozen=True)
class Claim:
    """What came of a claim.

    Args:
        ours: Whether this process is the one to make the target.
        lease: What says so to others; None where nothing does.
    """

    ours: bool
    lease: SoftFileLease | None = None

    @property
    def lost(self) -> bool:
        """Whether another took it over since: this process was silent for too long."""
        return self.lease is not None and self.lease.compromise is not None

    def require(self) -> None:
        """Go on only while it is held.

        Raises:
            LostClaimError: If another took it over.
        """
        if self.lost:
            raise LostClaimError("another process took it over")


ALONE = Claim(ours=True)  # of what nobody else is at


@contextlib.contextmanager
def claim(target: Path, *, until: Callable[[], bool] | None = None) -> Iterator[Claim]:
    """Say that somebody makes `target`, so that others do something else.

    Args:
        target: What is made; the claim lies beside it.
        until: If given, somebody else's claim is waited for until this is true, or until it has
            been silent for `LEASE_S` and is taken over. Otherwise the answer comes at once.

    Yields:
        Whether it is ours. Where claims cannot be written at all, it is everybody's.
    """
    file = _claim_file(target)
    file.parent.mkdir(parents=True, exist_ok=True)
    lease = SoftFileLease(file, lease_duration=LEASE_S, heartbeat_interval=HEARTBEAT_S)
    ours, held = False, False
    while not ours:
        try:
            lease.acquire(timeout=0 if until is None else LOOK_S)
            ours = held = True
        except (Timeout, LeaseSettingsMismatch) as error:
            if _drop_forsaken(file, odd=isinstance(error, LeaseSettingsMismatch)):
                continue
            if until is None or until():
                break
            if isinstance(error, LeaseSettingsMismatch):  # which comes at once
                time.sleep(LOOK_S)
        except OSError:  # a file system without what leases need
            ours = True
    try:
        yield Claim(ours, lease if held else None)
    finally:
        if held:
            with contextlib.suppress(OSError):
                lease.release()


def _drop_forsaken(file: Path, *, odd: bool) -> bool:
    """Remove a claim that fell silent and that no lease would ever take over.

    Args:
        file: The claim. It is empty where a machine lost power while it was written.
        odd: Whether it is on other terms than ours: of another version of this module.
    """
    try:
        seen = file.stat()
    except OSError:  # it is gone, or cannot be looked at
        return False
    silent = abs(time.time() - seen.st_mtime) > 2 * LEASE_S
    if silent and (odd or not seen.st_size):
        file.unlink(missing_ok=True)
        return True
    return False


def is_claimed(target: Path) -> bool:
    """Whether somebody seems to make `target`: for people to read, no result rests on it."""
    file = _claim_file(target)
    try:
        silent_s = time.time() - file.stat().st_mtime
    except FileNotFoundError:
        return False
    lease = SoftFileLease(file, lease_duration=LEASE_S, heartbeat_interval=HEARTBEAT_S)
    owner = lease.owner
    if owner is not None and owner.hostname == socket.gethostname() and owner.pid is not None:
        return _is_alive(owner.pid)
    return abs(silent_s) < 2 * LEASE_S  # a clock may have been set back since


def release(target: Path, process: int) -> None:
    """Withdraw a claim of a process of this machine that was ended, so that nobody waits for it."""
    file = _claim_file(target)
    owner = SoftFileLease(file, lease_duration=LEASE_S, heartbeat_interval=HEARTBEAT_S).owner
    if owner is not None and (owner.hostname, owner.pid) == (socket.gethostname(), process):
        file.unlink(missing_ok=True)


def heartbeat(target: Path) -> int | None:
    """A number that changes while the one who claimed `target` lives; None if nobody did."""
    try:
        return _claim_file(target).stat().st_mtime_ns
    except FileNotFoundError:
        return None


def _claim_file(target: Path) -> Path:
    return target.with_name(f".{target.name}.claim")
