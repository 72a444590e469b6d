"""A suite (the question) and a run (one training that helps to answer it)."""

import hashlib
import inspect
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator

from mmbench.bounds import Number, Positive, Seed
from mmbench.config import JSON, load_config
from mmbench.paths import folder
from mmbench.registry import suggest

M = TypeVar("M", bound=BaseModel)
MOST = 100  # seeds or folds that a bare number may ask for: `seeds: 1111` means seed 1111
PROTOCOL = 3  # raised when the same words come to mean another run
EVERY = "*"  # a method's argument `modality` that stands for each modality of a data set
# trainer settings that say where, how safely and watched by whom, not what: they change no number,
# so they are no part of the key, and a finished run is not repeated for another logger
PLACEMENT = ("accelerator", "checkpoint_minutes", "logger", "time_limit")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Entry(_Strict):
    """A method or a data set of a suite.

    Args:
        name: A registered name, or a class path `my_package.MyMethod`.
        args: Constructor arguments; what is not given keeps the constructor's default. A method's
            `modality: "*"` is an entry for each modality of a data set, named `unimodal_audio`.
        label: Its name in tables; by default `name`, with the arguments where a name is used
            twice.
    """

    name: str
    args: dict[str, JSON] = {}
    label: str = ""

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, dict) and "class_path" in value:
            value = dict(value)
            for ours, theirs in (("name", "class_path"), ("args", "init_args")):
                if ours in value:
                    raise ValueError(f"{theirs} and {ours} say the same of one entry; keep one")
            value["name"] = value.pop("class_path")
            value["args"] = value.pop("init_args", {})
        return value

    @property
    def of_every_modality(self) -> bool:
        """Whether it stands for an entry for each modality."""
        return self.args.get("modality") == EVERY

    def for_each(self, modalities: Sequence[str] | None) -> list["Entry"]:
        """The entries that it stands for; itself where it is one, or modalities are not known."""
        if modalities is None or not self.of_every_modality:
            return [self]
        name = self.label or self.name.rpartition(".")[2]
        return [
            Entry(name=self.name, args={**self.args, "modality": one}, label=f"{name}_{one}")
            for one in modalities
        ]


