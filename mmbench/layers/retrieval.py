"""A memory of the training split, from which samples lend others what those lack.

Draws are keyed by what they are for, never by order: `hashed` turns (seed, epoch, sample,
modality) into random bits on the device, so that a draw is the same in any batch, with any
number of workers and on any machine.

Notation: presence (B, M); code = the sum of 2^m over the modalities that are there; a query is
a sample that lacks the target modality T.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mmbench.data.batch import Batch, zero_absent
from mmbench.data.hashing import hashed
from mmbench.data.task import Task
from mmbench.layers.fusion import presence_code

NOTED_EACH, NOTED = 8, 64  # queries whose neighbours are shown, of a batch and in all


def distinct_ranks(
    size: Int[Tensor, " query"], count: Int[Tensor, " query"], key: Int[Tensor, " query"], most: int
) -> tuple[Int[Tensor, "query draw"], Bool[Tensor, "query draw"]]:
    """Draw `count` different ranks below `size` for each query, every subset equally likely.

    Source: Bentley and Floyd, "A Sample of Brilliance", CACM 1987, Algorithm F2; one step a
    draw, all queries at once.

    Args:
        size: Of the pool, >= 0.
        count: How many to draw, >= 0; all of the pool where it is smaller.
        key: Random bits, one number a query.
        most: Number of draws at most, the width of the result.

    Returns:
        Ranks in 0..size - 1, and True where a rank was drawn.
    """
    count = torch.minimum(count.clamp_max(most), size)
    drawn: list[Tensor] = []
    for step in range(most):
        last = (size - count + step).clamp_min(0)
        rank = hashed(key, step) % (last + 1)
        # one drawn before: take the last, which no earlier step could reach
        again = torch.stack([old == rank for old in drawn]).any(0) if drawn else rank < 0
        drawn.append(torch.where(again, last, rank))
    empty = size.new_zeros(len(size), 0)
    steps = torch.arange(most, device=size.device)
    return torch.stack(drawn, 1) if drawn else empty, steps < count[:, None]


@dataclass(frozen=True, slots=True)
class Draw:
    """Supporting samples of some queries.

    Args:
        rows: (query, draw) rows of the bank; meaningless where not `chosen`.
        chosen: (query, draw), True = drawn.
        relaxed: (query,), True = no training sample has the query's modalities and the target,
            so that the draw is from all that have the target.
        empty: (query,), True = no training sample has the target, so nothing is drawn.
    """

    rows: Int[Tensor, "query draw"]
    chosen: Bool[Tensor, "query draw"]
    relaxed: Bool[Tensor, " query"]
    empty: Bool[Tensor, " query"]


class SupportBank(nn.Module):
    """The inputs of the training split, kept in buffers, to be drawn from by pattern.

    Args:
        task: Whose modalities are kept.
    """

    constant = True  # filled once; see `Method.learned_state`
    sample_id: Tensor
    presence: Tensor
    pattern_code: Tensor
    pattern_size: Tensor

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.names = task.names
        self.with_lengths = tuple(m.name for m in task.modalities if m.has_lengths)
        self.register_buffer("sample_id", torch.zeros(0, dtype=torch.long))
        self.register_buffer("presence", torch.zeros(0, len(self.names), dtype=torch.bool))
        # patterns that occur, and their number of samples; rows are in this order
        self.register_buffer("pattern_code", torch.zeros(0, dtype=torch.long))
        self.register_buffer("pattern_size", torch.zeros(0, dtype=torch.long))
        for m, modality in enumerate(task.modalities):
            self.register_buffer(f"input_{m}", torch.zeros(0, *modality.shape))
            if modality.has_lengths:
                self.register_buffer(f"length_{m}", torch.zeros(0, dtype=torch.long))

    def __len__(self) -> int:
        """Number of training samples."""
        return len(self.sample_id)

    def fill(self, train: Iterable[Batch], most: int | None = None) -> None:
        """Keep the training split in order of pattern.

        Args:
            train: All batches of it.
            most: Keep this many samples, chosen by a hash of their ids; None = all.
        """
        batches = list(train)
        ids = torch.cat([b.sample_id for b in batches])
        presence = torch.cat([b.presence for b in batches])
        order = hashed(ids).argsort()[:most]
        order = order[presence_code(presence[order]).argsort(stable=True)]
        self.sample_id, self.presence = ids[order], presence[order]
        codes = presence_code(self.presence)
        self.pattern_code, self.pattern_size = torch.unique(codes, return_counts=True)
        for m, name in enumerate(self.names):
            present = self.presence[:, m]
            # zeros where absent: nothing that a batch withholds may be kept
            x = torch.cat([b.inputs[name] for b in batches])[order]
            setattr(self, f"input_{m}", zero_absent(x, present))
            if name in self.with_lengths:
                steps = torch.cat([b.lengths[name] for b in batches])[order]
                setattr(self, f"length_{m}", zero_absent(steps, present))

    def everything(self) -> Batch:
        """All samples that are kept, without their targets."""
        names = enumerate(self.names)
        return Batch(
            modalities=self.names,
            inputs={name: getattr(self, f"input_{m}") for m, name in names},
            presence=self.presence,
            target=torch.zeros_like(self.sample_id),
            sample_id=self.sample_id,
            lengths={
                name: getattr(self, f"length_{self.names.index(name)}")
                for name in self.with_lengths
            },
        )

    def draw(
        self,
        code: Int[Tensor, " query"],
        target: Int[Tensor, " query"],
        count: Int[Tensor, " query"],
        key: Int[Tensor, " query"],
        most: int,
    ) -> Draw:
        """Draw from the supporting group: all that a query has, and the target too.

        Source: MoE-Retriever, Eq. 2: {S : mc ⊆ S and T ∈ S}, members drawn without replacement.

        Args:
            code: What each query has.
            target: T, column of the modality that each query looks for.
            count: How many to draw; all members where there are fewer.
            key: Random bits.
            most: Number of draws at most.
        """
        need = code | (torch.ones_like(target) << target)
        # (query, pattern): how many members a pattern has to offer
        fits = (self.pattern_code & need[:, None]) == need[:, None]
        any_target = ((self.pattern_code >> target[:, None]) & 1).bool()
        relaxed = ~fits.any(1)
        fits = fits | (relaxed[:, None] & any_target)
        upto = (fits * self.pattern_size).cumsum(1)
        size = upto[:, -1] if len(self.pattern_code) else torch.zeros_like(code)
        rank, chosen = distinct_ranks(size, count, key, most)
        if len(self) == 0:
            return Draw(rank, chosen, relaxed, size == 0)
        # the how-many-th member of the pool is in which pattern, and at which row?
        place = torch.searchsorted(upto, rank, right=True).clamp_max(len(self.pattern_code) - 1)
        first = self.pattern_size.cumsum(0) - self.pattern_size
        before = upto - fits * self.pattern_size
        rows = first[place] + rank - before.gather(1, place)
        rows = torch.where(chosen, rows, 0)
        return Draw(rows, chosen, relaxed & (size > 0), size == 0)

    def encode(
        self, target: int, rows: Int[Tensor, " draw"], encoder: nn.Module
    ) -> Float[Tensor, "draw token dim"]:
        """Tokens of the target modality of these rows, at least one."""
        lengths = None
        if self.names[target] in self.with_lengths:
            lengths = getattr(self, f"length_{target}").index_select(0, rows)
        z: Tensor = encoder(getattr(self, f"input_{target}").index_select(0, rows), lengths)
        return z

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        make_room(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def make_room(bank: nn.Module, state_dict: Mapping[str, Any], prefix: str) -> None:
    """Let a fresh bank, whose buffers are empty, take over the rows of a saved one.

    Args:
        bank: Whose buffers get the number of rows that is to be loaded.
        state_dict: What is loaded next.
        prefix: Of the bank's names in it.
    """
    for name, buffer in bank._buffers.items():
        saved = state_dict.get(prefix + name)
        if saved is not None and buffer is not None and saved.shape[1:] == buffer.shape[1:]:
            bank._buffers[name] = torch.empty(saved.shape, dtype=saved.dtype, device=buffer.device)


def candidates(wanted: Bool[Tensor, " entry"]) -> Int[Tensor, " _"]:
    """Positions of what is wanted.

    On the CPU exactly those; elsewhere, where counting them would stall the device, all positions,
    and what is computed for the others is to be thrown away.
    """
    if wanted.is_cpu:
        return wanted.nonzero().squeeze(1)
    return torch.arange(len(wanted), device=wanted.device)


def queries(presence: Bool[Tensor, "batch modality"]) -> list[Int[Tensor, " _"]]:
    """Rows of the batch that lack each modality, as `candidates`, one tensor a modality."""
    return [candidates(~column) for column in presence.t()]
