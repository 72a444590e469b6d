"""Inputs as they lie in memory or in a mapped file, read and scaled when somebody asks for them."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from mmbench.data.scale import Scale


@dataclass(frozen=True, slots=True)
class Stored:
    """One modality of some samples, in the type in which it was stored.

    Args:
        values: (sample, ...) on the CPU, maybe mapped from a file.
        scale: How they are standardised; None = they are token ids, or standardised already.
        lengths: (sample,) steps; None for kinds without.
    """

    values: Tensor
    scale: Scale | None
    lengths: Tensor | None

    def read(self, rows: Int[Tensor, " row"]) -> tuple[Tensor, Tensor | None]:
        """Scaled inputs of some samples, zero past their ends, and their lengths."""
        x = self.values[rows]
        if self.scale is not None:
            x = self.scale.apply(x)
        elif not x.dtype.is_floating_point:
            x = x.long()
        if self.lengths is None:
            return x, None
        steps = self.lengths[rows]
        valid = torch.arange(x.shape[1]) < steps[:, None]
        return torch.where(valid.view(*valid.shape, *[1] * (x.dim() - 2)), x, 0), steps


class Inputs(Mapping[str, Tensor]):
    """Inputs of a batch, each read when it is first asked for.

    Where embeddings of them are known, nobody asks: they are not read, not scaled
    and not moved to a device.

    Args:
        read: Modality -> what reads its inputs.
    """

    def __init__(self, read: Mapping[str, Callable[[], Tensor]]) -> None:
        self._read = dict(read)
        self._values: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        """Inputs of one modality."""
        if name not in self._values:
            self._values[name] = self._read[name]()
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        """Names of the modalities."""
        return iter(self._read)

    def __len__(self) -> int:
        """Number of modalities."""
        return len(self._read)

    def __reduce__(self) -> tuple[Any, ...]:
        """As a plain dictionary: another process must not get the data set behind it."""
        return dict, (dict(self),)


def change(
    inputs: Mapping[str, Tensor], by: Callable[[str, Tensor], Tensor]
) -> Mapping[str, Tensor]:
    """The same inputs, changed; those that nobody has read yet are changed when they are."""
    if not isinstance(inputs, Inputs):
        return {name: by(name, x) for name, x in inputs.items()}

    def later(name: str) -> Callable[[], Tensor]:
        return lambda: by(name, inputs[name])

    return Inputs({name: later(name) for name in inputs})


def as_tensor(values: NDArray[Any]) -> Tensor:
    """A tensor over an array, also over one that must not be written to: nobody writes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(values)
