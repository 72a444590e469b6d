"""What can be predicted without looking at a sample."""

import torch
from jaxtyping import Float
from torch import Tensor

from mmbench.data.task import Task
from mmbench.layers.survival import survival_prior


def output_prior(task: Task, target: Tensor) -> Float[Tensor, " output"]:
    """Best constant output for these targets.

    Frequencies are smoothed by one sample an output (Laplace), so that a class absent from
    training keeps a finite logit.

    Args:
        task: Says what the targets are.
        target: (sample,) classes, or (sample, output), or of survival (sample, 2).

    Returns:
        Log-frequencies of the classes, log-odds of the labels, or the mean outcome; of survival 0,
        or the log-odds of the hazards.
    """
    if task.kind == "survival":
        return survival_prior(task.num_outputs, target)
    if task.kind == "single_label":
        counts = torch.bincount(target, minlength=task.num_outputs).float() + 1
        return (counts / counts.sum()).log()
    if task.kind == "multi_label":
        return ((target.sum(0) + 1) / (len(target) + 2)).logit()
    return target.mean(0)
