"""Features that exist before any training: what a sample can be looked up by.

Steps and instances are averaged, images and volumes averaged over a grid of cells, token ids
counted; a vector is itself.

Notation: B batch, W width of the features.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mmbench.data.hashing import hashed
from mmbench.data.task import Modality
from mmbench.layers.pooling import adaptive_mean, grid_weights, valid_steps

CELLS = 64  # an image or volume is looked up by means over so many cells, 8 x 8 or 4 x 4 x 4
BAG = 4096  # larger vocabularies share this many columns


class Raw(nn.Module):
    """Inputs (B, ...) and lengths -> features (B, W), without weights.

    Attributes:
        width: W.
    """

    width: int


class RawVector(Raw):
    """A vector as it is."""

    def __init__(self, modality: Modality) -> None:
        super().__init__()
        self.width = modality.shape[0]

    def forward(
        self, x: Float[Tensor, "batch feature"], lengths: None = None
    ) -> Float[Tensor, "batch width"]:
        """Pass on."""
        return x


class RawMean(Raw):
    """Mean over the valid steps of a sequence, or instances of a bag."""

    def __init__(self, modality: Modality) -> None:
        super().__init__()
        self.width = modality.shape[-1]

    def forward(
        self, x: Float[Tensor, "batch step feature"], lengths: Int[Tensor, " batch"] | None
    ) -> Float[Tensor, "batch width"]:
        """Average; lengths in steps, None = no padding."""
        valid = valid_steps(lengths, x)
        return adaptive_mean(torch.where(valid[:, :, None], x, 0.0), lengths)


class RawMap(Raw):
    """Means over a grid of at most 64 cells of an image or volume, channels side by side."""

    cells: Tensor

    def __init__(self, modality: Modality) -> None:
        super().__init__()
        sides = modality.shape[1:]
        weights = grid_weights(sides, min(CELLS, math.prod(sides)))
        self.register_buffer("cells", weights, persistent=False)
        self.width = modality.shape[0] * len(weights)

    def forward(
        self, x: Float[Tensor, "batch channel *side"], lengths: None = None
    ) -> Float[Tensor, "batch width"]:
        """Average."""
        return (x.flatten(2) @ self.cells.T).flatten(1)


class RawCounts(Raw):
    """How often each token id occurs; ids of a large vocabulary share columns."""

    def __init__(self, modality: Modality) -> None:
        super().__init__()
        self.width = min(modality.vocab_size, BAG)
        self.hashes = modality.vocab_size > BAG

    def forward(
        self, x: Int[Tensor, "batch time"], lengths: Int[Tensor, " batch"] | None
    ) -> Float[Tensor, "batch width"]:
        """Count; lengths in tokens, None = no padding."""
        ids = hashed(x) % self.width if self.hashes else x
        valid = valid_steps(lengths, x)
        counts = torch.zeros(len(x), self.width, device=x.device)
        return counts.scatter_add(1, torch.where(valid, ids, 0), valid.float())
