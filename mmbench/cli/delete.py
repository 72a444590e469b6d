"""`mmbench delete`: runs that are not wanted any more."""

from pathlib import Path
from typing import Annotated

import typer

from mmbench.cli.options import DataRoot, Limit, Results, Words, sweep_of

SHOWN = 50  # runs that are listed


def delete(
    words: Words = None,
    *,
    limit: Limit = None,
    results: Results = Path("results"),
    data_root: DataRoot = Path("data"),
    failed: Annotated[
        bool, typer.Option("--failed", help="Failed and damaged runs of the plan alone.")
    ] = False,
    stale: Annotated[
        bool,
        typer.Option(
            "--stale", help="Runs of no plan, or made by other sources than today's, alone."
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """List runs of a suite with their sizes, ask, and delete them; by default all in its folder.

    Runs that somebody is at are left alone, and so are tables and pages. Exit code 1 if the
    answer is no.
    """
    sweep = sweep_of(words, results, limit, data_root)
    chosen = sweep.deletable(failed=failed, stale=stale)
    if not chosen:
        typer.echo(f"nothing to delete in {sweep.folder}")
        return
    for each in chosen[:SHOWN]:
        why = f" ({each.why})" if each.why else ""
        typer.echo(f"{_size(each.size):>10}  {each.title}{why}")
    if len(chosen) > SHOWN:
        typer.echo(f"and {len(chosen) - SHOWN} more")
    total = _size(sum(each.size for each in chosen))
    runs = f"{len(chosen)} run{'s' if len(chosen) > 1 else ''}, {total}, in {sweep.folder}"
    if not yes and not typer.confirm(f"delete {runs}?"):
        raise typer.Exit(1)
    sweep.delete(chosen)
    typer.echo(f"deleted {runs}")


def _size(size: int) -> str:
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size / 2**10:.1f} KiB"
