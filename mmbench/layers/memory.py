"""A memory of the complete training samples, searched by what a sample still has.

The score of a query against a row of the bank is the sum of the cosines of their features over
the modalities that the query has (REDEEM, Eq. 1; the sum shrinks by itself where some are
missing). Search is exact: products in chunks, then the first K in the order (-score, row). A bank
too large for that may be searched by an index of faiss instead, which may be approximate.

Features are what exists before any training, so they can be kept and cannot hold a label: vectors
of the user's choice, or the projections of a CLIP in a local folder; failing these, raw values,
averaged over steps or cells and standardised over the bank. All are scaled to length one, and
rounded to so few bits that float32 holds every sum of their products without error. Scores
are therefore the same numbers in any batch, in any order of summation and on any device, equal
content ties exactly, and a tie is decided by the row alone.

Notation: B queries, N rows of the bank, K neighbours, W width of all features together.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from numpy.typing import NDArray
from torch import Tensor, nn

from mmbench.data.batch import Batch, opaque_ids, zero_absent
from mmbench.data.embeddings import (
    Embeddings,
    is_frozen,
    is_shared_between_runs,
    stored_embeddings,
)
from mmbench.data.files import read_npz
from mmbench.data.hashing import hashed
from mmbench.data.scale import Moments, Scale
from mmbench.data.stored import Inputs, Stored
from mmbench.data.task import Kind, Modality, Task
from mmbench.diagnostics import Retrieval
from mmbench.layers.encoders import KINDS
from mmbench.layers.fusion import presence_code
from mmbench.layers.retrieval import NOTED, NOTED_EACH, make_room

BLOCK = 64  # rows of the bank that are first compared by their best one alone
SCORES = 1 << 25  # scores held at a time, 128 MiB
TABLE_BYTES = 4 << 30  # tokens of a modality are kept up to this size, else embedded when needed
CHUNK = 256  # rows embedded at a time

RAW: Mapping[Kind, str] = {  # what raw features of a kind are
    "vector": "values",
    "sequence": "means over steps",
    "image": "pixel means",
    "volume": "voxel means",
    "tokens": "token counts",
    "bag": "means over instances",
}


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Rows of the bank that are most like some queries, best first.

    Args:
        rows: (B, K). Where fewer than K rows could serve, the list begins again with the best;
            where none could, the rows have no meaning.
        valid: (B, K), False = a repetition; a query without any neighbour has no True.
    """

    rows: Int[Tensor, "query rank"]
    valid: Bool[Tensor, "query rank"]


