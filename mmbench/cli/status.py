"""`mmbench status`: what is done, running, failed and waiting."""

from pathlib import Path
from typing import Annotated

import typer

from mmbench.cli.options import DataRoot, Limit, Results, Words, sweep_of
from mmbench.cli.show import visible


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
) -> None:
    """Say what is done, running, failed and waiting; reads files only.

    Exit code 1 if `--verify` finds damage in a run, or in what runs share.
    """
    sweep = sweep_of(words, results, limit, data_root)
    runs = sweep.status(verify=verify)
    states = ", ".join(
        f"{n} {state}" for state, n in runs["state"].value_counts(sort=False).sort_index().items()
    )
    typer.echo(f"suite {sweep.suite.name} in {sweep.folder}: {states}")
    for run in runs[runs["state"].isin(("failed", "broken"))].itertuples():
        typer.echo(f"  {run.state}: {visible(f'{run.title}: {run.why}')}")
    finished = runs.dropna(subset="seconds")
    if not finished.empty:
        slowest = finished.nlargest(1, "seconds").iloc[0]
        left = (~runs["state"].isin(("done", "skipped"))).sum()
        work = left * finished["seconds"].mean()
        typer.echo(f"  slowest: {slowest['title']}, {slowest['seconds']:.1f} s")
        if left:
            typer.echo(f"  left: about {work:.0f} s of work, divided by the workers")
    damaged = sweep.damaged() if verify else {}
    for folder, why in damaged.items():
        typer.echo(f"  damaged: {visible(f'{folder}: {why}')}; made again when used")
    raise typer.Exit(1 if verify and (damaged or (runs["state"] == "broken").any()) else 0)
