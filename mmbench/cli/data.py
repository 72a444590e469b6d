"""`mmbench data`: what there is, whether a user's files are whole, what is in them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from mmbench.cli.options import DataArguments, DataName, DataRoot, Fold, SkipBad, arguments
from mmbench.cli.show import counted, print_patterns, print_table, visible

SHOWN_CLASSES = 30


def list_data() -> None:
    """List the data sets, one line each; imports nothing heavy.

    Example: `mmbench data list`
    """
    from mmbench.registry import DATASETS

    names = DATASETS.names()
    width = max(len(name) for name in names)
    for name in names:
        typer.echo(f"{name:<{width}}  {DATASETS.summary(name)}")
    typer.echo("\n`mmbench data check NAME` says where to get one and whether your files are whole")


def check_data(
    name: DataName,
    words: DataArguments = None,
    *,
    fold: Fold = 0,
    skip_bad: SkipBad = None,
    data_root: DataRoot = Path("data"),
) -> None:
    """Say where to get a data set and which of its files are there, then load every split.

    Exit code 0: it loads and is what it and its publications say it is; 1: it is not, and each
    problem has a line.

    Example: `mmbench data check rosmap --data-root ~/data`
    """
    from mmbench.bench.run.build import bound_data
    from mmbench.cli.errors import fail
    from mmbench.data.samples import SPLITS
    from mmbench.health import examine, is_twin

    data = bound_data(name, _arguments(words, skip_bad), data_root, fold)
    _print_source(data)
    health = examine(data)
    for path in health.files:
        typer.echo(f"found    {path}")
    for path in (*health.missing, *health.unread):
        typer.echo(f"missing  {path}")
    for split, samples in health.loaded.items():
        typer.echo(f"loaded   {split}: {len(samples)} samples")
    if health.unread:
        typer.echo("note     what is missing is not read with these arguments")
    for note in data.notes() if len(health.loaded) == len(SPLITS) else ():
        typer.echo(f"note     {visible(note)}")
    for problem in health.problems:
        typer.echo(f"problem  {visible(problem)}")
    if any("skip_bad" in problem for problem in health.problems):
        typer.echo("note     that is the first; with --skip-bad 1000 all are counted, some named")
    if health.missing and not data_root.is_dir():
        raise ValueError(next(iter(health.missing.values())))
    if health.missing:
        fail(
            f"{name} is not whole: {len(health.missing)} of {len(data.files)} files are missing "
            f"from {data_root}; get them from {data.source.url or 'their authors'} "
            "(datamodules/README.md has the details)",
            code=1,
        )
    if health.problems:
        count = counted(len(health.problems), "problem")
        fail(f"{name} is not whole: {count}, see above", code=1)
    if is_twin(data):
        typer.echo("note     this is a generated twin, so nothing was compared with publications")
    typer.echo(f"{name} is whole")


def describe_data(
    name: DataName,
    words: DataArguments = None,
    *,
    fold: Fold = 0,
    skip_bad: SkipBad = None,
    data_root: DataRoot = Path("data"),
) -> None:
    """Show task, modalities, sizes, classes, natural gaps and terms of a data set.

    Without its files, or without the arguments that it cannot do without (`table`), what it says
    of itself alone: where to get it, under which terms, which tree of files it reads.

    Example: `mmbench data describe tabler modalities=[outline,tags]`
    """
    import inspect
    import re

    from mmbench.bench.run.build import bound_data, needed_by_data
    from mmbench.data.missingness.measure import realised
    from mmbench.data.samples import SPLITS
    from mmbench.health import located
    from mmbench.registry import DATASETS

    if not words and (needed := needed_by_data(name)):
        cls = DATASETS.get(name)
        typer.echo(f"{inspect.getdoc(cls)}\n")
        _print_source(cls)
        typer.echo(f"needs    {', '.join(f'{one}=...' for one in needed)}")
        return
    data = bound_data(name, _arguments(words, skip_bad), data_root, fold)
    about = re.split(r"\n(?:Args|Raises|Returns):\n", inspect.getdoc(type(data)) or "")[0]
    typer.echo(f"{about.strip()}\n")
    _print_source(data)
    files, missing = located(data)
    if missing and not files:
        typer.echo(f"note     nothing is counted: none of its files is in {data_root}")
        return
    task = data.task
    typer.echo(f"task     {task.kind}, {counted(task.num_outputs, 'output')}")
    typer.echo(f"folds    {data.folds}, this is {fold}\n")
    print_table(
        ("modality", "kind", "shape", "vocabulary"),
        [
            (m.name, m.kind, " x ".join(map(str, m.shape)), str(m.vocab_size or ""))
            for m in task.modalities
        ],
    )
    splits: dict[str, Any] = {split: data.samples(split) for split in SPLITS}
    gaps = {
        split: realised(samples.presence, samples.presence, task.names)
        for split, samples in splits.items()
    }
    shares = [
        (f"{column} present", *(f"{s.presence[:, i].mean():.3f}" for s in splits.values()))
        for i, column in enumerate(task.names)
    ]
    print_table(
        ("by nature", *SPLITS),
        [
            ("samples", *(str(len(samples)) for samples in splits.values())),
            ("missing rate", *(f"{gap.missing_rate:.3f}" for gap in gaps.values())),
            ("incomplete samples", *(f"{gap.incomplete_rate:.3f}" for gap in gaps.values())),
            *shares,
        ],
    )
    print_patterns({split: gap.patterns for split, gap in gaps.items()})
    _print_target(task, splits)
    for note in data.notes():
        typer.echo(f"note     {visible(note)}")


def write_twin(
    name: DataName,
    *,
    out: Annotated[Path, typer.Option(help="Folder that the set's own folder is made in.")],
    seed: Annotated[int, typer.Option(min=0, help="Decides every byte.")] = 0,
) -> None:
    """Write a small generated set in exactly the layout of a data set, to try things without it.

    Example: `mmbench data twin hateful_memes --out twins`, then
    `mmbench data check hateful_memes --data-root twins`
    """
    import tempfile

    from mmbench.registry import DATASETS

    cls = DATASETS.get(name)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".twin-") as made:
        cls.write_twin(Path(made), seed=seed)
        folders = sorted(Path(made).iterdir())
        for folder in folders:
            target = out / folder.name
            if target.exists() and any(target.iterdir()):
                raise ValueError(f"{target} holds files; take another folder with --out")
        for folder in folders:
            folder.rename(out / folder.name)
            typer.echo(f"wrote    {out / folder.name}")


def init_data(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the files lie.")],
    *,
    out: Annotated[
        Path | None,
        typer.Option(help="File to write. [default: FOLDER/suite.yaml]", show_default=False),
    ] = None,
) -> None:
    """Look at a folder of your files and write the suite that describes and compares on them.

    Says what was guessed and why, and what could not be. Nothing is overwritten. Exit code 0: the
    files load as described; 2: something is left for you to say in the file.

    Example: `mmbench data init ~/ward`
    """
    from mmbench.bench.run.build import bound_data
    from mmbench.data.guess import guess, suite_of
    from mmbench.store import write_text

    file = out or folder / "suite.yaml"
    if file.exists():
        raise ValueError(f"{file} is there already; remove it, or write another one with --out")
    guessed = guess(folder)
    if not guessed.unknown:
        try:
            bound_data("table", guessed.args, folder).describe()
        except ValueError as error:
            guessed.unknown.append(str(error))
    for line in guessed.reasons:
        typer.echo(f"guessed  {visible(line)}")
    for line in guessed.unknown:
        typer.echo(f"open     {visible(line)}")
    write_text(file, suite_of(guessed))
    typer.echo(f"wrote    {file}")
    if guessed.unknown:
        raise ValueError(
            f"{counted(len(guessed.unknown), 'thing')} could not be guessed, see above; say it in "
            f"{file}, then `mmbench data describe table` has the rules"
        )
    typer.echo(f"\n`mmbench run {file} --data-root {folder}` compares methods on it")


def _arguments(words: list[str] | None, skip_bad: int | None) -> dict[str, Any]:
    return arguments(words) | ({} if skip_bad is None else {"skip_bad": skip_bad})


def _print_source(data: Any) -> None:
    source = data.source
    typer.echo(f"cite     {source.citation}")
    if source.licence:
        typer.echo(f"licence  {source.licence}")
    if source.url:
        typer.echo(f"url      {source.url}")
    for line in source.papers:
        typer.echo(f"paper    {line}")
    if source.checksum:
        typer.echo(f"ships    with mmbench, SHA-256 {source.checksum}")
    if source.superseded_by:
        typer.echo(f"note     superseded by {source.superseded_by}; take that one for new work")


def _print_target(task: Any, splits: Mapping[str, Any]) -> None:
    import numpy as np

    if task.kind == "survival":
        times = [samples.target[:, 0] for samples in splits.values()]
        rows = [("median time", *(f"{np.median(time):g}" for time in times))]
        events = [samples.target[:, 1] for samples in splits.values()]
        rows.append(("events", *(f"{event.sum():g} of {len(event)}" for event in events)))
        print_table(("survival", *splits), rows)
        return
    if task.kind == "regression":
        rows = []
        for i, output in enumerate(task.outputs):
            values = [samples.target[:, i] for samples in splits.values()]
            rows.append((output, *(f"{v.mean():.3g} ± {v.std():.3g}" for v in values)))
        print_table(("mean ± deviation", *splits), rows)
        return
    counts = [
        np.bincount(samples.target, minlength=task.num_outputs)
        if task.kind == "single_label"
        else samples.target.sum(axis=0).astype(int)
        for samples in splits.values()
    ]
    if task.num_outputs > SHOWN_CLASSES:  # a page of numbers helps nobody
        rows = [("rarest", *(str(c.min()) for c in counts))]
        rows.append(("median", *(f"{np.median(c):g}" for c in counts)))
        rows.append(("most frequent", *(str(c.max()) for c in counts)))
        print_table((f"{task.num_outputs} classes", *splits), rows)
        return
    header = "class" if task.kind == "single_label" else "label"
    columns = zip(task.outputs, *counts, strict=True)
    print_table((header, *splits), [(out, *map(str, row)) for out, *row in columns])
