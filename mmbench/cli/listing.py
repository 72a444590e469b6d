"""`mmbench list`: what there is."""

from enum import StrEnum
from typing import Annotated

import typer


class Things(StrEnum):
    """What `list` lists."""

    methods = "methods"
    data = "data"
    scenarios = "scenarios"
    suites = "suites"
    metrics = "metrics"
    mechanisms = "mechanisms"


def list_things(
    what: Annotated[Things, typer.Argument(help="What to list.")],
) -> None:
    """List what is installed, one line each; imports nothing heavy."""
    rows: list[tuple[str, str]]
    if what in (Things.methods, Things.data):
        from mmbench.registry import DATASETS, METHODS

        registry = METHODS if what is Things.methods else DATASETS
        rows = [(name, registry.summary(name)) for name in registry.names()]
    elif what is Things.mechanisms:
        from mmbench.data.missingness import mechanisms

        rows = mechanisms.summaries()
    elif what is Things.metrics:
        from mmbench.metrics.metric import describe

        rows = describe()
    else:
        from mmbench.bench.spec import suites
        from mmbench.config import load_config
        from mmbench.data.scenario import scenarios

        files, kind = (suites(), "suite") if what is Things.suites else (scenarios(), "scenario")
        rows = [
            (name, str(load_config(file, kind=kind).get("about", "")))
            for name, file in files.items()
        ]
    width = max(len(name) for name, _ in rows)
    for name, line in rows:
        typer.echo(f"{name:<{width}}  {line}")
