"""Scores of methods on resamples of the test split, from the predictions that runs kept."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from mmbench.bench.record import Run, read_scored
from mmbench.bench.result import read_result
from mmbench.bench.statistics import Array, bootstrap


def resampled(
    runs: Sequence[Run],
    methods: Sequence[str],
    condition: str,
    metric: str,
    *,
    resamples: int = 1000,
) -> Float[Array, "method resample"]:
    """Score methods on the same resamples, mean over seeds and folds.

    Args:
        runs: Finished ones of these methods on one data set under one scenario; on each fold at
            least one of each.
        methods: Labels, in the order of the rows.
        condition: Name of a test condition.
        metric: Name of a metric.
        resamples: How many, >= 1.
    """
    kind = read_result(runs[0].folder).task.kind
    trainings: dict[tuple[int, str], list[Run]] = {}
    for run in runs:
        trainings.setdefault((run.spec.fold, run.spec.method_label), []).append(run)
    by_fold = []
    for fold in sorted({fold for fold, _ in trainings}):
        logits, target, train = [], np.empty(0), None
        for method in methods:
            arrays = [read_scored(run, condition) for run in trainings[fold, method]]
            logits.append([one["logits"] for one in arrays])
            target, train = arrays[0]["target"], arrays[0].get("train")
        by_fold.append(
            bootstrap(metric, logits, target, kind, train=train, resamples=resamples, seed=fold)
        )
    return np.asarray(np.mean(by_fold, axis=0))
