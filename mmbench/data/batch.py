"""What a method sees: a batch of samples from which absent entries are physically gone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NoReturn

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mmbench.data.embeddings import Parts, is_shared, shared_embeddings
from mmbench.data.hashing import hashed
from mmbench.data.stored import Stored, change

Encode = Callable[[Tensor, Tensor | None], Tensor]
CHUNK = 256  # samples at a time
MOST_BYTES = 4 * 2**30  # embeddings of one modality that would take more are not kept


class LeakError(RuntimeError):
    """The method knows more than it was shown, or reached for it."""


class Withheld(Tensor):
    """The target of a batch that is evaluated: whatever is done with it is refused."""

    @classmethod
    def __torch_function__(cls, *_: Any, **__: Any) -> NoReturn:
        """Refuse.

        Raises:
            LeakError: Always.
        """
        raise LeakError(
            "the target of a validation or test batch was read; predict from inputs and presence"
        )

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]  # torch's has no types
        """Its name, so that a batch can be printed."""
        return "withheld"


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples with whatever the scenario leaves of them.

    Args:
        modalities: Names, in the order of the columns of `presence`.
        inputs: Modality -> (batch, ...) in the axes of its kind; zeros where absent.
        presence: True = the sample has the modality; at least one in every row.
        target: (batch,) int64 for single_label, (batch, output) float otherwise; outcomes of a
            regression are standardised by those of the training split. `Withheld` in evaluation.
        sample_id: Tells samples apart; opaque in evaluation, see `blind`.
        lengths: Modality -> (batch,) steps, for sequences, tokens and bags; 0 where absent.
        teacher: The same samples before the scenario hid anything. Only under the regime
            `full_access`, in training and where epochs of an early stage are compared
            (`Method.stage_output`); for methods that learn from the hidden truth.
        memo: Embeddings computed before: for another test condition of the same samples, or in
            an earlier epoch by an encoder that is frozen.
    """

    modalities: tuple[str, ...]
    inputs: Mapping[str, Tensor]
    presence: Bool[Tensor, "batch modality"]
    target: Tensor
    sample_id: Int[Tensor, " batch"]
    lengths: Mapping[str, Int[Tensor, " batch"]] = field(default_factory=dict)
    teacher: "Batch | None" = None
    memo: "Memo | FrozenMemo | None" = None

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
        there = dict(zip(self.modalities, presence.unbind(1), strict=True))
        return replace(
            self,
            inputs=change(self.inputs, lambda name, x: keep(x, there[name])),
            lengths={name: keep(x, there[name]) for name, x in self.lengths.items()},
            presence=presence,
        )

    def blind(self) -> "Batch":
        """Take away what an evaluated method must not know: the target, and who the samples are.

        Returns:
            A batch whose `target` cannot be read and whose ids are those of `opaque_ids`.
        """
        return replace(
            self,
            target=Tensor._make_subclass(Withheld, torch.empty(0)),
            sample_id=opaque_ids(self.sample_id),
            teacher=None if self.teacher is None else self.teacher.blind(),
        )

    def embed(self, modality: str, encoder: Encode | nn.Module) -> Float[Tensor, "batch ..."]:
        """Encode one modality; zeros where it is absent.

        The encoder must treat every sample by itself. While all test conditions are evaluated
        in one pass, it runs once for each batch and its output is shared by the conditions; in
        training, a module of which every parameter is frozen runs once for each sample. One that
        consists of a `trunk` and an `out` need only have its trunk frozen.

        Args:
            modality: Which one.
            encoder: Called with the inputs (batch, ...) and the lengths (batch,) or None.

        Returns:
            (batch, ...), whatever the encoder returns, with the rows of absent entries zeroed.
        """
        z = None if self.memo is None else self.memo.embed(modality, encoder)
        if z is None:
            z = encoder(self.inputs[modality], self.lengths.get(modality))
        return keep(z, self.has(modality))

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """Copy to a device; Lightning calls this by itself."""

        def move(x: Tensor) -> Tensor:
            return x.to(device, non_blocking=non_blocking)

        return replace(
            self,
            inputs=change(self.inputs, lambda _, x: move(x)),
            presence=move(self.presence),
            target=self.target if isinstance(self.target, Withheld) else move(self.target),
            sample_id=move(self.sample_id),
            lengths={name: move(x) for name, x in self.lengths.items()},
            teacher=None if self.teacher is None else self.teacher.to(device, non_blocking),
        )


def opaque_ids(sample_id: Int[Tensor, " sample"]) -> Int[Tensor, " sample"]:
    """Stand-ins for the ids of evaluated samples: negative, unordered, found in no table.

    Data sets often number samples class by class, so an id, or a place in the split, can tell the
    class. A stand-in depends on the id alone: draws that are keyed by it do not change with the
    samples beside it.
    """
    return -1 - hashed(sample_id)


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


