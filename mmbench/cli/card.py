"""`mmbench card`: what a paper needs to say of a method, a data set, a suite, a presence table."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mmbench.cli.options import DataRoot, Fold, Out, Results, arguments


class CardForm(StrEnum):
    """Forms of a card."""

    md = "md"
    bibtex = "bibtex"
    croissant = "croissant"


def card(
    what: Annotated[
        str,
        typer.Argument(
            metavar="NAME|SUITE|FILE",
            help="A method, a data set, a suite (its name, YAML file or folder of results), or the "
            "file of a presence table.",
        ),
    ],
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="Arguments of the data set, or changes to the suite.",
            show_default=False,
        ),
    ] = None,
    *,
    form: Annotated[
        CardForm,
        typer.Option(
            "--format",
            help="md: a page for people; bibtex: what to cite of it, for a suite that of every "
            "method and data set; croissant: JSON-LD of a data set or a presence table.",
        ),
    ] = CardForm.md,
    out: Out = None,
    fold: Fold = 0,
    results: Results = Path("results"),
    data_root: DataRoot = Path("data"),
) -> None:
    """Write what a paper needs beside its numbers, from what the classes themselves declare.

    Numbers have a command of their own: `mmbench leaderboard`, for a collection of results by
    `--format every_eval_ever`.

    Example: `mmbench card quickstart --format bibtex --out references.bib`

    Example: `mmbench card mfeat --format croissant --out croissant.json`

    Example: `mmbench card shaspec`
    """
    text = _card(what, words, form, fold, results, data_root)
    if out is None:
        sys.stdout.write(text)
        return
    from mmbench.store import write_text

    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, text)
    typer.echo(f"wrote {out}")


def _card(
    what: str,
    words: list[str] | None,
    form: CardForm,
    fold: int,
    results: Path,
    data_root: Path,
) -> str:
    from mmbench.bench.run.build import bound_data
    from mmbench.bench.spec import suites
    from mmbench.cards import citation, croissant, markdown
    from mmbench.registry import DATASETS, METHODS, suggest
    from mmbench.sweep import Sweep

    path = Path(what)
    if path.suffix == ".csv":
        if form is not CardForm.croissant:
            raise ValueError(f"{what} is a presence table, which has one form: --format croissant")
        return croissant.of_table(path)
    is_file = path.exists() or path.suffix in (".yaml", ".yml")
    dotted = "." in what and "/" not in what and not is_file
    if what in METHODS.names() or (dotted and _is_method(what)):
        _refuse(words, what)
        method = METHODS.get(what)
        if form is CardForm.croissant:
            raise ValueError(f"{what} is a method; Croissant describes data: --format md or bibtex")
        if form is CardForm.bibtex:
            return citation.of_method(what, method).bibtex()
        return markdown.of_a_method(what, method)
    if what in DATASETS.names() or dotted:
        if form is CardForm.bibtex:
            return citation.of_data(what, DATASETS.get(what)).bibtex()
        data = bound_data(what, arguments(words), data_root, fold)
        if form is CardForm.croissant:
            return croissant.of_data_set(what, data)
        return markdown.of_a_data_set(what, data)
    if not is_file and what not in suites():
        known = (*METHODS.names(), *DATASETS.names(), *suites())
        raise ValueError(
            f"no method, data set or suite is named {what!r}{suggest(what, known)}, and no file "
            "has that name (mmbench list methods, data, suites)"
        )
    sweep = Sweep(what, *(words or ()), results=results, data_root=data_root)
    if form is CardForm.croissant:
        raise ValueError(
            f"{what} is a suite; Croissant describes data: name one of its data sets, "
            f"{', '.join(entry.name for entry in sweep.suite.data)}"
        )
    if form is CardForm.bibtex:
        return citation.bibliography(markdown.citations(sweep.suite))
    return markdown.of_a_suite(sweep.suite, sweep.runs())


def _is_method(name: str) -> bool:
    """Whether a class path is that of a method; of a data set otherwise."""
    from mmbench.registry import METHODS

    try:
        METHODS.get(name)
    except ValueError as error:
        if "is no Method" not in str(error):
            raise
        return False
    return True


def _refuse(words: list[str] | None, what: str) -> None:
    if words:
        raise ValueError(f"{words[0]!r} is an argument of data; {what} is a method and takes none")
