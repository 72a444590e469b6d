"""`mmbench leaderboard` and `mmbench compare`."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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

if TYPE_CHECKING:
    import pandas as pd

    from mmbench.sweep import Sweep


class Form(StrEnum):
    """Forms of a leaderboard."""

    csv = "csv"
    md = "md"
    latex = "latex"
    html = "html"
    every_eval_ever = "every_eval_ever"


def leaderboard(
    words: Words = None,
    *,
    form: Annotated[
        Form,
        typer.Option(
            "--format",
            help="csv has everything; every_eval_ever writes a file a method into --out, in the "
            "schema of that name.",
        ),
    ] = Form.md,
    out: Annotated[
        Path | None, typer.Option(help="Folder for every_eval_ever.", show_default=False)
    ] = None,
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

    if (out is None) == (form is Form.every_eval_ever):
        raise ValueError("--format every_eval_ever and --out FOLDER go together")
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
    elif out is not None:
        for path in _export(sweep, board, out):
            typer.echo(f"wrote {path}")
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


def _export(sweep: "Sweep", board: "pd.DataFrame", out: Path) -> list[Path]:
    import time

    import mmbench
    from mmbench.bench.every_eval import exported, write_export
    from mmbench.bench.spec import labels
    from mmbench.registry import DATASETS

    entries = sweep.suite.data
    sources = {
        label: DATASETS.get(entry.name).source.url
        for label, entry in zip(labels(entries), entries, strict=True)
    }
    records = exported(
        board,
        sweep.suite.name,
        version=mmbench.__version__,
        sources=sources,
        retrieved=int(time.time()),
    )
    return write_export(records, out)


def compare(
    before: Annotated[Path, typer.Argument(help="A leaderboard.csv, or its folder.")],
    after: Annotated[Path, typer.Argument(help="Another one.")],
) -> None:
    """Say which cells of two leaderboards differ, and whether by more than the interval."""
    from mmbench.bench.compare import changes, read_board, render_changes

    sys.stdout.write(render_changes(changes(read_board(before), read_board(after))))
