"""What a method sees: a batch of samples from which absent entries are physically gone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

Encode = Callable[[Tensor, Tensor | None], Tensor]


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples with whatever the scenario leaves of them.

    Args:
        modalities: Names, in the order of the columns of `presence`.
        inputs: Modality -> (batch, ...) in the axes of its kind; zeros where absent.
        presence: True = the sample has the modality; at least one in every row.
        target: (batch,) int64 for single_label, (batch, output) float otherwise.
        sample_id: Joins predictions of different methods.
        lengths: Modality -> (batch,) steps, for sequences, tokens and bags; 0 where absent.
        teacher: The same samples before the scenario hid anything. Only while training under
            the regime `full_access`; for methods that learn from the hidden truth.
        memo: Embeddings shared by all test conditions; set by the evaluation alone.
    """

    modalities: tuple[str, ...]
    inputs: Mapping[str, Tensor]
    presence: Bool[Tensor, "batch modality"]
    target: Tensor
    sample_id: Int[Tensor, " batch"]
    lengths: Mapping[str, Int[Tensor, " batch"]] = field(default_factory=dict)
    teacher: "Batch | None" = None
    memo: "Memo | None" = None

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.sample_id)

    def has(self, modality: str) -> Bool[Tensor, " batch"]:
        """Which samples have this modality."""
        return self.presence[:, self.modalities.index(modality)]

    def hide(self, absent: Bool[Tensor, "batch modality"]) -> "Batch":
        """Withhold more entries; never reveals one.

        Args:
            absent: True = withhold. A sample's last modality may not be hidden; the caller
                sees to that, since a check here would stall a GPU.

        Returns:
            A batch whose hidden inputs and lengths are zero.
        """
        presence = self.presence & ~absent
        inputs, lengths = {}, {}
        for column, name in enumerate(self.modalities):
            there = presence[:, column]
            inputs[name] = keep(self.inputs[name], there)
            if name in self.lengths:
                lengths[name] = keep(self.lengths[name], there)
        return replace(self, inputs=inputs, lengths=lengths, presence=presence)

    def embed(self, modality: str, encoder: Encode | nn.Module) -> Float[Tensor, "batch ..."]:
        """Encode one modality; zeros where it is absent.

        The encoder must treat every sample by itself. While all test conditions are evaluated
        in one pass, it runs once for each batch and its output is shared by the conditions.

        Args:
            modality: Which one.
            encoder: Called with the inputs (batch, ...) and the lengths (batch,) or None.

        Returns:
            (batch, ...), whatever the encoder returns, with the rows of absent entries zeroed.
        """
        if self.memo is not None:
            z = self.memo.embed(modality, encoder)
        else:
            z = encoder(self.inputs[modality], self.lengths.get(modality))
        return keep(z, self.has(modality))

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """Copy to a device; Lightning calls this by itself."""

        def move(x: Tensor) -> Tensor:
            return x.to(device, non_blocking=non_blocking)

        return replace(
            self,
            inputs={name: move(x) for name, x in self.inputs.items()},
            presence=move(self.presence),
            target=move(self.target),
            sample_id=move(self.sample_id),
            lengths={name: move(x) for name, x in self.lengths.items()},
            teacher=None if self.teacher is None else self.teacher.to(device, non_blocking),
        )


class Memo:
    """Embeddings of one batch, computed when first asked for and then shared.

    Args:
        source: The batch with every entry that any of the conditions shows.
    """

    def __init__(self, source: Batch) -> None:
        self._source = source
        # the encoder is kept beside its output, so that its id cannot be given to another
        self._kept: dict[tuple[int, str], tuple[Encode | nn.Module, Tensor]] = {}

    def embed(self, modality: str, encoder: Encode | nn.Module) -> Tensor:
        """Return the encoder's output for the source batch, computed at most once."""
        key = (id(encoder), modality)
        if key not in self._kept:
            self._kept[key] = (encoder, self._source.embed(modality, encoder))
        return self._kept[key][1]


def keep(x: Tensor, rows: Bool[Tensor, " batch"]) -> Tensor:
    """Zero all other rows; NaN there does not survive, as it would in a product."""
    return torch.where(rows.view(-1, *[1] * (x.dim() - 1)), x, torch.zeros_like(x))
