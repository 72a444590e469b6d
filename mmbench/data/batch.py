"""What a method sees: a batch of samples from which absent entries are physically gone."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmbench.data.embeddings import BatchEmbeddings, Embeddings, Encode
from mmbench.data.hashing import hashed
from mmbench.data.missingness.within import Gap
from mmbench.data.stored import change, observed_by, with_gap, zero_padding


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
            regression are standardised by those of the training split; of survival (batch, 2), see
            `SurvivalScale.apply`. `Withheld` in evaluation.
        sample_id: Tells samples apart; opaque in evaluation, see `blind`.
        lengths: Modality -> (batch,) steps, for sequences, tokens and bags; 0 where absent.
        observed: Modality -> (batch, ...) bool over the axes of its entries (features of a vector,
            steps, tokens, pixels); True = the entry is there. Only of modalities inside which a
            scenario hides something; of others all that is present is observed. What is not
            observed is zero, so a method need not look here.
        teacher: The same samples before the scenario hid anything. Only under the regime
            `full_access`, in training and where epochs of an early stage are compared
            (`Method.stage_output`); for methods that learn from the hidden truth.
        embeddings: Those computed before: for another test condition of the same samples, or in
            an earlier epoch by an encoder that is frozen.
    """

    modalities: tuple[str, ...]
    inputs: Mapping[str, Tensor]
    presence: Bool[Tensor, "batch modality"]
    target: Tensor
    sample_id: Int[Tensor, " batch"]
    lengths: Mapping[str, Int[Tensor, " batch"]] = field(default_factory=dict)
    observed: Mapping[str, Bool[Tensor, "batch ..."]] = field(default_factory=dict)
    teacher: "Batch | None" = None
    embeddings: BatchEmbeddings | None = None

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
        visible = dict(zip(self.modalities, presence.unbind(1), strict=True))
        return replace(
            self,
            inputs=change(self.inputs, lambda name, x: zero_absent(x, visible[name])),
            lengths={name: zero_absent(x, visible[name]) for name, x in self.lengths.items()},
            observed={name: zero_absent(x, visible[name]) for name, x in self.observed.items()},
            presence=presence,
        )

    def with_gaps(self, gaps: Mapping[str, Gap], rows: Int[Tensor, " batch"]) -> "Batch":
        """Withhold entries inside modalities, and add noise; nothing computed before holds then.

        Args:
            gaps: Modality -> what becomes of its entries.
            rows: Positions of these samples in the gaps, on the CPU.
        """

        def spoil(name: str, x: Tensor) -> Tensor:
            if name not in gaps:
                return x
            x, _ = with_gap(x, gaps[name], rows)
            if name in self.lengths:
                x = zero_padding(x, self.lengths[name])
            return zero_absent(x, self.has(name))

        observed = dict(self.observed)
        for name, gap in gaps.items():
            device = self.presence.device
            seen = observed_by(gap, rows, self.inputs[name].shape).to(device)
            if name in self.lengths:
                seen = zero_padding(seen, self.lengths[name])
            observed[name] = zero_absent(seen, self.has(name))
        return replace(self, inputs=change(self.inputs, spoil), observed=observed, embeddings=None)

    def take(self, rows: Tensor) -> "Batch":
        """These samples alone, by number or by a mask; nothing that was computed before."""
        return replace(
            self,
            inputs=change(self.inputs, lambda _, x: x[rows]),
            presence=self.presence[rows],
            target=self.target if isinstance(self.target, Withheld) else self.target[rows],
            sample_id=self.sample_id[rows],
            lengths={name: x[rows] for name, x in self.lengths.items()},
            observed={name: x[rows] for name, x in self.observed.items()},
            teacher=None if self.teacher is None else self.teacher.take(rows),
            embeddings=None,
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

    def with_embeddings(
        self, whole: Embeddings, rows: Int[Tensor, " batch"] | None = None
    ) -> "Batch":
        """Let what was computed before serve this batch, and what it computes serve others.

        Args:
            whole: What encoders make of a set of samples, of all that this batch shows of them.
            rows: Which of those samples these are, on the CPU; None = all, in order.
        """
        return replace(self, embeddings=BatchEmbeddings(whole, self.inputs, self.lengths, rows))

    def embed(self, modality: str, encoder: Encode) -> Float[Tensor, "batch ..."]:
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
        z = None if self.embeddings is None else self.embeddings.embed(modality, encoder)
        if z is None:
            z = encoder(self.inputs[modality], self.lengths.get(modality))
        return zero_absent(z, self.has(modality))

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """Copy to a device; Lightning calls this by itself."""
        waits = torch.device(device).type != "cuda"

        def move(x: Tensor) -> Tensor:
            return x.to(device, non_blocking=non_blocking or (not waits and x.is_pinned()))

        return replace(
            self,
            inputs=change(self.inputs, lambda _, x: move(x)),
            presence=move(self.presence),
            target=self.target if isinstance(self.target, Withheld) else move(self.target),
            sample_id=move(self.sample_id),
            lengths={name: move(x) for name, x in self.lengths.items()},
            observed={name: move(x) for name, x in self.observed.items()},
            teacher=None if self.teacher is None else self.teacher.to(device, non_blocking),
        )


def opaque_ids(sample_id: Int[Tensor, " sample"]) -> Int[Tensor, " sample"]:
    """Stand-ins for the ids of evaluated samples: negative, unordered, found in no table.

    Data sets often number samples class by class, so an id, or a place in the split, can tell the
    class. A stand-in depends on the id alone: draws that are keyed by it do not change with the
    samples beside it.
    """
    return -1 - hashed(sample_id)


def zero_absent(x: Tensor, present: Bool[Tensor, " batch"]) -> Tensor:
    """Zero the rows that are absent; NaN there does not survive, as it would in a product."""
    return torch.where(present.view(-1, *[1] * (x.dim() - 1)), x, torch.zeros_like(x))
