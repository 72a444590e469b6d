"""What an error looks like: a user's mistake, an obstacle of the machine, or a mistake of code."""

import dis
import errno
import sys
import sysconfig
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from re import match
from types import TracebackType
from typing import NoReturn

from mmbench.cli.show import visible

RAISE = dis.opmap["RAISE_VARARGS"]
OURS = tuple(str(Path(__file__).parents[2] / name) for name in ("mmbench", "datamodules"))


def end(error: BaseException) -> NoReturn:
    """Say what went wrong in one line and exit.

    Code 2: somebody wrote this error for the user, by a `raise ValueError` in mmbench, a data set
    or a plugin. Code 1: the machine refused something, or the code is wrong; a `ValueError` of a
    library, or one that no `raise` made, is a mistake of ours and names the place.
    """
    if isinstance(error, ValueError) and is_meant(error):
        fail(str(error), code=2)
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        fail(f"{error.strerror}: {error.filename}; give a shorter one", code=2)
    if isinstance(error, OSError):
        fail(
            f"{error.strerror or error}: {error.filename or 'disk'}; finished runs are kept, and "
            "the same command continues once that is mended",
            code=1,
        )
    what = f"{type(error).__name__}: {error}".removesuffix(": ")
    fail(
        f"{what} (at {place(error)}); this is a mistake in the program, not in what you wrote: "
        f"please report it, with what `mmbench --debug {' '.join(sys.argv[1:])}` prints",
        code=1,
    )


def is_meant(error: ValueError) -> bool:
    """Whether a `raise` in mmbench, a data set or a plugin made the error."""
    last = _frames(error)[-1]
    code = last.tb_frame.f_code
    # neither `int("x")` in our code nor what a library says when it is called wrongly
    by_raise = code.co_code[last.tb_lasti] == RAISE
    return by_raise and not _is_library(code.co_filename, last.tb_frame.f_globals)


def place(error: BaseException) -> str:
    """`file:line` of the last code on the way to an error that is no library's."""
    frames = _frames(error)
    ours = [f for f in frames if f.tb_frame.f_code.co_filename.startswith(OURS)]
    last = ours[-1] if ours else frames[-1]
    return f"{last.tb_frame.f_code.co_filename}:{last.tb_lineno}"


def fail(message: str, *, code: int) -> NoReturn:
    """Print one line on stderr and exit."""
    from rich.console import Console

    Console(stderr=True, soft_wrap=True).print("[bold red]error:[/] ", end="")
    sys.stderr.write(f"{visible(message)}\n")
    raise SystemExit(code)


def _frames(error: BaseException) -> list[TracebackType]:
    frames, at = [], error.__traceback__
    while at is not None:
        frames.append(at)
        at = at.tb_next
    return frames


def _is_library(file: str, names: dict[str, object]) -> bool:
    """Whether code is of Python itself or of what mmbench depends on; plugins are neither."""
    if file.startswith(OURS):
        return False
    module = str(names.get("__name__", "")).partition(".")[0]
    standard = file.startswith((sysconfig.get_path("stdlib"), "<frozen")) and (
        "site-packages" not in file
    )
    return standard or module.lower() in _dependencies()


@lru_cache(maxsize=1)
def _dependencies() -> frozenset[str]:
    """Modules that mmbench depends on, by the names of their distributions."""
    try:
        said = requires("mmbench") or []
    except PackageNotFoundError:  # run from a checkout that is not installed
        said = []
    names = {head[0] for one in said if (head := match(r"[\w.-]+", one))}
    modules = {"yaml", "sklearn", "click", "pyarrow", "jinja2", *names}
    return frozenset(name.lower().replace("-", "_") for name in modules)
