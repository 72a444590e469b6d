"""Flex-MoE: a bank of embeddings for the gaps, an expert for each combination of modalities.

Paper: Yun et al., "Flex-MoE: Modeling Arbitrary Modality Combination via the Flexible
Mixture-of-Experts", NeurIPS 2024.
Idea: a learned embedding for each (observed combination, missing modality) fills the gap. Experts
learn what is general from complete samples; samples of combination c are then to send their
tokens to expert c first, which so becomes the specialist for c.
Notation: presence (B, M); c = combination, 0 = complete, 1 to 2^M - 2 the others in decreasing
size; z tokens (B, M, P, D); bank (2^M - 1, M, P, D); n-tilde = noisy scores (B, M, P, E).
Differences from the paper:
- A bank entry is a base shared by all combinations plus its own part that starts at zero, so a
  combination that training never shows is filled by the base; the released code would fill it by
  random numbers that were never trained.
- Needs 2^M - 1 experts at least; `experts` None = that number, 16 at least. Hence at most seven
  modalities.
- Training starts with complete samples in the paper; the released code merely puts them first in
  each of its first five epochs. Here complete samples alone count in a first stage of
  `general_epochs` epochs, in all losses, which needs no other order of data. They come before the
  suite's epochs, the last of them goes on, and the bank does not learn in them.
- Balance leaves out each incomplete sample's own specialist, as the paper says; the released code
  leaves out expert 0, which is `variant="official"`. That variant also loses the input of the
  attention layer, as the release does, starts its bank from N(0, 1) without a base, and its tokens
  of a vector are patches of it.
- The terms of the gate loss are summed over the modalities, as in the released code.
- Experts start as nn.Linear does; those of FastMoE start 16 times smaller at this width.
- All layers are sparse; released, every second one. The suite's encoders and batches; AdamW at
  3e-4, where Adam at 1e-4 and batches of 8 are released.
- Tokens are averaged for each modality before the head, as released: attention and experts have
  worked on them one by one, and neither paper nor encoders give their places a meaning.
"""

from collections.abc import Mapping
from itertools import combinations
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mmbench.bounds import AtLeastZero, Count, Decay, Depth, LearningRate, LossWeight, Rate, Width
from mmbench.data.batch import Batch
from mmbench.data.task import Task
from mmbench.diagnostics import Diagnostic
from mmbench.layers.encoders import ModalityEncoders
from mmbench.layers.fusion import masked_mean, presence_code
from mmbench.layers.moe import GATE_LOSS_WEIGHT, Routing, SparseBlock, cv_squared
from mmbench.layers.usage import UsageMeter
from mmbench.method import ALL_TASKS, Applies, Method, Paper, Stage
from mmbench.search import Choice, Real, Whole, ranges

Tokens = Float[Tensor, "batch modality token dim"]
Variant = Literal["paper", "official"]
MOST_MODALITIES = 7  # 127 combinations, an expert each


