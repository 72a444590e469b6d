"""Method and data of a run, built from its words; a user's mistakes are found here."""

import inspect
from functools import lru_cache
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from mmbench.bench.spec import RunSpec, bind
from mmbench.data.samples import Samples, Split
from mmbench.data.scenario import Scenario
from mmbench.datamodule import DataModule
from mmbench.method import Method
from mmbench.metrics.metric import metrics_for
from mmbench.registry import DATASETS, METHODS, suggest

OURS = ("max_epochs", "batch_size", "patience")  # trainer settings that Lightning does not get
GIVEN_TO_DATA = ("root", "scenario", "fold", "batch_size", "order_seed", "limit")


def check(spec: RunSpec, root: Path) -> None:
    """Find a user's mistakes in a planned run before anything is written.

    Raises:
        ValueError: If the method or data set does not exist or import, an argument is wrong,
            the scenario cannot be laid over the data, or the selection metric does not fit.
    """
    bound_method(spec)
    data = build_data(spec, root)
    task = data.task
    data.scenario.check(task.names)
    metric = spec.select["metric"]
    if metric not in metrics_for(task.kind):
        raise ValueError(
            f"select.metric {metric!r} does not fit {spec.data_label}, a {task.kind} task"
            f"{suggest(metric, metrics_for(task.kind))}; "
            f"choose from {', '.join(metrics_for(task.kind))}"
        )
    known = set(inspect.signature(Trainer.__init__).parameters) - {"self"}
    for name in spec.trainer_args:
        if name not in OURS and name not in known:
            raise ValueError(
                f"unknown key 'trainer.{name}'{suggest(name, [*OURS, *sorted(known)])}; "
                "known are max_epochs, batch_size, patience and the arguments of "
                "lightning.pytorch.Trainer"
            )


def bound_method(spec: RunSpec) -> tuple[type[Method], dict[str, Any]]:
    """Class of the method and its arguments, converted to the constructor's types."""
    cls = METHODS.get(spec.method)
    return cls, bind(cls, spec.method_args, given=("task",))


def build_data(spec: RunSpec, root: Path) -> DataModule:
    """Data module of a run; splits that this worker has read already are not read again."""
    cls = DATASETS.get(spec.data)
    data: DataModule = cls(
        root=root,
        scenario=Scenario.parse(spec.scenario),
        fold=spec.fold,
        batch_size=spec.trainer_args["batch_size"],
        order_seed=spec.seed,
        limit=spec.limit,
        **bind(cls, spec.data_args, given=GIVEN_TO_DATA),
    )
    data.loaded = _loaded(spec.data, repr(sorted(spec.data_args.items())), spec.fold, root)
    return data


def reason_to_skip(method: type[Method], data: DataModule) -> str | None:
    """Why a method does not apply to what the scenario leaves of the data; None if it does."""
    if reason := method.applies.reason_not(data.task):
        return reason
    if method.applies.complete_rows and not data.split("train").presence.all(axis=1).any():
        return "needs complete training samples, and the scenario leaves none"
    return None


@lru_cache(maxsize=2)
def _loaded(data: str, args: str, fold: int, root: Path) -> dict[Split, Samples]:
    """Splits already read by this worker; the plan keeps runs on the same data together."""
    return {}
