"""Inputs as they lie in memory or in a mapped file, read and scaled when somebody asks for them."""

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from mmbench.data.mapped import MappedRows, Values
from mmbench.data.missingness.within import Gap
from mmbench.data.scale import Scale

PART = 256  # samples read at a time where all are wanted


@dataclass(frozen=True, slots=True)
class Stored:
    """One modality of some samples, in the type in which it was stored.

    Args:
        values: (sample, ...), maybe mapped from a file, maybe on an accelerator.
        scale: How they are standardised; None = they are token ids, or standardised already.
        lengths: (sample,) steps; None for kinds without.
        gap: What a scenario hides inside it; None = nothing.
        mapped: What gathers samples from `values`, where these lie in a mapped file.
    """

    values: Tensor
    scale: Scale | None
    lengths: Tensor | None
    gap: Gap | None = None
    mapped: MappedRows | None = None

    @classmethod
    def of(
        cls, values: Values, scale: Scale | None, lengths: Tensor | None, gap: Gap | None
    ) -> "Stored":
        """Over an array, without a copy."""
        if isinstance(values, MappedRows):
            return cls(as_tensor(values.values), scale, lengths, gap, values)
        return cls(as_tensor(values), scale, lengths, gap)

    def raw(self, rows: Int[Tensor, " row"], view: Int[Tensor, " row"] | None = None) -> Tensor:
        """Inputs of some samples as they are stored, where they are stored.

        Args:
            rows: Their positions.
            view: Which instances are drawn of bags; None = always the same ones.
        """
        if self.mapped is None:
            return self.values[rows.to(self.values.device)]
        draw = None if view is None else view.cpu().numpy()
        return as_tensor(self.mapped.read(rows.cpu().numpy(), draw))

    def on(self, device: torch.device, count: int) -> "Stored":
        """The same on a device: of all samples, in their order.

        Args:
            device: Which.
            count: Number of samples.
        """
        values = self.raw(torch.arange(0))
        values = values.new_empty((count, *values.shape[1:]), device=device)
        for rows in torch.split(torch.arange(count), PART):
            values[rows[0] : rows[-1] + 1] = self.raw(rows).to(device)
        return Stored(
            values,
            None if self.scale is None else self.scale.on(device),
            None if self.lengths is None else self.lengths.to(device),
            self.gap,
        )

    def read(
        self, rows: Int[Tensor, " row"], view: Int[Tensor, " row"] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Scaled inputs of some samples, zero past their ends, and their lengths; see `raw`."""
        x = self.raw(rows, view)
        if self.scale is not None:
            x = self.scale.apply(x)
        elif not x.dtype.is_floating_point:
            x = x.long()
        if self.gap is not None:
            x, _ = with_gap(x, self.gap, rows)
        if self.lengths is None:
            return x, None
        steps = self.steps(rows)
        return zero_padding(x, steps), steps

    def steps(self, rows: Int[Tensor, " row"]) -> Tensor:
        """Lengths of some samples, of kinds that have them."""
        assert self.lengths is not None
        return self.lengths[rows.to(self.lengths.device)]

    def observed(self, rows: Int[Tensor, " row"]) -> Tensor:
        """Which entries are there, (row, ...) over the axes without channels; padding is not."""
        x = self.raw(rows)
        assert self.gap is not None
        seen = observed_by(self.gap, rows, x.shape).to(x.device)
        return seen if self.lengths is None else zero_padding(seen, self.steps(rows))


def zero_padding(x: Tensor, steps: Int[Tensor, " row"]) -> Tensor:
    """Zero what lies past the end of each sample."""
    valid = torch.arange(x.shape[1], device=x.device) < steps[:, None]
    return torch.where(valid.view(*valid.shape, *[1] * (x.dim() - 2)), x, torch.zeros_like(x))


def observed_by(gap: Gap, rows: Int[Tensor, " row"], shape: Sequence[int]) -> Tensor:
    """Which entries of some samples a gap leaves, over the axes of a batch without channels.

    Args:
        gap: What is hidden.
        rows: Positions of the samples, on the CPU.
        shape: Of the inputs of a batch: a picture's entries are pixels, a sequence's steps.
    """
    if gap.observed is None:
        return torch.ones(len(rows), *_entries(shape), dtype=torch.bool)
    seen = as_tensor(gap.observed)[rows]
    if gap.patch > 1:
        for axis in (1, 2):
            seen = seen.repeat_interleave(gap.patch, axis)
    if len(shape) == 4:  # a picture, whose last patches may reach beyond the edge
        seen = seen[:, : shape[2], : shape[3]]
    return seen


def _entries(shape: Sequence[int]) -> tuple[int, ...]:
    """Axes of entries: without channels of pictures, without features of steps."""
    if len(shape) >= 4:
        return tuple(shape[2:])
    return (shape[1],)


def with_gap(x: Tensor, gap: Gap, rows: Int[Tensor, " row"]) -> tuple[Tensor, Tensor]:
    """Inputs with noise added and hidden entries zeroed, and which entries are there."""
    seen = observed_by(gap, rows, x.shape).to(x.device)
    if gap.noise is not None:
        x = x + as_tensor(gap.noise.of(rows.numpy())).to(x)
    if gap.observed is not None:
        wide = seen[:, None] if x.dim() >= 4 else seen.view(*seen.shape, *[1] * (x.dim() - 2))
        x = torch.where(wide, x, torch.zeros_like(x))
    return x, seen


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
        self.uses: set[str] = set()  # names that somebody asked for

    def __getitem__(self, name: str) -> Tensor:
        """Inputs of one modality."""
        self.uses.add(name)
        return self._value(name)

    def _value(self, name: str) -> Tensor:
        if name not in self._values:
            self._values[name] = self._read[name]()
        return self._values[name]

    def read(self, names: Collection[str], *, pin: bool = False) -> None:
        """Read some of them now, maybe into memory that an accelerator copies by itself."""
        for name in names:
            x = self._value(name)
            self._values[name] = x.pin_memory() if pin else x

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