class FlexMoE(Method):
    """Flexible mixture of experts with a bank of missing modalities.

    Args:
        task: What goes in and what is predicted.
        variant: The paper's equations, or what its released code computes.
        dim: D, width of a token.
        tokens: P, tokens for each modality.
        heads: Attention heads; has to divide `dim`.
        experts: E, at least 2^M - 1; None = as many, 16 at least.
        top_k: Experts for each token, 1 to E.
        layers: Transformer layers, all of them sparse, >= 1.
        gate_loss: Weight of specialisation and balance, >= 0.
        general_epochs: Epochs of the paper's phase of general knowledge, which learns from
            complete samples alone, >= 0.
        dropout: In [0, 1).
        lr: Learning rate of AdamW.
        weight_decay: Decoupled weight decay.
    """

    paper = Paper(
        "Flex-MoE: Modeling Arbitrary Modality Combination via the Flexible Mixture-of-Experts",
        "NeurIPS",
        2024,
        "https://arxiv.org/abs/2410.08245",
    )
    applies = Applies(tasks=ALL_TASKS, min_modalities=2, max_modalities=MOST_MODALITIES)
    search = ranges(
        tokens=Choice((4, 8, 16)),
        gate_loss=Real(1e-3, 1.0, log=True),
        general_epochs=Whole(1, 10),
    )

    combination: Tensor

    def __init__(
        self,
        task: Task,
        *,
        variant: Variant = "paper",
        dim: Width = 128,
        tokens: Count = 16,
        heads: Count = 4,
        experts: Count | None = None,
        top_k: Count = 4,
        layers: Depth = 1,
        gate_loss: LossWeight = GATE_LOSS_WEIGHT,
        general_epochs: AtLeastZero = 5,
        dropout: Rate = 0.5,
        lr: LearningRate = 3e-4,
        weight_decay: Decay = 1e-2,
    ) -> None:
        super().__init__(task, lr=lr, weight_decay=weight_decay)
        modalities = len(task.modalities)
        number = 2**modalities - 1
        experts = max(16, number) if experts is None else experts
        if experts < number:
            raise ValueError(
                f"{modalities} modalities have {number} combinations, each with a specialist, "
                f"but there are {experts} experts; raise experts"
            )
        self.variant, self.gate_loss = variant, gate_loss
        self.general_epochs = general_epochs
        self.encode = ModalityEncoders(task, dim, tokens=tokens, patches=variant == "official")
        self.bank = MissingBank(number, (modalities, tokens, dim), base=variant == "paper")
        self.position = nn.Parameter(torch.zeros(modalities * tokens, dim))
        self.layers = nn.ModuleList(
            SparseBlock(
                dim,
                heads=heads,
                experts=experts,
                k=top_k,
                dropout=dropout,
                lose_input=variant == "official",
            )
            for _ in range(layers)
        )
        self.head = nn.Linear(modalities * dim, task.num_outputs)
        self.usage = UsageMeter(modalities, experts)
        self.register_buffer("combination", combination_table(modalities), persistent=False)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """General knowledge from complete samples, which have no gap to fill; then everything."""
        fit = Stage("fit")
        if not self.general_epochs:
            return (fit,)
        parts = ("encode", "position", "layers", "head")
        return (Stage("general", parts, epochs=self.general_epochs, select="last"), fit)

    def forward(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """Predict from what is present."""
        return self.predict(batch)[0]

    def predict(self, batch: Batch) -> tuple[Float[Tensor, "batch output"], list[Routing]]:
        """Predict, and say how each layer routed the (B M P) tokens."""
        z = self.encode(batch)
        filled = self.bank(self.combination_of(batch.presence))
        z = torch.where(batch.presence[:, :, None, None], z, filled)
        x = z.flatten(1, 2) + self.position  # (B, M P, D)
        routings = []
        for layer in self.layers:
            x, routing = layer(x)
            self.usage(routing.gates, batch.presence)
            routings.append(routing)
        output: Tensor = self.head(x.view_as(z).mean(2).flatten(1))
        return output, routings

    def diagnostics(self) -> Mapping[str, Diagnostic]:
        """How the experts share the tokens of all layers; the first 2^M - 1 are specialists."""
        experts = [str(e) for e in range(self.usage.experts)]
        return self.usage.diagnostics(self.task.names, experts)

    def combination_of(self, presence: Bool[Tensor, "batch modality"]) -> Int[Tensor, " batch"]:
        """Number of each sample's combination, 0 = complete."""
        return self.combination[presence_code(presence)]

    def loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Task loss; specialisation and balance of the experts."""
        output, routings = self.predict(batch)
        c = self.combination_of(batch.presence)
        counted = torch.ones_like(c, dtype=torch.bool)
        if self.stage == "general":
            counted = c == 0
            tokens = len(routings[0].gates) // len(batch)
            # who asks nobody is balanced with nobody, and complete samples have no specialist
            routings = [r.only(counted.repeat_interleave(tokens)) for r in routings]
            c = torch.zeros_like(c)
        task = masked_mean(self.row_loss(output, batch.target, counted), counted, 0)
        shape = (*batch.presence.shape, -1, routings[0].gates.shape[1])
        gate = [
            gate_loss(
                r.logits.view(shape), r.gates.view(shape), r.load.view(shape), c, self.variant
            )
            for r in routings
        ]
        return {"task": task, "gate": self.gate_loss * torch.stack(gate).sum()}


def combination_table(modalities: int) -> Int[Tensor, " code"]:
    """Presence code -> number of the combination: decreasing size, 0 = complete.

    Within a size in lexicographic order of the modalities. The empty code, which no sample
    has, is counted as complete.
    """
    table = torch.zeros(2**modalities, dtype=torch.long)
    number = 0
    for size in range(modalities, 0, -1):
        for members in combinations(range(modalities), size):
            table[sum(1 << m for m in members)] = number
            number += 1
    return table


class MissingBank(nn.Module):
    """Learned tokens for each combination and missing modality.

    Args:
        number: Of combinations, 2^M - 1.
        size: (M, P, D).
        base: Whether all combinations share a part, from which their own starts at zero.
    """

    def __init__(self, number: int, size: tuple[int, int, int], *, base: bool) -> None:
        super().__init__()
        # combination 0 is complete and has nothing to be filled, but keeps the numbers simple
        table = torch.zeros(number, *size) if base else torch.randn(number, *size)
        self.table = nn.Parameter(table)
        self.base = nn.Parameter(torch.randn(size)) if base else None

    def forward(self, c: Int[Tensor, " batch"]) -> Tokens:
        """Tokens of all modalities for these combinations."""
        tokens = self.table.index_select(0, c)
        return tokens if self.base is None else self.base + tokens


def gate_loss(
    noisy: Float[Tensor, "batch modality token expert"],
    gates: Float[Tensor, "batch modality token expert"],
    load: Float[Tensor, "batch modality token expert"],
    c: Int[Tensor, " batch"],
    variant: Variant,
) -> Float[Tensor, ""]:
    """Incomplete samples to their specialists; importance and load balanced.

    Balance is sought among the tokens of complete samples, and among those of incomplete ones
    with their specialists left out (official: with expert 0 left out). Computed for each
    modality and summed; a group that the batch lacks contributes zero.

    Args:
        noisy: Router scores, noise included.
        gates: What they were turned into.
        load: Chance of each expert to be chosen.
        c: Combination of each sample, 0 = complete.
        variant: Which experts balance leaves out.
    """
    complete = c == 0
    tokens = noisy.shape[2]
    s = (~complete).to(noisy)[:, None, None]  # (B, 1, 1)
    picked = (
        -noisy.log_softmax(-1)
        .gather(-1, c[:, None, None, None].expand(*noisy.shape[:3], 1))
        .squeeze(-1)
    )  # (B, M, P)
    special = (picked * s).sum((0, 2)) / (s.sum() * tokens).clamp_min(1)  # (M,)
    target = F.one_hot(c, noisy.shape[-1]).to(noisy)[:, None, None]  # (B, 1, 1, E)
    total = special
    for amount in (gates, load):
        total = total + cv_squared((amount * (1 - s[..., None])).sum((0, 2)))
        others = (amount * s[..., None]).sum((0, 2))
        if variant == "official":
            total = total + cv_squared(others[:, 1:])
        else:
            total = total + cv_squared((amount * s[..., None] * (1 - target)).sum((0, 2)))
    return total.sum()
