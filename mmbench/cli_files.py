"""Commands about files: data sets and presence tables. Heavy imports happen inside."""

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

data_app = typer.Typer(
    help="Data sets: what there is, whether your files are whole, what is in them.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
masks_app = typer.Typer(
    help="Presence tables: write down what a run withholds, check such a file, or take over a "
    "table of yours or of a paper's released code.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

SHOWN_PATTERNS = 12
SHOWN_CLASSES = 30


class SplitName(StrEnum):
    """Splits of a data set."""

    train = "train"
    val = "val"
    test = "test"


class Format(StrEnum):
    """Files that can be read: a user's own, and those of authors' released code."""

    own = "own"
    missing_aware_prompts = "missing_aware_prompts"
    redeem = "redeem"


class Lacking(StrEnum):
    """What incomplete samples lack in the files of REDEEM and RAGPT."""

    text = "text"
    image = "image"
    both = "both"


Data = Annotated[str, typer.Argument(metavar="NAME", help="A data set's name or class path.")]
Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Arguments of the data set as in a suite, such as modalities=[fou,kar]",
        show_default=False,
    ),
]
DataRoot = Annotated[
    Path, typer.Option(envvar="MMBENCH_DATA", help="Folder of the data sets that you bring.")
]
Fold = Annotated[int, typer.Option(min=0, help="Which partition of the data set.")]
Out = Annotated[Path | None, typer.Option(help="File to write.", show_default=False)]


# --- data -----------------------------------------------------------------------------------


@data_app.command("list")
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


@data_app.command("check")
def check_data(
    name: Data, words: Words = None, *, fold: Fold = 0, data_root: DataRoot = Path("data")
) -> None:
    """Say where to get a data set and which of its files are there, then load every split.

    Exit code 0: it loads and is what it says it is; 2: it is not, and each problem has a line.

    Example: `mmbench data check rosmap --data-root ~/data`
    """
    from mmbench.data.files import locate

    data = _module(name, words, data_root, fold)
    _print_source(data)
    absent: list[str] = []  # what `locate` says of them, which a load would only repeat
    for file in data.files:
        try:
            typer.echo(f"found    {locate(data_root, file)}")
        except ValueError as error:
            typer.echo(f"missing  {data_root / file}")
            absent.append(" ".join(str(error).split()))
    loaded, problems = _load(data)
    for split, samples in loaded.items():
        typer.echo(f"loaded   {split}: {len(samples)} samples")
    not_read = absent and not any(said in problem for problem in problems for said in absent)
    if not_read and not problems:
        typer.echo("note     what is missing is not read with these arguments")
        absent = []
    problems = [one for one in problems if not any(said in one for said in absent)]
    for problem in problems:
        typer.echo(f"problem  {problem}")
    if absent and not data_root.is_dir():
        raise ValueError(absent[0])
    if absent:
        raise ValueError(
            f"{name} is not whole: {len(absent)} of {len(data.files)} files are missing from "
            f"{data_root}; get them from {data.source.url or 'their authors'} "
            "(datamodules/README.md has the details)"
        )
    if problems:
        raise ValueError(f"{name} is not whole: {_counted(len(problems), 'problem')}, see above")
    typer.echo(f"{name} is whole")


