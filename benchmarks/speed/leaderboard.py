"""How long 1,100,000 records take to become a leaderboard, against reading their files alone.

    python benchmarks/speed/leaderboard.py [SAMPLES]

5,000 runs x 20 conditions x 11 metrics, written to a temporary folder first; the leaderboard and
what missing modalities cost. Torch must not be imported on the way. With a number of test samples
p-values as well: from the predictions of all 100,000 (run, condition), and once more from what was
kept of that. Seconds are those of one core, whatever else the machine does.
"""

import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from mmbench.bench.leaderboard import leaderboard, robustness
from mmbench.bench.record import Run, read_records
from mmbench.bench.result import (
    FILE,
    SCHEMA,
    Asked,
    ConditionResult,
    Cost,
    Result,
    Selection,
)
from mmbench.bench.score_cache import ScoreCache
from mmbench.bench.spec import RunSpec
from mmbench.data.missingness.measure import Dependence, Realised
from mmbench.metrics.metric import metrics_for
from mmbench.store import write_arrays

METRICS = metrics_for("single_label")
RATES = [rate / 20 for rate in range(20)]
COST = Cost(
    params_total=1,
    params_trainable=1,
    flops_per_sample=1.0,
    train_s=1.0,
    eval_s=1.0,
    infer_ms_per_sample=1.0,
    infer_ms_std=0.0,
    peak_mib=1.0,
    energy_j=None,
    flops_per_pattern=None,
)
CLASSES, MADE = 10, 100  # different files of predictions, which all others link to


def write(folder: Path) -> list[Run]:
    """Made-up records of 10 data sets, 50 methods and 10 seeds."""
    runs = []
    for number in range(5000):
        data, method, seed = number // 500, number // 10 % 50, number % 10
        spec = RunSpec(
            method="zero_fill",
            data="mfeat",
            scenario={"name": "s"},
            seed=seed,
            method_label=f"method {method}",
            data_label=f"data {data}",
        )
        home = folder / str(number)
        home.mkdir()
        conditions = {
            f"mcar_{rate:g}" if rate else "complete": ConditionResult(
                mechanism="mcar",
                missing_rate_nominal=rate,
                realised=Realised(rate, rate, 0.0, rate, {}),
                dependence=Dependence(0.0, {}),
                n=100,
                samples="same",
                effective_n=100.0,
                scores=dict.fromkeys(METRICS, number * 7919 % 1000 / 1000 * (1 - rate)),
                bayes={},
                bayes_se={},
            )
            for rate in RATES
        }
        result = Result(
            schema=SCHEMA,
            task=Asked(kind="single_label", outputs=(), modalities=()),
            target_scale=None,
            selected=Selection(
                epoch=0, score=0.5, epochs=1, rising=False, metric="accuracy", on="val"
            ),
            stages=(),
            train=Realised(0.0, 0.0, 0.0, 0.0, {}),
            notes=(),
            conditions=conditions,
            cost=COST,
            code="0.1",
            sources={},
            distributions={},
            machine="one",
        )
        (home / FILE).write_text(json.dumps(asdict(result)))
        runs.append(Run(spec, home, "done"))
    return runs


def predict(runs: Sequence[Run], folder: Path, samples: int) -> None:
    """Give every run predictions of every condition, most of them links to a few files."""
    rng = np.random.default_rng(0)
    target = rng.integers(0, CLASSES, samples)
    for i in range(MADE):
        logits = rng.normal(size=(samples, CLASSES)) + 2 * np.eye(CLASSES)[target]
        write_arrays(folder / f"{i}.npz", {"logits": logits.astype(np.float32), "target": target})
    for number, run in enumerate(runs):
        (run.folder / "predictions").mkdir()
        for rate in RATES:
            name = f"mcar_{rate:g}" if rate else "complete"
            made = folder / f"{(number * 7 + int(20 * rate)) % MADE}.npz"
            os.link(made, run.folder / "predictions" / f"{name}.npz")


def timed(make: Callable[[], pd.DataFrame]) -> tuple[float, pd.DataFrame]:
    """Seconds of one core, and what was made."""
    began = time.process_time()
    made = make()
    return time.process_time() - began, made


def main() -> None:
    """Print a line for each question."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runs = write(folder)
        began = time.process_time()
        for run in runs:
            json.loads((run.folder / FILE).read_text())
        bare_s = time.process_time() - began
        read_s, records = timed(lambda: read_records(runs))
        board_s, board = timed(lambda: leaderboard(runs, records=records))
        robust_s, robust = timed(lambda: robustness(runs, records=records))
        assert "torch" not in sys.modules
        took_s = read_s + board_s + robust_s
        print(
            f"{len(records):,} records to {len(board):,} rows, {len(robust):,} over conditions: "
            f"{took_s:.1f} s (read {read_s:.1f}, table {board_s:.1f}, over conditions "
            f"{robust_s:.1f}), {took_s / bare_s:.1f} x reading the files alone; peak {peak():.2f} "
            "GiB",
            flush=True,
        )
        if len(sys.argv) > 1:
            predict(runs, folder, int(sys.argv[1]))
            for when in ("from all predictions", "from what was kept"):
                cache = ScoreCache(folder)

                def paired(cache: ScoreCache = cache) -> pd.DataFrame:
                    return leaderboard(runs, compare="macro_f1", records=records, score_cache=cache)

                paired_s, board = timed(paired)
                cache.write()
                known = int(board["p_vs_best"].notna().sum())
                print(
                    f"{known:,} p-values {when}, {sys.argv[1]} samples: {paired_s - board_s:+.1f} "
                    f"s; peak {peak():.2f} GiB",
                    flush=True,
                )


def peak() -> float:
    """Largest memory so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
