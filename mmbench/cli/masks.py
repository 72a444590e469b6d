"""`mmbench masks`: presence tables, written, checked and taken over."""

from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from mmbench.cli.options import DataArguments, DataName, DataRoot, Fold, Out, arguments
from mmbench.cli.show import print_patterns, visible


class SplitName(StrEnum):
    """Splits of a data set."""

    train = "train"
    val = "val"
    test = "test"


class Format(StrEnum):
    """Files that can be read: a user's own, and those of authors' released code."""

    table = "own"
    missing_aware_prompts = "missing_aware_prompts"
    redeem = "redeem"


class Lacking(StrEnum):
    """What incomplete samples lack in the files of REDEEM and RAGPT."""

    text = "text"
    image = "image"
    both = "both"


def export_masks(
    name: DataName,
    scenario: Annotated[
        str,
        typer.Argument(metavar="SCENARIO", help="A built-in scenario or a YAML file with one."),
    ],
    words: DataArguments = None,
    *,
    split: Annotated[SplitName, typer.Option(help="Split to draw for.")] = SplitName.test,
    condition: Annotated[
        str | None,
        typer.Option(help="Test condition, such as mcar_0.3; needed where there are several."),
    ] = None,
    mask_seed: Annotated[
        int | None, typer.Option(help="Of the masks. [default: the scenario's]", show_default=False)
    ] = None,
    fold: Fold = 0,
    out: Out = None,
    data_root: DataRoot = Path("data"),
) -> None:
    """Write down which modalities each sample shows, exactly as a run would draw it.

    The file drives a run in turn, by the mechanism `table` of a scenario; the last line says how.

    Example: `mmbench masks export mfeat mcar --condition mcar_0.3 --out masks.csv`
    """
    from mmbench.bench.run.build import bound_data
    from mmbench.data.scenario import Scenario, load_scenario
    from mmbench.tables import draw_table, missingness_of, save_new

    seed = {} if mask_seed is None else {"mask_seed": mask_seed}
    laid = Scenario.parse(load_scenario(scenario) | seed)
    args = arguments(words)
    data = bound_data(name, args, data_root, fold, laid)
    names = data.task.names
    laid.check(names)
    missingness = missingness_of(laid, names, split.value, condition)
    about = {"data": name, "data_args": args, "fold": fold}
    table = draw_table(data, laid, split.value, missingness, about)
    what = [name.rpartition(".")[2], laid.name, split.value]
    if split is SplitName.test:
        what.append(missingness.label)
    path = out or Path("_".join(what).replace("/", "_") + ".csv")
    save_new(table, path)
    samples = data.samples(split.value)
    typer.echo(f"{' / '.join(what)}, mask seed {laid.mask_seed}: {len(samples)} samples")
    _print_rates(table.presence, samples, missingness.nominal_rate)
    _print_use(table, path, [split.value])


def verify_masks(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A presence table.")],
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="Data set it must fit.", show_default=False),
    ] = None,
    words: DataArguments = None,
    *,
    split: Annotated[
        SplitName | None,
        typer.Option(help="Split it must fit. [default: as the file says]", show_default=False),
    ] = None,
    fold: Fold = 0,
    data_root: DataRoot = Path("data"),
) -> None:
    """Check a presence table against its checksum and, with a data set, against its samples.

    Example: `mmbench masks verify masks.csv mfeat --split test`
    """
    import json

    from mmbench.bench.run.build import bound_data
    from mmbench.data.masks import PresenceTable
    from mmbench.data.missingness.measure import realised
    from mmbench.tables import require_known, rows_of, split_of

    table = PresenceTable.load(file)
    typer.echo(f"{file}: {len(table.sample_id)} samples of {visible(', '.join(table.modalities))}")
    typer.echo(f"drawn    {json.dumps(dict(table.drawn), sort_keys=True)}")
    typer.echo(f"SHA-256  {table.checksum}, as the file says")
    if name is None:
        if split is not None:
            raise ValueError(
                f"--split {split.value} of which data set? write "
                f"`mmbench masks verify {file} NAME --split {split.value}`"
            )
        counts = realised(table.presence, table.presence, table.modalities)
        print_patterns({"samples": counts.patterns})
        return
    wanted = split_of(table, None if split is None else split.value, file)
    data = bound_data(name, arguments(words), data_root, fold)
    presence = rows_of(table, data, wanted, f"{file} does not fit {name} {wanted}")
    require_known(table, data, f"{file} does not fit {name}")
    samples = data.samples(wanted)
    _print_rates(presence, samples, None)
    beyond = len(table.sample_id) - len(samples)
    others = f"; {beyond} rows are of other splits" if beyond else ""
    typer.echo(f"fits     all {len(samples)} samples of {name} {wanted}{others}")