@torch.no_grad()
def nearest(
    query: Float[Tensor, "query width"],
    keys: Float[Tensor, "row width"],
    k: int,
    self_row: Int[Tensor, " query"] | None = None,
) -> tuple[Int[Tensor, "query rank"], Float[Tensor, "query rank"]]:
    """Find the K keys of largest product with each query, by matrix products.

    Blocks of rows are compared by their best score first: K blocks in the order (-best, block)
    hold the K rows that come first in the order (-score, row), as each block left out has K
    better rows before it.

    Args:
        query: Finite.
        keys: Finite.
        k: K, 1..64.
        self_row: Row that each query may not find, itself; -1 = none. None = no query has one.

    Returns:
        Rows in the order (-score, row), and their scores; -inf, with a row of no meaning, where
        there are fewer than K.

    Raises:
        ValueError: If `k` is out of range.
    """
    if not 1 <= k <= BLOCK:
        raise ValueError(f"the number of neighbours must be 1 to {BLOCK}, found {k}")
    blocks = max(1, math.ceil(len(keys) / BLOCK))
    query = query.to(keys)  # under autocast one of them may be half as wide
    step = max(1, SCORES // (blocks * BLOCK))
    held = query.new_full((min(step, len(query)), blocks * BLOCK), -math.inf)
    rows, scores = [], []
    for start in range(0, len(query), step):
        part = query[start : start + step]
        score = held[: len(part)]
        if len(keys):
            torch.mm(part, keys.T, out=score[:, : len(keys)])
        if self_row is not None:
            itself = self_row[start : start + step, None]
            excluded = score[:, :1].masked_fill(itself >= 0, -math.inf)
            score.scatter_(1, itself.clamp_min(0), excluded)
        grouped = score.view(len(part), blocks, BLOCK)
        order = grouped.amax(2).sort(dim=1, descending=True, stable=True).indices
        block = order[:, :k].sort(dim=1).values  # by row again, so that ties stay in order
        few = grouped.gather(1, block[:, :, None].expand(-1, -1, BLOCK)).flatten(1)
        best = few.sort(dim=1, descending=True, stable=True)
        at = best.indices[:, :k]
        rows.append(block.gather(1, at // BLOCK) * BLOCK + at % BLOCK)
        scores.append(best.values[:, :k])
    if not rows:
        nothing = query.new_zeros(0, k)
        return nothing.long(), nothing
    return torch.cat(rows), torch.cat(scores)


def empty_index(width: int, description: str) -> Any:
    """Make an index of faiss, by inner product and on the CPU, with nothing in it.

    Args:
        width: W.
        description: Of `faiss.index_factory`: "Flat" is exact, "HNSW32" or "IVF256,Flat" are not.

    Raises:
        ValueError: If faiss is not installed, or knows no such index.
    """
    try:
        import faiss
    except ImportError as error:
        raise ValueError(
            f"the index {description!r} needs the package faiss-cpu, which is not installed; "
            "pip install 'mmbench[search]'"
        ) from error
    try:
        return faiss.index_factory(width, description, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise ValueError(
            f"faiss knows no index {description!r}; take Flat, which is exact, or HNSW32, or see "
            "its documentation of index_factory"
        ) from error


def fill_index(index: Any, keys: Float[Tensor, "row width"]) -> None:
    """Put keys into an index.

    Raises:
        ValueError: If there are too few for it to learn from.
    """
    rows = keys.detach().cpu().numpy()
    try:
        index.train(rows)
    except RuntimeError as error:
        raise ValueError(
            f"the bank has {len(rows)} samples, which is too few to train this index of faiss; "
            "take Flat, or leave the index out"
        ) from error
    index.add(rows)


@torch.no_grad()
def nearest_by_index(
    query: Float[Tensor, "query width"],
    index: Any,
    k: int,
    self_row: Int[Tensor, " query"] | None = None,
) -> tuple[Int[Tensor, "query rank"], Float[Tensor, "query rank"]]:
    """As `nearest`, by an index of faiss: exactly the same for one that is exact.

    An index decides ties as it likes, so it is asked for more until the last one is worse than
    the K-th.

    Args:
        query: Finite.
        index: As of `empty_index`, filled.
        k: K, 1..64.
        self_row: Row that each query may not find; -1 = none. None = no query has one.
    """
    count = k + 1
    while True:
        count = min(count, index.ntotal)
        answer = index.search(query.cpu().numpy(), count)
        score, row = (torch.from_numpy(x).to(query.device) for x in answer)
        nothing = row < 0 if self_row is None else (row < 0) | (row == self_row[:, None])
        last = score[:, -1]
        score = score.masked_fill(nothing, -math.inf)
        gap = max(0, k - count)
        score = nn.functional.pad(score, (0, gap), value=-math.inf)
        row = nn.functional.pad(row, (0, gap)).clamp_min(0)
        row, order = row.sort(dim=1)
        best = score.gather(1, order).sort(dim=1, descending=True, stable=True)
        if count == index.ntotal or bool((last < best.values[:, k - 1]).all()):
            return row.gather(1, best.indices[:, :k]), best.values[:, :k]
        count *= 2


class Feature(nn.Module):
    """What one modality is looked up by: its raw features, standardised, of length one.

    Args:
        modality: What is looked up.
        bits: Entries are multiples of 2^-bits.
        width: Features; None = those of the kind's raw features.
    """

    mean: Tensor
    inverse_std: Tensor

    def __init__(self, modality: Modality, bits: int, width: int | None = None) -> None:
        super().__init__()
        self.name = modality.name
        self.what = RAW[modality.kind]
        self.raw: nn.Module = nn.Identity()
        if width is None:
            raw = KINDS[modality.kind].raw(modality)
            self.raw, width = raw, raw.width
        self.step = 2.0**-bits
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("inverse_std", torch.ones(width))

    def of(self, batch: Batch) -> Float[Tensor, "batch width"]:
        """Features before scaling, zeros where the modality is absent."""
        return batch.embed(self.name, self.raw)

    def fit(self, raw: Float[Tensor, "row width"]) -> None:
        """Standardise by these samples from now on."""
        columns = Moments.of(
            (part.numpy() for part in torch.split(raw, CHUNK)), raw.shape[1], np.dtype(np.float32)
        )
        self.mean.copy_(torch.from_numpy(columns.mean))
        # a constant column says nothing; it becomes zero instead of rounding noise
        inverse = np.divide(1, columns.std, out=np.zeros(len(raw.T)), where=~columns.constant)
        self.inverse_std.copy_(torch.from_numpy(inverse))

    def scaled(self, raw: Float[Tensor, "batch width"]) -> Float[Tensor, "batch width"]:
        """Features of length one, up to rounding; zeros for a sample like the mean."""
        z = nn.functional.normalize((raw - self.mean) * self.inverse_std, dim=1)
        return (z / self.step).round() * self.step

    def forward(self, batch: Batch) -> Float[Tensor, "batch width"]:
        """Features of a batch, zeros where the modality is absent."""
        return zero_absent(self.scaled(self.of(batch)), batch.has(self.name))


class Vectors(Feature):
    """Vectors of the user's choice from a file, as they are but for their length.

    Args:
        modality: What is looked up.
        bits: See `Feature`.
        file: npz with `id` (n,), sample ids as in the predictions of a run, and for each modality
            an array of its name, (n, W). Samples of all splits have to be there.

    Raises:
        ValueError: If it cannot be read, lacks the modality, or holds an id twice.
    """

    ids: Tensor
    row: Tensor
    vectors: Tensor

    def __init__(self, modality: Modality, bits: int, file: Path) -> None:
        try:
            arrays = read_npz(file, ("id", modality.name))
            ids, vectors = arrays["id"], arrays[modality.name]
        except ValueError as error:
            raise ValueError(
                f"retrieve_by: {file} is no npz with id (n,) and {modality.name} (n, width): "
                f"{error}"
            ) from error
        if vectors.ndim != 2 or ids.shape != (len(vectors),) or ids.dtype.kind not in "iu":
            raise ValueError(
                f"retrieve_by: {file} needs whole numbers as id (n,) and {modality.name} "
                f"(n, width), found {ids.dtype} {ids.shape} and {vectors.shape}"
            )
        if len(np.unique(ids)) < len(ids) or not np.isfinite(vectors).all():
            raise ValueError(f"retrieve_by: {file} holds an id twice, or NaN or infinity")
        super().__init__(modality, bits, vectors.shape[1])
        self.what = f"vectors of {file.name}"
        known = torch.from_numpy(ids.astype(np.int64))
        both = torch.cat([known, opaque_ids(known)])  # evaluated samples come under the latter
        order = both.argsort()
        self.register_buffer("ids", both[order])
        self.register_buffer("row", order % max(1, len(known)))
        self.register_buffer("vectors", torch.from_numpy(vectors.astype(np.float32)))

    def fit(self, raw: Float[Tensor, "row width"]) -> None:
        """Keep them as they are."""

    def of(self, batch: Batch) -> Float[Tensor, "batch width"]:
        """Look the samples up.

        Raises:
            ValueError: If the file does not hold one of them.
        """
        at = torch.searchsorted(self.ids, batch.sample_id).clamp_max(len(self.ids) - 1)
        lost = batch.has(self.name) & (self.ids[at] != batch.sample_id)
        if bool(lost.any()):
            raise ValueError(
                f"retrieve_by: {int(lost.sum())} of {len(lost)} samples have no vector for "
                f"{self.name!r} in the file; it needs those of all splits"
            )
        return zero_absent(self.vectors[self.row[at]], batch.has(self.name))


class Projections(Feature):
    """Projections of a CLIP with published weights, computed once for all runs.

    Args:
        modality: What is looked up, a text or an image.
        bits: See `Feature`.
        folder: Of the model.

    Raises:
        ValueError: If the model does not read the modality, or the folder does not hold it.
    """

    def __init__(self, modality: Modality, bits: int, folder: Path) -> None:
        from mmbench.layers.pretrained_backbones import clip_projection  # slow to import

        raw, width = clip_projection(modality, folder)
        super().__init__(modality, bits, width)
        self.raw, self.what = raw, f"projections of the CLIP in {folder.name}"

    def fit(self, raw: Float[Tensor, "row width"]) -> None:
        """Keep them as they are."""


def _feature(modality: Modality, bits: int, retrieve_by: str) -> Feature:
    if not retrieve_by:
        return Feature(modality, bits)
    kind, _, folder = retrieve_by.partition(":")
    if kind == "clip" and folder:
        return Projections(modality, bits, Path(folder).expanduser())
    return Vectors(modality, bits, Path(retrieve_by).expanduser())


class Memory(nn.Module):
    """The complete training samples: inputs, targets and features, to be found by likeness.

    A row has every modality, so it can lend a query whatever that lacks, and all of them
    together for prompts. Under the regime `full_access` these are all training samples, else
    those that the scenario leaves complete. A query never finds itself, told by its sample id.

    Inputs stay where they are: the bank refers to those of the data module, in the type in which
    they were stored, on the CPU, and scales what it reads. They are written out with the state,
    and only then; nothing of it changes after `fill` (`Method.learned_state`).

    Args:
        task: Whose samples are kept.
        k: K, neighbours of a query, 1..64.
        index: Description of the index of faiss that is searched, see `empty_index`; None =
            exact products.
        retrieve_by: Features by which samples are alike: a file of vectors (see `Vectors`), or
            "clip:/folder" (see `Projections`); empty = raw features, pixel means among them.

    Attributes:
        by: What each modality is looked up by, in words.

    Raises:
        ValueError: If `k` is out of range, there is no such index, or no such features.
    """

    constant = True

    sample_id: Tensor
    keys: Tensor
    target: Tensor
    by_id: Tensor
    train_id: Tensor
    train_code: Tensor
    train_rows: Tensor
    train_valid: Tensor

    def __init__(
        self, task: Task, k: int = 5, *, index: str | None = None, retrieve_by: str = ""
    ) -> None:
        super().__init__()
        if not 1 <= k <= BLOCK:
            raise ValueError(f"the number of neighbours must be 1 to {BLOCK}, found {k}")
        self.k = k
        self.names = task.names
        self.with_lengths = tuple(m.name for m in task.modalities if m.has_lengths)
        # the products of M pairs of vectors sum to less than M + 1, and float32 counts to 2^24
        bits = (24 - math.ceil(math.log2(len(task.modalities) + 1))) // 2
        features = [_feature(m, bits, retrieve_by) for m in task.modalities]
        self.by = tuple(part.what for part in features)
        self.features = nn.ModuleList(features)
        width = sum(len(part.mean) for part in features)
        self.register_buffer("sample_id", torch.zeros(0, dtype=torch.long))
        self.register_buffer("keys", torch.zeros(0, width))
        self.index = index
        self._built: tuple[object, Any] = (None, None)
        if index is not None:
            empty_index(width, index)  # refused early
        single = task.kind == "single_label"
        empty = torch.zeros(0, dtype=torch.long) if single else torch.zeros(0, task.num_outputs)
        self.register_buffer("target", empty)
        self.register_buffer("by_id", torch.zeros(0, dtype=torch.long))  # rows in order of id
        for name in self.with_lengths:
            self.register_buffer(f"length_{self.names.index(name)}", self.by_id.clone())
        # what training samples find, looked up instead of searched again each epoch
        for name in ("train_id", "train_code"):
            self.register_buffer(name, torch.zeros(0, dtype=torch.long), persistent=False)
        rows = torch.zeros(0, k, dtype=torch.long)
        self.register_buffer("train_rows", rows, persistent=False)
        self.register_buffer("train_valid", rows.bool(), persistent=False)
        self._noted: list[tuple[Tensor, Tensor, Tensor]] = []  # ids, rows and scores of queries
        self._picture = next((m.name for m in task.modalities if m.kind == "image"), None)
        self._pictures = torch.zeros(0)  # of the first of them
        # where the inputs lie: all of a split, the places of the rows in it, and its embeddings
        self._stored: Mapping[str, Stored] = {}
        self._place = self.by_id.clone()
        self._embeddings: Embeddings | None = None
        self._tables: dict[str, tuple[object, _Table | Tensor | None]] = {}

    def __len__(self) -> int:
        """Number of samples kept."""
        return len(self.sample_id)

    def fill(self, train: Iterable[Batch]) -> None:
        """Keep the complete samples, and what each training sample finds among them.

        Args:
            train: All training batches, looked at one after the other; a teacher's samples are
                kept in place of its batch's.
        """
        features: list[Feature] = list(self.features)  # type: ignore[arg-type]
        seen = [_Seen.of(batch, features) for batch in train]
        sample_id = torch.cat([part.sample_id for part in seen])
        complete = torch.cat([part.complete for part in seen])
        raw = {name: torch.cat([part.raw.pop(name) for part in seen]) for name in self.names}
        rows = complete.nonzero().squeeze(1)
        rows = rows[hashed(sample_id[rows]).argsort()]
        self.sample_id = sample_id[rows]
        self.by_id = self.sample_id.argsort()
        ids = sample_id.sort().values
        assert bool((ids[1:] > ids[:-1]).all()), "a sample id occurs twice in the training split"
        self.target = torch.cat([part.target for part in seen])[rows]
        self._refer(seen, rows)
        for name in self.with_lengths:
            _, lengths = self.read(name, torch.arange(len(self)), inputs=False)
            setattr(self, f"length_{self.names.index(name)}", lengths)
        if len(self):
            for name, part in zip(self.names, features, strict=True):
                part.fit(raw[name][rows])
        presence = torch.cat([part.presence for part in seen])
        pairs = list(zip(self.names, features, presence.unbind(1), strict=True))

        def look(rows: Tensor, present: bool) -> Tensor:
            parts = (
                zero_absent(part.scaled(raw[name][rows]), has[rows] | present)
                for name, part, has in pairs
            )
            return torch.cat(list(parts), 1)

        self.keys = torch.cat(
            [look(part, True) for part in torch.split(rows, CHUNK)] or [self.keys[:0]]
        )
        neighbours = [
            self.neighbours_of(look(part, False), self.row_of(sample_id[part]), sample_id[part])
            for part in torch.split(torch.arange(len(sample_id)), CHUNK)
        ]
        self.train_id, order = sample_id.sort()
        self.train_code = presence_code(presence)[order]
        self.train_rows = torch.cat([part.rows for part in neighbours])[order]
        self.train_valid = torch.cat([part.valid for part in neighbours])[order]

    def _refer(self, seen: "list[_Seen]", rows: Tensor) -> None:
        """Say where the inputs of the bank lie: in the data module's split, or in copies of ours.

        Args:
            seen: The training split.
            rows: Positions of the bank's samples in it.
        """
        self._tables = {}
        split = seen[0].embeddings
        if split is not None and split.stored is not None:
            self._stored, self._embeddings = split.stored, split
            self._place = torch.cat([part.place for part in seen])[rows]
            return
        whole = {name: [part.copies[name] for part in seen] for name in self.names}
        order = torch.cat([part.complete for part in seen]).cumsum(0) - 1
        self._stored = {
            name: Stored(
                torch.cat([x for x, _ in parts]),
                None,
                torch.cat([n for _, n in parts if n is not None])
                if name in self.with_lengths
                else None,
            )
            for name, parts in whole.items()
        }
        self._place, self._embeddings = order[rows], None

    def require_neighbours(self) -> None:
        """Refuse a memory in which a sample could find nothing but itself.

        Raises:
            ValueError: If fewer than two samples are kept.
        """
        if len(self) < 2:
            raise ValueError(
                "neighbours are looked for among complete training samples, at least 2, but "
                f"there are {len(self)}; show more, or take the regime full_access"
            )

    def look(self, batch: Batch) -> Float[Tensor, "batch width"]:
        """Features of a batch; zeros where a modality is absent."""
        return torch.cat([part(batch) for part in self.features], dim=1)

    def read(
        self, name: str, rows: Int[Tensor, " row"], *, inputs: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        """Inputs of one modality of these rows, scaled, and their lengths; on the CPU."""
        stored, place = self._stored[name], self._place[rows.cpu()]
        if not inputs:
            return place, None if stored.lengths is None else stored.lengths[place]
        return stored.read(place)

    def everything(self) -> Batch:
        """All samples that are kept, without their targets; inputs are read when asked for."""
        rows = torch.arange(len(self))

        def reader(name: str) -> Callable[[], Tensor]:
            return lambda: self.read(name, rows)[0].to(self.sample_id.device)

        return Batch(
            modalities=self.names,
            inputs=Inputs({name: reader(name) for name in self.names}),
            presence=torch.ones(
                len(self), len(self.names), dtype=torch.bool, device=self.sample_id.device
            ),
            target=torch.zeros_like(self.sample_id),
            sample_id=self.sample_id,
            lengths={
                name: getattr(self, f"length_{self.names.index(name)}")
                for name in self.with_lengths
            },
        )

    def row_of(self, sample_id: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
        """Where samples lie in the bank; -1 = not there."""
        if not len(self):
            return torch.full_like(sample_id, -1)
        ids = self.sample_id[self.by_id]
        row = self.by_id[torch.searchsorted(ids, sample_id).clamp_max(len(self) - 1)]
        return torch.where(self.sample_id[row] == sample_id, row, -1)

    def neighbours(self, batch: Batch) -> Neighbours:
        """What each sample of a batch finds by the modalities that it has.

        In training on a CPU this is looked up for samples as `fill` saw them; on a GPU, where
        the question whether they are would take longer than the answer, it is searched.
        """
        if self.training and batch.presence.is_cpu and len(self.train_id):
            at = torch.searchsorted(self.train_id, batch.sample_id)
            at = at.clamp_max(len(self.train_id) - 1)
            same = self.train_id[at] == batch.sample_id
            if bool((same & (self.train_code[at] == presence_code(batch.presence))).all()):
                return Neighbours(self.train_rows[at], self.train_valid[at])
        return self.search(batch)

    def train(self, mode: bool = True) -> "Memory":
        """Switch modes; each evaluation notes its own neighbours."""
        if not mode:
            self._noted = []
        super().train(mode)
        return self

    @torch.no_grad()
    def note(self, batch: Batch, rows: Int[Tensor, "batch rank"]) -> None:
        """Keep what some queries of an evaluation found, to be shown by `retrieval`.

        Args:
            batch: The queries, as they were looked up.
            rows: Of the bank, best first.
        """
        if self.training or not len(self) or len(self._noted) * NOTED_EACH >= NOTED:
            return
        some = batch.take(torch.arange(min(NOTED_EACH, len(batch)), device=rows.device))
        rows = rows[: len(some)]
        score = (self.look(some)[:, None] * self.keys[rows]).sum(2)
        if self._picture is not None and not self._noted:
            self._pictures = some.inputs[self._picture]
        self._noted.append((some.sample_id, rows, score))

    def retrieval(self) -> dict[str, Retrieval]:
        """What the last evaluation found, as a diagnostic; nothing if nothing was noted."""
        if not self._noted:
            return {}
        query, rows, score = (torch.cat(part) for part in zip(*self._noted, strict=True))
        pictures: dict[str, NDArray[np.uint8]] = {}
        if self._picture is not None:
            first = rows[: len(self._pictures)]
            theirs, _ = self.read(self._picture, first.flatten())
            theirs = theirs.view(*first.shape, *theirs.shape[1:])
            pictures["query_image"] = as_picture(self._pictures).cpu().numpy()
            pictures["neighbour_image"] = as_picture(theirs).cpu().numpy()
        result = Retrieval(
            query=query.cpu().numpy(),
            neighbour=self.sample_id[rows].cpu().numpy(),
            score=score.cpu().numpy(),
            by=np.array(self.by),
            **pictures,
        )
        return {"retrieval": result}

    def search(self, batch: Batch) -> Neighbours:
        """The same by matrix products, or by the index."""
        return self.neighbours_of(self.look(batch), self.row_of(batch.sample_id), batch.sample_id)

    @torch.no_grad()
    def neighbours_of(self, query: Tensor, self_row: Tensor, sample_id: Tensor) -> Neighbours:
        """What samples of these features find, each without itself."""
        if self.index is None or not len(self):
            rows, score = nearest(query, self.keys, self.k, self_row)
        else:
            mark = (self.keys.data_ptr(), self.keys._version)
            if self._built[0] != mark:
                made = empty_index(self.keys.shape[1], self.index)
                fill_index(made, self.keys)
                self._built = (mark, made)
            rows, score = nearest_by_index(query, self._built[1], self.k, self_row)
        return self.checked(sample_id, rows, score > -math.inf)

    def sample(self, batch: Batch, key: Int[Tensor, " batch"]) -> Neighbours:
        """Any K rows in place of the nearest, never the query itself: a control.

        Args:
            batch: The queries.
            key: Random bits, one number a query.
        """
        score = hashed(key[:, None], torch.arange(len(self), device=key.device)).double()
        self_row = self.row_of(batch.sample_id)
        itself = torch.arange(len(self), device=key.device) == self_row[:, None]
        score = score.masked_fill(itself, -math.inf)
        gap = score.new_full((len(score), max(0, self.k - len(self))), -math.inf)
        best, rows = torch.cat([score, gap], 1).topk(self.k)
        return self.checked(batch.sample_id, rows, best > -math.inf)

    def checked(self, sample_id: Tensor, rows: Tensor, valid: Tensor) -> Neighbours:
        """Begin the list again where it is too short; refuse a query that found itself."""
        count = valid.sum(1, keepdim=True)
        again = torch.arange(self.k, device=rows.device) % count.clamp_min(1)
        rows = torch.where(count > 0, rows.gather(1, again), 0)
        if rows.is_cpu and len(self):  # elsewhere the question would stall the device
            itself = self.sample_id[rows] == sample_id[:, None]
            assert not (itself & valid).any(), "a sample is its own neighbour"
        return Neighbours(rows, valid)

    def tokens(
        self, name: str, rows: Int[Tensor, "*rows"], embedder: nn.Module
    ) -> Float[Tensor, "*rows token dim"]:
        """Tokens of one modality of these rows, in the order that the embedder gives them.

        A frozen embedder runs once over the whole bank, as long as its tokens take no more
        than 4 GiB; then, and while it is not frozen, it runs on the rows that are asked for.
        Tokens by encoders that other runs hold, too, lie in files that all share, of any size.

        Args:
            name: Which modality.
            rows: Of the bank, which must not be empty.
            embedder: Called with the inputs and the lengths or None, as in `Batch.embed`; it
                treats every sample by itself.
        """
        flat = rows.flatten()
        learns = torch.is_grad_enabled() and any(p.requires_grad for p in embedder.parameters())
        table = None if learns else self._table(name, embedder)
        if table is None:
            z = self._embed(name, flat, embedder)
        else:
            z = table[flat.to(table.device)].to(flat.device)
        return z.view(*rows.shape, *z.shape[1:])

    def _embed(self, name: str, rows: Tensor, embedder: nn.Module) -> Tensor:
        x, lengths = self.read(name, rows)
        device = self.sample_id.device
        z: Tensor = embedder(x.to(device), None if lengths is None else lengths.to(device))
        return z

    @torch.no_grad()
    def _table(self, name: str, embedder: nn.Module) -> "_Table | Tensor | None":
        """Tokens of the whole bank, made again when the embedder has changed; None = too large."""
        # writing to a tensor raises its version, moving it changes where it lies
        parts = chain(embedder.parameters(), embedder.buffers(), (self.sample_id,))
        mark = (id(embedder), *((part.data_ptr(), part._version) for part in parts))
        if name not in self._tables or self._tables[name][0] != mark:
            self._tables[name] = (mark, self._embed_all(name, embedder))
        return self._tables[name][1]

    def _embed_all(self, name: str, embedder: nn.Module) -> "_Table | Tensor | None":
        if is_shared_between_runs(embedder) and is_frozen(embedder) and len(self):
            if self._embeddings is not None:  # those of the training split are there already
                values = self._embeddings.output(name, embedder).values
                assert values is not None, "shared embeddings are made for a whole split"
                return _Table(values, self._place)
            return stored_embeddings(embedder, partial(self._chunks, name), len(self))
        pieces: list[Tensor] = []
        for rows in torch.split(torch.arange(len(self)), CHUNK):
            pieces.append(self._embed(name, rows, embedder))
            if pieces[0][0].numel() * pieces[0].element_size() * len(self) > TABLE_BYTES:
                return None
        return torch.cat(pieces)

    def _chunks(self, name: str) -> Iterator[tuple[Tensor, Tensor | None]]:
        return (self.read(name, rows) for rows in torch.split(torch.arange(len(self)), CHUNK))

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for m, name in enumerate(self.names):
            stored = self._stored.get(name)
            if stored is None:
                continue
            if stored.gap is not None:  # as it is read: what is hidden must not be kept
                destination[f"{prefix}input_{m}"] = stored.read(self._place)[0]
                continue
            destination[f"{prefix}input_{m}"] = stored.raw(self._place)
            if stored.scale is not None:
                destination[f"{prefix}scale_{m}"] = torch.stack(
                    [stored.scale.mean, stored.scale.inverse_std]
                )

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        make_room(self, state_dict, prefix)
        loaded = {}
        for m, name in enumerate(self.names):
            values = state_dict.pop(f"{prefix}input_{m}", None)
            scale = state_dict.pop(f"{prefix}scale_{m}", None)
            if values is not None:
                lengths = state_dict.get(f"{prefix}length_{m}")
                loaded[name] = Stored(
                    values.cpu(),
                    None if scale is None else Scale(*scale.cpu()),
                    None if lengths is None else lengths.cpu(),
                )
        if loaded:
            self._stored, self._embeddings, self._tables = loaded, None, {}
            self._place = torch.arange(len(next(iter(loaded.values())).values))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


@dataclass(frozen=True, slots=True)
class _Table:
    """Tokens of the bank as rows of those of the training split."""

    values: Tensor
    place: Tensor

    @property
    def device(self) -> torch.device:
        return self.values.device

    def __getitem__(self, rows: Tensor) -> Tensor:
        return self.values[self.place[rows]]


@dataclass(frozen=True, slots=True)
class _Seen:
    """What `fill` keeps of one training batch."""

    sample_id: Tensor
    presence: Tensor
    complete: Tensor
    target: Tensor
    raw: dict[str, Tensor]  # features that exist before training, of all that may be seen
    embeddings: Embeddings | None  # of the split, and the places in it
    place: Tensor
    copies: Mapping[str, tuple[Tensor, Tensor | None]]  # complete samples of no data module

    @classmethod
    def of(cls, batch: Batch, features: list[Feature]) -> "_Seen":
        source = batch if batch.teacher is None else batch.teacher
        complete = source.presence.all(1)
        rows = None if source.embeddings is None else source.embeddings.rows
        split = None if source.embeddings is None else source.embeddings.whole
        refer = split is not None and split.stored is not None
        copies = {} if refer else {n: _some(source, n, complete) for n in batch.modalities}
        return cls(
            batch.sample_id,
            batch.presence,
            complete,
            source.target,
            {part.name: part.of(source) for part in features},
            split,
            batch.sample_id if rows is None else rows,
            copies,
        )


def as_picture(x: Float[Tensor, "*rows channel height width"]) -> UInt8[Tensor, "..."]:
    """Standardised pixels as 0..255, each picture from its darkest to its brightest value."""
    low, high = x.amin((-3, -2, -1), keepdim=True), x.amax((-3, -2, -1), keepdim=True)
    return (255 * (x - low) / (high - low).clamp_min(1e-6)).round().to(torch.uint8)


def _some(batch: Batch, name: str, rows: Tensor) -> tuple[Tensor, Tensor | None]:
    lengths = batch.lengths.get(name)
    return batch.inputs[name][rows], None if lengths is None else lengths[rows]
