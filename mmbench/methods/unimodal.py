"""Unimodal: the network of one modality, trained like all others; ignores all other modalities.

Paper: none; a multimodal method that does not beat the best of these rows has gained nothing.
Notation: z = embedding of the modality (B, D); prior = best constant output of the training split.
Differences from the paper: none.
"""

from typing import Any

from torch import nn

from mmbench.bounds import Decay, LearningRate, Rate, Width
from mmbench.data.task import Task
from mmbench.layers.encoders import encoder
from mmbench.layers.late_fusion import head
from mmbench.method import ALL_KINDS, ALL_TASKS, Applies, Paper
from mmbench.single_modality import SingleModality


class Unimodal(SingleModality):
    """Encoder and head of one modality; a sample that lacks it gets the training prior.

    Args:
        task: What goes in and what is predicted.
        modality: Which one; None = the first. Data sets that have none of this name are a dash. In
            a suite, `"*"` is a row for each modality of a data set, named `unimodal_` and its name.
        dim: D, width of the embedding.
        dropout: In the head, in [0, 1).
        lr: Learning rate of AdamW.
        weight_decay: Decoupled weight decay.
    """

    paper = Paper("One modality alone (baseline)")
    applies = Applies(tasks=ALL_TASKS, one_of=ALL_KINDS)

    def __init__(
        self,
        task: Task,
        *,
        modality: str | None = None,
        dim: Width = 128,
        dropout: Rate = 0.1,
        lr: LearningRate = 1e-3,
        weight_decay: Decay = 1e-2,
    ) -> None:
        super().__init__(task, modality=modality or task.names[0], lr=lr, weight_decay=weight_decay)
        self.encode = encoder(self.read, dim)
        self.head: nn.Module = head(dim, dropout, task.num_outputs)

    @classmethod
    def reason_not(cls, task: Task, **args: Any) -> str | None:
        """Why there is no such row for a task: it may lack the modality."""
        modality = args.get("modality")
        if modality is not None and modality not in task.names:
            return f"has no modality named {modality!r}; there are {', '.join(task.names)}"
        return super().reason_not(task, **args)
