"""What a run costs, as its record says."""

from collections.abc import Sequence

import numpy as np

from mmbench.bench.result import Cost
from mmbench.bench.run.meters import flops_by_pattern, metered, peak_mib
from mmbench.bench.run.training import Training
from mmbench.datamodule import DataModule
from mmbench.method import Method


def cost(
    method: Method,
    data: DataModule,
    training: Training,
    eval_s: float,
    ms_per_sample: Sequence[float],
) -> Cost:
    """What the record says of costs.

    Args:
        method: Trained and evaluated.
        data: Its data.
        training: How it was trained.
        eval_s: Seconds of predicting the test split under all conditions.
        ms_per_sample: Milliseconds a sample and condition, of each batch.
    """
    parameters = list(method.parameters())
    flops = metered("operations", lambda: flops_by_pattern(method, data, training.device))
    predictions = len(data.split("test")) * len(data.conditions)
    return Cost(
        params_total=sum(p.numel() for p in parameters),
        params_trainable=sum(p.numel() for p in parameters if p.requires_grad),
        flops_per_sample=None if flops is None else flops["+".join(data.task.names)],
        train_s=training.seconds,
        eval_s=eval_s,
        infer_ms_per_sample=1000 * eval_s / predictions,
        infer_ms_std=float(np.std(ms_per_sample)),
        peak_mib=peak_mib(training.device),
        energy_j=training.energy_j,
        flops_per_pattern=flops,
    )
