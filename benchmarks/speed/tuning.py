"""What a search of settings costs beside the trainings that it causes, and how long that was said.

    python benchmarks/speed/tuning.py [TRIALS, 12]

Two methods of three on mfeat are searched, all in this process, on one core:

1. Overhead: processor seconds of planning, looking up and drawing, as a share of those of the
   trials (limit 3 %). What any sweep does before its first run is counted apart.
2. Estimate: what `mmbench plan --measure` expects after one run of each method, beside what the
   runs then take (limit: a third).
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from mmbench import Sweep
from mmbench.bench.record import Outcome, Run, find_run, seconds_of
from mmbench.bench.run.run import run

SUITE: dict[str, Any] = {
    "name": "searched",
    "data": ["mfeat"],
    "methods": [
        "late_logistic",
        {"name": "zero_fill", "args": {"dim": 32}},
        {"name": "late_fusion_transformer", "args": {"dim": 32}},
    ],
    "scenarios": [
        {
            "name": "mcar30",
            "train": {"mechanism": "mcar", "missing_rate": 0.3},
            "test": {"mechanism": "mcar", "missing_rate": [0.0, 0.3]},
        }
    ],
    "seeds": 2,
    "trainer": {"max_epochs": 10, "patience": 5},
    "tune": {"trials": 12, "lengths": [1, 0.5, 2, 0.5]},
}


def runs_of(sweep: Sweep) -> list[Run]:
    """All runs that are known, trials too."""
    return [find_run(spec, sweep.runs_folder) for spec in sweep.known]


def carried_out(todo: list[Run], sweep: Sweep) -> float:
    """Processor seconds of some runs."""
    began = time.process_time()
    for each in todo:
        outcome: Outcome = run(each.spec, sweep.runs_folder, Path("no-data"))
        assert outcome.state == "done", outcome.why
    return time.process_time() - began


def main(trials: int) -> None:
    """Print a line for each figure."""
    SUITE["tune"]["trials"] = trials
    with tempfile.TemporaryDirectory(dir=".") as name:
        sweep = Sweep(SUITE, results=name)
        carried_out(sweep.unmeasured(), sweep)
        began = time.process_time()
        sweep.plan()
        before_s = time.process_time() - began
        expected = sweep.expected()
        seconds = float((expected["runs"] * expected["seconds"]).sum())
        known = {each.spec.key for each in runs_of(sweep) if each.state == "done"}
        began, trained_s = time.process_time(), 0.0
        for todo in sweep.rounds():
            trained_s += carried_out(todo, sweep)
        spent_s = time.process_time() - began - trained_s
        runs = runs_of(sweep)
        took = sum(seconds_of(each) for each in runs if each.spec.key not in known)
        print(
            f"search of {trials} trials: {spent_s:.2f} s of one core beside {trained_s:.1f} s of "
            f"training, {100 * (spent_s - before_s) / trained_s:.1f} % (limit 3); "
            f"{before_s:.2f} s of that before any sweep"
        )
        print(
            f"expected {seconds:.1f} s for {expected['runs'].sum()} runs, took {took:.1f} s for "
            f"{len(runs) - len(known)}: {seconds / took:.2f} of it (limit .67 to 1.33)"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 12)
