"""Augmentation of training samples, the same for all methods, drawn by who and when.

A draw depends on the sample, the epoch, the modality and the augmentation alone: not on the batch
that the sample is in, on how it is read, or on where a training was cut off. All of it is gathers,
products and sums of whole batches, which give the same bits on every device.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmbench.data.hashing import hashed
from mmbench.data.missingness.stream import key_of
from mmbench.data.stored import zero_padding
from mmbench.data.task import Kind, Task
from mmbench.registry import suggest

SHIFT = 0.125  # of a side: how far a crop is away from the middle at most, as 4 of 32 pixels
COLOUR = 0.4  # at most: of contrast and saturation, and of a deviation in brightness
TIME = 0.1  # of its length: how far a sequence is shifted at most
NOISE = 0.1  # of a feature's deviation

Ids = Int[Tensor, " batch"]


@dataclass(frozen=True)
class Draws:
    """Random numbers of the samples of a batch.

    Args:
        sample_id: Whose.
        view: Which of the versions of each sample.
        key: What they are for.
    """

    sample_id: Ids
    view: Ids
    key: int

    def uniform(self, number: int, low: float = 0.0, high: float = 1.0) -> Float[Tensor, " batch"]:
        """One number in [low, high) a sample, the same under the same number."""
        bits = hashed(self.sample_id, self.view, self.key, number)
        u: Tensor = (bits >> 39).float() * 2.0**-24
        return u * (high - low) + low

    def normal(self, shape: Sequence[int]) -> Float[Tensor, "batch ..."]:
        """Numbers of mean 0 and deviation 1 for all entries, (batch, *shape).

        Sums of four uniform numbers, which are near enough to normal ones and, in integers, the
        same on every device.
        """
        count = int(torch.Size(shape).numel())
        entry = torch.arange(count, device=self.sample_id.device)
        bits = hashed(hashed(self.sample_id, self.view, self.key)[:, None], entry)
        total = sum((bits >> 15 * part) & 0x7FFF for part in range(4))
        assert isinstance(total, Tensor)
        z = (total - 2 * 0x7FFF).float() / (2**15 * (1 / 3) ** 0.5)
        normal: Tensor = z.view(len(self.sample_id), *shape)
        return normal


def _per_sample(numbers: Float[Tensor, " batch"], x: Tensor) -> Tensor:
    return numbers.view(-1, *[1] * (x.dim() - 1))


def _moved(x: Tensor, axis: int, index: Int[Tensor, "batch place"]) -> Tensor:
    """Entries of an axis from other places of it, those of each sample."""
    shape = [len(x), *[1] * (x.dim() - 1)]
    shape[axis] = index.shape[1]
    return x.gather(axis, index.view(shape).expand_as(x))


def flip(x: Tensor, steps: Tensor | None, draws: Draws) -> Tensor:
    """Half of the samples mirrored along the last axis, width."""
    return torch.where(_per_sample(draws.uniform(0), x) < 0.5, x.flip(-1), x)


def crop(x: Tensor, steps: Tensor | None, draws: Draws) -> Tensor:
    """Shifted by up to `SHIFT` of each side; at the edge that comes in, its last pixels repeat."""
    for axis in range(2, x.dim()):
        side = x.shape[axis]
        most = int(SHIFT * side)
        shift = (draws.uniform(axis) * (2 * most + 1)).long() - most
        place = torch.arange(side, device=x.device) + shift[:, None]
        x = _moved(x, axis, place.clamp(0, side - 1))
    return x


def colour(x: Tensor, steps: Tensor | None, draws: Draws) -> Tensor:
    """Saturation and contrast times 1 +- `COLOUR`, brightness by +- `COLOUR`.

    Of standardised pixels: contrast is about the mean of training, and brightness in deviations.
    """
    saturation, contrast = (1 + draws.uniform(k, -COLOUR, COLOUR) for k in (0, 1))
    brightness = draws.uniform(2, -COLOUR, COLOUR)
    grey = torch.zeros_like(x[:, :1])
    for channel in torch.split(x, 1, dim=1):  # in this order on every device
        grey = grey + channel
    grey = grey / x.shape[1]
    x = grey + _per_sample(saturation, x) * (x - grey)
    return _per_sample(contrast, x) * x + _per_sample(brightness, x)


def time_shift(x: Tensor, steps: Tensor | None, draws: Draws) -> Tensor:
    """Shifted by up to `TIME` of its length; its first or last step repeats."""
    assert steps is not None
    last = (steps - 1).clamp(min=0)
    shift = (draws.uniform(0, -TIME, TIME) * steps).round().long()
    place = torch.arange(x.shape[1], device=x.device) + shift[:, None]
    return _moved(x, 1, torch.minimum(place.clamp(min=0), last[:, None]))


def noise(x: Tensor, steps: Tensor | None, draws: Draws) -> Tensor:
    """With noise of the deviation `NOISE`; features have 1."""
    return x + NOISE * draws.normal(x.shape[1:])


AUGMENTATIONS: dict[str, tuple[Callable[[Tensor, Tensor | None, Draws], Tensor], set[Kind]]] = {
    "flip": (flip, {"image", "volume"}),
    "crop": (crop, {"image", "volume"}),
    "colour": (colour, {"image"}),
    "time_shift": (time_shift, {"sequence"}),
    "noise": (noise, {"vector", "sequence"}),
}


@dataclass(frozen=True)
class Augmentation:
    """What is done to training samples before a method sees them.

    Args:
        names: Modality -> augmentations, in the order in which they are applied.
        seed: Tells trainings apart; the same for all methods.
        views: How many versions of each sample there are, of which an epoch shows one, so that
            what frozen encoders make of them can be kept; None = another one in every epoch, and
            frozen encoders run anew.
    """

    names: Mapping[str, Sequence[str]]
    seed: int = 0
    views: int | None = None

    def check(self, task: Task) -> None:
        """Refuse what cannot be done.

        Raises:
            ValueError: If there is no such modality or augmentation, or it does not fit the kind.
        """
        if self.views is not None and (self.views < 1 or not self.names):
            raise ValueError(
                f"views must be at least 1 and belongs to augment, found views={self.views} with "
                f"augment={dict(self.names)}"
            )
        kinds = {modality.name: modality.kind for modality in task.modalities}
        for modality, names in self.names.items():
            if modality not in kinds:
                raise ValueError(
                    f"augment.{modality} is no modality{suggest(modality, list(kinds))}; there "
                    f"are {', '.join(kinds)}"
                )
            fit = [name for name, (_, of) in AUGMENTATIONS.items() if kinds[modality] in of]
            for name in names:
                if name not in fit:
                    why = "does not exist" if name not in AUGMENTATIONS else "does not fit"
                    raise ValueError(
                        f"augment.{modality}: {name!r} {why}{suggest(name, fit)}; of kind "
                        f"{kinds[modality]} there are {', '.join(fit) or 'none'}"
                    )

    def view(self, sample_id: Ids, epoch: int) -> Ids:
        """Which version of each sample an epoch shows."""
        if self.views is None:
            return hashed(torch.zeros_like(sample_id), self.seed, epoch)
        return hashed(sample_id, self.seed, epoch) % self.views

    def apply(
        self, modality: str, x: Tensor, steps: Tensor | None, sample_id: Ids, view: Ids
    ) -> Tensor:
        """One modality of a batch, standardised and zero past its ends, in these versions."""
        for name in self.names.get(modality, ()):
            draws = Draws(sample_id, view, int(key_of("augment", modality, name)) >> 1)
            x = AUGMENTATIONS[name][0](x, steps, draws)
        return x if steps is None else zero_padding(x, steps)
