"""`mmbench verify`."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmbench.cli.options import DataRoot
from mmbench.cli.show import counted, visible

if TYPE_CHECKING:
    from mmbench.bench.published import Check


def verify(
    folder: Annotated[Path, typer.Argument(help="Published results, such as results/main.")],
    *,
    sample: Annotated[
        int, typer.Option(min=0, help="Runs that are made again, drawn at random.")
    ] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Decides which.")] = 0,
    seconds: Annotated[
        float | None,
        typer.Option(min=0, help="Draw among runs that took at most so long. [default: all]"),
    ] = None,
    data_root: DataRoot = Path("data"),
) -> None:
    """Make randomly chosen published runs again and compare; say which tables are out of date.

    Predictions must be equal where they are kept (runs/ or archive.zip) and the machine is of the
    same kind; else scores must lie in the interval over seeds. A table is out of date if other
    sources made it than those that lie there now. Exit code 1 if a run differs.
    """
    from mmbench.verify import verify as check

    def show(one: "Check") -> None:
        typer.echo(visible(f"  {one.state}: {one.title}: {one.why}"))

    with tempfile.TemporaryDirectory() as scratch:
        outdated, checks = check(
            folder, Path(scratch), sample=sample, seed=seed, seconds=seconds,
            data_root=data_root, show=show,
        )  # fmt: skip
    for (data, scenario), methods in outdated.items():
        names = ", ".join(methods[:8]) + (" ..." if len(methods) > 8 else "")
        typer.echo(
            visible(
                f"  made by other sources: {data}, {scenario}: {counted(len(methods), 'row')} "
                f"({names})"
            )
        )
    wrong = sum(one.state == "differs" for one in checks)
    typer.echo(
        f"{folder}: {counted(len(checks), 'run')} made again, {wrong} differ; "
        f"{counted(len(outdated), 'table')} made by other sources than today's"
    )
    raise typer.Exit(1 if wrong else 0)
