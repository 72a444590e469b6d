"""Who works on a suite: a small file for each worker, alive as long as its claim is.

Beside the runs, under `.workers`. Hints for other workers and for people: no result rests on them.
"""

import contextlib
import json
import os
import secrets
import socket
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mmbench.store import claim, is_claimed

FOLDER = ".workers"


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A worker, as others see it.

    Args:
        name: Different for each worker.
        host: Machine that it runs on.
        process: Number of its process there.
        slots: Runs that it carries out at a time.
        chunk: Keys of runs that it has taken and not all begun.
    """

    name: str
    host: str
    process: int
    slots: int
    chunk: tuple[str, ...] = ()


class Announcement:
    """What a worker lets others know.

    Args:
        file: Its file.
        peer: What stands in it.
    """

    def __init__(self, file: Path, peer: Peer) -> None:
        self.file = file
        self.peer = peer

    def take(self, chunk: Sequence[str]) -> None:
        """Say which runs are taken."""
        self.peer = Peer(**{**asdict(self.peer), "chunk": tuple(chunk)})
        # unlike all else, neither whole nor flushed: half a note is passed over, and is no harm
        with contextlib.suppress(OSError):
            self.file.write_text(json.dumps(asdict(self.peer)), encoding="utf-8")

    def others(self) -> list[Peer]:
        """All other workers that live."""
        return [peer for file, peer in _live(self.file.parent) if file != self.file]

    def others_before(self) -> list[Peer]:
        """Those of them whose names come before this one's, who keep what both have chosen."""
        return [peer for _, peer in _live(self.file.parent, before=self.file.name)]


@contextlib.contextmanager
def announced(runs: Path, slots: int) -> Iterator[Announcement]:
    """Count as a worker while the body runs.

    Args:
        runs: Folder of all runs of the suite.
        slots: Runs at a time.
    """
    host, process = socket.gethostname(), os.getpid()
    name = f"{host}-{process}-{secrets.token_hex(4)}"
    file = runs / FOLDER / f"{name}.json"
    with claim(file):
        me = Announcement(file, Peer(name=name, host=host, process=process, slots=slots))
        me.take(())
        try:
            yield me
        finally:
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)


def live(runs: Path) -> list[Peer]:
    """All workers that live, as their heartbeats say."""
    return [peer for _, peer in _live(runs / FOLDER)]


def _live(folder: Path, before: str | None = None) -> Iterator[tuple[Path, Peer]]:
    for file in sorted(folder.glob("[!.]*.json")):
        if before is not None and file.name >= before:
            return
        try:
            note = json.loads(file.read_text(encoding="utf-8"))
            peer = Peer(**note | {"chunk": tuple(note["chunk"])})
        except (OSError, ValueError, TypeError, KeyError):  # it ended just now, or is damaged
            continue
        if is_claimed(file):
            yield file, peer
        else:
            with contextlib.suppress(OSError):  # read-only for whoever only looks
                file.unlink(missing_ok=True)
