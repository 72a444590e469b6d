"""How long 1,000,000 records take to become a leaderboard, against reading their files alone.

5,000 runs x 20 conditions x 10 metrics, written to a temporary folder first. Torch must not be
imported on the way.
"""

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

from mmbench.bench.leaderboard import leaderboard
from mmbench.bench.record import Run
from mmbench.bench.spec import RunSpec
from mmbench.metrics.metric import metrics_for

METRICS = (*metrics_for("single_label"), "accuracy_ipw")[:10]
COST = dict.fromkeys(
    ("params_total", "params_trainable", "flops_per_sample", "train_s", "infer_ms_per_sample",
     "peak_mib"),
    1.0,
)  # fmt: skip


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
        condition = {
            "mechanism": "mcar",
            "missing_rate_nominal": 0.1,
            "realised": {"missing_rate": 0.1, "incomplete_rate": 0.2},
            "scores": dict.fromkeys(METRICS, number * 7919 % 1000 / 1000),
            "bayes": {},
            "bayes_se": {},
            "effective_n": 100.0,
            "n": 100,
        }
        words = {
            "task": {"kind": "single_label"},
            "conditions": {f"condition {c}": condition for c in range(20)},
            "cost": COST,
            "code": "0.1",
        }
        (home / "metrics.json").write_text(json.dumps(words))
        runs.append(Run(spec, home, "done"))
    return runs


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        made = write(Path(name))
        began = time.perf_counter()
        for run in made:
            json.loads((run.folder / "metrics.json").read_text())
        bare_s = time.perf_counter() - began
        began = time.perf_counter()
        board = leaderboard(made)
        took_s = time.perf_counter() - began
    assert "torch" not in sys.modules
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    records = len(made) * 20 * len(METRICS)
    print(
        f"{records:,} records to {len(board):,} rows: {took_s:.1f} s, "
        f"{took_s / bare_s:.1f} x reading the files alone; peak {peak_gib:.2f} GiB"
    )
