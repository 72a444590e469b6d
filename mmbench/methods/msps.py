"""MSPs: modality-specific prompts, one set for each modality, combined by what is there.

Paper: Jang et al., "Towards Robust Multimodal Prompting with Missing Modalities", ICASSP 2024.
Idea: M sets of prompts instead of the 2^M - 1 of missing-aware prompting. A sample uses those of
the modalities that it has, and a penalty keeps them orthogonal, so that what one modality's prompts
learn does not depend on which others were there.
Notation: presence (B, M); P_m (layers, parts, rows, D), see `mmbench.layers.prompts`.
Differences from the paper:
- How the prompts of a complete sample are combined is not said in a way that we could check: the
  sum here, as in the re-implementation by the authors of RAGPT; mean and concatenation are there.
- The weight of the penalty, 1, where the prompts enter (keys and values of the first six layers)
  and how they start are those of that re-implementation, too.
- Any modalities: the penalty is the mean over all pairs.
- Absent modalities are hidden from attention (`masked`); the paper lets dummies be read (`ones`).
  No code of the authors is known: `official` is that re-implementation, from which the rows of
  later tables come. It reads an empty text and hides everything else (`table1`).
- That re-implementation gives samples without a text what it calls the text prompts. With two
  modalities only the names differ: a sample with one modality has one of the two sets either way.
"""

from itertools import combinations
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmbench.bounds import Count, Depth, LossWeight
from mmbench.data.batch import Batch
from mmbench.data.task import Task
from mmbench.layers.prompts import Dummy, PromptKind, Prompts, with_dummies
from mmbench.method import ALL_TASKS, Applies, Paper
from mmbench.prompting import PromptMethod
from mmbench.search import Choice, Real, ranges


class MSPs(PromptMethod):
    """Modality-specific prompts.

    Args:
        task: What goes in and what is predicted.
        variant: The paper's prompts on what is there, or on dummies as in the re-implementation.
        combine: How the prompts of present modalities become a sample's: their `sum`, their
            `mean`, or all of them one behind the other (`concat`), zeros for absent ones.
        orthogonality: Weight of the penalty, >= 0.
        kind: Where prompts go: `input` or `attention`, see `Prompts`.
        length: Prompts of a layer, >= 1, even for `attention`.
        layers: How many of the first layers have prompts, at most all.
        dummy: What stands for an absent modality, see `with_dummies`. None = by variant.
        **common: Backbone, regime and optimiser, see `PromptMethod`.
    """

    paper = Paper(
        "Towards Robust Multimodal Prompting with Missing Modalities",
        "ICASSP",
        2024,
        "https://arxiv.org/abs/2312.15890",
    )
    applies = Applies(tasks=ALL_TASKS, min_modalities=2)
    search = ranges(
        length=Choice((4, 8, 16)),
        orthogonality=Real(0.1, 10.0, log=True),
    )

    def __init__(
        self,
        task: Task,
        *,
        variant: Literal["paper", "official"] = "paper",
        combine: Literal["sum", "mean", "concat"] = "sum",
        orthogonality: LossWeight = 1.0,
        kind: PromptKind = "attention",
        length: Count = 16,
        layers: Depth = 6,
        dummy: Dummy | None = None,
        **common: Any,
    ) -> None:
        super().__init__(task, **common)
        self.combine = combine
        self.orthogonality = orthogonality
        self.dummy: Dummy = dummy or ("table1" if variant == "official" else "masked")
        self.prompts = Prompts(
            self.backbone, len(task.modalities), length=length, layers=layers, kind=kind
        )
        self.head = self.make_head()

    def forward(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """Combine the prompts of present modalities and run the frozen backbone with them."""
        tokens, keys = with_dummies(self.backbone, batch, self.dummy)
        chosen = [self.combined(table, batch.presence) for table in self.prompts.tables]
        insert, prefix = self.prompts.inject(chosen)
        output: Tensor = self.head(self.backbone.run(tokens, keys, insert, prefix=prefix))
        return output

    def combined(
        self,
        table: Float[Tensor, "modality layer part row dim"],
        presence: Bool[Tensor, "batch modality"],
    ) -> Float[Tensor, "batch layer part more dim"]:
        """Each sample's prompts."""
        present = presence.to(table.dtype)
        if self.combine == "mean":
            present = present / present.sum(1, keepdim=True)
        form = "bm,mlprd->blpmrd" if self.combine == "concat" else "bm,mlprd->blprd"
        each: Tensor = torch.einsum(form, present, table)
        return each if each.dim() == 5 else each.flatten(3, 4)

    def prompt_loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Task loss, and the weighted overlap of the modalities' prompts."""
        flat = torch.cat([table.flatten(1) for table in self.prompts.tables], dim=1)
        return {
            **super().prompt_loss(batch),
            "orthogonality": self.orthogonality * overlap(flat),
        }


def overlap(prompts: Float[Tensor, "modality feature"]) -> Float[Tensor, ""]:
    """Mean of |cosine| over all pairs, in [0, 1]."""
    first, second = zip(*combinations(range(len(prompts)), 2), strict=True)
    a, b = prompts[list(first)], prompts[list(second)]
    norms = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
    cosines: Tensor = (a * b).sum(1).abs() / norms.clamp_min(1e-8)
    return cosines.mean()
