"""Who places workers on other machines: `slurm`, `ray`, or a plugin's function.

A plugin engine is one function, `place(order, args) -> Placement`, named by an entry point of the
group `mmbench.executors`. It need not know what a run is: it starts `order.command` somewhere that
sees the folder, as often as it likes, and the workers share the runs among themselves.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

from mmbench.registry import suggest

GROUP = "mmbench.executors"
BUILT_IN = {
    "slurm": "mmbench.bench.executors.slurm:place",
    "ray": "mmbench.bench.executors.ray:place",
}


@dataclass(frozen=True, kw_only=True)
class Order:
    """What an engine is to place.

    Args:
        name: Name of the sweep, the same each time it is placed, of letters that every cluster
            takes.
        command: A worker: what to start, as words. `--workers N` (runs at a time) and
            `--time MINUTES` (take nothing more after) may be added.
        folder: Of the suite's results, absolute; has to be seen where the worker runs.
        data_root: Folder of the user's data, absolute.
        logs: Folder for what workers print.
        runs: How many runs are left: more slots than that are of no use.
        devices: How many devices of one machine each run asks for: a slot has as many.
    """

    name: str
    command: tuple[str, ...]
    folder: Path
    data_root: Path
    logs: Path
    runs: int
    devices: int = 1


@dataclass(frozen=True)
class Placement:
    """How an engine places workers; nothing has happened until `start`.

    Args:
        text: What `--dry-run` prints.
        start: Places the workers; returns one line that says where they are.
        alive: Says how many workers wait or run, as the engine knows; None = it does not know.
        leave: Called when `mmbench run` ends before they do; returns one line on what becomes of
            them.
        placed: One line on workers placed before of which the engine cannot say whether they are
            gone; then no more are placed. Empty if there are none.
    """

    text: str
    start: Callable[[], str]
    alive: Callable[[], int | None]
    leave: Callable[[], str]
    placed: Callable[[], str] = str


Engine = Callable[[Order, Mapping[str, str]], Placement]


def engine(name: str) -> Engine:
    """Import the function of an engine.

    Raises:
        ValueError: If there is none of this name, two are, or it does not import.
    """
    points = list(entry_points(group=GROUP))
    plugins = {point.name: point.value for point in points}
    for point in points:
        if point.name in BUILT_IN or plugins[point.name] != point.value:
            other = BUILT_IN.get(point.name, plugins[point.name])
            raise ValueError(
                f"two engines are named {point.name!r}: {point.value} and {other}; uninstall one"
            )
    known = ["local", *BUILT_IN, *sorted(plugins)]
    if name not in known:
        raise ValueError(f"no engine {name!r}{suggest(name, known)}; known: {', '.join(known)}")
    module, _, attribute = (BUILT_IN | plugins)[name].partition(":")
    try:
        function: Engine = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a plugin may fail in any way
        raise ValueError(
            f"engine {name!r} does not import: {type(error).__name__}: {error} (module {module})"
        ) from error
    return function


def parse_args(text: str | None) -> dict[str, str]:
    """Read `partition=gpu,time=240` as a mapping.

    Raises:
        ValueError: If a part has no name or no value, or a name is given twice.
    """
    args: dict[str, str] = {}
    for part in (text or "").split(","):
        name, equals, value = (word.strip() for word in part.partition("="))
        if not part.strip():
            continue
        if not (name and equals and value):
            raise ValueError(f"--executor-args takes NAME=VALUE,NAME=VALUE; found {part.strip()!r}")
        if name in args:
            raise ValueError(f"--executor-args gives {name} twice")
        args[name] = value
    return args


def take_number(args: dict[str, str], name: str, default: int, *, least: int = 1) -> int:
    """Take a whole number out of an engine's arguments.

    Raises:
        ValueError: If it is none, or below `least`.
    """
    text = args.pop(name, str(default))
    if not text.isdecimal() or int(text) < least:
        raise ValueError(f"--executor-args {name}={text}: give a whole number of at least {least}")
    return int(text)
