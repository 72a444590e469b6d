"""Pixels as published weights were trained on them, from those that a data module standardised."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmbench.data.task import Modality

Scaling = tuple[Tensor, Tensor]  # factor and shift of each channel of a batch


class Affine(nn.Module):
    """Pixels times a factor plus a shift, channel by channel.

    Args:
        scaling: Factor and shift, (channel,) each.
    """

    factor: Tensor
    shift: Tensor

    def __init__(self, scaling: Scaling) -> None:
        super().__init__()
        for name, value in zip(("factor", "shift"), scaling, strict=True):
            self.register_buffer(name, value[:, None, None])

    def forward(
        self, x: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch channel height width"]:
        """Scale."""
        return x * self.factor + self.shift


def to_unit(image: Modality) -> Scaling:
    """Factor and shift from the pixels of a batch to those from 0 (black) to 1.

    Raises:
        ValueError: If it is not known how they were scaled.
    """
    if image.pixels is None:
        raise ValueError(
            f"published weights read 8-bit pixels, but how those of modality {image.name!r} were "
            "scaled is not known; store its images as uint8, 0..255, and set the data up first"
        )
    return torch.tensor(image.pixels.std), torch.tensor(image.pixels.mean)


def rescaling(image: Modality, mean: Sequence[float], std: Sequence[float]) -> Scaling:
    """Factor and shift from the pixels of a batch to (pixel - mean) / std.

    Args:
        image: Says how the data module standardised its pixels; a single channel is shown to the
            model as often as it has.
        mean: Of the model's channels, black 0 and white 1.
        std: Of the model's channels.

    Raises:
        ValueError: If the images have other channels, or it is not known how the data module
            scaled them.
    """
    if image.shape[0] not in (1, len(mean)):
        raise ValueError(
            f"the model reads images of {len(mean)} channels, but modality {image.name!r} has "
            f"{image.shape[0]}"
        )
    factor, shift = to_unit(image)
    wanted, spread = torch.tensor(mean), torch.tensor(std)
    return factor / spread, (shift - wanted) / spread
