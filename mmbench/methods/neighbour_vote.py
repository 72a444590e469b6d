"""Neighbour vote: the mean label of the K training samples that are most like a sample.

Paper: none; retrieval methods have the same neighbours, and their labels, at hand.
Idea: nothing is trained. Neighbours are those of REDEEM: complete training samples (all of them
under the regime `full_access`), by the sum of the cosines of raw features over the modalities that
a sample has (`mmbench.layers.memory`). Each of them has one vote; classes with as many votes come
in the order of their neighbours. The training prior has a vote too small to change that order,
which keeps shares away from 0 and is all that a sample without any neighbour gets.
Notation: Y (B, K, C) targets of the neighbours; prior (C,) shares in the training split; K <= 64.
Differences from the paper: none.
"""

from collections.abc import Iterable, Iterator, Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mmbench.bounds import Count
from mmbench.data.batch import Batch
from mmbench.data.task import Task
from mmbench.diagnostics import Diagnostic
from mmbench.layers.memory import Memory
from mmbench.layers.prior import output_prior
from mmbench.method import Applies, Method, Paper

TIE = 1e-4  # what a vote is worth less than that of the next nearer neighbour, and the prior's


class NeighbourVote(Method):
    """K nearest neighbours; has nothing to train.

    Args:
        task: What goes in and what is predicted.
        neighbours: K, 1..64.
        index: Of faiss, for banks too large for exact products, see `Memory`.
        retrieve_by: Features by which samples are alike, see `Memory`.

    Raises:
        ValueError: If an argument is out of range.
    """

    paper = Paper("Nearest neighbours in raw features (baseline)")
    applies = Applies(trains=False)

    prior: Tensor

    def __init__(
        self, task: Task, *, neighbours: Count = 5, index: str | None = None, retrieve_by: str = ""
    ) -> None:
        super().__init__(task)
        self.memory = Memory(task, neighbours, index=index, retrieve_by=retrieve_by)
        self.register_buffer("prior", torch.zeros(task.num_outputs))

    def prepare(self, train: Iterable[Batch]) -> None:
        """Keep the complete training samples, and count the classes of all."""
        targets: list[Tensor] = []

        def noted() -> Iterator[Batch]:
            for batch in train:
                targets.append(batch.target)
                yield batch

        self.memory.fill(noted())
        self.prior.copy_(output_prior(self.task, torch.cat(targets)))

    def forward(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """Log-shares of the classes, log-odds of the labels, or the mean outcome."""
        near = self.memory.neighbours(batch)
        self.memory.note(batch, near.rows)
        if not len(self.memory):
            return self.prior.expand(len(batch), -1)
        target = self.memory.target[near.rows]
        if self.task.kind == "single_label":
            target = F.one_hot(target, self.task.num_outputs)
        if self.task.kind == "regression":
            count = near.valid.sum(1, keepdim=True)
            total = (target * near.valid[:, :, None]).sum(1)
            return torch.where(count > 0, total / count.clamp_min(1), self.prior)
        vote = (1 - TIE * torch.arange(self.memory.k, device=target.device)) * near.valid
        votes = (target * vote[:, :, None]).sum(1)
        prior = self.prior.exp() if self.task.kind == "single_label" else self.prior.sigmoid()
        share = (votes + TIE * prior) / (vote.sum(1, keepdim=True) + TIE)
        return share.log() if self.task.kind == "single_label" else share.logit()

    def diagnostics(self) -> Mapping[str, Diagnostic]:
        """What some test samples retrieve."""
        return self.memory.retrieval()
