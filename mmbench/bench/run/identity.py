"""What decides the outcome of a stage: by that it is found again, and shared by runs."""

import inspect
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mmbench.bench.record import SHARED, STAGES
from mmbench.bench.run.provenance import made_by
from mmbench.bench.spec import RunSpec, complete, parameters
from mmbench.data.embeddings import described
from mmbench.datamodule import DataModule
from mmbench.method import Method, Stage

# what a method says of its training: a subclass that changes any of it trains another stage
TRAINING = (
    "configure_optimizers",
    "loss",
    "stage_output",
    "stage_rows",
    "stages",
    "training_step",
)


def stage_identity(
    spec: RunSpec, folder: Path, data: DataModule, method: Method, stage: Stage
) -> tuple[dict[str, Any], Path]:
    """What decides the outcome of a stage, and where that and its checkpoints lie.

    Nothing of it is said by the method but `Stage.shared_across`, which makes a stage common to
    several runs. Such a stage is named by all that a run is made of but its method, and of the
    method by the sources of the class that trains it, by that class's arguments but those that the
    stage is shared across, and by all that can be seen of the parts that it and the stages before
    it train: their classes, settings and sources, and the weights from which they start.

    Args:
        spec: The run.
        folder: Its private folder.
        data: Its data.
        method: As it is when the stage begins.
        stage: Which begins.
    """
    beside = folder.parents[len(spec.folder.parts) - 1]
    identity: dict[str, Any] = {"stage": asdict(stage)}
    if not stage.shared_across:
        return identity | made_by(type(method), data), beside / STAGES / spec.key
    trainer = _trains(type(method))
    arguments = complete(type(method), spec.method_args, given=("task",))
    known = {each.name for each in parameters(trainer)}
    unknown = set(stage.shared_across) - known
    assert not unknown, f"{trainer.__name__} has no arguments {sorted(unknown)} to share across"
    names = [each.name for each in method.stages]
    so_far = method.stages[: names.index(stage.name) + 1]

    def is_trained(name: str) -> bool:
        return any(each.covers(name) for each in so_far)

    anyone = replace(
        spec,
        method="",
        method_args={},
        method_label="",
        data_label="",
        keep_weights=False,
        tuned=0,
        # who watches a training is no part of what comes of it
        trainer_args={name: one for name, one in spec.trainer_args.items() if name != "logger"},
    )
    identity |= anyone.to_json() | made_by(trainer, data)
    identity["arguments"] = {
        name: repr(value)
        for name, value in arguments.items()
        if name in known - {*stage.shared_across}
    }
    identity["parts"] = described(method, is_trained)
    return identity, beside / SHARED


def _trains(cls: type) -> type:
    """The class that says how stages are trained: an abstract one that it extends, or itself."""
    base = next(each for each in cls.__mro__ if vars(each).keys() & set(TRAINING))
    return base if inspect.isabstract(base) else cls
