"""What a run leaves on disk: files are the only state, published whole by `mmbench.store`.

runs/<data>/<scenario>/<method>/<key>/
    spec.json      what was asked, written first
    env.json       versions, commit, machine
    log.txt        everything the run printed
    metrics.csv    training curve
    predictions/   <condition>.npz: logits (float32; of a regression, values in units, float64),
                   target, presence, sample_id, names of the outputs and, if the data have them, of
                   the ids; unlabelled.csv: what is predicted for samples without a label
    calibration.npz  the same of validation samples: logits (condition, sample, output), condition,
                   target; for classes
    diagnostics.npz  what the method wants to show, if anything
    metrics.json   scores, realised rates, costs, notes on the data, scale of regression targets
    weights.safetensors  if the suite keeps weights
    done | failed.json | skipped.json    how it ended, with the checksum of every file
"""

import hashlib
import json
import re
import signal
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mmbench.bench.result import ConditionResult, Result, read_result
from mmbench.bench.spec import RunSpec
from mmbench.config import JSON
from mmbench.data.files import read_npz
from mmbench.data.task import TaskKind
from mmbench.metrics.metric import Calibration, metrics_for, score
from mmbench.store import (
    attempt,
    checksums,
    damage,
    identity,
    is_claimed,
    moved_aside,
    publish,
    restore,
    write_json,
)

State = Literal["done", "failed", "skipped", "running", "broken", "waiting"]
STATES: dict[str, State] = {"done": "done", "failed.json": "failed", "skipped.json": "skipped"}
ENDS = tuple(STATES)  # names of the files that say how a run ended
STAGES = ".stages"  # beside the runs: finished stages of each run in flight
SHARED = ".shared"  # beside the runs: stages that several methods have in common
SMALL = 1 << 16  # bytes; files up to here are read back before a run counts as done
MEMORY = "; memory ran out"  # ends the reason of a kill where the kernel counted one
FORMULA = re.compile(r"^(?=[=+\-@\t\r])")  # what a spreadsheet would compute, as OWASP lists it
CALIBRATION = "calibration.npz"
RECORD_ALONE = "record_alone"  # in a finished run of which an archive kept no predictions
IPW = "_ipw"  # ends the name of a metric that weights samples by one over their propensity


def finish(folder: Path, end: str, note: Mapping[str, JSON] | None = None) -> None:
    """Mark how a run ended, with the checksum of every file so that a later loss is noticed."""
    write_json(folder / end, {"files": checksums(folder), **(note or {})})


def killed(number: int) -> str:
    """Why a run ended that a signal ended."""
    try:
        return f"killed: by signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"killed: by signal {number}"


def may_heal(why: str) -> bool:
    """Whether what ended a run may be gone the next time: it is tried once more then."""
    return why.startswith(("killed", "out of memory"))


def ran_out_of_memory(why: str) -> bool:
    """Whether a run is tried once more with nothing beside it."""
    return why.startswith("out of memory") or why.endswith(MEMORY)


def record_failure(spec: RunSpec, runs: Path, why: str) -> None:
    """Record that a run was ended from outside, with what its attempt left, its log above all.

    A run that is finished by now stays as it is.
    """
    target = runs / spec.folder
    restore(target)
    before = find_run(spec, runs)
    if before.state in ("done", "skipped"):
        return
    replaced = identity(target)
    with attempt(target, go_on=True) as part:
        if not (part / "spec.json").is_file():
            write_json(part / "spec.json", spec.to_json())
        finish(part, "failed.json", {"why": why, "again": may_heal(why) and not before.again})
        publish(part, target, instead_of=replaced)


