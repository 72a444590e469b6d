"""Scales of what goes in and of what is predicted, from the training split alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from mmbench.data.constant import is_constant
from mmbench.data.mapped import Values
from mmbench.data.missingness.within import Gap
from mmbench.data.samples import Samples
from mmbench.data.task import Modality, Pixels, Task

CHUNK_BYTES = 2**26  # of float64 values that statistics hold at a time
WIDE = (torch.float64, torch.int64, torch.int32)  # types that hold more than float32 does


@dataclass(frozen=True, slots=True)
class Scale:
    """Shift and factor of one modality; per feature, or per channel of images and volumes.

    Args:
        mean: Of the entries that training shows; broadcasts over the axes of the modality.
        inverse_std: One over their standard deviation; 0 for a constant, which so becomes zero.
    """

    mean: Float[Tensor, "..."]
    inverse_std: Float[Tensor, "..."]

    @classmethod
    def fit(
        cls,
        modality: Modality,
        samples: Samples,
        present: Bool[np.ndarray, " sample"],
        gap: Gap | None = None,
    ) -> "Scale | None":
        """Standardise by the entries that training shows; None for token ids.

        Args:
            modality: Of which.
            samples: The training split.
            present: Whose modality training shows.
            gap: What it hides inside the modality; None = nothing.
        """
        if modality.kind == "tokens":
            return None
        values = samples.inputs[modality.name]
        channels = modality.kind in ("image", "volume")
        width = values.shape[1] if channels else values.shape[-1]
        lengths = samples.lengths[modality.name] if modality.has_lengths else None
        observed = None if gap is None else gap.observed
        rows = np.flatnonzero(present)
        if observed is not None and modality.kind == "vector":  # each feature has its own samples
            columns = [
                Moments.of(iter([values[rows[observed[rows, c]], c : c + 1]]), 1, values.dtype)
                for c in range(width)
            ]
            moments = Moments.joined(columns)
        elif observed is None and channels and values.dtype == np.uint8:
            moments = Moments.of_bytes((values[part] for part in _parts(values, rows)), width)
        else:
            patch = 1 if gap is None else gap.patch
            parts = _rows(values, rows, lengths, channels, observed, patch)
            moments = Moments.of(parts, width, values.dtype)
        shape = (-1, *[1] * (values.ndim - 2)) if channels else (-1,)
        inverse = np.divide(1.0, moments.std, out=np.zeros(width), where=~moments.constant)
        return cls(
            torch.from_numpy(moments.mean).reshape(shape),
            torch.from_numpy(inverse).reshape(shape),
        )

    def on(self, device: torch.device) -> "Scale":
        """The same on a device."""
        return Scale(self.mean.to(device), self.inverse_std.to(device))

    def of_pixels(self) -> Pixels:
        """The same for 8-bit pixels, black 0 and white 1."""
        mean = self.mean.flatten().double() / 255
        inverse = self.inverse_std.flatten().double() * 255
        std = torch.where(inverse > 0, 1 / inverse, 0.0)
        return Pixels(tuple(mean.tolist()), tuple(std.tolist()))

    def apply(self, x: Tensor) -> Float[Tensor, "..."]:
        """Standardised float32 values; offsets are taken off before what float32 cannot hold."""
        if x.dtype in WIDE:
            return ((x.double() - self.mean) * self.inverse_std).float()
        return (x.float() - self.mean.float()) * self.inverse_std.float()


@dataclass(frozen=True, slots=True)
class TargetScale:
    """Shift and factor of the outcomes of a regression.

    Args:
        mean: Of the training targets, in units, (output,).
        std: Their standard deviation; 1 where they are constant.
    """

    mean: Float[np.ndarray, " output"]
    std: Float[np.ndarray, " output"]

    @classmethod
    def fit(cls, task: Task, target: NDArray[Any]) -> "TargetScale | None":
        """Standardise by the training targets; None where the task is no regression."""
        if task.kind != "regression":
            return None
        moments = Moments.of(iter([target]), target.shape[1], target.dtype)
        return cls(moments.mean, np.where(moments.constant, 1.0, moments.std))

    def apply(self, target: NDArray[Any]) -> Float[np.ndarray, "sample output"]:
        """From units to what a method learns."""
        scaled: NDArray[Any] = (target.astype(np.float64) - self.mean) / self.std
        return scaled.astype(np.float32)

    def undo(self, output: NDArray[Any]) -> Float[np.ndarray, "sample output"]:
        """From what a method predicts to units, float64: float32 may not hold the offset."""
        units: NDArray[Any] = output.astype(np.float64) * self.std + self.mean
        return units


@dataclass(frozen=True, slots=True)
class Moments:
    """Mean and spread of some columns."""

    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    constant: NDArray[np.bool_]  # it varies by no more than rounding, relative to its size

    @classmethod
    def joined(cls, columns: "Sequence[Moments]") -> "Moments":
        """Those of single columns, beside each other."""
        mean, std, constant = (
            np.concatenate([getattr(one, name) for one in columns])
            for name in ("mean", "std", "constant")
        )
        return cls(mean, std, constant)

    @classmethod
    def of(cls, parts: Iterator[NDArray[Any]], width: int, dtype: np.dtype[Any]) -> "Moments":
        """Statistics of rows that come in parts (row, width), merged without a second look.

        Source: Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing
        Sample Variances", 1979. Without any row: mean 0, deviation 1.
        """
        count = 0
        mean, square = np.zeros(width), np.zeros(width)
        low, high = np.full(width, np.inf), np.full(width, -np.inf)
        for part in parts:
            if not len(part):
                continue
            n = len(part)
            part_mean = part.mean(axis=0, dtype=np.float64)
            part_std = part.std(axis=0, dtype=np.float64)
            away = part_mean - mean
            square += n * part_std**2 + away**2 * (count * n / (count + n))
            mean += away * (n / (count + n))
            count += n
            low = np.minimum(low, part.min(axis=0))
            high = np.maximum(high, part.max(axis=0))
        if not count:
            return cls(np.zeros(width), np.ones(width), np.zeros(width, bool))
        std = np.sqrt(square / count)
        return cls(mean, std, is_constant(low, high, dtype) | (std == 0))

    @classmethod
    def of_bytes(cls, parts: Iterator[NDArray[np.uint8]], width: int) -> "Moments":
        """The same of images (sample, channel, ...) of 8 bits, from counts of their values."""
        counts = np.zeros((width, 256), np.int64)
        for part in parts:
            for channel in range(width):
                counts[channel] += np.bincount(part[:, channel].ravel(), minlength=256)
        total = counts.sum(axis=1)
        if not total.any():
            return cls(np.zeros(width), np.ones(width), np.zeros(width, bool))
        value = np.arange(256)
        mean = counts @ value / total
        std = np.sqrt((counts * (value - mean[:, None]) ** 2).sum(axis=1) / total)
        return cls(mean, std, (counts > 0).sum(axis=1) == 1)


def _parts(values: Values, rows: NDArray[np.int_]) -> Iterator[NDArray[np.int_]]:
    """Rows, so many at a time that their values as float64 fit into a chunk."""
    each = max(1, CHUNK_BYTES // max(1, 8 * int(np.prod(values.shape[1:]))))
    for start in range(0, len(rows), each):
        yield rows[start : start + each]


def _rows(
    values: Values,
    rows: NDArray[np.int_],
    lengths: NDArray[Any] | None,
    channels: bool,
    observed: NDArray[np.bool_] | None = None,
    patch: int = 1,
) -> Iterator[NDArray[Any]]:
    """Values of these samples as rows of features or channels, without padding and hidden ones."""
    for index in _parts(values, rows):
        part = values[index]
        seen = None if observed is None else observed[index]
        if lengths is not None:  # padding has no part in it
            valid = np.arange(part.shape[1]) < lengths[index][:, None]
            part = part[valid if seen is None else valid & seen]
        if channels:
            part = np.moveaxis(part, 1, -1)
            if seen is not None:
                pixels = seen.repeat(patch, axis=1).repeat(patch, axis=2)
                part = part[pixels[:, : part.shape[1], : part.shape[2]]]
        yield part.reshape(-1, part.shape[-1])
