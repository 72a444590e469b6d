"""How long the paired bootstrap of a large table takes, against a loop that repeats rows.

    python benchmarks/speed/bootstrap.py [METRIC ...]

50 methods, 10,000 samples, 1,000 resamples, 10 classes; one run each. The loop is timed for one
method and few resamples and scaled up; both compute the same numbers, which is checked.
"""

import resource
import sys
from time import perf_counter

import numpy as np

from mmbench.bench.statistics import bootstrap
from mmbench.metrics.metric import score

METHODS, SAMPLES, RESAMPLES, CLASSES = 50, 10_000, 1_000, 10
LOOPED = 10  # resamples of one method that the loop is timed on


def main() -> None:
    """Print one line for each metric."""
    rng = np.random.default_rng(0)
    target = rng.integers(0, CLASSES, SAMPLES)
    runs = [
        [(rng.normal(size=(SAMPLES, CLASSES)) + np.eye(CLASSES)[target]).astype(np.float32)]
        for _ in range(METHODS)
    ]
    drawn = np.random.default_rng(0).integers(0, SAMPLES, (LOOPED, SAMPLES))
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{METHODS} methods x {SAMPLES} samples x {RESAMPLES} resamples, {CLASSES} classes")
    for metric in sys.argv[1:] or ("accuracy", "macro_f1", "log_loss", "ece", "auroc", "auprc"):
        start = perf_counter()
        found = bootstrap(metric, runs, target, "single_label", resamples=RESAMPLES)
        wall_s = perf_counter() - start
        start = perf_counter()
        loop = [score(metric, runs[0][0][rows], target[rows], "single_label") for rows in drawn]
        loop_s = (perf_counter() - start) / LOOPED * RESAMPLES * METHODS
        np.testing.assert_allclose(found[0, :LOOPED], loop)
        extra_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held) / 1024
        print(
            f"{metric:12s} {wall_s:6.1f} s   a loop {loop_s:7.1f} s   "
            f"{loop_s / wall_s:5.1f} times faster   +{extra_mib:.0f} MiB",
            flush=True,
        )


if __name__ == "__main__":
    main()
