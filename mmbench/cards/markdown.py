"""Cards in Markdown: what a method, a data set or a suite is, from what their classes declare."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from mmbench.bench.leaderboard import in_markdown
from mmbench.bench.record import Run, count
from mmbench.bench.spec import Suite
from mmbench.cards.about import arguments, paragraphs, summary
from mmbench.cards.citation import Citation, mmbench, of_data, of_method
from mmbench.config import JSON
from mmbench.data.missingness.measure import realised
from mmbench.data.samples import SPLITS
from mmbench.data.scenario import load_scenario
from mmbench.datamodule import DataModule
from mmbench.method import ALL_KINDS, ALL_TASKS, Method
from mmbench.registry import DATASETS, METHODS
from mmbench.search import to_json
from mmbench.sources import distributions, sources

METHOD_PARTS = ("Idea", "Notation", "Differences from the paper")
GIVEN = ("self", "task", "args", "kwargs")


def of_a_method(name: str, cls: type[Method]) -> str:
    """Paper, idea, where it applies, differences from the paper, arguments and their ranges."""
    said, applies = paragraphs(cls), cls.applies
    most = "any number" if applies.max_modalities is None else str(applies.max_modalities)
    needs = {
        "tasks": _all_or(applies.tasks, ALL_TASKS),
        "kinds of modality": _all_or(applies.kinds, ALL_KINDS),
        "at least one of kind": ", ".join(applies.one_of),
        "modalities": f"{applies.min_modalities} to {most}",
        "training samples with every modality": "needed" if applies.complete_rows else "not needed",
        "other samples of a batch": "may be read" if applies.neighbours else "never read",
        "learns": "by gradient" if applies.trains else "without gradients",
    }
    parts = [f"# {in_markdown(name)}", "", summary(cls), "", _made_of(cls)]
    parts += ["", f"Cite: {in_markdown(of_method(name, cls).text())}."]
    parts += [
        "",
        "## Where it applies",
        "",
        _table(("", ""), [(k, v) for k, v in needs.items() if v]),
    ]
    for part in METHOD_PARTS:
        if part in said:
            parts += ["", f"## {part}", "", said[part]]
    drawn = {
        setting: f"{kind}: {_words(said)}"
        for setting, draw in to_json(cls.search).items()
        for kind, said in draw.items()
    }
    words, rows = arguments(cls), []
    for setting, one in inspect.signature(cls).parameters.items():
        if setting in GIVEN:
            continue
        default = "" if one.default is one.empty else repr(one.default)
        rows.append((f"`{setting}`", default, drawn.get(setting, ""), words.get(setting, "")))
    if rows:
        head = ("argument", "default", "searched by `--tune`", "meaning")
        parts += ["", "## Arguments", "", _table(head, rows)]
    return "\n".join([*parts, ""])


def of_a_data_set(name: str, data: DataModule) -> str:
    """Terms, task, modalities, sizes, natural gaps, what the class says of files and splits.

    Raises:
        ValueError: If a file is not there or cannot be read.
    """
    cls, task = type(data), data.task
    said = paragraphs(cls)
    parts = [f"# {in_markdown(name)}", "", summary(cls), "", _made_of(cls)]
    source = data.source
    terms = {
        "cite": source.citation,
        "terms": source.licence,
        "files": source.url,
        "SHA-256 of the file that ships": source.checksum,
        "superseded by": source.superseded_by,
    }
    parts += ["", _table(("", ""), [(k, v) for k, v in terms.items() if v])]
    parts += ["", "## Task", "", f"{task.kind}, {task.num_outputs} outputs, {data.folds} folds."]
    splits = {split: data.samples(split) for split in SPLITS}
    rows = []
    for column, modality in enumerate(task.modalities):
        absent = [1 - float(one.presence[:, column].mean()) for one in splits.values()]
        shape = " x ".join(map(str, modality.shape))
        rows.append((modality.name, modality.kind, shape, *(f"{share:.3f}" for share in absent)))
    head = ("modality", "kind", "shape", *(f"missing in {split}" for split in splits))
    parts += ["", _table(head, rows), ""]
    sizes = [(split, str(len(one)), _rates(one)) for split, one in splits.items()]
    parts += [_table(("split", "samples", "incomplete by nature"), sizes)]
    for part, text in said.items():
        if part not in METHOD_PARTS:
            parts += ["", f"## {part}", "", text]
    if notes := data.notes():
        parts += ["", "## Doubts", "", *(f"- {in_markdown(note)}" for note in notes)]
    return "\n".join([*parts, ""])


def of_a_suite(suite: Suite, runs: Sequence[Run]) -> str:
    """The question, what it compares on what, how it is trained and selected, what to cite.

    Args:
        suite: Which.
        runs: Its planned runs, finished or not.
    """
    parts = [f"# {in_markdown(suite.name)}", "", in_markdown(suite.about) or "A suite of mmbench."]
    parts += [
        "",
        "## Methods",
        "",
        _table(("method", "arguments", "what"), _entries(suite, METHODS)),
    ]
    parts += [
        "",
        "## Data",
        "",
        _table(("data set", "arguments", "what"), _entries(suite, DATASETS)),
    ]
    rows = []
    for one in suite.scenarios:
        laid = load_scenario(one) if isinstance(one, str) else one
        hidden = {
            part: _words(laid.get(part, laid.get("train"))) for part in ("train", "val", "test")
        }
        rows.append((str(laid["name"]), *hidden.values(), str(laid.get("regime", "withheld"))))
    head = ("scenario", "train", "val", "test", "regime")
    parts += ["", "## What is missing", "", _table(head, rows)]
    trainer = suite.trainer.model_dump(exclude_none=True)
    select = suite.select
    settings = {
        "seeds": ", ".join(map(str, suite.seeds)),
        "folds": ", ".join(map(str, suite.folds)),
        "training": _words(trainer),
        "encoders": _words(suite.encoders) or "those by default, the same for every method",
        "epoch kept": f"by {select.metric} on {select.on}; the test split is never looked at",
        "settings": "of the constructors"
        if suite.tune is None
        else _words(suite.tune.model_dump()),
        "samples a split": "all" if suite.limit is None else str(suite.limit),
    }
    parts += ["", "## How", "", _table(("", ""), list(settings.items()))]
    states = ", ".join(f"{n} {state}" for state, n in count(runs).items())
    parts += ["", f"{len(runs)} trainings are planned: {states}."]
    parts += ["", "## What to cite", ""]
    parts += [f"- {in_markdown(one.text())}" for one in citations(suite) if one.exists]
    return "\n".join([*parts, ""])


def citations(suite: Suite) -> list[Citation]:
    """What a table of a suite rests on: the program, its data sets, its methods; each once."""
    data = [of_data(name, DATASETS.get(name)) for name in _names(suite.data)]
    methods = [of_method(name, METHODS.get(name)) for name in _names(suite.methods)]
    return [mmbench(), *data, *methods]


def _names(entries: Sequence[Any]) -> list[str]:
    return list(dict.fromkeys(entry.name for entry in entries))


def _entries(suite: Suite, registry: Any) -> list[tuple[str, ...]]:
    listed: Sequence[Any] = suite.methods if registry is METHODS else suite.data
    return [
        (one.label or one.name, _words(one.args), summary(registry.get(one.name))) for one in listed
    ]


def _made_of(cls: type) -> str:
    """Where a class comes from: distribution and the hash of its file."""
    module = cls.__module__
    whose = ", ".join(f"{name} {version}" for name, version in distributions(module).items())
    digest = sources(cls).get(module, "")
    return (
        f"`{module}.{cls.__qualname__}`" + (f", {whose}" if whose else "") + f", sources {digest}."
    )


def _rates(samples: Any) -> str:
    rates = realised(samples.presence, samples.presence, samples.modalities)
    return f"{rates.incomplete_rate:.3f}"


def _all_or(chosen: Sequence[str], every: Sequence[str]) -> str:
    return "all" if set(chosen) == set(every) else ", ".join(chosen)


def _words(value: JSON) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} = {_words(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return "; ".join(_words(one) for one in value)
    return str(value)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = [[in_markdown(cell) for cell in row] for row in rows]
    return pd.DataFrame(cells, columns=list(head)).to_markdown(index=False)
