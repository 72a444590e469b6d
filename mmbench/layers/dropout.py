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
        mask = torch.rand_like(x) >= self.p  # not in place, which does not run under vmap
        return x * mask.to(x.dtype).mul_(1 / (1 - self.p))
