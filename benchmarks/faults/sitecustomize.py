"""Faults inside of every process of a sweep: imported by Python itself where PYTHONPATH says so.

Switches are files in the folder `$FAULTS`; each write that fails leaves a line in `counts` there.
"""

import errno
import io
import os
import random
import time
from typing import Any

HOME = os.environ.get("FAULTS", "")
RATE = 0.01  # of a write, a rename or a flush that fails, while the switch is on
_real = {"open": io.open, "rename": os.rename, "replace": os.replace, "fsync": os.fsync}
_clock, _rng = time.time, random.Random()
_offset, _read_at = 0.0, 0.0


def _on(switch: str) -> bool:
    return os.path.exists(f"{HOME}/{switch}")  # noqa: PTH110 - pathlib is what is patched


def _count(kind: str) -> None:
    with _real["open"](f"{HOME}/counts", "a") as file:
        file.write(f"{kind}\n")


def _fails(name: str) -> Any:
    def call(*args: Any, **more: Any) -> Any:
        writes = name != "open" or (len(args) > 1 and set(str(args[1])) & set("wax+"))
        ours = name == "fsync" or f"{HOME}-results" in str(args[0])
        if writes and ours and _rng.random() < RATE and _on("eio"):
            _count("EIO on write")
            raise OSError(errno.EIO, "made up", str(args[0]))
        return _real[name](*args, **more)

    return call


def _jumping() -> float:
    global _offset, _read_at
    if time.monotonic() - _read_at > 0.2:
        _read_at = time.monotonic()
        try:
            with _real["open"](f"{HOME}/clock") as file:
                _offset = float(file.read() or 0)
        except (OSError, ValueError):
            _offset = 0.0
    return _clock() + _offset


def _install() -> None:
    import filelock

    import mmbench.store

    io.open, os.rename, os.replace, os.fsync = (_fails(name) for name in _real)  # type: ignore
    time.time = _jumping
    # what takes minutes in earnest takes seconds here
    mmbench.store.LEASE_S, mmbench.store.HEARTBEAT_S = 3.0, 1.0
    acquire = filelock.SoftFileLease.acquire

    def acquire_or_not(lease: Any, *args: Any, **more: Any) -> Any:
        if _on("no-locks"):
            return None
        return acquire(lease, *args, **more)

    filelock.SoftFileLease.acquire = acquire_or_not  # type: ignore[method-assign]


if HOME:
    _install()
