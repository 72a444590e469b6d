"""How experts share the work in evaluation, counted without waiting for a device."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mmbench.data.missingness.protocol import pattern_name
from mmbench.diagnostics import RouterUsage
from mmbench.layers.fusion import presence_code


class UsageMeter(nn.Module):
    """Sums of the weights that a router gives, by what the samples have; each evaluation anew.

    Args:
        modalities: M.
        experts: E.
    """

    totals: Tensor

    def __init__(self, modalities: int, experts: int) -> None:
        super().__init__()
        self.experts = experts
        # the last column counts; not saved, since it says nothing that was learned
        self.register_buffer("totals", torch.zeros(2**modalities, experts + 1), persistent=False)

    def train(self, mode: bool = True) -> "UsageMeter":
        """Switch modes; an evaluation begins with nothing."""
        if not mode:
            self.totals.zero_()
        super().train(mode)
        return self

    def forward(
        self, weight: Float[Tensor, "token expert"], presence: Bool[Tensor, "sample modality"]
    ) -> None:
        """Count, in evaluation alone; a training step pays nothing.

        Args:
            weight: Of each expert for a token, >= 0; those of a sample lie side by side, and one
                that asks nobody does not count.
            presence: What each sample has.
        """
        if not self.training:
            self.add(weight, presence_code(presence))

    @torch.no_grad()
    def add(self, weight: Float[Tensor, "token expert"], code: Int[Tensor, " sample"]) -> None:
        """Count whatever the mode, where the `presence_code` of each sample is at hand."""
        if not len(code):
            return
        rows = torch.cat([weight, (weight.sum(1, keepdim=True) > 0).to(weight)], 1)
        of_sample = rows.view(len(code), -1, rows.shape[1]).sum(1)
        self.totals.index_add_(0, code, of_sample.to(self.totals))

    def diagnostics(
        self, modalities: Sequence[str], experts: Sequence[str], name: str = "router"
    ) -> dict[str, RouterUsage]:
        """What was counted, as a diagnostic; nothing if nobody was asked.

        Args:
            modalities: Names, in the order of the columns of presence.
            experts: Names.
            name: Of the diagnostic.
        """
        totals = self.totals.cpu().numpy()
        codes = totals[:, :-1].sum(1).nonzero()[0]
        if not len(codes):
            return {}
        presence = (codes[:, None] >> np.arange(len(modalities)) & 1).astype(bool)
        weight = totals[codes, :-1]
        usage = RouterUsage(
            pattern=np.array([pattern_name(row, modalities) for row in presence], dtype=np.str_),
            expert=np.array(experts, dtype=np.str_),
            share=weight / weight.sum(1, keepdims=True),
            count=totals[codes, -1],
        )
        return {name: usage}