class Remembered:
    """Outputs of frozen encoders for the samples of one split, kept from their first use on.

    Those of encoders that other runs hold, too, lie in files that all of them share.

    Args:
        count: Samples of the split.
        parts: Inputs and lengths of a modality, over the whole split in its order and as training
            may see them; None = nothing is shared with other runs.
        stored: Modality -> where its inputs lie, for banks that refer to them instead of copying;
            whatever presence withholds is in there, too. None = nowhere.
    """

    def __init__(
        self,
        count: int,
        parts: Callable[[str], Parts] | None = None,
        stored: Mapping[str, Stored] | None = None,
    ) -> None:
        self.count = count
        self.stored = stored
        self._parts = parts
        self._kept: dict[tuple[int, str], _Rows] = {}

    def memo(self, source: Batch, rows: Int[Tensor, " batch"]) -> "FrozenMemo":
        """For one batch of the split.

        Args:
            source: The batch, or what training may see of the same samples beyond it.
            rows: Positions of the samples in the split, on the CPU.
        """
        return FrozenMemo(self, source.blind(), rows)

    def rows(self, modality: str, encoder: nn.Module) -> "_Rows":
        """What is kept of an encoder."""
        key = (id(encoder), modality)
        if key not in self._kept:
            rows = _Rows(encoder, self.count)
            trunk, out = getattr(encoder, "trunk", None), getattr(encoder, "out", None)
            if isinstance(out, nn.Module) and getattr(trunk, "rests", False):
                # it has run already, before the rest was frozen
                assert isinstance(trunk, nn.Module)
                rows.values = self._outside(self.rows(modality, trunk), out)
            if rows.values is not None:
                rows.known[:] = True
            elif self._parts is not None and is_shared(encoder):
                parts = partial(self._parts, modality)
                rows.values = shared_embeddings(encoder, parts, self.count)
                rows.known[:] = True
            self._kept[key] = rows
        return self._kept[key]

    @torch.no_grad()
    def _outside(self, trunk: "_Rows", out: nn.Module) -> Tensor | None:
        """Outputs of an encoder from those of its trunk; None if not all are known, or too many."""
        if trunk.values is None or not bool(trunk.known.all()):
            return None
        device = next(out.parameters(), trunk.values).device
        parts: list[Tensor] = []
        for part in torch.split(trunk.values, CHUNK):
            parts.append(out(part.to(device)))
            if parts[0][0].numel() * parts[0].element_size() * self.count > MOST_BYTES:
                return None
        return torch.cat(parts)

    def forget(self, modality: str, encoder: Encode | nn.Module) -> None:
        """Drop what is kept of an encoder that learns again."""
        self._kept.pop((id(encoder), modality), None)


class _Rows:
    """Output of one encoder, sample by sample."""

    def __init__(self, encoder: nn.Module, count: int) -> None:
        self.encoder = encoder  # kept, so that its id cannot be given to another
        self.known = torch.zeros(count, dtype=torch.bool)
        self.values: Tensor | None = None

    def put(self, rows: Tensor, z: Tensor) -> None:
        if self.values is None:
            if z[0].numel() * z.element_size() * len(self.known) > MOST_BYTES:
                return
            self.values = z.new_zeros(len(self.known), *z.shape[1:])
        self.values[rows.to(z.device)] = z
        self.known[rows] = True


class FrozenMemo:
    """Embeddings of one training batch by encoders that are frozen; see `Remembered`."""

    def __init__(self, remembered: Remembered, source: Batch, rows: Tensor) -> None:
        self.remembered = remembered
        self.rows = rows
        self._source = source

    def embed(self, modality: str, encoder: Encode | nn.Module) -> Tensor | None:
        """Return the encoder's output for the source batch; None for one that learns."""
        if not isinstance(encoder, nn.Module):
            return None
        if not is_frozen(encoder):
            self.remembered.forget(modality, encoder)
            trunk = getattr(encoder, "trunk", None)
            if not isinstance(trunk, nn.Module) or not is_frozen(trunk):
                return None
            out: Tensor = encoder.get_submodule("out")(self.embed(modality, trunk))
            return out
        kept = self.remembered.rows(modality, encoder)
        device = next(encoder.parameters()).device
        if kept.values is not None and bool(kept.known[self.rows].all()):
            return kept.values.index_select(0, self.rows.to(kept.values.device)).to(device)
        lengths = self._source.lengths.get(modality)
        with torch.no_grad():
            z: Tensor = encoder(
                self._source.inputs[modality].to(device),
                None if lengths is None else lengths.to(device),
            )
        kept.put(self.rows, z)
        return z


def is_frozen(module: nn.Module) -> bool:
    """Whether a module has parameters, none of them learns, and it is in eval mode."""
    learns = [parameter.requires_grad for parameter in module.parameters()]
    return bool(learns) and not any(learns) and not module.training


def keep(x: Tensor, rows: Bool[Tensor, " batch"]) -> Tensor:
    """Zero all other rows; NaN there does not survive, as it would in a product."""
    return torch.where(rows.view(-1, *[1] * (x.dim() - 1)), x, torch.zeros_like(x))
