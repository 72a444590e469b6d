"""`mmbench leaderboard` and `mmbench compare`."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mmbench.cli.options import (
    DataRoot,
    Limit,
    Metric,
    Paired,
    Results,
    Words,
    may_write,
    sweep_of,
)  # fmt: skip


class Form(StrEnum):
    """Forms of a leaderboard."""

    csv = "csv"
    md = "md"
    latex = "latex"
    html = "html"


def leaderboard(
    words: Words = None,
    *,
    form: Annotated[Form, typer.Option("--format", help="csv has everything.")] = Form.md,
    metric: Metric = None,
    against: Annotated[
        str | None,
        typer.Option(
            help="Print instead what papers report beside our numbers: `reported` (the tables "
            "that come with mmbench), a CSV file or a folder of them."
        ),
    ] = None,
    paired: Paired = True,
    limit: Limit = None,
    results: Results = Path("results"),
    data_root: DataRoot = Path("data"),
) -> None:
    """Rebuild the leaderboard from the records, write it and print it; trains nothing."""
    from mmbench.bench.leaderboard import render

    sweep = sweep_of(words, results, limit, data_root)
    chosen, title = metric or sweep.suite.select.metric, sweep.suite.name
    runs = sweep.runs()
    board, robust = sweep.boards(metric, runs=runs, paired=paired)
    sweep.require_rows(board, metric)
    verdict = sweep.verdict(metric, runs=runs) if paired else None
    if may_write(sweep):
        sweep.write(board, robust, metric, verdict=verdict)
    if against is not None:
        from mmbench.bench.compare import against_reported, render_reported
        from mmbench.paths import folder

        where = folder("benchmarks") / "reported" if against == "reported" else Path(against)
        sys.stdout.write(render_reported(against_reported(board, where)))
    elif form is Form.latex:
        from mmbench.bench.latex import latex

        sys.stdout.write(latex(board, metric=chosen))
    else:
        said = [] if verdict is None else verdict.sentences
        text = render(
            board,
            form.value,  # type: ignore[arg-type]
            metric=chosen,
            title=title,
            robust=robust,
            said=said,
        )
        sys.stdout.write(text)


def compare(
    before: Annotated[Path, typer.Argument(help="A leaderboard.csv, or its folder.")],
    after: Annotated[Path, typer.Argument(help="Another one.")],
) -> None:
    """Say which cells of two leaderboards differ, and whether by more than the interval."""
    from mmbench.bench.compare import changes, read_board, render_changes

    sys.stdout.write(render_changes(changes(read_board(before), read_board(after))))
