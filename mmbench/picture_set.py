"""Data sets of pictures, and of pictures with a text: an index says what the samples are.

Pictures are decoded once a machine, token ids are made once, both are mapped by all runs.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Int
from numpy.typing import NDArray

from mmbench.data.digest import digest
from mmbench.data.features import TEXT_PACKAGE, installed
from mmbench.data.parsed import Arrays, parsed
from mmbench.data.pictures import Pictures, contents, decoded
from mmbench.data.sample_files import read_picture, sides
from mmbench.data.samples import SPLITS, Samples, Split
from mmbench.data.scenario import Scenario
from mmbench.data.splits import rows_of, stable_ids
from mmbench.data.task import Modality, Task, TaskKind
from mmbench.data.texts import PACKAGED, pieces_of, tokenised
from mmbench.datamodule import DataModule


@dataclass(frozen=True)
class Index:
    """Samples of a set, in an order that its files decide.

    Args:
        names: Unique; sample ids are hashes of them.
        outputs: Names of the classes or labels.
        target: As `Samples` has it.
        part: Position in `SPLITS` of each sample.
        pictures: Modality -> file of each sample; None = it has none.
        texts: Modality -> text of each sample; "" = it has none.
        subjects: Whose each sample is; None = nobody's.
        notes: What a reader of the table should know, a line each.
    """

    names: Sequence[str]
    outputs: tuple[str, ...]
    target: NDArray[Any]
    part: Int[np.ndarray, " sample"]
    pictures: Mapping[str, Sequence[Path | None]]
    texts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    subjects: Sequence[str] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Column:
    """One modality of all samples of an index.

    Args:
        modality: How the task calls it.
        x: Values; absent ones may be anything.
        present: True = the sample has it.
        length: Of each, for kinds with lengths.
        notes: What was cut or left out, a line each.
    """

    modality: Modality
    x: NDArray[Any]
    present: Bool[np.ndarray, " sample"]
    length: Int[np.ndarray, " sample"] | None = None
    notes: tuple[str, ...] = ()


class PictureSet(DataModule):
    """A data set whose samples are pictures.

    A subclass names its picture modalities and reads the index.

    Args:
        root: Folder of the user's data.
        scenario: See `DataModule`.
        size: Pixels that pictures are brought to, a side or height and width.
        skip_bad: Of each modality, so many pictures may be unreadable or missing, >= 0: their
            samples lack it, and `notes` names them.
        **common: Passed to `DataModule`.

    Raises:
        ValueError: If the size is none.
    """

    pictures: ClassVar[tuple[str, ...]]
    kind: ClassVar[TaskKind] = "single_label"

    def __init__(
        self,
        root: Path,
        scenario: Scenario,
        *,
        size: int | Sequence[int] = 224,
        skip_bad: int = 0,
        **common: Any,
    ) -> None:
        super().__init__(root, scenario, **common)
        self.size = sides(size)
        self.skip_bad = skip_bad

    @abstractmethod
    def read_index(self) -> Index:
        """Read all but the pictures.

        Raises:
            ValueError: If a file is not there or not laid out as described; one line that names
                file and row.
        """

    @cached_property
    def index(self) -> Index:
        """The index, read once."""
        index = self.read_index()
        names, counts = np.unique(np.array(index.names), return_counts=True)
        if (counts > 1).any():
            raise ValueError(f"sample {names[counts > 1][0]} occurs {counts.max()} times")
        return index

    def describe(self) -> Task:
        """The modalities and outputs; no picture is read."""
        return Task(self.kind, self.modalities(), self.index.outputs)

    def modalities(self) -> tuple[Modality, ...]:
        """Modalities in their order, pictures first."""
        return tuple(Modality(name, "image", (3, *self.size)) for name in self.pictures)

    def columns(self) -> list[Column]:
        """Values of all modalities, in their order."""
        return [
            Column(modality, pictures.x, pictures.present, notes=pictures.notes)
            for modality in self.modalities()
            if modality.kind == "image"
            for pictures in [self.decoded(modality.name, self.index.pictures[modality.name])]
        ]

    def decoded(self, name: str, files: Sequence[Path | None]) -> Pictures:
        """Pictures of one modality; a set whose files are no pictures reads them here."""
        return decoded(
            files,
            partial(read_picture, size=self.size),
            size=self.size,
            skip_bad=self.skip_bad,
            name=name,
            spec={"reader": "picture"},
            code="mmbench.data.pictures",
        )

    def load(self, split: Split) -> Samples:
        """Take one split; a sample that lacks every modality is left out.

        Raises:
            ValueError: If a file is not there, or is not laid out as described; the message names
                it, a bad picture with its number.
        """
        return self._samples.take(rows_of(self.index.part[self._rows], split))

    @cached_property
    def _columns(self) -> list[Column]:
        return self.columns()

    @cached_property
    def _rows(self) -> NDArray[np.int_]:
        """Samples of the index that have some modality."""
        return np.flatnonzero(np.any([one.present for one in self._columns], axis=0))

    @cached_property
    def _samples(self) -> Samples:
        index, rows = self.index, self._rows

        def of(x: NDArray[Any]) -> NDArray[Any]:
            return x if len(rows) == len(index.names) else x[rows]  # mapped arrays stay mapped

        return Samples(
            modalities=tuple(one.modality.name for one in self._columns),
            inputs={one.modality.name: of(one.x) for one in self._columns},
            target=of(index.target),
            sample_id=of(stable_ids(index.names)),
            presence=of(np.stack([one.present for one in self._columns], axis=1)),
            lengths={
                one.modality.name: of(one.length) for one in self._columns if one.length is not None
            },
        )

    def ingredients(self) -> dict[str, dict[str, str]]:
        """See `DataModule`; a folder of pictures has a hash over all of them."""
        made_of = super().ingredients()
        made_of["files"] |= contents(self.sample_files(), self.root)
        return made_of

    def sample_files(self) -> list[Path | None]:
        """Files of samples, which the data set names by their folders alone."""
        return [file for one in self.index.pictures.values() for file in one]

    def names_of_ids(self) -> Mapping[int, str]:
        """The names as the files have them."""
        return dict(zip(stable_ids(self.index.names).tolist(), self.index.names, strict=True))

    def subject_of(self, split: Split) -> NDArray[np.str_] | None:
        """See `DataModule`."""
        if self.index.subjects is None:
            return None
        rows = rows_of(self.index.part, split)
        return np.array([self.index.subjects[row] for row in rows], dtype=str)

    def notes(self) -> tuple[str, ...]:
        """What was found in the index, cut, or left out, a line each."""
        lost = len(self.index.names) - len(self._rows)
        without = (f"{lost} samples without any modality left out",) if lost else ()
        return (*self.index.notes, *(n for one in self._columns for n in one.notes), *without)


class PictureTextSet(PictureSet):
    """A data set whose samples are pictures with a text.

    Args:
        root: Folder of the user's data.
        scenario: See `DataModule`.
        tokenizer: Folder of a published model, whose tokenizer cuts the texts, or `packaged` for
            that of MiniLM (extra `pretrained`); None = words that occur twice in the training
            split are numbered, all others share one id.
        max_tokens: Of a text, >= 1; longer ones are cut. None = the longest text decides, or what
            the tokenizer's model reads at most.
        **common: Passed to `PictureSet`.

    Raises:
        ValueError: If the folder has no tokenizer.
    """

    texts: ClassVar[tuple[str, ...]] = ("text",)

    def __init__(
        self,
        root: Path,
        scenario: Scenario,
        *,
        tokenizer: str | None = None,
        max_tokens: int | None = None,
        **common: Any,
    ) -> None:
        super().__init__(root, scenario, **common)
        if max_tokens is not None and max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, found {max_tokens}")
        self.max_tokens = max_tokens
        self.packaged = tokenizer == PACKAGED
        self._pieces = pieces_of(root, tokenizer)
        if self._pieces and not self.packaged:
            files = [f"{tokenizer}/{file.name}" for file in self._pieces.files]
            self.files = (*self.files, *files)  # type: ignore[misc]  # not of the class

    def modalities(self) -> tuple[Modality, ...]:
        """Modalities in their order, texts last."""
        whose = self._pieces.name if self._pieces else ""
        return (
            *super().modalities(),
            *(
                Modality(
                    name, "tokens", ids["x"].shape[1:], int(ids["vocab_size"]), tokenizer=whose
                )
                for name, ids in self._tokens.items()
            ),
        )

    def columns(self) -> list[Column]:
        """Values of all modalities, in their order."""
        texts = self.modalities()[len(self.pictures) :]
        return [
            *super().columns(),
            *(
                Column(
                    modality,
                    ids["x"],
                    np.array([bool(text.strip()) for text in self.index.texts[modality.name]]),
                    ids["length"],
                    tuple(ids["notes"].tolist()),
                )
                for modality in texts
                for ids in [self._tokens[modality.name]]
            ),
        ]

    @cached_property
    def _tokens(self) -> dict[str, Arrays]:
        return {name: self._tokenised(name, self.index.texts[name]) for name in self.texts}

    def _tokenised(self, name: str, texts: Sequence[str]) -> Arrays:
        train = self.index.part == SPLITS.index("train")

        def read(_: Any) -> Arrays:
            tokens = tokenised(
                texts, train, pieces=self._pieces, max_tokens=self.max_tokens, name=name
            )
            return {
                "x": tokens.x,
                "length": tokens.length,
                "vocab_size": np.array(tokens.vocab_size),
                "notes": np.array(tokens.notes, dtype=str),
            }

        spec = {
            "what": "texts",
            "name": name,
            "texts": digest({str(row): text for row, text in enumerate(texts)}),
            "train": digest({"rows": np.flatnonzero(train).tolist()}),
            "tokenizer": self._pieces and self._pieces.content,
            "max_tokens": self.max_tokens,
        }
        return parsed(self.text_files(), spec, read, code="mmbench.data.texts")

    @abstractmethod
    def text_files(self) -> list[Path]:
        """Files that the texts stand in."""

    def ingredients(self) -> dict[str, dict[str, str]]:
        """See `PictureSet`."""
        made_of = super().ingredients()
        if self.packaged:
            made_of["distributions"] |= {TEXT_PACKAGE: installed()[TEXT_PACKAGE]}
        return made_of
