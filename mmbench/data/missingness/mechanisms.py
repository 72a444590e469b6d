"""Mechanisms by name: the files beside this one, and plugins (entry point `mmbench.mechanisms`).

A plugin's is called `package/name`. It is a frozen dataclass that is a `Missingness` (it has
`draw`) or a `Within` (it has `gap`).
"""

import importlib
import inspect
import sys
from dataclasses import fields
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from mmbench.registry import suggest

GROUP = "mmbench.mechanisms"
UNNAMED = ("natural", "every_pattern")  # what a scenario reads by itself


@cache
def _built_in() -> dict[str, type[Any]]:
    """Classes of the files beside this one that say what they are called."""
    classes = {}
    for file in sorted(Path(__file__).parent.glob("[!_]*.py")):
        module = importlib.import_module(f"{__package__}.{file.stem}")
        for cls in vars(module).values():
            defined_here = inspect.isclass(cls) and cls.__module__ == module.__name__
            if defined_here and isinstance(vars(cls).get("mechanism"), str):
                classes[cls.mechanism] = cls
    return classes


def _plugins() -> dict[str, EntryPoint]:
    return _installed(tuple(sys.path))


@cache  # every condition of a scenario asks, and looking takes longer than to draw it
def _installed(_: tuple[str, ...]) -> dict[str, EntryPoint]:
    return {
        f"{point.dist.name if point.dist else point.module}/{point.name}": point
        for point in entry_points(group=GROUP)
    }


def names() -> tuple[str, ...]:
    """All that a scenario may name, built-in ones first; imports no plugin."""
    return (*_built_in(), *UNNAMED, *sorted(_plugins()))


def summaries() -> list[tuple[str, str]]:
    """Name and one line of each, plugins by their address; imports no plugin."""
    described = [
        (name, f"{_first_line(cls)} Keys: {', '.join(field.name for field in fields(cls))}.")
        for name, cls in _built_in().items()
    ]
    described += [
        ("natural", "Only natural gaps are missing; goes before others: natural + mcar."),
        ("every_pattern", "All 2^M - 1 sets of modalities, as test conditions."),
    ]
    plugins = [(name, point.value) for name, point in sorted(_plugins().items())]
    return [*described, *plugins]


def _first_line(cls: type[Any]) -> str:
    line = (inspect.getdoc(cls) or "").partition("\n")[0]
    return line.partition(" (see ")[0].removesuffix(".") + "."


def get(name: str) -> type[Any]:
    """The class of a mechanism.

    Raises:
        ValueError: If there is none, or a plugin's does not import or is no mechanism; one line.
    """
    if name in _built_in():
        return _built_in()[name]
    point = _plugins().get(name)
    if point is None:
        raise ValueError(
            f"no mechanism named {name!r}{suggest(name, names())}; there are {', '.join(names())}"
        )
    try:
        loaded: Any = point.load()
    except Exception as error:  # a plugin may fail in any way
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise ValueError(f"mechanism {name!r} does not import: {reason}") from error
    fits = inspect.isclass(loaded) and (hasattr(loaded, "draw") or hasattr(loaded, "gap"))
    if not fits or not hasattr(loaded, "__dataclass_fields__"):
        raise ValueError(
            f"mechanism {name!r}: {point.value} is no dataclass with draw (Missingness) or gap "
            "(Within)"
        )
    mechanism: type[Any] = loaded
    return mechanism
