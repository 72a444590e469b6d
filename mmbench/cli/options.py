"""Arguments that several commands have."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from mmbench.config import JSON
    from mmbench.sweep import Sweep

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[SUITE] [KEY=VALUE]...",
        help="A built-in suite, a YAML file or a folder of results (default: quickstart), then "
        "changes to it, such as seeds=5 methods=[shaspec,zero_fill] trainer.max_epochs=3",
        show_default=False,
    ),
]
Results = Annotated[Path, typer.Option(help="Folder of all results.", show_default=True)]
DataRoot = Annotated[
    Path, typer.Option(envvar="MMBENCH_DATA", help="Folder of the data sets that you bring.")
]
Metric = Annotated[
    str | None, typer.Option(help="Shown metric. [default: the suite's selection metric]")
]
Paired = Annotated[
    bool,
    typer.Option(
        "--p-values/--no-p-values",
        help="Compare every method with the best; reads the predictions of all runs that are new.",
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(min=1, help="At most so many samples a split; kept apart from full results."),
]
Workers = Annotated[
    int | None,
    typer.Option(min=1, help="Runs at a time. [default: one a GPU, else one a core]"),
]
PerGpu = Annotated[
    str,
    typer.Option(
        metavar="auto|N",
        help="Runs that share a GPU; auto: as many as its memory holds. Leave 1 where costs count.",
    ),
]
Tune = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="N", help="Try so many settings of every method first; tune.trials=N."
    ),
]
SkipBad = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Let so many bad samples of a modality pass: the argument skip_bad of a data set.",
        show_default=False,
    ),
]
DataName = Annotated[str, typer.Argument(metavar="NAME", help="A data set's name or class path.")]
DataArguments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Arguments of the data set as in a suite, such as modalities=[fou,kar]",
        show_default=False,
    ),
]
Fold = Annotated[int, typer.Option(min=0, help="Which partition of the data set.")]
Out = Annotated[Path | None, typer.Option(help="File to write.", show_default=False)]


def sweep_of(
    words: list[str] | None,
    results: Path,
    limit: int | None,
    data_root: Path,
    tune: int | None = None,
    skip_bad: int | None = None,
) -> "Sweep":
    """The sweep that the words of a command mean."""
    import mmbench

    rest = list(words or [])
    suite = rest.pop(0) if rest and "=" not in rest[0] else "quickstart"
    if limit is not None:
        rest.append(f"limit={limit}")
    if tune is not None:
        rest.append(f"tune.trials={tune}")
    sweep = mmbench.Sweep(suite, *rest, results=results, data_root=data_root)
    if skip_bad is None:
        return sweep
    rest.append(_skipping(sweep, skip_bad))
    return mmbench.Sweep(suite, *rest, results=results, data_root=data_root)


def _skipping(sweep: "Sweep", skip_bad: int) -> str:
    """The override that lets bad samples of every data set pass that can do without them.

    Raises:
        ValueError: If no data set of the suite can.
    """
    from mmbench.bench.spec import parameters
    from mmbench.registry import DATASETS

    entries = [entry.model_dump(exclude_none=True) for entry in sweep.suite.data]
    able = [
        entry
        for entry in entries
        if any(one.name == "skip_bad" for one in parameters(DATASETS.get(entry["name"])))
    ]
    if not able:
        names = ", ".join(entry["name"] for entry in entries)
        raise ValueError(f"--skip-bad is for data sets with the argument skip_bad, not for {names}")
    for entry in able:
        entry["args"]["skip_bad"] = skip_bad
    return f"data={json.dumps(entries)}"


def may_write(sweep: "Sweep") -> bool:
    """Whether tables may be written; says so where the folder is somebody else's."""
    where = sweep.board_folder
    folder = next(path for path in (where, *where.parents) if path.is_dir())
    if os.access(folder, os.W_OK):
        return True
    typer.echo(f"nothing is written: {folder} is read-only", err=True)
    return False


def arguments(words: list[str] | None) -> dict[str, "JSON"]:
    """`a=1 b.c=[x,y]` as arguments of a data set."""
    from mmbench.config import load_config

    return load_config({}, words or (), kind="data set")
