"""`mmbench list` and `mmbench check`: what there is, and whether a method keeps the contract."""

from enum import StrEnum
from typing import Annotated

import typer

from mmbench.cli.show import visible


class Things(StrEnum):
    """What `list` lists."""

    methods = "methods"
    data = "data"
    scenarios = "scenarios"
    suites = "suites"
    metrics = "metrics"


def list_things(
    what: Annotated[Things, typer.Argument(help="What to list.")],
) -> None:
    """List what is installed, one line each; imports nothing heavy."""
    rows: list[tuple[str, str]]
    if what in (Things.methods, Things.data):
        from mmbench.registry import DATASETS, METHODS

        registry = METHODS if what is Things.methods else DATASETS
        rows = [(name, registry.summary(name)) for name in registry.names()]
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


def check(
    method: Annotated[str, typer.Argument(help="A method's name or class path.")],
) -> None:
    """Put a method through the contract that every method keeps; for plugins, too."""
    from mmbench.checks import METHOD_CHECKS, TASKS, sample_tasks
    from mmbench.registry import METHODS

    cls = METHODS.get(method)
    tasks = sample_tasks(cls)
    if not tasks:
        raise ValueError(f"{method} cannot be checked: it {cls.reason_not(TASKS[0])}")
    failed = 0
    for name, examine in METHOD_CHECKS.items():
        for task in tasks:
            try:
                examine(cls, task)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # what a method raises is its own failure
                failed += 1
                kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
                typer.echo(f"FAILED {name} on {task.kind}: {kind}{visible(str(error))[:300]}")
                break
        else:
            typer.echo(f"passed {name}")
    raise typer.Exit(1 if failed else 0)
