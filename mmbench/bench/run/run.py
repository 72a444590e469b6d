"""Train one method once and evaluate it under every test condition.

`run` is the only function that trains. Methods, data, scores and records meet here.
"""

import time
from dataclasses import asdict
from functools import partial
from pathlib import Path

from safetensors.torch import save_file

from mmbench.bench.record import Outcome
from mmbench.bench.result import SCHEMA, Asked, Result, Scale, Selection, write_result
from mmbench.bench.run.attempt import Ended, publish_run
from mmbench.bench.run.build import bound_method, build_data, encoded_task, reason_to_skip
from mmbench.bench.run.cost import cost
from mmbench.bench.run.diagnostics import diagnostics
from mmbench.bench.run.evaluation import (
    calibrations,
    evaluate,
    predict_unlabelled,
    write_predictions,
)
from mmbench.bench.run.meters import forget_peak, metered
from mmbench.bench.run.notes import notes
from mmbench.bench.run.provenance import provenance
from mmbench.bench.run.scoring import score_conditions
from mmbench.bench.run.selection import require_defined
from mmbench.bench.run.together import together
from mmbench.bench.run.training import seed_everything, train
from mmbench.bench.spec import RunSpec
from mmbench.data.missingness.measure import realised
from mmbench.data.scale import TargetScale
from mmbench.data.survival import SurvivalScale
from mmbench.diagnostics import write_diagnostics
from mmbench.method import Method
from mmbench.store import Claim


def run(
    spec: RunSpec,
    runs: Path,
    root: Path,
    *,
    overwrite: bool = False,
    wait: bool = False,
    shared: int = 1,
) -> Outcome:
    """Train, evaluate and record; whatever goes wrong ends in the record, not in the caller.

    Args:
        spec: What to run.
        runs: Folder of all runs of the suite.
        root: Folder of the user's data.
        overwrite: Whether a run that is already done is repeated.
        wait: Whether somebody else's claim is waited for until it shows whether it is alive.
        shared: How many runs share the GPU when this one begins, itself included; for the record.

    Returns:
        How it ended.
    """
    steps = partial(_on_its_devices, spec, root)
    return publish_run(spec, runs, steps, overwrite=overwrite, wait=wait, shared=shared)


def _on_its_devices(spec: RunSpec, root: Path, folder: Path, held: Claim) -> Ended:
    """Fill the private folder of a run, here or in as many processes as it has devices."""
    steps = partial(_train_and_evaluate, spec, root)
    if spec.devices > 1 and bound_method(spec)[0].applies.trains:
        threads = spec.trainer_args.get("threads", 1)
        return together(steps, spec.devices, folder, held, threads=threads)
    return steps(folder, held)


def _train_and_evaluate(spec: RunSpec, root: Path, folder: Path, held: Claim) -> Ended:
    """Fill the private folder of a run, step by step."""
    forget_peak()
    cls, args = bound_method(spec)
    data = build_data(spec, root)
    if reason := reason_to_skip(cls, args, data):
        return Ended("skipped.json", reason)
    train_split = data.split("train")  # first: then the task says how pixels were scaled
    task = encoded_task(spec, data)
    noted = notes(data)
    if cls.applies.trains and spec.select["on"] == "val":
        require_defined(data, spec.select["metric"])

    seed_everything(spec.seed)
    method: Method = cls(task, **args)
    training = train(spec, folder, data, method, held)
    if not training.writes_record:
        return Ended(None)

    began = time.perf_counter()
    ms_per_sample: list[float] = []
    logits = evaluate(method, data, training.device, ms_per_sample, held)
    eval_s = time.perf_counter() - began
    # of the evaluation alone: another one begins anew
    if content := metered("diagnostics", lambda: diagnostics(method, data, training.device)):
        write_diagnostics(folder / "diagnostics.npz", content)
    unlabelled = predict_unlabelled(method, data, training.device)
    calibration = calibrations(method, data, training.device, held)
    write_predictions(folder, data, logits, unlabelled, calibration)
    conditions = score_conditions(spec, root, data, logits, calibration)
    if spec.keep_weights:
        weights = {k: v.detach().cpu().contiguous() for k, v in method.state_dict().items()}
        save_file(weights, folder / "weights.safetensors")
    result = Result(
        schema=SCHEMA,
        task=Asked(kind=task.kind, outputs=task.outputs, modalities=task.names),
        target_scale=_scale(data.target_scale),
        selected=Selection(**asdict(training.selected), **spec.select),
        stages=tuple(training.stages),
        train=realised(train_split.presence, train_split.samples.presence, task.names),
        notes=tuple(noted),
        conditions=conditions,
        cost=cost(method, data, training, eval_s, ms_per_sample),
        **asdict(provenance(cls, data, training.device)),
    )
    write_result(folder, result)
    return Ended("done", "", training.seconds + eval_s)


def _scale(scale: TargetScale | SurvivalScale | None) -> Scale | None:
    if not isinstance(scale, TargetScale):
        return None
    return Scale(mean=tuple(scale.mean.tolist()), std=tuple(scale.std.tolist()))