def import_masks(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Your file or the authors'.")],
    words: DataArguments = None,
    *,
    form: Annotated[Format, typer.Option("--format", help="Whose file it is.")],
    name: Annotated[str, typer.Option("--data", help="Data set, with the samples in their order.")],
    out: Annotated[Path, typer.Option(help="File to write.")],
    split: Annotated[
        SplitName | None,
        typer.Option(help="Split of the file; for own and redeem, rows to keep, by default all."),
    ] = None,
    incomplete_rate: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="redeem: share of incomplete samples, picks the column."),
    ] = None,
    missing: Annotated[
        Lacking | None, typer.Option(help="redeem: what incomplete samples lack.")
    ] = None,
    fold: Fold = 0,
    data_root: DataRoot = Path("data"),
) -> None:
    """Turn a table of yours, or one that a paper's released code saved, into a presence table.

    A table of yours (`own`) is a CSV or parquet file with a column of ids as in your data and one
    of 0 / 1 for each modality, named like it; it may hold all splits.

    Files of released code hold no sample ids, so the data set must list its samples in the
    authors' order, and its modalities must be called text and image. Nothing in them is run: a
    tensor is read without code, and a pickle is refused with the way to convert it.

    Example: `mmbench masks import mine.csv --format own
    --data table files.a=a.csv files.b=b.csv labels=labels.csv --out masks.csv`

    Example: `mmbench masks import missing_0.70.csv --format redeem --incomplete-rate 0.7
    --missing both --data table files.text=text.csv files.image=image.npz labels=labels.csv
    --out masks.csv`
    """
    from mmbench.bench.run.build import bound_data
    from mmbench.data.samples import SPLITS
    from mmbench.tables import import_table, rows_of, save_new

    args = arguments(words)
    data = bound_data(name, args, data_root, fold)
    table = import_table(
        file,
        form.value,
        data,
        {"data": name, "data_args": args, "fold": fold},
        split=None if split is None else split.value,
        incomplete_rate=incomplete_rate,
        missing=None if missing is None else missing.value,
        id_column=str(args.get("id", "id")),
    )
    save_new(table, out)
    chosen = SPLITS if split is None else (split.value,)
    order = "by their ids" if form is Format.table else "in the order of the data set"
    for one in chosen:
        samples = data.samples(one)
        typer.echo(f"{name} / {one}: {len(samples)} samples, {order}")
        _print_rates(rows_of(table, data, one, f"{file} does not fit {name} {one}"), samples, None)
    _print_use(table, out, chosen)


def _print_rates(presence: Any, samples: Any, nominal: float | None) -> None:
    """What a table comes to on the samples it is laid over."""
    from mmbench.data.missingness.measure import dependence, realised

    names = samples.modalities
    rates = realised(presence, samples.presence, names)
    goal = "" if nominal is None else f", asked for was {nominal:g}"
    typer.echo(
        f"missing  {rates.missing_rate:.4f} of the entries: {rates.natural_missing_rate:.4f} by "
        f"nature; {rates.simulated_missing_rate:.4f} of the rest hidden{goal}"
    )
    typer.echo(f"         {rates.incomplete_rate:.4f} of the samples are incomplete")
    hints = dependence(presence, samples)
    values = ", ".join(f"{name} {nats:.4f}" for name, nats in hints.value.items())
    typer.echo(f"the mask tells (nats): of the target {hints.label:.4f}; of {values}")
    print_patterns({"samples": rates.patterns})


def _print_use(table: Any, path: Path, splits: Iterable[str]) -> None:
    """Where it went, and the lines of a scenario that take it."""
    import yaml

    typer.echo(f"wrote    {path}")
    typer.echo(f"SHA-256  {table.checksum}")
    typer.echo("a scenario takes it as")
    entry = {"mechanism": "table", "path": str(path), "checksum": table.checksum}
    for split in splits:
        line = yaml.safe_dump({split: entry}, default_flow_style=None, sort_keys=False, width=9999)
        typer.echo(line.rstrip())