@data_app.command("describe")
def describe_data(
    name: Data, words: Words = None, *, fold: Fold = 0, data_root: DataRoot = Path("data")
) -> None:
    """Show task, modalities, sizes, classes, natural gaps and terms of a data set.

    Without the arguments that a data set cannot do without (`table`), its rules alone.

    Example: `mmbench data describe tabler modalities=[outline,tags]`
    """
    import inspect
    import re

    from mmbench.data.missingness import realised
    from mmbench.data.samples import SPLITS

    if not words and (needed := _needed(name)):
        cls = _class(name)
        typer.echo(f"{inspect.getdoc(cls)}\n")
        _print_source(cls)
        typer.echo(f"needs    {', '.join(f'{one}=...' for one in needed)}")
        return
    data = _module(name, words, data_root, fold)
    about = re.split(r"\n(?:Args|Raises|Returns):\n", inspect.getdoc(type(data)) or "")[0]
    typer.echo(f"{about.strip()}\n")
    _print_source(data)
    task = data.task
    typer.echo(f"task     {task.kind}, {_counted(task.num_outputs, 'output')}")
    typer.echo(f"folds    {data.folds}, this is {fold}\n")
    _print_table(
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
    _print_table(
        ("by nature", *SPLITS),
        [
            ("samples", *(str(len(samples)) for samples in splits.values())),
            ("missing rate", *(f"{gap.missing_rate:.3f}" for gap in gaps.values())),
            ("incomplete samples", *(f"{gap.incomplete_rate:.3f}" for gap in gaps.values())),
            *shares,
        ],
    )
    _print_patterns({split: gap.patterns for split, gap in gaps.items()})
    _print_target(task, splits)
    for note in data.notes():
        typer.echo(f"note     {note}")


def _print_source(data: Any) -> None:
    source = data.source
    typer.echo(f"cite     {source.citation}")
    if source.licence:
        typer.echo(f"licence  {source.licence}")
    if source.url:
        typer.echo(f"url      {source.url}")
    if source.checksum:
        typer.echo(f"ships    with mmbench, SHA-256 {source.checksum}")
    if source.superseded_by:
        typer.echo(f"note     superseded by {source.superseded_by}; take that one for new work")


def _load(data: Any) -> tuple[dict[str, Any], list[str]]:
    """Splits that load, and what is wrong, one line each."""
    from mmbench.data.samples import SPLITS

    try:
        task = data.task
    except (ValueError, OSError) as error:
        return {}, [" ".join(str(error).split())]
    loaded: dict[str, Any] = {}
    failed: dict[str, list[str]] = {}  # message -> splits: one bad file may spoil all three
    for split in SPLITS:
        try:
            loaded[split] = data.samples(split)
        except (ValueError, OSError) as error:
            failed.setdefault(" ".join(str(error).split()), []).append(split)
    problems = [f"{', '.join(splits)}: {message}" for message, splits in failed.items()]
    for name, samples in loaded.items():
        problems += [f"{name}: {one}" for one in _broken_promises(task, samples)]
    return loaded, problems + _shared_samples(loaded)


def _broken_promises(task: Any, samples: Any) -> list[str]:
    """What a split holds that its task does not say."""
    if not len(samples):
        return ["it is empty"]
    if samples.modalities != task.names:
        there, said = ", ".join(samples.modalities), ", ".join(task.names)
        return [f"its modalities are {there}, but the task says {said}"]
    found: list[str] = []
    for modality in task.modalities:
        shape = samples.inputs[modality.name].shape[1:]
        if shape != modality.shape:
            found.append(f"{modality.name} has the shape {shape}, the task says {modality.shape}")
        if modality.has_lengths and modality.name not in samples.lengths:
            found.append(f"{modality.name} is of kind {modality.kind} but has no lengths")
    shape = samples.target.shape[1:]
    if task.kind == "single_label":
        low, high = samples.target.min(), samples.target.max()
        if shape or low < 0 or high >= task.num_outputs:
            found.append(f"its classes are not whole numbers from 0 to {task.num_outputs - 1}")
    elif shape != (task.num_outputs,):
        found.append(f"a target has the shape {shape}, the task says {(task.num_outputs,)}")
    return found


def _shared_samples(loaded: Mapping[str, Any]) -> list[str]:
    import numpy as np

    found, splits = [], list(loaded)
    for i, one in enumerate(splits):
        for other in splits[i + 1 :]:
            both = np.intersect1d(loaded[one].sample_id, loaded[other].sample_id)
            if len(both):
                found.append(
                    f"{one} and {other} share {_counted(len(both), 'sample')}, such as {both[0]}"
                )
    return found


def _print_target(task: Any, splits: Mapping[str, Any]) -> None:
    import numpy as np

    if task.kind == "regression":
        rows = []
        for i, output in enumerate(task.outputs):
            values = [samples.target[:, i] for samples in splits.values()]
            rows.append((output, *(f"{v.mean():.3g} ± {v.std():.3g}" for v in values)))
        _print_table(("mean ± deviation", *splits), rows)
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
        _print_table((f"{task.num_outputs} classes", *splits), rows)
        return
    header = "class" if task.kind == "single_label" else "label"
    columns = zip(task.outputs, *counts, strict=True)
    _print_table((header, *splits), [(out, *map(str, row)) for out, *row in columns])


# --- masks ----------------------------------------------------------------------------------


@masks_app.command("export")
def export_masks(
    name: Data,
    scenario: Annotated[
        str,
        typer.Argument(metavar="SCENARIO", help="A built-in scenario or a YAML file with one."),
    ],
    words: Words = None,
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
    from dataclasses import asdict

    from mmbench.data.masks import PresenceTable
    from mmbench.data.missingness import Natural, Stream
    from mmbench.data.scenario import Scenario

    laid = Scenario.parse(_scenario(scenario, mask_seed))
    data = _module(name, words, data_root, fold, laid)
    names = data.task.names
    laid.check(names)
    missingness = _missingness(laid, names, split, condition)
    samples = data.samples(split.value)
    presence = missingness.draw(samples, Stream(laid.mask_seed, split.value))
    inner: Any = missingness.simulated if isinstance(missingness, Natural) else missingness
    parameters: dict[str, Any] = {} if inner is None else asdict(inner)
    drawn = {
        **parameters,
        "mechanism": missingness.mechanism,
        "mask_seed": laid.mask_seed,
        "scenario": laid.name,
        "data": name,
        "data_args": _arguments(words),
        "fold": fold,
        "split": split.value,
    }
    what = [name.rpartition(".")[2], laid.name, split.value]
    if split is SplitName.test:
        drawn["condition"] = missingness.label
        what.append(missingness.label)
    table = PresenceTable(names, samples.sample_id, presence, drawn)
    path = out or Path("_".join(what).replace("/", "_") + ".csv")
    _save(table, path)
    typer.echo(f"{' / '.join(what)}, mask seed {laid.mask_seed}: {len(samples)} samples")
    _print_rates(presence, samples, missingness.nominal_rate)
    _print_use(table, path, [split.value])


@masks_app.command("verify")
def verify_masks(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A presence table.")],
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="Data set it must fit.", show_default=False),
    ] = None,
    words: Words = None,
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

    from mmbench.data.masks import PresenceTable

    table = PresenceTable.load(file)
    typer.echo(f"{file}: {len(table.sample_id)} samples of {', '.join(table.modalities)}")
    typer.echo(f"drawn    {json.dumps(dict(table.drawn), sort_keys=True)}")
    typer.echo(f"SHA-256  {table.checksum}, as the file says")
    if name is None:
        if split is not None:
            raise ValueError(
                f"--split {split.value} of which data set? write "
                f"`mmbench masks verify {file} NAME --split {split.value}`"
            )
        _print_patterns({"samples": _patterns(table.presence, table.modalities)})
        return
    said = str(split or table.drawn.get("split", ""))
    if said not in list(SplitName):
        raise ValueError(f"{file} does not say which split it is for; add --split test, say")
    wanted = SplitName(said)
    data = _module(name, words, data_root, fold)
    samples = data.samples(wanted.value)
    presence = _over(table, samples, file, f"{name} {wanted.value}")
    beyond = _require_known(table, data, file, name)
    _print_rates(presence, samples, None)
    others = f"; {beyond - len(samples)} rows are of other splits" if beyond > len(samples) else ""
    typer.echo(f"fits     all {len(samples)} samples of {name} {wanted.value}{others}")


@masks_app.command("import")
def import_masks(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Your file or the authors'.")],
    words: Words = None,
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
    from dataclasses import replace

    import numpy as np

    from mmbench.data.masks import (
        PresenceTable,
        missing_aware_prompts_legacy,
        own_table,
        redeem_file_legacy,
    )
    from mmbench.data.samples import SPLITS

    own, redeem = form is Format.own, form is Format.redeem
    if redeem and (incomplete_rate is None or missing is None):
        raise ValueError(
            "a file of redeem has a column a rate and does not say what is missing; add "
            "--incomplete-rate 0.7 --missing text, image or both"
        )
    if not redeem and (incomplete_rate is not None or missing is not None):
        raise ValueError(
            "--incomplete-rate and --missing belong to --format redeem; leave them out"
        )
    if form is Format.missing_aware_prompts and split is None:
        raise ValueError("a file of missing_aware_prompts holds one split; add --split test, say")
    data = _module(name, words, data_root, fold)
    chosen = list(SPLITS) if split is None else [split.value]
    in_file = list(SPLITS) if own or redeem else chosen
    sample_id = np.concatenate([data.samples(one).sample_id for one in in_file])
    if own:
        id_column = str(_arguments(words).get("id", "id"))
        table = own_table(file, data.task.names, sample_id, id_column=id_column)
    elif redeem:
        assert incomplete_rate is not None
        assert missing is not None
        table = redeem_file_legacy(file, sample_id, incomplete_rate, missing.value)
    else:
        table = missing_aware_prompts_legacy(file, sample_id)
    kept = np.isin(table.sample_id, np.concatenate([data.samples(one).sample_id for one in chosen]))
    drawn = {**table.drawn, "data": name, "data_args": _arguments(words), "fold": fold}
    if split is not None:
        drawn["split"] = split.value
    table = PresenceTable(table.modalities, table.sample_id[kept], table.presence[kept], drawn)
    shown = {one: _over(table, data.samples(one), file, f"{name} {one}") for one in chosen}
    # the columns in the order of the data, as an export has them
    names = data.task.names
    columns = [table.modalities.index(column) for column in names]
    table = replace(table, modalities=names, presence=table.presence[:, columns])
    _save(table, out)
    for one, presence in shown.items():
        order = "by their ids" if own else "in the order of the data set"
        typer.echo(f"{name} / {one}: {len(presence)} samples, {order}")
        _print_rates(presence, data.samples(one), None)
    _print_use(table, out, chosen)


def _scenario(where: str, mask_seed: int | None) -> dict[str, Any]:
    """A scenario by name, or from a YAML file whose name is its name unless it says one."""
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from mmbench.data.scenario import load_scenario

    path = Path(where)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        try:
            words = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
        except (OSError, UnicodeDecodeError, yaml.YAMLError, OmegaConfBaseException) as error:
            raise ValueError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
        if not isinstance(words, dict):
            raise ValueError(f"{path} is no scenario: it must be a mapping with train and test")
        spec = load_scenario({"name": path.stem} | {str(k): v for k, v in words.items()})
    else:
        spec = load_scenario(where)
    return spec if mask_seed is None else spec | {"mask_seed": mask_seed}


def _missingness(laid: Any, names: tuple[str, ...], split: SplitName, condition: str | None) -> Any:
    """The mechanism of a split."""
    from mmbench.registry import suggest

    if split is not SplitName.test:
        if condition is not None:
            raise ValueError(
                f"--condition {condition} belongs to the test split, but --split is {split.value}; "
                "leave one of them out"
            )
        return laid.train if split is SplitName.train else laid.val
    conditions = laid.conditions(names)
    known = list(conditions)
    if condition is None and len(known) > 1:
        raise ValueError(
            f"scenario {laid.name!r} has {len(known)} test conditions; choose one with "
            f"--condition: {', '.join(known)}"
        )
    if condition is not None and condition not in conditions:
        raise ValueError(
            f"scenario {laid.name!r} has no test condition {condition!r}"
            f"{suggest(condition, known)}; there are {', '.join(known)}"
        )
    return conditions[known[0] if condition is None else condition]


def _over(table: Any, samples: Any, file: Path, where: str) -> Any:
    """A table's rows for these samples; what does not fit is said with file and split."""
    try:
        return table.over(samples)
    except ValueError as error:
        raise ValueError(f"{file} does not fit {where}: {error}") from None


def _require_known(table: Any, data: Any, file: Path, name: str) -> int:
    """Refuse rows of samples that no split has; returns the number of rows."""
    import numpy as np

    from mmbench.data.samples import SPLITS

    known = np.concatenate([data.samples(split).sample_id for split in SPLITS])
    unknown = table.sample_id[~np.isin(table.sample_id, known)]
    if len(unknown):
        raise ValueError(
            f"{file} does not fit {name}: sample {unknown[0]} ({len(unknown)} in all) is in none "
            "of its splits; was it drawn for other arguments or another fold?"
        )
    return len(table.sample_id)


def _save(table: Any, path: Path) -> None:
    """Write a table; a file that holds something else is never overwritten."""
    from mmbench.data.masks import PresenceTable

    if path.exists():
        try:
            if PresenceTable.load(path).checksum == table.checksum:
                return
        except ValueError:
            pass  # whatever it is, it is not ours to replace
        raise ValueError(
            f"{path} is there and holds something else; remove it or give another --out"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        table.save(path)
    except OSError as error:
        raise ValueError(
            f"{path} cannot be written ({error.strerror}); choose another --out"
        ) from error


# --- both -----------------------------------------------------------------------------------


def _class(name: str) -> Any:
    """Class of a data set."""
    from mmbench.registry import DATASETS

    DATASETS.check(name)  # before anything heavy
    return DATASETS.get(name)


def _needed(name: str) -> list[str]:
    """Arguments that a data set cannot do without."""
    import inspect

    from mmbench.bench.run.build import GIVEN_TO_DATA

    parameters = inspect.signature(_class(name)).parameters.values()
    return [
        one.name
        for one in parameters
        if one.default is one.empty
        and one.kind is not one.VAR_KEYWORD
        and one.name not in GIVEN_TO_DATA
    ]


def _module(
    name: str, words: Sequence[str] | None, root: Path, fold: int, scenario: Any = None
) -> Any:
    """A data module with a scenario, by default nothing but natural gaps."""
    cls = _class(name)
    from mmbench.bench.run.build import GIVEN_TO_DATA
    from mmbench.bench.spec import bind
    from mmbench.data.missingness import natural
    from mmbench.data.scenario import Scenario

    laid = scenario or Scenario("natural", natural(), natural(), (natural(),))
    return cls(
        root=root, scenario=laid, fold=fold, **bind(cls, _arguments(words), given=GIVEN_TO_DATA)
    )


def _arguments(words: Sequence[str] | None) -> dict[str, Any]:
    """`a=1 b.c=[x,y]` as a mapping."""
    import re

    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    for word in words or []:
        if not re.match(r"^[\w.]+=", word):
            raise ValueError(f"{word!r} is no argument; write key=value, such as modalities=[fou]")
    try:
        found = OmegaConf.to_container(OmegaConf.from_dotlist(list(words or [])), resolve=True)
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ValueError(
            f"{' '.join(words or [])} cannot be read: {str(error).splitlines()[0]}"
        ) from error
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


def _patterns(presence: Any, names: Sequence[str]) -> dict[str, int]:
    from mmbench.data.missingness import realised

    return realised(presence, presence, names).patterns


def _print_rates(presence: Any, samples: Any, nominal: float | None) -> None:
    """What a table comes to on the samples it is laid over."""
    from mmbench.data.missingness import dependence, realised

    names = samples.modalities
    found = realised(presence, samples.presence, names)
    asked = "" if nominal is None else f", asked for was {nominal:g}"
    typer.echo(
        f"missing  {found.missing_rate:.4f} of the entries: {found.natural_missing_rate:.4f} by "
        f"nature; {found.simulated_missing_rate:.4f} of the rest hidden{asked}"
    )
    typer.echo(f"         {found.incomplete_rate:.4f} of the samples are incomplete")
    told = dependence(presence, samples)
    values = ", ".join(f"{name} {nats:.4f}" for name, nats in told.value.items())
    typer.echo(f"the mask tells (nats): of the target {told.label:.4f}; of {values}")
    _print_patterns({"samples": found.patterns})


def _print_patterns(counts: Mapping[str, Mapping[str, int]]) -> None:
    """Counts of patterns, a column each; rare ones are put together."""
    total: dict[str, int] = {}
    for column in counts.values():
        for pattern, n in column.items():
            total[pattern] = total.get(pattern, 0) + n
    ordered = sorted(total, key=lambda pattern: -total[pattern])
    shown, rest = ordered[:SHOWN_PATTERNS], ordered[SHOWN_PATTERNS:]
    rows = [(p, *(str(column.get(p, 0)) for column in counts.values())) for p in shown]
    if rest:
        sums = (str(sum(column.get(p, 0) for p in rest)) for column in counts.values())
        rows.append((f"{_counted(len(rest), 'other')}", *sums))
    _print_table(("pattern", *counts), rows)


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


def _print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(escape(header[0]))
    for column in header[1:]:
        table.add_column(escape(column), justify="right")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    Console().print(table)


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
