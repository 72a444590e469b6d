"""Majority: predict the class frequencies of the training split, whatever goes in.

Paper: none; every table holds it, since some published scores are those of a constant.
Notation: prior = log-frequencies of the classes, log-odds of the labels, or mean outcome.
Differences from the paper: none.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from mmbench.data.batch import Batch
from mmbench.data.task import Task
from mmbench.layers.prior import output_prior
from mmbench.method import ALL_TASKS, Applies, Method, Paper


class Majority(Method):
    """Constant prediction; has nothing to train."""

    paper = Paper("Majority class (baseline)")
    applies = Applies(tasks=ALL_TASKS, trains=False)

    prior: Tensor

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.register_buffer("prior", torch.zeros(task.num_outputs))

    def prepare(self, train: Iterable[Batch]) -> None:
        """Count the classes."""
        self.prior.copy_(output_prior(self.task, torch.cat([batch.target for batch in train])))

    def forward(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """The same row for every sample."""
        return self.prior.expand(len(batch), -1)
