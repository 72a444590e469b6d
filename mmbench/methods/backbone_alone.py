"""Backbone alone: the frozen transformer of the prompt methods with a head of its own, no prompts.

Paper: none; what a prompt method adds is what it scores above this row.
Idea: the stages of the prompt methods, with the same weights out of the first; then the pooler and
the same head learn as theirs do, on what the transformer makes of the modalities that are there.
Notation: x = what the backbone reads at its end (B, P).
Differences from the paper: none.
"""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from mmbench.data.batch import Batch
from mmbench.data.task import Task
from mmbench.method import Paper
from mmbench.prompting import PromptMethod


class BackboneAlone(PromptMethod):
    """A frozen transformer whose pooler and head learn; absent modalities are not attended to.

    Args:
        task: What goes in and what is predicted.
        **common: Backbone, regime and optimiser, see `PromptMethod`.
    """

    paper = Paper("Frozen transformer without prompts (baseline)")

    def __init__(self, task: Task, **common: Any) -> None:
        super().__init__(task, **common)
        self.head = self.make_head()

    def forward(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """Predict from what is present."""
        output: Tensor = self.head(self.backbone(batch))
        return output
