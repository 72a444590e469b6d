"""MAPs: missing-aware prompts, one set for each pattern of what is there.

Paper: Lee et al., "Multimodal Prompting with Missing Modalities for Visual Recognition", CVPR 2023.
Idea: a multimodal transformer stays frozen. Prompts chosen by the pattern of missing modalities go
into its first layers and tell it what to expect; only they, the pooler and the head learn.
Notation: presence (B, M); pattern p = Σ_m presence_m 2^m in 1..2^M - 1; prompts P (2^M - 1, layers,
parts, rows, D), see `mmbench.layers.prompts`.
Differences from the paper:
- Any modalities: 2^M - 1 sets, the row of ones that a set starts with is that of its pattern.
- A pattern that no training sample has gets the mean of the trained prompts of the patterns that
  contain it, or of all trained ones if there are none; the paper trains and tests on the same.
- Absent modalities are hidden from attention (`masked`). The paper and its released code let
  dummies be read, an empty text and a white image: that is `ones`, which `official` sets. The rows
  of this method in later papers' tables may read the text alone, and put prompts into attention:
  `dummy: table1, kind: attention`.
- One learning rate that suits the small backbone, with all weights decayed and the suite's epochs;
  the paper takes 1e-2, leaves biases and norms undecayed, and AdamW's betas are 0.9 and 0.98.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mmbench.bounds import Count, Depth
from mmbench.data.batch import Batch
from mmbench.data.task import Task
from mmbench.diagnostics import Diagnostic
from mmbench.layers.prompts import (
    Dummy,
    PromptKind,
    Prompts,
    fallback,
    pattern_index,
    patterns_seen,
    with_dummies,
)
from mmbench.method import ALL_TASKS, Applies, Paper
from mmbench.prompting import PromptMethod
from mmbench.search import Choice, ranges


class MAPs(PromptMethod):
    """Missing-aware prompts.

    Args:
        task: What goes in and what is predicted.
        variant: The paper's prompts on what is there, or on dummies as in the released code.
        kind: Where prompts go: `input` or `attention`, see `Prompts`.
        length: Prompts of a layer, >= 1, even for `attention`.
        layers: How many of the first layers have prompts, at most all.
        dummy: What stands for an absent modality, see `with_dummies`. None = by variant.
        **common: Backbone, regime and optimiser, see `PromptMethod`.
    """

    paper = Paper(
        "Multimodal Prompting with Missing Modalities for Visual Recognition",
        "CVPR",
        2023,
        "https://arxiv.org/abs/2303.03369",
    )
    # 2^M - 1 sets of prompts
    applies = Applies(tasks=ALL_TASKS, min_modalities=2, max_modalities=8)
    search = ranges(length=Choice((4, 8, 16)))

    def __init__(
        self,
        task: Task,
        *,
        variant: Literal["paper", "official"] = "paper",
        kind: PromptKind = "input",
        length: Count = 16,
        layers: Depth = 6,
        dummy: Dummy | None = None,
        **common: Any,
    ) -> None:
        super().__init__(task, **common)
        patterns = 2 ** len(task.modalities) - 1
        self.dummy: Dummy = dummy or ("ones" if variant == "official" else "masked")
        self.prompts = Prompts(self.backbone, patterns, length=length, layers=layers, kind=kind)
        self.head = self.make_head()
        self.seen: Tensor
        self.register_buffer("seen", torch.ones(patterns, dtype=torch.bool))

    def prepare(self, train: Iterable[Batch]) -> None:
        """Note which patterns occur in training."""
        self.seen.zero_()
        for batch in train:
            self.seen[pattern_index(batch.presence)] = True

    def forward(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """Choose each sample's prompts by its pattern and run the frozen backbone with them."""
        tokens, keys = with_dummies(self.backbone, batch, self.dummy)
        pattern = pattern_index(batch.presence)
        use = fallback(self.seen)  # (S, S)
        chosen = [torch.tensordot(use, table, 1)[pattern] for table in self.prompts.tables]
        insert, prefix = self.prompts.inject(chosen)
        output: Tensor = self.head(self.backbone.run(tokens, keys, insert, prefix=prefix))
        return output

    def diagnostics(self) -> Mapping[str, Diagnostic]:
        """Which patterns were seen in training; those that were not use the mean of others."""
        return {"seen_in_training": patterns_seen(self.seen, self.task.names)}
