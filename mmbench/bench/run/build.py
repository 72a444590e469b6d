"""Method and data of a run, built from its words; a user's mistakes are found here."""

import inspect
import json
import logging
import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.callbacks import Timer

from mmbench.bench.run.loggers import require_logger
from mmbench.bench.run.selection import Epochs, require_defined, require_validation
from mmbench.bench.spec import DataEntry, RunSpec, bind, parameters
from mmbench.data.missingness.fixed import Natural
from mmbench.data.scenario import Scenario
from mmbench.data.task import Modality, Pixels, Task, with_encoders
from mmbench.datamodule import DataModule
from mmbench.method import Method
from mmbench.metrics.metric import metrics_for
from mmbench.registry import DATASETS, METHODS, suggest
from mmbench.search import COMMON, Draw

OURS = (
    "max_epochs",
    "batch_size",
    "checkpoint_minutes",
    "logger",
    "min_steps",
    "patience",
    "warm_up",
    "decay",
    "threads",
    "time_limit",
    "devices",
    "strategy",
)  # trainer settings that Lightning does not get
# arguments of Lightning's trainer that would take away what every run rests on
REFUSED = {
    "barebones": "it switches off the selection of the epoch and the training curve",
    "callbacks": "one of ours selects the epoch, and a suite cannot name others",
    "default_root_dir": "a run writes into its own folder",
    "enable_checkpointing": "a run keeps the weights of the selected epoch itself (keep_weights)",
    "fast_dev_run": "it trains on one batch; for a smoke test give --limit",
    "limit_predict_batches": "a run predicts every test sample",
    "limit_test_batches": "a run predicts every test sample",
    "overfit_batches": "it selects the epoch on training samples",
    "plugins": "a run says itself how its processes find each other",
    "num_nodes": "a run stays on one machine, with as many processes as trainer.devices says",
    "num_sanity_val_steps": "an epoch would be selected before training",
    "use_distributed_sampler": "several devices share every batch",
}
AT_LEAST_ONE = {
    "accumulate_grad_batches",
    "check_val_every_n_epoch",
    "gradient_clip_val",
    "min_epochs",
    "val_check_interval",
}
HALF = (16, "16", "16-mixed")
PRECISIONS = (32, "32", "32-true", *HALF, "bf16", "bf16-mixed")  # a batch stays in float32
MOST_TRAINED = 4 * 10**9  # weights of a method; AdamW takes 16 bytes for each
GIVEN_TO_DATA = ("root", "scenario", "fold", "batch_size", "order_seed", "limit")


def check_arguments(spec: RunSpec, root: Path) -> str | None:
    """Find a user's mistakes in a planned run before anything is written.

    Returns:
        Why the method does not apply to the task; None if it does.

    Raises:
        ValueError: If the method or data set does not exist or import, an argument is wrong,
            the scenario cannot be laid over the data, or encoders or the selection metric do not
            fit.
    """
    method, args = bound_method(spec)
    data = build_data(spec, root)
    task = data.task
    data.require_scenario()
    encoded = encoded_task(spec, data)
    epochs: Epochs = ()
    reason = method.reason_not(task, **args)
    if reason is None:
        args_text = json.dumps(spec.method_args, sort_keys=True)
        why, epochs = _construction(spec.method, args_text, _with_pixels(encoded, data))
        if why:
            raise ValueError(f"{spec.method_label} on {spec.data_label}: {why}")
    metric = spec.select["metric"]
    if metric not in metrics_for(task.kind):
        raise ValueError(
            f"select.metric {metric!r} does not fit {spec.data_label}, a {task.kind} task"
            f"{suggest(metric, metrics_for(task.kind))}; "
            f"choose from {', '.join(metrics_for(task.kind))}"
        )
    if method.applies.trains and spec.select["on"] == "val":
        require_defined(data, metric)
    _check_trainer(spec.trainer_args)
    if method.applies.trains and reason is None:
        require_validation(data, spec.trainer_args, epochs)
    return reason


def _with_pixels(task: Task, data: DataModule) -> Task:
    """The task as it will be once the data are set up: any scale in the place of that of pixels."""

    def scaled(m: Modality) -> Modality:
        if m.kind != "image" or data.samples("train").inputs[m.name].dtype != np.uint8:
            return m
        return replace(m, pixels=Pixels((0.0,) * m.shape[0], (1.0,) * m.shape[0]))

    return replace(task, modalities=tuple(scaled(m) for m in task.modalities))


