"""`mmbench status`: what is done, running, failed and waiting, and who works on it."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmbench.cli.options import DataRoot, Limit, Results, Words, sweep_of
from mmbench.cli.show import counted, visible

if TYPE_CHECKING:
    import pandas as pd

    from mmbench.sweep import Sweep

WATCH_S = 2.0  # between two looks at the files


def status(
    words: Words = None,
    *,
    limit: Limit = None,
    results: Results = Path("results"),
    data_root: DataRoot = Path("data"),
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Read every file back and compare it with its checksum: of runs, of stages that "
            "they share, and of the cache.",
        ),
    ] = False,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Say it again whenever it changes, until all is done."),
    ] = False,
) -> None:
    """Say what is done, running, failed and waiting, and how many workers live; reads files only.

    Exit code 1 if `--verify` finds damage in a run, or in what runs share.
    """
    if watch:
        # anew each time: a suite that nobody ran before is there once somebody does
        _watch(lambda: sweep_of(words, results, limit, data_root))
        return
    sweep = sweep_of(words, results, limit, data_root)
    runs = sweep.status(verify=verify)
    for line in _lines(sweep, runs):
        typer.echo(line)
    damaged = sweep.damaged() if verify else {}
    for folder, why in damaged.items():
        typer.echo(f"  damaged: {visible(f'{folder}: {why}')}; made again when used")
    raise typer.Exit(1 if verify and (damaged or (runs["state"] == "broken").any()) else 0)


def show_workers(sweep: "Sweep") -> str:
    """How many workers live and, where a cluster answers, how many wait there; may be empty."""
    from mmbench.bench.executors.slurm import jobs

    live = sweep.workers()
    slots = sum(peer.slots for peer in live)
    text = f"{counted(len(live), 'worker')} with {counted(slots, 'slot')}" if live else ""
    waiting = (jobs(sweep.job_name) or {}).get("PENDING", 0)
    if waiting:
        text = f"{text or 'no worker'}, {waiting} in the queue of the cluster"
    return text


def _lines(sweep: "Sweep", runs: "pd.DataFrame") -> list[str]:
    counts = runs["state"].value_counts(sort=False).sort_index()
    states = ", ".join(f"{n} {state}" for state, n in counts.items())
    lines = [f"suite {sweep.suite.name} in {sweep.folder}: {states}"]
    if trials := sum(map(len, sweep.searches.left_of.values())):
        lines.append(f"  settings are searched: {counted(trials, 'trial')} left at most")
    if workers := show_workers(sweep):
        lines.append(f"  at it: {workers}")
    lines.extend(
        f"  {run.state}: {visible(f'{run.title}: {run.why}')}"
        for run in runs[runs["state"].isin(("failed", "broken"))].itertuples()
    )
    finished = runs.dropna(subset="seconds")
    if not finished.empty:
        slowest = finished.nlargest(1, "seconds").iloc[0]
        left = trials + (~runs["state"].isin(("done", "skipped"))).sum()
        work = left * finished["seconds"].mean()
        lines.append(f"  slowest: {slowest['title']}, {slowest['seconds']:.1f} s")
        if left:
            lines.append(f"  left: about {work:.0f} s of work, divided by the workers")
    return lines


def _watch(look: Callable[[], "Sweep"]) -> None:
    """Print what changed until every run is done; Ctrl-C is another way out."""
    import time

    last: list[str] = []
    try:
        while True:
            sweep = look()
            runs = sweep.status()
            lines = _lines(sweep, runs)
            for line in lines:
                if line not in last:
                    typer.echo(line)
            last = lines
            if runs["state"].isin(("done", "skipped")).all():
                return
            time.sleep(WATCH_S)
    except KeyboardInterrupt:
        typer.echo("")
