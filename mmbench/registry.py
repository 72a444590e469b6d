"""From a name to a class; knows nothing else."""

import ast
import contextlib
import importlib
import importlib.util
import inspect
import logging
import os
import signal
import threading
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, NoReturn

SLOW_S = 10.0  # after which an import is said to be slow
MOST_S = 300.0  # after which it is ended


def suggest(word: str, known: list[str] | tuple[str, ...]) -> str:
    """Return "; did you mean 'x'?" for the closest known word, or nothing."""
    close = get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


class Registry:
    """Names of a kind of thing: files in a home package plus installed entry points.

    A plugin is called `package/name`, so that two packages never meet in one name. Nothing is
    imported until `get`.

    Args:
        kind: Word for messages, "method".
        home: Package whose files are the built-in names, "mmbench.methods".
        base: Base class as "module:Class".
        group: Entry point group of plugins, "mmbench.methods".
    """

    def __init__(self, kind: str, *, home: str, base: str, group: str) -> None:
        self.kind = kind
        self.home = home
        self.base = base
        self.group = group

    @cached_property
    def _files(self) -> dict[str, Path]:
        spec = importlib.util.find_spec(self.home)
        assert spec is not None
        folder = Path((spec.submodule_search_locations or [""])[0])
        files = sorted(folder.glob("[!_]*.py"))
        return {file.stem: file for file in files}

    @cached_property
    def _plugins(self) -> dict[str, EntryPoint]:
        points: dict[str, EntryPoint] = {}
        for point in entry_points(group=self.group):
            package = point.dist.name if point.dist else point.module.partition(".")[0]
            name = f"{package}/{point.name}"
            past = points.get(name)
            if past is not None and past.value != point.value:
                raise ValueError(
                    f"two {self.kind}s are named {name!r}: {point.value} and {past.value}; "
                    "rename an entry point of the package, or uninstall one of its copies"
                )
            points[name] = point
        return points

    def names(self) -> tuple[str, ...]:
        """All names, built-in ones first.

        Raises:
            ValueError: If two of them clash.
        """
        return (*self._files, *sorted(self._plugins))

    def require(self, name: str) -> None:
        """Refuse an unknown name; a dotted class path passes and is checked by `get`.

        Raises:
            ValueError: If there is no such name; the message suggests a close one.
        """
        names = self.names()
        if name not in names and ("/" in name or "." not in name):
            short = {one.rpartition("/")[2]: one for one in names}
            close = get_close_matches(name, [*short, *names], n=1)
            hint = f"; did you mean {short.get(close[0], close[0])!r}?" if close else ""
            raise ValueError(
                f"no {self.kind} named {name!r}{hint} "
                f"(mmbench list {'data' if self.kind == 'data set' else self.kind + 's'} "
                "shows them all)"
            )

    def get(self, name: str) -> type[Any]:
        """Import one class.

        Args:
            name: A name, or a class path such as `my_package.MyMethod`.

        Raises:
            ValueError: If it does not exist, does not import, or has the wrong base class.
        """
        self.require(name)
        if name in self._files:
            module, attribute = f"{self.home}.{name}", ""
        elif name in self._plugins:
            module, _, attribute = self._plugins[name].value.partition(":")
        else:
            module, _, attribute = name.rpartition(".")
        slow = threading.Timer(
            SLOW_S,
            logging.getLogger(__name__).warning,
            (
                f"{self.kind} {name!r} is still being imported (module {module}); "
                f"Ctrl-C ends it, or {MOST_S:.0f} s do",
            ),
        )
        slow.daemon = True
        slow.start()
        try:
            with _ended_after(MOST_S):
                imported = importlib.import_module(module)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plugin may fail in any way, and may even exit
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            raise ValueError(
                f"{self.kind} {name!r} does not import: {reason} (module {module})"
            ) from error
        finally:
            slow.cancel()
        base_module, _, base_name = self.base.partition(":")
        base: type[Any] = getattr(importlib.import_module(base_module), base_name)
        if attribute:
            cls = getattr(imported, attribute, None)
        else:
            classes = [
                value
                for value in vars(imported).values()
                if inspect.isclass(value)
                and value.__module__ == imported.__name__
                and issubclass(value, base)
            ]
            assert len(classes) == 1, f"{module} must define one {base_name}, found {classes}"
            cls = classes[0]
        where = getattr(imported, "__file__", module)
        if not inspect.isclass(cls):
            raise ValueError(f"{self.kind} {name!r}: there is no class {attribute} in {where}")
        if not issubclass(cls, base):
            other = [b.__module__ for b in cls.__mro__ if b.__name__.startswith("Lightning")]
            hint = (
                "; it derives from pytorch_lightning, which is another library to Python: "
                f"derive from {base_module}.{base_name} instead"
                if any(m.startswith("pytorch_lightning") for m in other)
                else f"; derive it from {base_module}.{base_name}"
            )
            raise ValueError(
                f"{self.kind} {name!r}: {cls.__name__} in {where} is no {base_name}{hint}"
            )
        if inspect.isabstract(cls):
            left = ", ".join(sorted(getattr(cls, "__abstractmethods__", ())))
            raise ValueError(
                f"{self.kind} {name!r}: {cls.__name__} in {where} cannot be built: it leaves "
                f"{left} to classes that derive from it"
            )
        return cls

    def origin(self, name: str) -> str:
        """`file:line` of a class; imports it."""
        cls = self.get(name)
        return f"{inspect.getsourcefile(cls)}:{inspect.getsourcelines(cls)[1]}"

    def summary(self, name: str) -> str:
        """One line about a name, without importing it: its docstring's, or its distribution."""
        if name in self._files:
            tree = ast.parse(self._files[name].read_text(encoding="utf-8"))
            return (ast.get_docstring(tree) or "").partition("\n")[0]
        point = self._plugins[name]
        dist = point.dist
        return f"{point.value}, from {dist.name} {dist.version}" if dist else point.value


@contextlib.contextmanager
def _ended_after(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in what takes longer; in the main thread alone, where signals arrive."""
    if threading.current_thread() is not threading.main_thread() or os.name == "nt":
        yield
        return

    def end(number: int, frame: object) -> NoReturn:
        raise TimeoutError(f"it took more than {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


METHODS = Registry(
    "method", home="mmbench.methods", base="mmbench.method:Method", group="mmbench.methods"
)
DATASETS = Registry(
    "data set",
    home="datamodules",
    base="mmbench.datamodule:DataModule",
    group="mmbench.datamodules",
)
