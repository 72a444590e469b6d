"""Modality dropout: late fusion that hides further modalities at random while it trains.

Paper: Neverova et al., "ModDrop: Adaptive Multi-Modal Gesture Recognition", TPAMI 2016.
Idea: a network that met every gap in training is not surprised by one at test time.
Notation: p = drop probability of each present modality.
Differences from the paper: only its dropping of whole modalities is taken; its gradual fusion
and its initialisation belong to gesture recognition. One modality of a sample is always kept.
"""

from jaxtyping import Float
from torch import Tensor

from mmbench.bounds import Decay, LearningRate, Rate, Share, Width
from mmbench.data.batch import Batch
from mmbench.data.task import Task
from mmbench.layers.fusion import random_drop
from mmbench.layers.late_fusion import LateFusion
from mmbench.method import ALL_TASKS, Applies, Method, Paper
from mmbench.search import Real, ranges


class ModalityDropout(Method):
    """Late fusion with random further gaps in training.

    Args:
        task: What goes in and what is predicted.
        drop: Probability that a present modality is hidden from a training step, in [0, 1].
        dim: D, width of embeddings.
        dropout: Of units, in [0, 1).
        lr: Learning rate of AdamW.
        weight_decay: Decoupled weight decay.

    Raises:
        ValueError: If `drop` is no probability.
    """

    paper = Paper(
        "ModDrop: Adaptive Multi-Modal Gesture Recognition",
        "TPAMI",
        2016,
        "https://arxiv.org/abs/1501.00102",
    )
    applies = Applies(tasks=ALL_TASKS, min_modalities=2)
    search = ranges(drop=Real(0.0, 0.6))

    def __init__(
        self,
        task: Task,
        *,
        drop: Share = 0.3,
        dim: Width = 128,
        dropout: Rate = 0.1,
        lr: LearningRate = 1e-3,
        weight_decay: Decay = 1e-2,
    ) -> None:
        super().__init__(task, lr=lr, weight_decay=weight_decay)
        if not 0 <= drop <= 1:
            raise ValueError(f"drop is a probability in 0..1, found {drop}")
        self.drop = drop
        self.fuse = LateFusion(task, dim, dropout)

    def forward(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """Predict from what is present, less what chance hides in training."""
        if self.training:
            batch = batch.hide(~random_drop(batch.presence, self.drop))
        output: Tensor = self.fuse(batch)
        return output
