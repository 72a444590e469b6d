"""`mmbench new`: the beginning of a plugin, as a package that passes `check` as it is."""

import keyword
import re
import shutil
import tempfile
from enum import StrEnum
from pathlib import Path
from string import Template
from typing import Annotated

import typer

import mmbench

TEMPLATES = Path(mmbench.__file__).parent / "templates"
WORD = re.compile(r"[a-z][a-z0-9_]*")


class Kind(StrEnum):
    """What can be begun."""

    method = "method"
    data = "data"
    scenario = "scenario"


def new(
    kind: Annotated[Kind, typer.Argument(help="What to begin.")],
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Its name: small letters, digits and _.")
    ],
    into: Annotated[Path, typer.Option(help="Folder in which the package is made.")] = Path(),
    package: Annotated[
        str | None,
        typer.Option(help="Name of the package. [default: mmbench-NAME]", show_default=False),
    ] = None,
) -> None:
    """Begin a method, a data set or a scenario of your own as a small package that installs.

    It holds one file to fill in, a test that calls the contract, and a README.

    Example: `mmbench new method max_fusion`
    """
    if not WORD.fullmatch(name) or keyword.iskeyword(name):
        raise ValueError(
            f"{name!r} cannot name a file of Python: take small letters, digits and _, such as "
            "max_fusion"
        )
    package = package or f"mmbench-{name.replace('_', '-')}"
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]*([-_.][A-Za-z0-9]+)*", package):
        raise ValueError(f"{package!r} cannot name a package: take letters, digits and -")
    module = re.sub(r"[-.]", "_", package).lower()
    home = Path(mmbench.__file__).parents[1]
    if (home / "pyproject.toml").is_file() and into.resolve().is_relative_to(home):
        raise ValueError(
            f"{into.resolve()} lies in mmbench's own checkout, where a plugin is no package of its "
            "own; say --into a folder outside (or see CONTRIBUTING.md)"
        )
    folder = into / package
    if folder.exists():
        raise ValueError(f"{folder} is there already; take another name, or --into elsewhere")
    title = name.replace("_", " ").capitalize()
    words = {
        "name": name,
        "package": package,
        "module": module,
        "title": title,
        "cls": "".join(part.capitalize() for part in name.split("_")),
    }
    into.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{package}-", dir=into))
    try:
        for file in sorted((TEMPLATES / kind).rglob("*.tmpl")):
            _write(part, file.relative_to(TEMPLATES / kind), file.read_text("utf-8"), words)
        part.chmod(0o755)
        part.rename(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    what = "data" if kind is Kind.data else f"{kind}s"
    typer.echo(f"made {folder}; next:\n  pip install -e {folder}\n  mmbench list {what}")
    if kind is not Kind.scenario:
        typer.echo(f"  mmbench check {package}/{name}")


def _write(folder: Path, where: Path, text: str, words: dict[str, str]) -> None:
    """A file of the package from its template."""
    renamed = str(where).removesuffix(".tmpl")
    path = folder / renamed.replace("MODULE", words["module"]).replace("NAME", words["name"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(Template(text).substitute(words), encoding="utf-8", newline="\n")
