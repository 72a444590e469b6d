"""`mmbench report`."""

import contextlib
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
    from mmbench.bench.record import Run
    from mmbench.sweep import Sweep

WATCH_S = 2.0  # between two looks at the files


def report(
    words: Words = None,
    *,
    metric: Metric = None,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Write it again whenever a run ends, until Ctrl-C."),
    ] = False,
    plots: Annotated[
        Path | None,
        typer.Option(help="Write the main plots of the leaderboard into this folder, as SVG."),
    ] = None,
    paired: Paired = True,
    limit: Limit = None,
    results: Results = Path("results"),
    data_root: DataRoot = Path("data"),
) -> None:
    """Write one self-contained HTML page with tables and plots; trains nothing."""
    from mmbench.bench.report import write_plots

    sweep = sweep_of(words, results, limit, data_root)
    chosen = metric or sweep.suite.select.metric
    if watch:
        _watch(sweep, chosen, paired=paired)
        return
    runs = sweep.runs()
    board, robust = sweep.boards(chosen, runs=runs, paired=paired)
    sweep.require_rows(board, chosen)
    if may_write(sweep):
        verdict = sweep.verdict(chosen, runs=runs) if paired else None
        page = sweep.write_page(runs, board, robust, chosen, verdict=verdict)
        typer.echo(f"wrote {page}")
    if plots is not None:
        for path in write_plots(board, plots, metric=chosen, costs=sweep.suite.costs):
            typer.echo(f"wrote {path}")


def _watch(sweep: "Sweep", metric: str, *, paired: bool) -> None:
    """Write the page whenever the files of a run say something new; Ctrl-C is the way out."""
    import time

    from mmbench.bench.record import fingerprint

    def write(runs: list["Run"], *, watched: bool) -> Path:
        board, robust = sweep.boards(metric, runs=runs, paired=paired)
        if not board.empty:
            sweep.require_rows(board, metric)
        return sweep.write_page(runs, board, robust, metric, watched=watched)

    last = ""
    try:
        while True:
            # a run that begins anew while it is read is read at the next look
            with contextlib.suppress(FileNotFoundError):
                runs = sweep.runs()
                mark = fingerprint(runs)
                if mark != last:
                    path = write(runs, watched=True)
                    ended = sum(item.state in ("done", "skipped") for item in runs)
                    typer.echo(f"wrote {path}: {ended} of {len(runs)} runs; Ctrl-C stops watching")
                    last = mark
            time.sleep(WATCH_S)
    except KeyboardInterrupt:
        with contextlib.suppress(FileNotFoundError):
            write(sweep.runs(), watched=False)
        typer.echo("")
