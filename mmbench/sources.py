"""Which source files a class stands on, by content: what made a number, with or without git."""

import ast
import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import entry_points, packages_distributions, version
from pathlib import Path

HOMES = ("mmbench", "datamodules")  # packages of our own distribution
# decide no number; those of their modules that do are named
BOOKKEEPING = ("mmbench.bench", "mmbench.cli", "mmbench.sweep", "mmbench.trained")


def sources(*things: type | str) -> dict[str, str]:
    """Hashes of the files of some classes and modules and of all that they import.

    Followed are imports, those inside functions included, of modules in mmbench, in datamodules,
    and in the package that the thing itself lies in: other libraries are named by their version.

    Args:
        things: Classes, or names of modules.

    Returns:
        Module -> the first 16 digits of the file's SHA-256, in order of name. A class without a
        file, typed into an interpreter, has none.
    """
    hashes: dict[str, str] = {}
    waiting: list[tuple[str, Path | None]] = []
    for thing in things:
        name = thing if isinstance(thing, str) else thing.__module__
        waiting.append((name, _file(name) if isinstance(thing, str) else _file_of(thing)))
    packages = (*HOMES, *(name.partition(".")[0] for name, _ in waiting))
    while waiting:
        name, file = waiting.pop()
        if name in hashes or file is None:
            continue
        hashes[name], imports = _read(file, name)
        waiting += [
            (other, _file(other))
            for other in imports
            if other.partition(".")[0] in packages
            and not other.startswith(BOOKKEEPING)
            and other not in hashes
        ]
    return dict(sorted(hashes.items()))


@lru_cache(maxsize=64)
def distributions(*modules: str) -> dict[str, str]:
    """Version of the distributions that modules come from, ours left out."""
    tops = {module.partition(".")[0] for module in modules} - set(HOMES)
    if not tops:
        return {}  # looking through all that is installed takes a while
    names = {name for top in tops for name in packages_distributions().get(top, ())}
    # what is installed to be edited lists no module: its entry points say whose it is
    names |= {
        point.dist.name
        for group in ("mmbench.methods", "mmbench.datamodules", "mmbench.mechanisms")
        for point in entry_points(group=group)
        if point.dist is not None and point.module.partition(".")[0] in tops
    }
    return {name: version(name) for name in sorted(names)}


def hash_of(module: str) -> str | None:
    """Hash of a module's file as in `sources`; None if there is none."""
    file = _file(module)
    return None if file is None else _read(file, module)[0]


def _file_of(cls: type) -> Path | None:
    try:
        where = inspect.getsourcefile(cls)
    except TypeError:  # built in, or typed into an interpreter
        return None
    return Path(where) if where is not None and Path(where).is_file() else None


@lru_cache(maxsize=4096)
def _file(module: str) -> Path | None:
    """File of a module's source; None for what is no module, or has none."""
    loaded = sys.modules.get(module)
    parent = module.rpartition(".")[0]
    home = _file(parent) if parent else None
    if home is not None and home.name != "__init__.py":
        return None  # a name inside a module, which need not be imported to know that
    if loaded is not None:
        where = getattr(loaded, "__file__", None)
    else:
        try:
            spec = importlib.util.find_spec(module)
        except (ImportError, ValueError):  # a name inside a module, or an extra that is absent
            return None
        where = None if spec is None else spec.origin
    return Path(where) if where is not None and where.endswith(".py") else None


@lru_cache(maxsize=4096)
def _read(file: Path, module: str) -> tuple[str, tuple[str, ...]]:
    """Hash of a file, and the names that it imports, read once a process."""
    text = file.read_bytes()
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    return hashlib.sha256(text).hexdigest()[:16], tuple(dict.fromkeys(_imports(text, package)))


def _imports(text: bytes, package: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _with_parents(alias.name)
        elif isinstance(node, ast.ImportFrom):
            name = "." * node.level + (node.module or "")
            home = importlib.util.resolve_name(name, package) if node.level else name
            yield from _with_parents(home)
            for alias in node.names:  # a module, or a name inside one
                yield f"{home}.{alias.name}"


def _with_parents(name: str) -> Iterator[str]:
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        yield ".".join(parts[:end])
