"""Train one method once and evaluate it under every test condition.

`run` is the only function that trains. Methods, data, scores and records meet here.
"""

import gc
import shutil
import time
import traceback
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from mmbench.bench.record import SCHEMA, SMALL, STATES, Outcome, find, finish
from mmbench.bench.run.build import bound_method, build_data, encoded_task, reason_to_skip
from mmbench.bench.run.cost import cost
from mmbench.bench.run.diagnostics import told
from mmbench.bench.run.evaluation import evaluate, write_predictions
from mmbench.bench.run.failures import classify
from mmbench.bench.run.log import log_to
from mmbench.bench.run.notes import notes
from mmbench.bench.run.provenance import environment, provenance
from mmbench.bench.run.scoring import score_conditions
from mmbench.bench.run.selection import require_defined
from mmbench.bench.run.threads import threads
from mmbench.bench.run.training import STAGES, seed_everything, train
from mmbench.bench.spec import RunSpec
from mmbench.data.missingness import realised
from mmbench.method import Method
from mmbench.store import (
    attempt,
    claim,
    heartbeat,
    identity,
    publish,
    write_arrays,
    write_json,
)


def run(
    spec: RunSpec, runs: Path, root: Path, *, overwrite: bool = False, wait: bool = False
) -> Outcome:
    """Train, evaluate and record; whatever goes wrong ends in the record, not in the caller.

    All is written into a private folder, which is published whole, whatever the end.

    Args:
        spec: What to run.
        runs: Folder of all runs of the suite.
        root: Folder of the user's data.
        overwrite: Whether a run that is already done is repeated.
        wait: Whether somebody else's claim is waited for until it shows whether it is alive.

    Returns:
        How it ended.
    """
    began = time.perf_counter()
    target = runs / spec.folder
    replaced, beat = identity(target), heartbeat(target)

    def is_done() -> bool:
        changed = not overwrite or identity(target) != replaced
        return changed and find(spec, runs, read_up_to=SMALL).state in ("done", "skipped")

    def is_decided() -> bool:
        return is_done() or heartbeat(target) != beat

    with claim(target, until=is_decided if wait else None) as ours:
        if is_done():
            return Outcome("done")
        if not ours:
            return Outcome("elsewhere", "another process is at it")
        replaced = identity(target)  # failed or damaged, or to be repeated
        stages = target.parents[len(spec.folder.parts) - 1] / STAGES / spec.key
        if overwrite:
            shutil.rmtree(stages, ignore_errors=True)
        with attempt(target) as folder:
            end, outcome = _carry_out(spec, folder, root, began)
            if end is None or not publish(folder, target, instead_of=replaced):
                return replace(outcome, state=find(spec, runs).state)  # another was quicker
        if outcome.state == "done":
            shutil.rmtree(stages, ignore_errors=True)
    return outcome


def _carry_out(spec: RunSpec, folder: Path, root: Path, began: float) -> tuple[str | None, Outcome]:
    """Fill a private folder; returns the name of its end mark, if it has one, and the outcome."""
    write_json(folder / "spec.json", spec.to_json())
    write_json(folder / "env.json", environment())
    end: str | None
    with log_to(folder / "log.txt"), threads(spec.trainer_args.get("threads", 1)):
        try:
            end, why, work_s = _train_and_evaluate(spec, folder, root)
            more = {"why": why} if why else {}
        except KeyboardInterrupt:
            raise  # the user ends the sweep
        except BaseException as error:  # a plugin may raise anything, and call sys.exit
            traceback.print_exc()
            end, why, work_s = "failed.json", classify(error), 0.0
            more = {"why": why, "traceback": traceback.format_exc()}
        finally:
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
    if end is not None:
        finish(folder, end, more)
    return end, Outcome(STATES[end or "done"], why, time.perf_counter() - began, work_s)


def _train_and_evaluate(spec: RunSpec, folder: Path, root: Path) -> tuple[str | None, str, float]:
    """Returns the end mark, why the method does not apply, and seconds of fit and evaluation.

    There is no end mark in a process that only helped another one to train.
    """
    cls, args = bound_method(spec)
    data = build_data(spec, root)
    if reason := reason_to_skip(cls, args, data):
        return "skipped.json", reason, 0.0
    task, train_split = encoded_task(spec, data), data.split("train")
    noted = notes(data)
    if cls.applies.trains and spec.select["on"] == "val":
        require_defined(data, spec.select["metric"])

    seed_everything(spec.seed)
    method: Method = cls(task, **args)
    training = train(spec, folder, data, method)
    if not training.writes_record:
        return None, "", 0.0

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
            "schema": SCHEMA,
            "task": {"kind": task.kind, "outputs": task.outputs, "modalities": task.names},
            "target_scale": None
            if scale is None
            else {k: v.tolist() for k, v in asdict(scale).items()},
            "selected": dict(spec.select) | training.selected,
            "stages": training.stages,
            "train": asdict(
                realised(train_split.presence, train_split.samples.presence, task.names)
            ),
            "notes": noted,
            "conditions": conditions,
            "cost": cost(method, data, training, eval_s, ms_per_sample),
            **provenance(cls, data, training.device),
        },
    )
    return "done", "", training.seconds + eval_s