class DataEntry(Entry):
    """A data set of a suite.

    Args:
        folds: How many (0, 1, ...) or which of its partitions; by default those of the suite.
    """

    folds: Annotated[list[Number], Field(min_length=1)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _count(cls, value: Any) -> Any:
        return _counted(value, "folds") if isinstance(value, dict) else value


class TrainerSpec(BaseModel):
    """How a method is trained; the same for all methods of a suite.

    Args:
        max_epochs: Passes over the training split, >= 1.
        batch_size: Samples a batch, >= 1.
        min_steps: Optimiser steps that `max_epochs` come to at least, >= 1: on a small data set an
            epoch is as many passes as that takes, so that patience, the epochs of a stage and the
            time between two validations mean the same there. None = one pass.
        patience: Stop after so many epochs without a better validation score; None = never.
        warm_up: Share of a training's steps over which every learning rate rises from zero, in
            [0, 1); None = none.
        decay: `cosine` lowers every learning rate to zero over the steps after that, along half a
            cosine; None = they stay as the method has them.
        checkpoint_minutes: Least time between two checkpoints, >= 0, from which a training that was
            cut off goes on; no part of the key.
        logger: `tensorboard`, `wandb` or `mlflow`, beside the curve that is kept in any case
            (`csv`); no part of the key.
        time_limit: Minutes after which a run is ended and has failed, > 0; None = never. No part of
            the key: it decides whether there is a result, not which.
        threads: Processor threads inside a run, >= 1. They decide the last bits of its numbers, so
            they belong to the question; how many runs go side by side does not.
        devices: Processes of one machine, 1 to 64, that train a run together, a device each; every
            batch of `batch_size` samples is shared out among them. None = one.
        strategy: How they work together: `ddp` (gradients are averaged) or `auto`, which is that.

    Any other key goes to `lightning.pytorch.Trainer` as it is.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    max_epochs: Positive = 30
    batch_size: Positive = 64
    min_steps: Positive | None = None
    patience: Positive | None = None
    warm_up: Annotated[float, Field(ge=0, lt=1)] | None = None
    decay: Literal["cosine"] | None = None
    logger: Literal["csv", "tensorboard", "wandb", "mlflow"] | None = None
    checkpoint_minutes: Annotated[float, Field(ge=0, le=1e6)] = 1.0
    time_limit: Annotated[float, Field(gt=0, le=1e6)] | None = None
    threads: Annotated[int, Field(strict=True, ge=1, le=1024)] = 1
    devices: Annotated[int, Field(strict=True, ge=1, le=64)] | None = None
    strategy: Literal["auto", "ddp"] | None = None


class Select(_Strict):
    """Which epoch's weights are kept: the best validation score, the earliest on ties.

    Args:
        metric: Name of a metric (`mmbench list metrics`).
        on: The validation split, or `last` for the last epoch without selection. Never the test
            split.
    """

    metric: str = "macro_f1"
    on: Literal["val", "last"] = "val"

    @model_validator(mode="before")
    @classmethod
    def _on_is_a_word(cls, value: Any) -> Any:
        # YAML 1.1 reads the bare key `on` as true
        if not isinstance(value, dict):
            return value
        return {"on" if key is True else key: one for key, one in value.items()}


class Tune(_Strict):
    """How the settings of methods are searched, with the same number of trials for each.

    Args:
        trials: Settings that are tried for a method on each fold of a data set, >= 1; the first
            are those of the constructor and of the suite.
        scenario: Name of the suite's scenario under which they are tried; by default its first.
        lengths: Trials train so many times as long as `trainer` says, > 0, one length after the
            other and from the beginning again; the best trial's length goes on with its settings.
            Which trial has which is the same for every method, and so is their sum.
    """

    trials: Annotated[int, Field(ge=1, le=1000)]
    scenario: str = ""
    lengths: Annotated[
        list[Annotated[float, Field(gt=0, le=1000)]], Field(min_length=1, max_length=100)
    ] = [1.0]

    def length(self, place: int) -> float:
        """Length of the trial at this place."""
        return self.lengths[place % len(self.lengths)]


class Suite(_Strict):
    """A question: methods x data sets x scenarios x folds x seeds.

    Args:
        name: Name of the folder under results.
        about: One line for `mmbench list suites`.
        data: Data sets.
        methods: Methods.
        scenarios: Names of `configs/scenario/*.yaml`, or scenarios written out.
        seeds: How many (0, 1, ...) or which.
        folds: How many (0, 1, ...) or which partitions of each data set that does not say itself.
        encoders: How modalities are encoded, the same for every method: a modality, or a kind for
            all modalities of it -> fields of `EncoderSpec` or a backbone; `dropout` for all.
        trainer: How to train.
        select: Which epoch to keep.
        tune: How settings are searched before they are compared; None = those of the constructors.
        limit: At most this many samples a split; for smoke tests.
        keep_weights: Whether each run keeps its selected weights.
        costs: Modality -> what acquiring it costs, > 0, in any unit; the report draws scores over
            what is spent. It belongs to no run.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$", max_length=100)]
    about: str = ""
    data: Annotated[list[DataEntry], Field(min_length=1)]
    methods: Annotated[list[Entry], Field(min_length=1)]
    scenarios: Annotated[list[str | dict[str, JSON]], Field(min_length=1)]
    seeds: Annotated[list[Seed], Field(min_length=1)]
    folds: Annotated[list[Number], Field(min_length=1)] = [0]
    encoders: dict[str, JSON] = {}
    trainer: TrainerSpec = TrainerSpec()
    select: Select = Select()
    tune: Tune | None = None
    limit: Positive | None = None
    keep_weights: bool = False
    costs: dict[str, Annotated[float, Field(strict=True, gt=0, le=1e9)]] = {}

    @model_validator(mode="before")
    @classmethod
    def _counts(cls, value: Any) -> Any:
        if isinstance(value, dict):
            value = _counted(_counted(value, "seeds"), "folds")
            for key in ("data", "methods", "scenarios"):
                if isinstance(value.get(key), str | dict):
                    value[key] = [value[key]]
        return value


def _counted(mapping: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A number under a key, written out as the numbers below it."""
    count = mapping.get(key)
    if isinstance(count, int) and not isinstance(count, bool):
        if count < 1:
            raise ValueError(f"{key}: N asks for N of them, at least 1, found {count}")
        if count > MOST:
            raise ValueError(
                f"{key}: N asks for the {key} 0 to N - 1, and this N is above {MOST}; for the one "
                f"of that number write {key}=[N], for more than {MOST} write them all out"
            )
        return {**mapping, key: list(range(count))}
    return dict(mapping)


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """What makes a run that run, written out in full: a later edit elsewhere changes no old run.

    Args:
        method: Registered name or class path.
        data: Registered name or class path.
        content: Hash of what the data are made of, `DataModule.content`; empty if nobody looked.
        scenario: The scenario, written out.
        fold: Which partition of the data.
        seed: Initial weights and order of samples.
        method_args: Constructor arguments of the method.
        data_args: Constructor arguments of the data module.
        encoders: See `mmbench.data.task.with_encoders`.
        trainer_args: See `TrainerSpec`.
        select: See `Select`.
        limit: At most this many samples a split.
        keep_weights: Whether the selected weights are kept; no part of the key.
        method_label: Its name in tables; no part of the key.
        data_label: Its name in tables; no part of the key.
        length: How many times as long as `trainer_args` say it is trained, > 0, as a search
            chose; where it is 1, no part of the key.
        tuned: Trials from which its settings were chosen; no part of the key, which has them.
        protocol: Raised when the same words come to mean another run.
    """

    method: str
    data: str
    scenario: Mapping[str, JSON]
    content: str = ""
    fold: int = 0
    seed: int = 0
    method_args: Mapping[str, JSON] = field(default_factory=dict)
    data_args: Mapping[str, JSON] = field(default_factory=dict)
    encoders: Mapping[str, JSON] = field(default_factory=dict)
    trainer_args: Mapping[str, JSON] = field(default_factory=dict)
    select: Mapping[str, JSON] = field(default_factory=dict)
    limit: int | None = None
    keep_weights: bool = False
    method_label: str = ""
    data_label: str = ""
    length: float = 1.0
    tuned: int = 0
    protocol: int = PROTOCOL

    @cached_property
    def key(self) -> str:
        """Hash of everything that can change the result: no path, device, label or clock."""
        unsaid = ["keep_weights", "method_label", "data_label", "tuned"]
        if self.length == 1:
            unsaid.append("length")
        names = [each.name for each in fields(self) if each.name not in unsaid]
        settings = {name: getattr(self, name) for name in names}
        settings["trainer_args"] = {
            name: value for name, value in self.trainer_args.items() if name not in PLACEMENT
        }
        canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    @property
    def devices(self) -> int:
        """How many devices of one machine train it together."""
        return int(self.trainer_args.get("devices", 1))

    @property
    def scenario_name(self) -> str:
        """Name of the scenario."""
        return str(self.scenario["name"])

    @property
    def variant(self) -> str:
        """Which variant of the method: the paper's equations or the released code."""
        return str(self.method_args.get("variant", "paper"))

    @cached_property
    def folder(self) -> Path:
        """Where the run lies under `runs`."""
        parts = (self.data_label, self.scenario_name, self.method_label)
        return Path(*(_file_name(part) for part in parts), self.key)

    def epochs(self) -> int:
        """Epochs of a training that has no number of its own, at most."""
        return max(1, round(self.length * int(self.trainer_args["max_epochs"])))

    @property
    def title(self) -> str:
        """For people: method, data, scenario, fold and seed."""
        fold = f" fold {self.fold}" if self.fold else ""
        return (
            f"{self.method_label} / {self.data_label} / {self.scenario_name}{fold} seed {self.seed}"
        )

    def to_json(self) -> dict[str, JSON]:
        """As a JSON object; `from_json` is its inverse."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, JSON]) -> "RunSpec":
        """From what `to_json` gave."""
        return cls(**record)


def _file_name(label: str) -> str:
    """A label as one path component on any file system."""
    safe = re.sub(r"[^\w.+@=,-]+", "_", label).strip(".")
    return safe[:100] or "_"


def labels(entries: Sequence[Entry]) -> list[str]:
    """Names for tables: `name`, with its arguments where the name is used more than once.

    Raises:
        ValueError: If two entries would still be called the same.
    """
    names = [e.name if "/" in e.name else e.name.rpartition(".")[2] for e in entries]
    result = []
    for entry, name in zip(entries, names, strict=True):
        args = ",".join(f"{key}={value}" for key, value in sorted(entry.args.items()))
        plain = names.count(name) == 1 or not args
        result.append(entry.label or (name if plain else f"{name}({args})"))
    for label in result:
        if result.count(label) > 1:
            raise ValueError(f"two entries of the suite are called {label!r}; give one a label:")
    return result


def suites() -> dict[str, Path]:
    """Built-in suites by name."""
    return {file.stem: file for file in sorted(folder("benchmarks").glob("*.yaml"))}


def load_suite(where: str | Path | Mapping[str, JSON], overrides: Sequence[str] = ()) -> Suite:
    """Read a suite from a YAML file or by the name of a built-in one.

    Args:
        where: Path or name, or the suite itself as a mapping.
        overrides: Words such as `seeds=5`, `trainer.max_epochs=3`, `methods=[a,b]`.

    Raises:
        ValueError: If it does not exist, is no YAML, or holds an unknown key or a value of the
            wrong type; one line that says which.
    """
    if not isinstance(where, str | Path):
        return parse(Suite, load_config(where, overrides, kind="suite"), "the suite")
    path = suites().get(str(where), Path(where))
    if not path.is_file():
        raise ValueError(
            f"no suite named {str(where)!r}{suggest(str(where), list(suites()))}; "
            "`mmbench list suites` shows those that are built in; or give the path of a YAML file"
        )
    return parse(Suite, load_config(path, overrides, kind="suite"), str(path))


def parse(model: type[M], mapping: Any, where: str) -> M:
    """Check words against a model.

    Raises:
        ValueError: One line: where, what was found, what to do.
    """
    try:
        return model.model_validate(mapping)
    except ValidationError as error:
        raise ValueError(f"{where}: {_first_problem(model, error)}") from None


def _first_problem(model: type[BaseModel], error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    path = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        key, known = str(problem["loc"][-1]), _fields(model, problem["loc"][:-1])
        return f"unknown key {path!r}{suggest(key, known)}; known are {', '.join(known)}"
    if problem["type"] == "missing":
        return f"the key {path!r} is missing"
    if problem["type"] == "too_short":
        return f"{path} is empty; give at least one"
    if problem["type"] == "value_error":  # raised here, with the key's name in it
        said = str(problem["ctx"]["error"])
        return f"{path}.{said}" if path else said
    value = repr(problem["input"])
    value = value if len(value) < 60 else value[:57] + "..."
    return f"{path}: {problem['msg'][0].lower()}{problem['msg'][1:]}, found {value}"


def _fields(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Keys that the model at this place knows."""
    for part in loc:
        annotation = model.model_fields[part].annotation if isinstance(part, str) else None
        for inner in (annotation, *getattr(annotation, "__args__", ())):
            if inspect.isclass(inner) and issubclass(inner, BaseModel):
                model = inner
    return list(model.model_fields)


def bind(
    call: type, args: Mapping[str, JSON], given: Sequence[str], *, strict: bool = False
) -> dict[str, Any]:
    """Check arguments against a constructor's signature and convert them to its types.

    Args:
        call: A class.
        args: From a suite.
        given: Parameters that mmbench itself passes; a suite may not.
        strict: Whether a text that spells a number, or true in the place of 1, is refused.

    Raises:
        ValueError: If one is unknown, missing or of the wrong type.
    """
    name = getattr(call, "__name__", str(call))
    known = {
        parameter.name: (
            Any if parameter.annotation is parameter.empty else parameter.annotation,
            ... if parameter.default is parameter.empty else parameter.default,
        )
        for parameter in parameters(call)
        if parameter.name not in given
    }
    model: type[BaseModel] = create_model(  # type: ignore[call-overload]
        name,
        __config__=ConfigDict(
            extra="forbid", arbitrary_types_allowed=True, protected_namespaces=(), strict=strict
        ),
        **known,
    )
    bound = parse(model, dict(args), name)
    return {key: getattr(bound, key) for key in args}


def complete(call: type, args: Mapping[str, JSON], given: Sequence[str]) -> dict[str, Any]:
    """Arguments as `bind` converts them, and the constructor's defaults for all others."""
    return {
        each.name: each.default
        for each in parameters(call)
        if each.name not in given and each.default is not each.empty
    } | bind(call, args, given)


def parameters(cls: type) -> list[inspect.Parameter]:
    """A constructor's own parameters, then those of its bases as far as **kwargs passes them."""
    result: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        signature = list(inspect.signature(vars(base)["__init__"]).parameters.values())[1:]
        named = [p for p in signature if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
        result = {p.name: p for p in named} | result
        if len(named) == len(signature):
            break
    return list(result.values())
