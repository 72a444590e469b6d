"""What keeping runs safe costs, each figure beside its limit.

    python benchmarks/speed/store.py [RUNS]

1. Plan and scan of so many finished runs (100,000), made as folders with an end mark and a record;
   seconds of one core, whatever else the machine does. Torch must not be imported on the way.
2. Fixed cost of a warm run: the median of what one takes beyond fitting and evaluation, in one
   process that has run one before; and beside it what the disk takes to flush a run's files.
3. What a checkpoint costs: the share of a training that writes one a minute, as by default.
"""

import gc
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

from mmbench.bench.plan import plan
from mmbench.bench.record import find
from mmbench.bench.spec import RunSpec, Suite, parse
from mmbench.store import checksums

SCENARIO = {
    "name": "mcar30",
    "train": {"mechanism": "mcar", "missing_rate": 0.3},
    "test": {"mechanism": "mcar", "missing_rate": [0.0, 0.3]},
}
REPEATS = 15


def many(runs: int) -> Suite:
    """A suite of about so many runs: 50 methods, 20 folds, the rest seeds."""
    methods = [{"name": "zero_fill", "label": f"method {k}"} for k in range(50)]
    words = {
        "name": "many",
        "data": [{"name": "mfeat", "folds": list(range(20))}],
        "methods": methods,
        "scenarios": [SCENARIO],
        "seeds": max(1, runs // 1000),
    }
    return parse(Suite, words, "suite")


def fill(specs: list[RunSpec], runs: Path) -> None:
    """Make each a finished run of four files, which all link to the same content."""
    template = runs.parent / "template"
    template.mkdir()
    for name in ("spec.json", "env.json", "log.txt", "metrics.json"):
        (template / name).write_text("{}")
    (template / "done").write_text(json.dumps({"files": checksums(template)}))
    for spec in specs:
        folder = runs / spec.folder
        folder.mkdir(parents=True)
        for file in template.iterdir():
            os.link(file, folder / file.name)


def scan(runs: int) -> None:
    """Print how long planning and looking up takes."""
    with tempfile.TemporaryDirectory() as name:
        home = Path(name) / "runs"
        suite = many(runs)
        fill(plan(suite), home)
        began = time.process_time()
        specs = plan(suite)
        planned_s = time.process_time() - began
        states = {find(spec, home).state for spec in specs}
        took_s = time.process_time() - began
        assert states == {"done"}
        assert "torch" not in sys.modules
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        share = 100_000 / len(specs)
        print(
            f"plan and scan of {len(specs):,} finished runs: {took_s:.1f} s (plan "
            f"{planned_s:.1f} s), {took_s * share:.1f} s for 100,000 (limit 15); peak "
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
