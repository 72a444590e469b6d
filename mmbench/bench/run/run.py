"""Train one method once and evaluate it under every test condition.

`run` is the only function that trains. Methods, data, scores and records meet here.
"""

import gc
import shutil
import time
import traceback
from dataclasses import asdict
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from safetensors.torch import save_file

from mmbench.bench.record import LOCK, Outcome, clear, find, finish, write_arrays, write_json
from mmbench.bench.run.build import bound_method, build_data, reason_to_skip
from mmbench.bench.run.cost import cost
from mmbench.bench.run.diagnostics import told
from mmbench.bench.run.evaluation import evaluate, write_predictions
from mmbench.bench.run.failures import classify
from mmbench.bench.run.log import log_to
from mmbench.bench.run.provenance import environment
from mmbench.bench.run.scoring import score_conditions
from mmbench.bench.run.selection import require_defined
from mmbench.bench.run.training import CURVES, STAGES, join_curves, seed_everything, train
from mmbench.bench.spec import RunSpec
from mmbench.data.missingness import realised
from mmbench.method import Method


def run(spec: RunSpec, runs: Path, root: Path, *, overwrite: bool = False) -> Outcome:
    """Train, evaluate and record; whatever goes wrong ends in the record, not in the caller.

    Args:
        spec: What to run.
        runs: Folder of all runs of the suite.
        root: Folder of the user's data.
        overwrite: Whether a run that is already done is repeated.

    Returns:
        How it ended.
    """
    began = time.perf_counter()
    folder = runs / spec.folder
    folder.mkdir(parents=True, exist_ok=True)
    try:
        # a second: `status` holds the lock for a moment when it looks whether somebody else does
        held = FileLock(folder / LOCK).acquire(timeout=1)
    except Timeout:
        return Outcome("elsewhere", "another process is at it")
    with held:
        if not overwrite and find(spec, runs).state in ("done", "skipped"):
            return Outcome("done")
        clear(folder, keep=() if overwrite else (STAGES, CURVES))
        write_json(folder / "spec.json", spec.to_json())
        write_json(folder / "env.json", environment())
        with log_to(folder / "log.txt"):
            try:
                skipped, work_s = _train_and_evaluate(spec, folder, root)
            except Exception as error:
                traceback.print_exc()
                why = classify(error)
                finish(folder, "failed.json", {"why": why, "traceback": traceback.format_exc()})
                return Outcome("failed", why, time.perf_counter() - began)
            finally:
                gc.collect()
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
        if skipped:
            finish(folder, "skipped.json", {"why": skipped})
            return Outcome("skipped", skipped, time.perf_counter() - began)
        finish(folder, "done")
    return Outcome("done", "", time.perf_counter() - began, work_s)


def _train_and_evaluate(spec: RunSpec, folder: Path, root: Path) -> tuple[str | None, float]:
    """Returns why the method does not apply, if so, and the seconds of fit and evaluation."""
    cls, args = bound_method(spec)
    data = build_data(spec, root)
    if reason := reason_to_skip(cls, data):
        return reason, 0.0
    task, train_split = data.task, data.split("train")
    if cls.applies.trains and spec.select["on"] == "val":
        require_defined(data, spec.select["metric"])

    seed_everything(spec.seed)
    method: Method = cls(task, **args)
    method.prepare(data.batches("train"))
    training = train(spec, folder, data, method)
    if not training.writes_record:
        return None, 0.0

    began = time.perf_counter()
    ms_per_sample: list[float] = []
    logits = evaluate(method, data, training.device, ms_per_sample)
    eval_s = time.perf_counter() - began
    write_predictions(folder, data, logits)
    conditions = score_conditions(spec, root, data, logits)
    if shown := method.diagnostics():
        write_arrays(folder / "diagnostics.npz", told(shown, data))
    if spec.keep_weights:
        kept = {k: v.detach().cpu().contiguous() for k, v in method.state_dict().items()}
        save_file(kept, folder / "weights.safetensors")
    scale = data.target_scale
    write_json(
        folder / "metrics.json",
        {
            "task": {"kind": task.kind, "outputs": task.outputs, "modalities": task.names},
            "target_scale": None
            if scale is None
            else {k: v.tolist() for k, v in asdict(scale).items()},
            "selected": dict(spec.select) | training.selected,
            "stages": training.stages,
            "train": asdict(
                realised(train_split.presence, train_split.samples.presence, task.names)
            ),
            "conditions": conditions,
            "cost": cost(method, data, training, eval_s, ms_per_sample),
            "code": environment()["code"],
        },
    )
    join_curves(folder, [stage["stage"] for stage in training.stages])
    shutil.rmtree(folder / STAGES, ignore_errors=True)
    return None, training.seconds + eval_s
