"""`mmbench check`: whether a method or a data set keeps the contract."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmbench.cli.options import DataArguments, DataRoot, Fold, arguments

if TYPE_CHECKING:
    from mmbench.checks.report import Report
    from mmbench.config import JSON


def check(
    name: Annotated[str, typer.Argument(help="Name or class path of a method or of a data set.")],
    words: DataArguments = None,
    *,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Try a method on the task of this data set, in place of small made-up ones; "
            "KEY=VALUE are its arguments.",
        ),
    ] = None,
    fold: Fold = 0,
    data_root: DataRoot = Path("data"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Put a method or a data set through the contract, and say how to mend what breaks it.

    Exit code 0: it keeps every rule; 1: it breaks one; 2: it cannot be checked.

    Example: `mmbench check my_package.MyMethod`, `mmbench check table files=... labels=...`
    """
    report = report_of(name, words, data, fold, data_root)
    if as_json:
        typer.echo(report.to_json())
    else:
        typer.echo(report.text())
    raise typer.Exit(1 if report.broken else 0)


def report_of(
    name: str,
    words: list[str] | None = None,
    data: str | None = None,
    fold: int = 0,
    data_root: Path = Path("data"),
) -> "Report":
    """What the command reports, for tests of a plugin; arguments as of the command.

    Raises:
        ValueError: If there is no such thing, or it cannot be checked.
    """
    from mmbench.bench.run.build import bound_data
    from mmbench.checks.report import check_data, check_method
    from mmbench.registry import METHODS

    if data is not None:
        task = bound_data(data, arguments(words), data_root, fold).task
        return check_method(name, METHODS.get(name), task)
    if _is_data(name):
        return check_data(name, _subject(name, arguments(words), fold, data_root))
    if words:
        raise ValueError(
            f"{words[0]!r} is an argument of a data set; name one by --data, or leave it out"
        )
    return check_method(name, METHODS.get(name))


def _is_data(name: str) -> bool:
    """Whether a name is that of a data set.

    Raises:
        ValueError: If it is neither a data set nor a method.
    """
    from mmbench.registry import DATASETS, METHODS, suggest

    if "." in name and "/" not in name:
        try:
            METHODS.get(name)
        except ValueError as error:
            if "is no Method" not in str(error):
                raise
            DATASETS.get(name)
            return True
        return False
    if name in METHODS.names():
        return False
    if name in DATASETS.names():
        return True
    known = (*METHODS.names(), *DATASETS.names())
    known += tuple(one.rpartition("/")[2] for one in known if "/" in one)
    raise ValueError(
        f"no method and no data set is named {name!r}{suggest(name, known)} (mmbench list methods, "
        "mmbench list data)"
    )


def _subject(name: str, args: "dict[str, JSON]", fold: int, root: Path) -> Any:
    from mmbench.bench.run.build import bound_data
    from mmbench.checks.data import Subject
    from mmbench.checks.elsewhere import in_another_process

    return Subject(
        bound_data(name, args, root, fold),
        lambda other: bound_data(name, args, root, other),
        lambda: in_another_process(
            "mmbench.cli.check:fingerprints_of", name, args, fold, str(root)
        ),
    )


def fingerprints_of(name: str, args: "dict[str, JSON]", fold: int, root: str) -> dict[str, str]:
    """Digest of each split of a data set, as a second process asks for it."""
    from mmbench.bench.run.build import bound_data
    from mmbench.checks.data import fingerprints

    return fingerprints(bound_data(name, args, Path(root), fold))
