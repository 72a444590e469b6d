"""What a user's file holds of one modality, sample by sample, as the data set `table` reads it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int
from numpy.typing import NDArray

from mmbench.data.arrays import ENDINGS, arrays_of, read_arrays
from mmbench.data.arrays import Arrays as ModalityArrays
from mmbench.data.bags import MOST, Bags, read_bags
from mmbench.data.columns import BadRowError, features
from mmbench.data.decoders import decoder_of
from mmbench.data.frames import Frame, likely_cause, read_frame, require_unique
from mmbench.data.mapped import Values
from mmbench.data.parsed import Arrays, Room, parsed
from mmbench.data.pieces import Pieces
from mmbench.data.sample_files import (
    FileKind,
    SampleFiles,
    Skipped,
    in_column,
    in_folder,
    read_array,
    stacked,
)
from mmbench.data.splits import stable_ids
from mmbench.data.task import WITH_LENGTHS, Kind, Modality
from mmbench.data.texts import tokenised


@dataclass(frozen=True)
class Entries:
    """One modality of all samples.

    Args:
        modality: Its description.
        x: (sample, ...) in the axes of the kind; zeros where it is absent.
        present: Which samples have it.
        length: Steps that are no padding; 1 for kinds without lengths, and where it is absent.
        notes: What was left out, turned, cut or filled in, a line each.
    """

    modality: Modality
    x: Values
    present: Bool[np.ndarray, " sample"]
    length: Int[np.ndarray, " sample"]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Joined:
    """The samples that the rows of modalities are joined to.

    Args:
        file: Name of the file that names them, for messages.
        ids: As text, unique.
        train: Which of them are of the training split; nothing is learned from others.
        other: Whether rows of modalities without a sample are refused or left out.
    """

    file: str
    ids: "pd.Index[str]"
    train: Bool[np.ndarray, " sample"]
    other: Literal["refuse", "drop"]

    @cached_property
    def spec(self) -> dict[str, str]:
        """What it is, for the key of what is read of it."""
        ids = hashlib.sha256("\0".join(self.ids).encode())
        ids.update(self.train.tobytes())
        return {"file": self.file, "other": self.other, "samples": ids.hexdigest()}

    def rows(self, ids: "pd.Index[str]", path: Path) -> tuple[NDArray[np.int_], list[str]]:
        """Position of the sample of each id, -1 = there is none and it is left out; and notes.

        Raises:
            ValueError: If there is none for any id, or for some and they are refused.
        """
        rows = np.asarray(self.ids.get_indexer(ids))
        lost = rows < 0
        if not lost.any():
            return rows, []
        first = ids[int(np.flatnonzero(lost)[0])]
        if lost.all():
            why = likely_cause(ids, self.ids, (path.name, self.file))
            raise ValueError(f"{path}: none of its {len(ids)} ids is in {self.file}; {why}")
        if self.other == "refuse":
            raise ValueError(
                f"{path}: id {first} ({int(lost.sum())} in all) has no row in {self.file}; "
                "add its label, or leave such rows out with unlabelled: drop"
            )
        return rows, [f"{path.name}: {int(lost.sum())} rows without a label left out"]


@dataclass(frozen=True)
class ModalityFile:
    """A file of one modality, and how it is read.

    Args:
        name: Of the modality.
        kind: Of the modality, or `sound` for recordings that become a sequence.
        path: CSV and its kin, parquet, h5ad, npz or MATLAB, or a folder of files named by id.
        root: What paths in a column of pictures or sounds start from.
        id_column: Name of the column of ids.
        no_features: Columns that are no features, should it have them.
        indicators: Whether a feature with empty cells gets another beside it that says so.
        tokenizer: Folder of the tokenizer that cuts texts; None = words numbered by training.
        max_tokens: Of a text; longer ones are cut. None = the longest decides, or the tokenizer.
        size: Height and width that pictures are brought to; None = they have one size.
        most: Instances that are read of a bag in a file of its own; of more, some are drawn.
        skip_bad: Bad samples that may pass, unreadable files or rows of what cannot be meant; they
            lack the modality.
    """

    name: str
    kind: FileKind
    path: Path
    root: Path
    id_column: str
    no_features: Sequence[str] = ()
    indicators: bool = False
    tokenizer: Path | None = None
    max_tokens: int | None = None
    size: tuple[int, int] | None = None
    most: int = MOST
    skip_bad: int = 0

    @cached_property
    def samples(self) -> SampleFiles | None:
        """The files of samples that it is about; None if it holds values itself.

        Raises:
            ValueError: If it cannot be read, or names none.
        """
        if self.path.is_dir():
            return in_folder(self.path, self.kind)
        if self.kind == "sound" or (self.kind == "image" and self.path.suffix not in ENDINGS):
            frame = read_frame(self.path, self.id_column, text=True)
            return in_column(frame.without(self.no_features), self.root, self.kind)
        return None

    @property
    def _kind(self) -> Kind:
        return "sequence" if self.kind == "sound" else self.kind

    def read(self, joined: Joined) -> Entries:
        """What it holds of some samples; parsed once a machine.

        Raises:
            ValueError: If it cannot be read, or holds what cannot be meant; the message names file
                and row and says what to do.
        """
        spec = {
            "what": "modality of a table",
            "name": self.path.name,  # notes say it
            "kind": self.kind,
            "id": self.id_column,
            "no_features": list(self.no_features),
            "indicators": self.indicators,
            "tokenizer": self._tokens and self._tokens.content,
            "max_tokens": self.max_tokens,
            "size": self.size,
            "skip_bad": self.skip_bad,
            "joined": joined.spec,
        }
        files = [] if self.path.is_dir() else [self.path]
        if self.samples is not None:
            spec["samples"] = list(self.samples.ids)
            files += [file for file in self.samples.files if file.is_file()]
        arrays = parsed(files, spec, partial(self._parse, joined), code=__name__)
        notes = tuple(arrays["notes"].tolist())
        if "instances" in arrays:
            bags = Bags(
                arrays["instances"],
                arrays["count"],
                stable_ids(joined.ids.tolist()),
                most=self.most,
            )
            if bags.cut:
                notes += (
                    f"{self.path.name}: {bags.cut} samples have more than {self.most} instances; "
                    "so many are drawn, in training others every epoch",
                )
            modality = Modality(self.name, self._kind, bags.shape[1:])
            return Entries(modality, bags, arrays["present"], bags.length, notes)
        shape, size = arrays["x"].shape[1:], int(arrays["vocab_size"])
        whose = self._tokens.name if self._tokens else ""
        return Entries(
            Modality(self.name, self._kind, shape, size, whose),
            arrays["x"],
            arrays["present"],
            arrays["length"],
            notes,
        )

    @cached_property
    def _tokens(self) -> "Pieces | None":
        return None if self.tokenizer is None or self.kind != "tokens" else Pieces(self.tokenizer)

    def _parse(self, joined: Joined, room: Room) -> Arrays:
        if self.samples is not None and self.kind not in ("vector", "tokens"):
            arrays = self._of_files(self.samples, joined, room)
        else:
            arrays = self._rows(joined, room).scattered(len(joined.ids))
        if not arrays["present"].any():
            raise ValueError(
                f"{self.path} has no row with a value, so that no sample has the modality "
                f"{self.name}; fill it in, or take it out of files"
            )
        return arrays

    def _rows(self, joined: Joined, room: Room) -> "_Rows":
        if self.samples is not None:
            return self._arrays(self._stacked(self.samples), joined)
        if self.path.suffix in ENDINGS:
            return self._arrays(read_arrays(self.path, self._kind), joined)
        return self._frame(joined)

    def _of_files(self, samples: SampleFiles, joined: Joined, room: Room) -> Arrays:
        """Pictures, sounds, arrays or bags in files of their own, decoded where there is room."""
        rows, notes = joined.rows(samples.ids, self.path)
        bad = Skipped(self.skip_bad, self.path.name)
        some = np.flatnonzero(rows >= 0)
        if self.kind == "bag":  # they lie in the order of samples
            some = some[np.argsort(rows[some])]
        files = [samples.files[k] for k in some.tolist()]
        rows = rows[some]
        length = np.zeros(len(joined.ids), np.int64)

        def refuse(number: int, error: ValueError) -> None:
            with bad.may_fail(samples.places[some[number]]):
                raise error

        content: dict[str, NDArray[Any]] = {}
        if self.kind == "bag":
            content |= read_bags(files, room, refuse)
            length[rows] = content["count"]
            content["count"] = length
        else:
            decoder = decoder_of(self.kind, files, self.size)
            content["x"] = room.decode(
                "x",
                (len(length), *decoder.shape),
                decoder.dtype,
                files,
                decoder.read,
                rows=rows,
                length=length,
                refuse=refuse,
            )
            notes = [*decoder.notes, *notes]
        present = length > 0
        return {
            **content,
            "present": present,
            "length": np.where(present & (self._kind in WITH_LENGTHS), length, 1),
            "vocab_size": np.array(0),
            "notes": np.array([*samples.notes, *notes, *bad.notes], dtype=str),
        }

    def _stacked(self, samples: SampleFiles) -> ModalityArrays:
        """Vectors or token ids, which are small."""
        arrays, files, ids = [], [], []
        bad = Skipped(self.skip_bad, self.path.name)
        for name, file in zip(samples.ids, samples.files, strict=True):
            with bad.may_fail(str(file)):
                arrays.append(read_array(file))
                files.append(file)
                ids.append(name)
        content = stacked(arrays, files, self._kind) | {"id": np.array(ids, dtype=str)}
        result = arrays_of(content, self.path, self._kind)
        return replace(result, notes=(*samples.notes, *result.notes, *bad.notes))

    def _frame(self, joined: Joined) -> "_Rows":
        """Of a CSV or parquet file."""
        frame = read_frame(self.path, self.id_column, text=self.kind == "tokens")
        frame = frame.without(self.no_features)
        rows, notes = joined.rows(frame.ids, self.path)
        frame = frame.take(np.flatnonzero(rows >= 0))
        rows = rows[rows >= 0]
        notes = [*frame.notes, *notes]
        if self.kind == "vector":
            return self._vector(frame, rows, joined, notes)
        if self.kind != "tokens" or len(frame.names) != 1:
            raise ValueError(
                f"{self.path} has the columns {[*frame.names]} beside the id, which makes no "
                f"{self.kind}: a CSV or parquet file holds a vector (numbers) or, of kind "
                "tokens, one column of text; for anything else take an npz file"
            )
        texts = frame.text(frame.names[0])
        filled = (texts != "").to_numpy(bool)
        return self._texts(texts[filled], rows[filled], joined, notes)

    def _arrays(self, arrays: ModalityArrays, joined: Joined) -> "_Rows":
        """Of an npz or MATLAB file, or of arrays in files of their own."""
        require_unique(arrays.ids, self.path)
        rows, notes = joined.rows(arrays.ids, self.path)
        known = (rows >= 0) & arrays.present
        x, length, rows = arrays.x[known], arrays.length[known], rows[known]
        notes = [*arrays.notes, *notes]
        if self.kind == "vector" and (self.indicators or np.isnan(x).any()):
            names = tuple(str(k) for k in range(x.shape[1]))
            lines = np.arange(len(x))
            values = x.astype(np.float64)
            frame = Frame(self.path, arrays.ids[known], names, values, {}, lines)
            return self._vector(frame, rows, joined, notes)
        if self.kind != "tokens":
            return _Rows(x, rows, length, 0, notes)
        size = int(arrays.x.max(initial=0)) + 1
        if self._tokens is not None:
            if size > self._tokens.size:
                row = int(np.flatnonzero((arrays.x >= self._tokens.size).any(axis=1))[0])
                raise ValueError(
                    f"{self.path} id {arrays.ids[row]}: token id {arrays.x[row].max()} is none of "
                    f"the {self._tokens.size} of the tokenizer in {self.tokenizer}"
                )
            size = self._tokens.size
        if self.max_tokens is not None and x.shape[1] > self.max_tokens:
            if cuts := int((length > self.max_tokens).sum()):
                notes.append(f"{self.path.name}: {cuts} texts cut to {self.max_tokens} tokens")
            x, length = x[:, : self.max_tokens], np.minimum(length, self.max_tokens)
        return _Rows(x, rows, length, size, notes)

    def _texts(
        self, texts: "pd.Series[str]", rows: NDArray[np.int_], joined: Joined, notes: list[str]
    ) -> "_Rows":
        tokens = tokenised(
            texts.tolist(),
            joined.train[rows],
            pieces=self._tokens,
            max_tokens=self.max_tokens,
            name=self.path.name,
        )
        return _Rows(tokens.x, rows, tokens.length, tokens.vocab_size, [*notes, *tokens.notes])

    def _vector(
        self, frame: Frame, rows: NDArray[np.int_], joined: Joined, notes: list[str]
    ) -> "_Rows":
        bad = Skipped(self.skip_bad, self.path.name)
        while True:
            try:
                table = features(frame, joined.train[rows], indicators=self.indicators)
            except BadRowError as error:
                with bad.may_fail(frame.where(error.row)):
                    raise
                good = np.arange(len(rows)) != error.row
                frame, rows = frame.take(good), rows[good]
            else:
                break
        rows = rows[table.present]
        length = np.ones(len(rows), np.int64)
        return _Rows(table.x[table.present], rows, length, 0, [*notes, *table.notes, *bad.notes])


@dataclass(frozen=True)
class _Rows:
    """What a file holds of one modality, row by row.

    Args:
        x: Values of the samples that have it.
        rows: Positions of these samples.
        length: Their lengths; 1 for kinds without.
        vocab_size: Of tokens, else 0.
        notes: What was left out or filled in.
    """

    x: NDArray[Any]
    rows: NDArray[np.int_]
    length: NDArray[np.int64]
    vocab_size: int
    notes: list[str]

    def scattered(self, samples: int) -> Arrays:
        """The same for all samples, as arrays alone."""
        x = np.zeros((samples, *self.x.shape[1:]), self.x.dtype)
        present, length = np.zeros(samples, bool), np.ones(samples, np.int64)
        x[self.rows], present[self.rows], length[self.rows] = self.x, True, self.length
        return {
            "x": x,
            "present": present,
            "length": length,
            "vocab_size": np.array(self.vocab_size),
            "notes": np.array(self.notes, dtype=str),
        }