@lru_cache(maxsize=4096)  # the same under every scenario
def _construction(name: str, args: str, task: Task) -> tuple[str, Epochs]:
    """What a method's constructor refuses, empty if nothing, and the epochs of its stages.

    It is built without its numbers.
    """
    cls = METHODS.get(name)
    bound = bind(cls, json.loads(args), given=("task",))
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            method = cls(task, **bound)
            epochs = tuple(stage.epochs for stage in method.stages)
    except ValueError as error:
        return str(error), ()
    except KeyboardInterrupt:
        raise
    except BaseException:  # a plugin's: it may want the numbers, and its run says what is wrong
        return "", ()
    trained = sum(p.numel() for p in method.parameters() if p.requires_grad)
    if trained > MOST_TRAINED:
        why = f"{trained:,} weights would be trained, more than {MOST_TRAINED:,}; make it smaller"
        return why, epochs
    return "", epochs


def require_fold(spec: RunSpec, root: Path) -> None:
    """Refuse a run on a partition that its data set does not have.

    Raises:
        ValueError: If so.
    """
    bound_data(spec.data, spec.data_args, root, spec.fold)


def _check_trainer(settings: Mapping[str, Any]) -> None:
    known = set(inspect.signature(Trainer.__init__).parameters) - {"self"}
    for name, value in settings.items():
        if name not in OURS and name not in known:
            raise ValueError(
                f"unknown key 'trainer.{name}'{suggest(name, [*OURS, *sorted(known)])}; "
                f"known are {', '.join(OURS)} and the arguments of "
                "lightning.pytorch.Trainer"
            )
        if name == "logger":
            require_logger(value)
        if name in REFUSED:
            raise ValueError(f"trainer.{name} cannot be set: {REFUSED[name]}; leave it out")
        if name == "limit_val_batches" and not value:
            raise ValueError(
                f"trainer.limit_val_batches: {value} leaves nothing to select an epoch by, and the "
                "last one is validated, too; leave it out"
            )
        if name in ("limit_train_batches", "max_steps") and not value:
            raise ValueError(f"trainer.{name}: {value} leaves nothing to train; leave it out")
    if "gradient_clip_algorithm" in settings and "gradient_clip_val" not in settings:
        raise ValueError("trainer.gradient_clip_algorithm needs trainer.gradient_clip_val")
    if why := _why_no_trainer(json.dumps(dict(settings), sort_keys=True)):
        raise ValueError(why)
    for what in ("epochs", "steps"):
        least, most = settings.get(f"min_{what}", 0), settings.get(f"max_{what}", -1)
        if 0 < most < least:
            raise ValueError(f"trainer.min_{what}: {least} is more than trainer.max_{what}, {most}")


@lru_cache(maxsize=64)
def _why_no_trainer(text: str) -> str:
    """What Lightning refuses of trainer settings; empty if nothing.

    Where a run happens need not be here: of an accelerator the name is checked.
    """
    settings = {name: value for name, value in json.loads(text).items() if name not in OURS}
    accelerators = ("auto", "gpu", *AcceleratorRegistry.available_accelerators())
    accelerator = settings.pop("accelerator", "auto")
    if accelerator not in accelerators:
        close = suggest(str(accelerator), accelerators)
        some = ", ".join(accelerators[:6])
        return f"no accelerator {accelerator!r} for trainer.accelerator{close}; such as {some}"
    precision = settings.get("precision", "32-true")
    if precision not in PRECISIONS or isinstance(precision, float):
        known = ", ".join(dict.fromkeys(map(str, PRECISIONS)))
        return f"no precision {precision!r} for trainer.precision; choose from {known}"
    if precision in HALF and accelerator == "cpu":
        return f"trainer.precision: a CPU computes {precision} in bfloat16; write bf16-mixed"
    for name in AT_LEAST_ONE & settings.keys():
        value = settings[name]
        if isinstance(value, int | float) and value <= 0:
            return f"trainer.{name} must be above 0, found {value}"
    try:
        bind(Trainer, settings, given=(), strict=True)
    except ValueError as error:
        return str(error).replace("Trainer: ", "trainer.", 1)
    if not settings:
        return ""
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    log.setLevel(logging.ERROR)  # what is on this machine is told by each run
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, **settings)
    except Exception as error:  # it names no type for what it refuses
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        return f"trainer: {line[:300]} (found {', '.join(f'{k}={v}' for k, v in settings.items())})"
    finally:
        log.setLevel(level)
    if "max_time" in settings and (Timer(settings["max_time"]).time_remaining() or 0.0) <= 0:
        return f"trainer.max_time: {settings['max_time']} leaves nothing to train; leave it out"
    return ""


