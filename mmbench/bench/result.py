"""What a finished run says of itself: `metrics.json`, written and read by the same classes."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from pydantic import TypeAdapter, ValidationError

from mmbench.data.missingness.measure import Dependence, Realised
from mmbench.data.task import TaskKind
from mmbench.store import write_json

SCHEMA: Final = 2  # raised when what the file holds is read in another way
FILE = "metrics.json"


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What made a run.

    Args:
        code: Version of mmbench, and the commit where git knows it; `+` = with changes to it.
        sources: Module -> hash, of all that method, data set and the steps of a run are made of.
        distributions: Distribution of a plugin -> its version.
        machine: What computed: numbers differ in their last bits from one to another.
    """

    code: str
    sources: dict[str, str]
    distributions: dict[str, str]
    machine: str


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The task that a method was given.

    Args:
        kind: `single_label`, `multi_label`, `regression` or `survival`.
        outputs: Names of classes, labels, target values or intervals.
        modalities: Their names, in order.
    """

    kind: TaskKind
    outputs: tuple[str, ...]
    modalities: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Shift and factor of the targets of a regression, as `mmbench.data.scale.TargetScale`.

    Args:
        mean: Of the training targets, in units, one an output.
        std: Their standard deviation.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Selected:
    """The epoch whose weights were kept.

    Args:
        epoch: Its number, from 0; None without training.
        score: On the validation split; None without training, or where it is no number.
        epochs: How many were trained.
        rising: Whether the validation curve still climbed where training ended.
    """

    epoch: int | None
    score: float | None
    epochs: int
    rising: bool


@dataclass(frozen=True, kw_only=True)
class Selection(Selected):
    """The epoch whose weights were kept, and by what.

    Args:
        metric: Name of the score on the validation split.
        on: `val` = the best epoch, `last` = the last one.
    """

    metric: str
    on: str


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """One stage of a training.

    Args:
        stage: Its name.
        selected: Which epoch was kept.
        train_s: Seconds of fitting.
        params_trainable: Parameters that learned.
        flops_per_sample: Operations of the loss of one sample; None where they are not counted.
        shared: Whether several methods have its weights in common.
    """

    stage: str
    selected: Selected
    train_s: float
    params_trainable: int
    flops_per_sample: float | None
    shared: bool


@dataclass(frozen=True, kw_only=True)
class ConditionResult:
    """How a method did under one test condition.

    Args:
        mechanism: What hid modalities.
        missing_rate_nominal: Asked share of entries; None for a fixed pattern.
        realised: What was hidden in fact.
        dependence: How much the mask tells of target and values.
        n: Test samples.
        samples: Name of its samples, targets and masks: `record.samples_digest`.
        effective_n: Samples that weighted scores rest on; None without weights.
        scores: Metric -> value; None where undefined.
        bayes: Metric -> the best possible value; empty where unknown.
        bayes_se: Metric -> its standard error.
        inside: Modality -> entries that went inside it where it is present, and entries in all;
            empty where nothing goes from inside, and in records of before that key.
    """

    mechanism: str
    missing_rate_nominal: float | None
    realised: Realised
    dependence: Dependence
    n: int
    samples: str
    effective_n: float | None
    scores: dict[str, float | None]
    bayes: dict[str, float | None]
    bayes_se: dict[str, float | None]
    inside: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def inside_rate(self) -> float:
        """Share of entries that went, of all modalities that something may go from; else NaN."""
        gone, total = np.sum([*self.inside.values(), (0, 0)], axis=0)
        return float(gone / total) if total else float("nan")


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a run cost.

    Args:
        params_total: Parameters.
        params_trainable: Those of them that learned in the last stage.
        flops_per_sample: Operations to predict a complete sample; None where they are not counted.
        train_s: Seconds of fitting.
        eval_s: Seconds of predicting the test split under all conditions.
        infer_ms_per_sample: Milliseconds to predict one sample under one condition.
        infer_ms_std: Standard deviation of that over batches.
        peak_mib: Largest memory during the run, in MiB: of the GPU if there is one, else of the
            process with all libraries.
        energy_j: Joules that the GPU drew; None where that is not metered.
        flops_per_pattern: Pattern -> operations to predict one sample, None where no test
            sample has any of it; None where they are not counted.
    """

    params_total: int
    params_trainable: int
    flops_per_sample: float | None
    train_s: float
    eval_s: float
    infer_ms_per_sample: float
    infer_ms_std: float
    peak_mib: float
    energy_j: float | None
    flops_per_pattern: dict[str, float | None] | None

    @property
    def seconds(self) -> float:
        """Of fitting and prediction."""
        return self.train_s + self.eval_s


@dataclass(frozen=True, kw_only=True)
class Result(Provenance):
    """All that a finished run says of itself.

    Args:
        schema: Of this file.
        task: What the method was given.
        target_scale: Of the targets of a regression, else None.
        selected: The epoch whose weights were evaluated.
        stages: Of the training, in order; empty for a method without training.
        train: How much of the training split was missing.
        notes: Doubtful things about the data.
        conditions: Name of a test condition -> what came of it.
        cost: What it took.
    """

    schema: Literal[2]
    task: Asked
    target_scale: Scale | None
    selected: Selection
    stages: tuple[StageResult, ...]
    train: Realised
    notes: tuple[str, ...]
    conditions: dict[str, ConditionResult]
    cost: Cost


_RESULT, _STAGE = TypeAdapter(Result), TypeAdapter(StageResult)


def write_result(folder: Path, result: Result) -> None:
    """Write the record of a run into its folder."""
    write_json(folder / FILE, asdict(result))


def read_result(folder: Path) -> Result:
    """Read the record of a finished run.

    Raises:
        ValueError: If the file is damaged, or of a version that wrote other records.
    """
    file = folder / FILE
    text = file.read_bytes()
    try:
        return _RESULT.validate_json(text, strict=True)
    except ValidationError as error:
        schema, code = _written_by(text)
        if schema == SCHEMA:
            raise _damaged(file, error) from error
    if schema is None and code is None:
        raise ValueError(f"{file} is damaged: it is no record of a run")
    raise ValueError(
        f"{file} was written by mmbench {code or 'of unknown version'} with records of schema "
        f"{schema or 'none'}, and this version reads schema {SCHEMA}: read it with that "
        "version, or repeat the run with --overwrite"
    )


def write_stage(file: Path, stage: StageResult) -> None:
    """Write what a record will say of a stage."""
    write_json(file, asdict(stage))


def read_stage(file: Path) -> StageResult:
    """Read what a record says of a stage.

    Raises:
        ValueError: If the file is damaged.
    """
    try:
        return _STAGE.validate_json(file.read_bytes(), strict=True)
    except ValidationError as error:
        raise _damaged(file, error) from error


def _damaged(file: Path, error: ValidationError) -> ValueError:
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return ValueError(f"{file} is damaged: {where + ': ' if where else ''}{first['msg']}")


def _written_by(text: bytes) -> tuple[Any, Any]:
    """Schema and code that a file names, each None if it does not."""
    try:
        record = json.loads(text)
    except ValueError:
        return None, None
    return (record.get("schema"), record.get("code")) if isinstance(record, dict) else (None, None)