@dataclass(frozen=True)
class Run:
    """A planned run and what was found of it.

    Args:
        spec: What was asked.
        folder: Where it lies; a name of its own while it waits to be replaced.
        state: `done`, `failed`, `skipped` (the method does not apply), `running` (somebody
            claims it), `broken` (files are missing or damaged: it will run again) or `waiting`.
        why: For failed, skipped and broken ones.
        again: Whether it failed of what may heal, for the first time: a worker tries it once more.
    """

    spec: RunSpec
    folder: Path
    state: State
    why: str = ""
    again: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a run ended, as a worker reports it.

    Args:
        state: `done`, `failed`, `skipped`, or `elsewhere` if another process claims it.
        why: One line for anything but `done`.
        wall_s: Seconds in `run`.
        work_s: Seconds of them in fitting and evaluation; the rest is fixed cost.
    """

    state: State | Literal["elsewhere"]
    why: str = ""
    wall_s: float = 0.0
    work_s: float = 0.0


def find_run(
    spec: RunSpec, runs: Path, *, read_up_to: int | None = 0, predictions: bool = True
) -> Run:
    """Look up one run.

    Args:
        spec: What was asked.
        runs: Folder of all runs of the suite.
        read_up_to: Files of at most so many bytes are read and compared with their checksums, all
            if None; of others the size has to do.
        predictions: Whether a finished run must have them. An archive keeps none of a trial of
            settings: as a run of the suite, that is made again.
    """
    target = runs / spec.folder
    while True:
        seen = identity(target)
        where = target if seen else moved_aside(target) or target
        run = _look(spec, where, read_up_to, predictions=predictions)
        if run.state in STATES.values() or identity(target) == seen:  # else replaced meanwhile
            return run


def _look(spec: RunSpec, folder: Path, read_up_to: int | None, *, predictions: bool) -> Run:
    if not folder.is_dir() and identity(folder) is not None:
        return Run(spec, folder, "broken", "a file or a link is in its place")
    if not folder.is_dir():
        return Run(spec, folder, "running" if is_claimed(folder) else "waiting")
    for end in ENDS:
        if (folder / end).is_file():
            if problem := damage(folder, end, read_up_to=read_up_to):
                return Run(spec, folder, "broken", problem)
            if end == "done" and predictions and (folder / RECORD_ALONE).is_file():
                return Run(spec, folder, "broken", "an archive keeps no predictions of a trial")
            if end == "done":
                return Run(spec, folder, "done")
            try:
                note = json.loads((folder / end).read_text(encoding="utf-8"))
            except FileNotFoundError:  # replaced at this moment
                break
            again = note.get("again") is True
            return Run(spec, folder, STATES[end], str(note.get("why", "")), again)
    return Run(spec, folder, "broken", "it does not say how it ended")


def seconds_of(run: Run) -> float:
    """Seconds that a finished run took, fixed costs included.

    At least those of fitting and evaluation: a run that was cut off once, or comes from an archive,
    knows no others.
    """
    mark = json.loads((run.folder / "done").read_text(encoding="utf-8"))
    return max(float(mark.get("wall_s", 0.0)), read_result(run.folder).cost.seconds)


def read_predictions(
    run: Run, condition: str, *, only: Sequence[str] | None = None
) -> dict[str, NDArray[Any]]:
    """Logits, presence, target and sample_id of one test condition, in order of the test split.

    Args:
        run: A finished run.
        condition: Name of a test condition.
        only: Names of the arrays that are read; None = all.
    """
    return read_npz(run.folder / "predictions" / f"{condition}.npz", only)


def read_scored(run: Run, condition: str) -> dict[str, NDArray[Any]]:
    """What scores are computed from: `logits`, `target` and, of survival, `train`."""
    survival = read_result(run.folder).task.kind == "survival"
    train = ("train",) if survival else ()
    return read_predictions(run, condition, only=("logits", "target", *train))


def read_calibration(run: Run, condition: str) -> Calibration | None:
    """Predictions of validation samples under a test condition; None if the run kept none."""
    file = run.folder / CALIBRATION
    if not file.is_file():
        return None
    arrays = read_npz(file, ("condition", "logits", "target"))
    place = arrays["condition"].tolist().index(condition)
    return Calibration(arrays["logits"][place], arrays["target"])


def is_bootstrapped(metric: str) -> bool:
    """Whether chance over test samples is that of drawing them anew, with nothing else to draw.

    It is not where weights, or a calibration, would have to be drawn as well.
    """
    kinds = get_args(TaskKind)
    calibrated = any(metric in metrics_for(kind, calibrated=True) for kind in kinds)
    return not metric.endswith(IPW) and not calibrated


def safe_csv(table: pd.DataFrame, *, digits: int) -> str:
    """A table as CSV in which a spreadsheet computes nothing that is meant as text."""
    plain = table.map(lambda cell: FORMULA.sub("'", cell) if isinstance(cell, str) else cell)
    plain.columns = pd.Index([FORMULA.sub("'", str(name)) for name in table.columns])
    return plain.to_csv(index=False, float_format=f"%.{digits}g", lineterminator="\n")


def samples_digest(sample_id: NDArray[Any], target: NDArray[Any], presence: NDArray[Any]) -> str:
    """Name of what a condition asked: runs whose names differ have nothing to compare."""
    digest = hashlib.sha256()
    for array, dtype in ((sample_id, np.int64), (target, np.float64), (presence, np.bool_)):
        digest.update(f"{array.shape}".encode())
        digest.update(np.ascontiguousarray(array, dtype=dtype).tobytes())
    return digest.hexdigest()[:16]


def read_records(runs: Iterable[Run]) -> pd.DataFrame:
    """Tidy table: one row for each finished run, test condition and metric.

    Scores that a run did not store yet, because their metric is newer than the run, are computed
    from its predictions; no training is repeated.

    Returns:
        What was run (data, scenario, condition, method, variant, fold, seed, protocol, code), how
        much was missing (mechanism, nominal and realised rates), what it cost, the `modalities`
        of the data (`audio+text`), and per metric its `value` (NaN where undefined), the samples
        that it rests on (`effective_n`), and the best possible value with its standard error,
        `bayes` and `bayes_se` (NaN where unknown); `validation` is the selected epoch's value on
        validation where as much was missing there (NaN elsewhere). Operations are those of the
        row's own pattern
        where they were counted for each. `sources` and `machine` name what made the run;
        `samples` names the test samples, targets and masks of the condition.
    """
    rows: list[dict[str, Any]] = []
    for run in runs:
        if run.state != "done":
            continue
        result = read_result(run.folder)
        spec = run.spec
        names = "+".join(result.task.modalities)
        cost = asdict(result.cost)
        flops = cost.pop("flops_per_pattern") or {}
        selected = result.selected
        lacks: Any = spec.scenario.get("val", spec.scenario["train"])
        common = {
            "data": spec.data_label,
            "scenario": spec.scenario_name,
            "method": spec.method_label,
            "variant": spec.variant,
            "fold": spec.fold,
            "seed": spec.seed,
            "protocol": spec.protocol,
            "code": result.code,
            "sources": sources_name(result.sources, result.distributions),
            "machine": result.machine,
            "modalities": names,
            "rising": selected.rising,
            **cost,
        }
        for name, condition in result.conditions.items():
            facts = {
                "condition": name,
                "mechanism": condition.mechanism,
                "missing_rate_nominal": condition.missing_rate_nominal,
                "missing_rate_realised": condition.realised.missing_rate,
                "incomplete_rate_realised": condition.realised.incomplete_rate,
                "inside_rate_realised": condition.inside_rate,
                "samples": condition.samples,
            }
            pattern = names if name == "complete" else name
            if condition.mechanism == "pattern" or name == "complete":
                facts["flops_per_sample"] = flops.get(pattern, result.cost.flops_per_sample)
            scores = condition.scores | _newer_scores(run, name, result, condition)
            alike = selected.on == "val" and (
                (lacks["mechanism"], lacks.get("missing_rate"))
                == (condition.mechanism, condition.missing_rate_nominal)
            )
            rows.extend(
                {
                    **common,
                    **facts,
                    "metric": metric,
                    "value": float("nan") if value is None else value,
                    "effective_n": condition.effective_n if metric.endswith(IPW) else condition.n,
                    "bayes": condition.bayes.get(metric),
                    "bayes_se": condition.bayes_se.get(metric),
                    "validation": (
                        selected.score if alike and metric == selected.metric else float("nan")
                    ),
                }
                for metric, value in scores.items()
            )
    return pd.DataFrame(rows)


def sources_name(sources: Mapping[str, str], distributions: Mapping[str, str]) -> str:
    """Short name of the sources and plugins that made a run, as a table has it."""
    text = json.dumps([sources, distributions], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _newer_scores(
    run: Run, name: str, result: Result, condition: ConditionResult
) -> dict[str, float]:
    kind = result.task.kind
    missing = [metric for metric in metrics_for(kind) if metric not in condition.scores]
    calibration = None
    later = [m for m in metrics_for(kind, calibrated=True) if m not in condition.scores]
    if later and (calibration := read_calibration(run, name)) is not None:
        missing += later
    if not missing:
        return {}
    predictions = read_scored(run, name)
    logits, target, train = predictions["logits"], predictions["target"], predictions.get("train")
    return {
        m: score(m, logits, target, kind, calibration=calibration, train=train) for m in missing
    }


def fingerprint(runs: Sequence[Run]) -> str:
    """Text that differs where a run was added or lost, began, ended or was repeated."""
    states = []
    for run in runs:
        end = run.folder / "metrics.json"
        ended = end.stat().st_mtime_ns if run.state == "done" else 0
        states.append((str(run.spec.folder), run.state, run.why, ended))
    return hashlib.sha256(json.dumps(states).encode()).hexdigest()[:16]


def count(runs: Sequence[Run]) -> dict[State, int]:
    """How many runs are in each state; states without a run are left out."""
    states = [run.state for run in runs]
    return {state: states.count(state) for state in sorted(set(states))}
