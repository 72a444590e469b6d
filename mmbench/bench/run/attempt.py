"""A run from its claim to its end mark: whatever goes wrong in between ends in the record."""

import gc
import shutil
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from mmbench.bench.record import SMALL, STAGES, STATES, Outcome, find_run, finish, may_heal
from mmbench.bench.run.failures import classify
from mmbench.bench.run.log import log_to
from mmbench.bench.run.provenance import environment
from mmbench.bench.run.threads import threads
from mmbench.bench.spec import RunSpec
from mmbench.config import JSON
from mmbench.store import (
    Claim,
    LostClaimError,
    attempt,
    claim,
    heartbeat,
    identity,
    publish,
    restore,
    write_json,
)


@dataclass(frozen=True)
class Ended:
    """How the steps of a run ended that raised nothing.

    Args:
        mark: Name of its end mark; None in a process that only helped another one to train.
        why: Why the method does not apply, if so.
        work_s: Seconds of fitting and evaluation.
    """

    mark: str | None
    why: str = ""
    work_s: float = 0.0


Steps = Callable[[Path, Claim], Ended]  # fill a private folder, as long as the claim is held


def publish_run(
    spec: RunSpec, runs: Path, steps: Steps, *, overwrite: bool, wait: bool, shared: int = 1
) -> Outcome:
    """Claim a run, carry it out in a private folder, and publish that whole, whatever the end.

    Args:
        spec: What to run.
        runs: Folder of all runs of the suite.
        steps: What to do.
        overwrite: Whether a run that is already done is repeated.
        wait: Whether somebody else's claim is waited for until it shows whether it is alive.
        shared: How many runs share the GPU when this one begins, itself included.
    """
    began = time.perf_counter()
    target = runs / spec.folder
    restore(target)
    replaced, beat = identity(target), heartbeat(target)

    def is_done() -> bool:
        changed = not overwrite or identity(target) != replaced
        return changed and find_run(spec, runs, read_up_to=SMALL).state in ("done", "skipped")

    def is_decided() -> bool:
        return is_done() or heartbeat(target) != beat

    with claim(target, until=is_decided if wait else None) as held:
        if is_done():
            return Outcome("done")
        if not held.ours:
            return Outcome("elsewhere", "another process is at it")
        replaced = identity(target)  # failed or damaged, or to be repeated
        stages = target.parents[len(spec.folder.parts) - 1] / STAGES / spec.key
        if overwrite:
            shutil.rmtree(stages, ignore_errors=True)
        with attempt(target) as folder:
            try:
                tried = find_run(spec, runs).again
                write_json(folder / "env.json", environment() | {"runs_on_gpu": shared})
                mark, outcome = _carry_out(spec, folder, steps, held, began, tried=tried)
            except LostClaimError as error:
                return Outcome("elsewhere", str(error), time.perf_counter() - began)
            if mark is None or not publish(folder, target, instead_of=replaced):
                return replace(outcome, state=find_run(spec, runs).state)  # another was quicker
        if outcome.state == "done":
            shutil.rmtree(stages, ignore_errors=True)
    return outcome


def _carry_out(
    spec: RunSpec, folder: Path, steps: Steps, held: Claim, began: float, *, tried: bool
) -> tuple[str | None, Outcome]:
    """Fill a private folder; returns the name of its end mark, if it has one, and the outcome."""
    write_json(folder / "spec.json", spec.to_json())
    with log_to(folder / "log.txt"), threads(spec.trainer_args.get("threads", 1)):
        try:
            ended = steps(folder, held)
            wall_s = round(time.perf_counter() - began, 3)
            more: dict[str, JSON] = {"why": ended.why} if ended.why else {"wall_s": wall_s}
        except (KeyboardInterrupt, LostClaimError):
            raise  # the user ends the sweep, or another goes on with the run
        except BaseException as error:  # a plugin may raise anything, and call sys.exit
            traceback.print_exc()
            ended = Ended("failed.json", classify(error))
            again = may_heal(ended.why) and not tried
            more = {"why": ended.why, "again": again, "traceback": traceback.format_exc()}
        finally:
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
    if ended.mark is not None:
        finish(folder, ended.mark, more)
    state = STATES[ended.mark or "done"]
    return ended.mark, Outcome(state, ended.why, time.perf_counter() - began, ended.work_s)
