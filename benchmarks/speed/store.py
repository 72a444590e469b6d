"""What keeping runs safe costs, each figure beside its limit.

    python benchmarks/speed/store.py [RUNS]

1. Plan and scan of so many finished runs (100,000), and their status: folders whose files are links
   to those of one run that was made; seconds of one core, whatever else the machine does. Torch
   must not be imported on the way.
2. Fixed cost of a warm run: the median of what one takes beyond fitting and evaluation, in one
   process that has run one before; and beside it what the disk takes to flush a run's files.
3. What a checkpoint costs: the share of a training that writes one a minute, as by default.
"""

import gc
import multiprocessing
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from mmbench import Sweep
from mmbench.bench.plan import plan
from mmbench.bench.spec import RunSpec, Suite, parse

SCENARIO = {
    "name": "mcar30",
    "train": {"mechanism": "mcar", "missing_rate": 0.3},
    "test": {"mechanism": "mcar", "missing_rate": [0.0, 0.3]},
}
REPEATS = 15
MOST_LINKS = 20_000  # to one file; ext4 has 65,000


def many(runs: int) -> dict[str, Any]:
    """A suite of about so many runs: 50 methods, 20 folds, the rest seeds."""
    methods = [{"name": "majority", "label": f"method {k}"} for k in range(50)]
    return {
        "name": "many",
        "data": [{"name": "mfeat", "args": {"modalities": ["fou", "kar"]}, "folds": 20}],
        "methods": methods,
        "scenarios": [SCENARIO],
        "seeds": list(range(max(1, runs // 1000))),
        "select": {"metric": "accuracy"},
        "limit": 64,
    }


def made(suite: dict[str, Any], home: Path) -> Path:
    """One run of the suite, carried out by a process of its own, which imports torch."""
    context = multiprocessing.get_context("spawn")
    one = suite | {"methods": suite["methods"][:1], "seeds": 1}
    one["data"] = [suite["data"][0] | {"folds": 1}]
    process = context.Process(target=_run, args=(one, home))
    process.start()
    process.join()
    assert process.exitcode == 0
    [end] = home.rglob("done")
    return end.parent


def _run(suite: dict[str, Any], home: Path) -> None:
    from mmbench.bench.run.run import run

    for spec in plan(parse(Suite, suite, "suite")):
        assert run(spec, home, Path("no-data")).state == "done"


def fill(specs: list[RunSpec], runs: Path, template: Path) -> None:
    """Make each of them a finished run, whose files are links to those of one."""
    files = [str(file.relative_to(template)) for file in template.rglob("*") if file.is_file()]
    for number, spec in enumerate(specs):
        if number % MOST_LINKS == 0:
            copy = runs.parent / f"copy-{number}"
            shutil.copytree(template, copy)
        folder = runs / spec.folder
        (folder / "predictions").mkdir(parents=True)
        for name in files:
            os.link(copy / name, folder / name)


def scan(runs: int) -> None:
    """Print how long planning, looking up and status take."""
    with tempfile.TemporaryDirectory(dir=".") as name:
        suite = many(runs)
        template = made(suite, Path(name) / "one")
        fill(Sweep(suite, results=name).specs, Sweep(suite, results=name).runs_folder, template)
        began = time.process_time()
        sweep = Sweep(suite, results=name)
        planned_s = time.process_time() - began
        states = {run.state for run in sweep.runs()}
        scanned_s = time.process_time() - began
        assert states == {"done"}, states
        began = time.process_time()
        status = Sweep(suite, results=name).status()
        status_s = time.process_time() - began
        assert len(status) == len(sweep.specs)
        assert "torch" not in sys.modules
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        share = 100_000 / len(status)
        print(
            f"plan and scan of {len(status):,} finished runs: {scanned_s:.1f} s (plan "
            f"{planned_s:.1f} s), {scanned_s * share:.1f} s for 100,000 (limit 15); status "
            f"{status_s:.1f} s, {status_s * share:.1f} s for 100,000 (limit 15); peak "
            f"{peak:.2f} GiB (limit 1)",
            flush=True,
        )


def warm() -> None:
    """Print the fixed cost of a warm run, by what flushing takes of it."""
    from mmbench import store
    from mmbench.bench.run.run import run

    words = {
        "name": "warm",
        "data": [{"name": "mfeat", "args": {"modalities": ["fou", "kar"]}}],
        "methods": [{"name": "zero_fill", "args": {"dim": 8}}],
        "scenarios": [SCENARIO],
        "seeds": REPEATS + 1,
        "trainer": {"max_epochs": 1, "accelerator": "cpu"},
        "limit": 64,
    }
    flush, flushed = store._flush, []

    def timed(path: Path) -> None:
        began = time.perf_counter()
        flush(path)
        flushed[-1] += time.perf_counter() - began

    store._flush = timed
    fixed, busy = [], []
    with tempfile.TemporaryDirectory(dir=".") as name:
        for spec in plan(parse(Suite, words, "suite")):
            flushed.append(0.0)
            began_s = time.process_time()
            outcome = run(spec, Path(name), Path("no-data"))
            assert outcome.state == "done", outcome.why
            fixed.append(outcome.wall_s - outcome.work_s)
            busy.append(time.process_time() - began_s - outcome.work_s)
            gc.collect()
            gc.freeze()  # as a worker does once it is warm
    store._flush = flush
    print(
        f"fixed cost of a warm run: {statistics.median(fixed[1:]):.3f} s in the median of "
        f"{REPEATS} (limit 0.1), of which flushing to disk {statistics.median(flushed[1:]):.3f} s; "
        f"{statistics.median(busy[1:]):.3f} s of one core",
        flush=True,
    )


def checkpoints() -> None:
    """Print what one checkpoint a minute costs, from the same training with and without many."""
    from mmbench.bench.run.checkpoint import Checkpoints
    from mmbench.bench.run.run import run

    words = {
        "name": "long",
        "data": ["mfeat"],
        "methods": ["zero_fill"],
        "scenarios": [SCENARIO],
        "seeds": 1,
        "trainer": {"max_epochs": 30, "accelerator": "cpu", "checkpoint_minutes": 0},
    }
    made, whole = [], Checkpoints.on_train_epoch_start

    def timed(self: Checkpoints, *args: object) -> None:
        began = time.perf_counter()
        whole(self, *args)
        made.append(time.perf_counter() - began)

    Checkpoints.on_train_epoch_start = timed
    with tempfile.TemporaryDirectory(dir=".") as name:
        [spec] = plan(parse(Suite, words, "suite"))
        outcome = run(spec, Path(name), Path("no-data"))
        assert outcome.state == "done", outcome.why
    Checkpoints.on_train_epoch_start = whole
    each = statistics.median(made[1:])
    print(
        f"a checkpoint of zero_fill on mfeat: {1000 * each:.1f} ms; one a minute is "
        f"{100 * each / 60:.3f} % of a training (limit 3)",
        flush=True,
    )


def main() -> None:
    """Print a line for each figure."""
    scan(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
    warm()
    checkpoints()


if __name__ == "__main__":
    main()
