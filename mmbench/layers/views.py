"""Augmentation that a frozen encoder can be remembered through: a few fixed views of an image.

Fresh augmentation in every step would make a frozen encoder run in every step. With V views that
are the same in all epochs and for all samples, it runs V times for each sample in a whole
training, and its outputs are kept as if each view were an encoder of its own.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

TURN, ZOOM, SHIFT = 15.0, 0.15, 0.1  # at most: degrees, share of size, share of half a side


class View(nn.Module):
    """An encoder that sees images turned, zoomed, shifted and perhaps mirrored, always alike.

    It has no weights but the encoder's, and is not to be registered beside it.

    Args:
        encoder: Of images.
        number: Which view, >= 0; 0 = the image as it is.
    """

    transform: Tensor

    def __init__(self, encoder: nn.Module, number: int) -> None:
        super().__init__()
        self.encoder = encoder
        if isinstance(trunk := getattr(encoder, "trunk", None), nn.Module):
            self.trunk, self.out = View(trunk, number), encoder.out  # for a trunk that is frozen
        self.number = number
        g = torch.Generator().manual_seed(number)
        turn, zoom, *shift = (2 * torch.rand(4, generator=g) - 1).tolist()
        mirror = -1.0 if number % 2 else 1.0
        angle, size = math.radians(TURN * turn), 1 + ZOOM * zoom
        cos, sin = math.cos(angle) / size, math.sin(angle) / size
        transform = [[mirror * cos, -sin, SHIFT * shift[0]], [mirror * sin, cos, SHIFT * shift[1]]]
        self.register_buffer("transform", torch.tensor(transform), persistent=False)
        self.training = False  # it has nothing that trains; the encoder's mode is the method's

    def forward(
        self, x: Float[Tensor, "batch channel height width"], lengths: None = None
    ) -> Float[Tensor, "batch ..."]:
        """Encode what the view shows; beyond an image's edge lies what is at the edge."""
        if self.number:
            transform = self.transform.to(x).expand(len(x), -1, -1)
            grid = nn.functional.affine_grid(transform, list(x.shape), align_corners=False)
            x = nn.functional.grid_sample(x, grid, padding_mode="border", align_corners=False)
        z: Tensor = self.encoder(x, lengths)
        return z
