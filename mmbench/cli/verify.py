"""`mmbench verify`."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmbench.cli.options import DataRoot
from mmbench.cli.show import counted, visible

if TYPE_CHECKING:
    from mmbench.bench.published import Check
    from mmbench.verify import Verified


def verify(
    folders: Annotated[
        list[Path], typer.Argument(help="Published results, such as results/main or results/*/.")
    ],
    *,
    sample: Annotated[
        int, typer.Option(min=0, help="Runs of each that are made again, drawn at random.")
    ] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Decides which.")] = 0,
    seconds: Annotated[
        float | None,
        typer.Option(
            min=0, help="Draw among runs that trained for at most so long. [default: all]"
        ),
    ] = None,
    data_root: DataRoot = Path("data"),
) -> None:
    """Make randomly chosen published runs again and compare; say which tables are out of date.

    Predictions must be equal where they are kept (runs/ or archive.zip) and the machine is of the
    same kind; else scores must lie in the interval over seeds. A table is out of date if other
    sources made it than those that lie there now, which is no error if the numbers come out again;
    one of an older version is skipped. Exit code 1 if a run differs.
    """
    from mmbench.verify import verify as check

    def show(one: "Check") -> None:
        typer.echo(visible(f"  {one.state}: {one.title}: {one.why}"))

    wrong = 0
    for folder in folders:
        with tempfile.TemporaryDirectory() as scratch:
            verified = check(
                folder, Path(scratch), sample=sample, seed=seed, seconds=seconds,
                data_root=data_root, show=show,
            )  # fmt: skip
        if verified.skipped:
            typer.echo(visible(f"{folder}: skipped: {verified.skipped}"))
            continue
        wrong += _show(folder, verified)
    raise typer.Exit(1 if wrong else 0)


def _show(folder: Path, verified: "Verified") -> int:
    """Print what came of a table; returns how many runs differ."""
    for data, why in verified.absent.items():
        typer.echo(visible(f"  not made again: {data}: {why}"))
    for (data, scenario), methods in verified.outdated.items():
        names = ", ".join(methods[:8]) + (" ..." if len(methods) > 8 else "")
        typer.echo(
            visible(
                f"  made by other sources: {data}, {scenario}: {counted(len(methods), 'row')} "
                f"({names})"
            )
        )
    wrong = sum(one.state == "differs" for one in verified.checks)
    typer.echo(
        f"{folder}: {counted(len(verified.checks), 'run')} made again, {wrong} differ; "
        f"{counted(len(verified.outdated), 'table')} made by other sources than today's"
    )
    return wrong