def bound_method(spec: RunSpec) -> tuple[type[Method], dict[str, Any]]:
    """Class of the method and its arguments, converted to the constructor's types."""
    cls = METHODS.get(spec.method)
    return cls, bind(cls, spec.method_args, given=("task",))


def search_space(spec: RunSpec, root: Path) -> tuple[dict[str, Draw], dict[str, Any]]:
    """What may be drawn of a run's method and is not set by the suite, with the defaults.

    Nothing of a method that does not apply, or without training: those choose by validation among
    `candidates`.
    """
    cls, args = bound_method(spec)
    if not cls.applies.trains or reason_to_skip(cls, args, build_data(spec, root)) is not None:
        return {}, {}
    defaults = {
        each.name: each.default for each in parameters(cls) if each.default is not each.empty
    }
    declared = {**COMMON, **cls.search}
    space = {n: draw for n, draw in declared.items() if n in defaults and n not in args}
    return space, {name: defaults[name] for name in space}


def build_data(spec: RunSpec, root: Path) -> DataModule:
    """Data module of a run; what this process has read already is not read again."""
    args = json.dumps(spec.data_args, sort_keys=True)
    return _read(spec.data, args, spec.fold, root, spec.content).under(
        Scenario.parse(spec.scenario),
        batch_size=spec.trainer_args["batch_size"],
        order_seed=spec.seed,
        limit=spec.limit,
    )


@lru_cache(maxsize=2)  # the plan keeps runs on the same data together
def _read(name: str, args: str, fold: int, root: Path, content: str) -> DataModule:
    """Data under no scenario yet, with their files read as far as the task needs them."""
    data = bound_data(name, json.loads(args), root, fold)
    data.describe()
    return data


def encoded_task(spec: RunSpec, data: DataModule) -> Task:
    """The task of a run's data, its modalities encoded as the suite says.

    Raises:
        ValueError: If the suite's encoders do not fit the data.
    """
    try:
        return with_encoders(data.task, spec.encoders)
    except ValueError as error:
        raise ValueError(f"{spec.data_label}: {error}") from error


def bound_data(
    name: str,
    args: Mapping[str, Any],
    root: Path,
    fold: int = 0,
    scenario: Scenario | None = None,
) -> DataModule:
    """A data module with arguments as in a suite; without a scenario, with natural gaps alone.

    Raises:
        ValueError: If there is no such data set or fold, or an argument is wrong.
    """
    cls = DATASETS.get(name)
    laid = scenario or Scenario("nothing", Natural(), Natural(), (Natural(),))
    data: DataModule = cls(
        root=root, scenario=laid, fold=fold, **bind(cls, args, given=GIVEN_TO_DATA)
    )
    return data


def needed_by_data(name: str) -> list[str]:
    """Arguments that a data set cannot do without.

    Raises:
        ValueError: If there is no such data set.
    """
    return [
        one.name
        for one in inspect.signature(DATASETS.get(name)).parameters.values()
        if one.default is one.empty
        and one.kind is not one.VAR_KEYWORD
        and one.name not in GIVEN_TO_DATA
    ]


def examine(entry: DataEntry, root: Path) -> dict[str, dict[str, str]]:
    """What a data set of a suite is made of.

    Raises:
        ValueError: If an argument is wrong or a file is not there.
    """
    return bound_data(entry.name, entry.args, root).ingredients()


def modalities_of(entry: DataEntry, root: Path) -> tuple[str, ...]:
    """Names of the modalities of a data set of a suite.

    Raises:
        ValueError: As `examine`.
    """
    return bound_data(entry.name, entry.args, root).task.names


def reason_to_skip(method: type[Method], args: Mapping[str, Any], data: DataModule) -> str | None:
    """Why a method does not apply to what the scenario leaves of the data; None if it does."""
    if reason := method.reason_not(data.task, **args):
        return reason
    if method.applies.complete_rows and not data.split("train").presence.all(axis=1).any():
        return "needs complete training samples, and the scenario leaves none"
    return None
