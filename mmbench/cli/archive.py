"""`mmbench archive` and `mmbench merge`."""

from pathlib import Path
from typing import Annotated

import typer

from mmbench.cli.options import DataRoot, Limit, Out, Results, Words, sweep_of


def archive(
    words: Words = None,
    *,
    out: Out = None,
    limit: Limit = None,
    results: Results = Path("results"),
    data_root: DataRoot = Path("data"),
) -> None:
    """Write all runs of a suite that have ended into one small file with checksums.

    It holds predictions (float16), masks, specifications and records, from which every table can
    be made again: `mmbench run SUITE methods=[mine] --against FILE` compares with its rows, and
    `mmbench merge FOLDER FILE` lays them out to go on from.
    """
    file, runs = sweep_of(words, results, limit, data_root).archive(out)
    typer.echo(f"wrote {file}: {runs} runs, {file.stat().st_size / 1e6:.2f} MB")


def merge(
    into: Annotated[Path, typer.Argument(help="Folder of a suite's results: results/main")],
    other: Annotated[Path, typer.Argument(help="Another one, or a file of `mmbench archive`.")],
) -> None:
    """Join the runs of another folder of results, or of an archive, to a folder.

    Runs of the same key must have the same content; if one has not, nothing is joined.
    """
    from mmbench.bench.archive import merge as join

    if into.is_file():
        raise ValueError(f"{into} is a file; give the folder that the runs are joined to first")
    if not other.exists():
        raise ValueError(f"{other} does not exist")
    typer.echo(f"{join(into, other)} runs added to {into}")
