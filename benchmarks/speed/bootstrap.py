"""How long the paired bootstrap of a large table takes, against a loop that repeats rows.

    python benchmarks/speed/bootstrap.py [METRIC ...]

50 methods, 10,000 samples, 1,000 resamples, 10 outputs; one run each, every metric of every kind
of task. The loop is timed for one method and few resamples and scaled up; both compute the same
numbers, which is checked. Seconds are those of one core, whatever else the machine does. The aim:
no metric takes longer than 30 s on two cores.
"""

import resource
import sys
from time import process_time

import numpy as np
from numpy.typing import NDArray

from mmbench.bench.statistics import bootstrap
from mmbench.data.task import TaskKind
from mmbench.metrics.metric import metrics_for, score

METHODS, SAMPLES, RESAMPLES, OUTPUTS = 50, 10_000, 1_000, 10
LOOPED = 10  # resamples of one method that the loop is timed on
KINDS: tuple[TaskKind, ...] = ("single_label", "multi_label", "regression")


def main() -> None:
    """Print one line for each metric."""
    drawn = np.random.default_rng(0).integers(0, SAMPLES, (LOOPED, SAMPLES))
    print(f"{METHODS} methods x {SAMPLES} samples x {RESAMPLES} resamples, {OUTPUTS} outputs")
    for kind in KINDS:
        runs, target = made_up(kind)
        held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for metric in metrics_for(kind):
            if metric not in (sys.argv[1:] or metrics_for(kind)):
                continue
            start = process_time()
            scores = bootstrap(metric, runs, target, kind, resamples=RESAMPLES)
            core_s = process_time() - start
            start = process_time()
            loop = [score(metric, runs[0][0][rows], target[rows], kind) for rows in drawn]
            loop_s = (process_time() - start) / LOOPED * RESAMPLES * METHODS
            np.testing.assert_allclose(scores[0, :LOOPED], loop)
            extra_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held) / 1024
            print(
                f"{kind:12s} {metric:17s} {core_s:5.1f} s   a loop {loop_s:7.1f} s   "
                f"{loop_s / core_s:5.1f} times faster   +{extra_mib:.0f} MiB",
                flush=True,
            )


def made_up(kind: TaskKind) -> tuple[list[list[NDArray[np.float32]]], NDArray[np.generic]]:
    """Predictions of methods that are right more often than not, and the targets."""
    rng = np.random.default_rng(0)
    target: NDArray[np.generic]
    if kind == "single_label":
        target = rng.integers(0, OUTPUTS, SAMPLES)
        right = np.eye(OUTPUTS)[target]
    else:
        right = rng.normal(size=(SAMPLES, OUTPUTS))
        right = (right > 1).astype(float) if kind == "multi_label" else right
        target = right
    shape = (SAMPLES, OUTPUTS)
    runs = [[(rng.normal(size=shape) + right).astype(np.float32)] for _ in range(METHODS)]
    return runs, target


if __name__ == "__main__":
    main()
