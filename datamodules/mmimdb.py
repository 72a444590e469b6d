"""MM-IMDb: the genres of a film, from its poster and its plot."""

import json
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from mmbench.data.files import locate, read_json, reading, same_length
from mmbench.data.parsed import Arrays, Room, parsed
from mmbench.data.samples import SPLITS, Split
from mmbench.data.scenario import Scenario
from mmbench.data.task import Modality, TaskKind
from mmbench.data.unpacking import require_size
from mmbench.datamodule import Counts, Source
from mmbench.picture_set import Column, Index, PictureTextSet

# in the order that MAPs and RAGPT number them by, which is that of their frequency
GENRES = (
    "Drama", "Comedy", "Romance", "Thriller", "Crime", "Action", "Adventure", "Horror",
    "Documentary", "Mystery", "Sci-Fi", "Fantasy", "Family", "Biography", "War", "History", "Music",
    "Animation", "Musical", "Western", "Sport", "Short", "Film-Noir",
)  # fmt: skip
LISTS: dict[Split, str] = {"train": "train", "val": "dev", "test": "test"}
FEATURES = {"image": "vgg_features", "text": "features"}
FOLDER, SPLIT_FILE = "mmimdb/dataset", "mmimdb/split.json"
PART = 1024  # rows of the hdf5 file that are read at a time


class Mmimdb(PictureTextSet):
    """25,959 films with a poster and a plot, each in one or more of 23 genres.

    Format, in `mmimdb/`, as `mmimdb.tar.gz` unpacks:

    - `dataset/<7 digits>.jpeg`, the poster, and `dataset/<7 digits>.json`, of which are read:
      `plot` (a list of texts), `plot outline` (optional), `genres` (a list).
    - `split.json`: numbers of films under train (15,552), dev (2,608) and test (7,799).

    Or, with `hdf5`, the one file `multimodal_imdb.hdf5` of the same authors, which MultiBench
    reads: `vgg_features` (4,096 of a VGG16) and `features` (300, the mean of word2vec over the
    longest plot) are two vectors, `genres` the targets, and its attribute `split` says which rows
    are train, dev and test. It needs the package h5py (`pip install h5py`).

    Where to get it: lisi1.unal.edu.co/mmimdb, see github.com/johnarevalo/gmu-mmimdb.

    Missing by nature: nothing; in the hdf5 file a plot without a known word lacks the text.

    Targets: 23 genres, 0 or 1 each; all others (News, Adult, ...) are left out. Papers report micro
    and samples F1, some macro and weighted.

    Split: the official one, which is balanced over genres. The sample id is a hash of the film's
    number.

    Text: `plot: outline` takes the outline, or the first plot where there is none, as RAGPT and
    REDEEM do; `plot: longest` the longest plot, as the hdf5 file does. MAPs makes a sample of each
    (film, plot) pair, so its counts are larger and its films weigh by their plots.

    Traps. Words of a plot name its genre now and then. Remakes and sequels of one title may lie in
    two splits.

    Args:
        root: Folder that has `mmimdb/`.
        scenario: See `DataModule`.
        plot: Which text, see above.
        hdf5: File below `root` that is read in place of the folder, such as
            `mmimdb/multimodal_imdb.hdf5`; empty = none.
        **common: Passed to `PictureTextSet`: `size`, `skip_bad`, `tokenizer`, `max_tokens`.

    Raises:
        ValueError: If a tokenizer is named beside the hdf5 file, which has no texts.
    """

    source = Source(
        citation="Arevalo, Solorio, Montes-y-Gomez and Gonzalez, Gated Multimodal Units for "
        "Information Fusion, ICLR workshop 2017",
        url="https://github.com/johnarevalo/gmu-mmimdb",
        licence="research; posters and plots remain their owners'",
        papers=(
            "MAPs, MSPs: 15,552 / 2,608 / 7,799 films, a sample for each plot; macro F1",
            "RAGPT, REDEEM: the same films, outline or first plot; micro and samples F1",
            "MultiBench: the hdf5 file, rows cut at 15,552 and 18,160; micro and macro F1",
        ),
    )
    files: ClassVar[tuple[str, ...]] = (SPLIT_FILE, FOLDER)
    published: ClassVar[tuple[Counts, ...]] = (
        Counts("Table 2 of REDEEM", "train", 15_552),
        Counts("Table 2 of REDEEM", "val", 2_608),
        Counts("Table 2 of REDEEM", "test", 7_799),
    )
    pictures: ClassVar[tuple[str, ...]] = ("image",)
    kind: ClassVar[TaskKind] = "multi_label"

    def __init__(
        self,
        root: Path,
        scenario: Scenario,
        *,
        plot: Literal["outline", "longest"] = "outline",
        hdf5: str = "",
        **common: Any,
    ) -> None:
        super().__init__(root, scenario, **common)
        if hdf5 and (self._pieces or self.max_tokens):
            raise ValueError(f"{hdf5} has no texts; leave tokenizer and max_tokens out")
        self.plot = plot
        self.hdf5 = hdf5
        if hdf5:
            self.files = (hdf5,)  # type: ignore[misc]  # not of the class

    def modalities(self) -> tuple[Modality, ...]:
        """Poster and plot, or features of them."""
        if not self.hdf5:
            return super().modalities()
        shapes = {name: self._features[name].shape[1:] for name in FEATURES}
        return tuple(Modality(name, "vector", shape) for name, shape in shapes.items())

    def columns(self) -> list[Column]:
        """See `PictureSet`."""
        if not self.hdf5:
            return super().columns()
        return [
            Column(modality, x, np.asarray(np.isfinite(x).all(axis=1)))
            for modality in self.modalities()
            for x in [self._features[modality.name]]
        ]

    def read_index(self) -> Index:
        """See `PictureSet`."""
        if self.hdf5:
            rows = self._features
            outputs = tuple(rows["outputs"].tolist())
            return Index(rows["id"].tolist(), outputs, rows["genres"], rows["part"], {})
        films = self._films()
        numbers = [number for part in films for number in part]
        folder = locate(self.root, FOLDER)
        said = [_film(folder / f"{number}.json", self.plot) for number in numbers]
        target = np.array(
            [[float(genre in genres) for genre in GENRES] for _, genres in said], np.float32
        )
        bare = int((target.sum(axis=1) == 0).sum())
        return Index(
            names=numbers,
            outputs=GENRES,
            target=target,
            part=np.repeat(np.arange(len(SPLITS)), [len(part) for part in films]),
            pictures={"image": [folder / f"{number}.jpeg" for number in numbers]},
            texts={"text": [text for text, _ in said]},
            notes=(f"{bare} films have none of the {len(GENRES)} genres",) if bare else (),
        )

    def text_files(self) -> list[Path]:
        """The descriptions of the films."""
        folder = locate(self.root, FOLDER)
        return [folder / f"{number}.json" for part in self._films() for number in part]

    def sample_files(self) -> list[Path | None]:
        """Posters, and the descriptions that lie beside them."""
        return super().sample_files() + ([] if self.hdf5 else [*self.text_files()])

    def _films(self) -> list[list[str]]:
        """Numbers of the films of each split."""
        path = locate(self.root, SPLIT_FILE)
        lists = read_json(path)
        if not isinstance(lists, dict) or not set(LISTS.values()) <= set(lists):
            raise ValueError(f"{path} must hold lists of films under {', '.join(LISTS.values())}")
        return [[str(number) for number in lists[name]] for name in LISTS.values()]

    @cached_property
    def _features(self) -> Arrays:
        path = locate(self.root, self.hdf5)
        return parsed([path], {"what": "features"}, partial(_features, path), code=__name__)


def _film(path: Path, plot: str) -> tuple[str, list[str]]:
    """Text and genres of a film."""
    film = read_json(path)
    if not isinstance(film, dict):
        raise ValueError(f"{path} describes no film: a mapping is expected")
    plots = _texts(path, "plot", film.get("plot", []))
    genres = _texts(path, "genres", film.get("genres"))
    outline = film.get("plot outline")
    if plot == "outline" and isinstance(outline, str) and outline.strip():
        text = outline
    elif plot == "longest":
        text = max(plots, key=len, default="")
    else:
        text = plots[0] if plots else ""
    return text, genres


def _texts(path: Path, name: str, value: Any) -> list[str]:
    """A list of texts, as a film's description has it under a name."""
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise ValueError(f"{path}: {name} must be a list of texts, found {str(value)[:60]!r}")
    return value


def _features(path: Path, room: Room) -> Arrays:
    """What is read of the hdf5 file, all splits after each other."""
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{path} is read by a package that is missing; pip install h5py"
        ) from error
    with reading(path, "hdf5 file of MM-IMDb"), h5py.File(path) as file:
        names = (*FEATURES.values(), "genres", "imdb_ids")
        if lost := [name for name in names if name not in file]:
            raise ValueError(f"it has no {lost[0]}; it has {', '.join(file)}")
        require_size(path, sum(file[name].nbytes for name in names))
        n = same_length({name: len(file[name]) for name in names})
        arrays: dict[str, NDArray[Any]] = {}
        for modality, name in FEATURES.items():
            values = room(modality, file[name].shape, np.float32)
            for begin in range(0, n, PART):
                values[begin : begin + PART] = file[name][begin : begin + PART]
            arrays[modality] = values
        arrays["genres"] = np.asarray(file["genres"][:], dtype=np.float32)
        arrays["outputs"] = np.array(json.loads(file["genres"].attrs["target_names"]), dtype=str)
        arrays["id"] = np.array([one.decode() for one in file["imdb_ids"][:]], dtype=str)
        part = np.full(n, -1, dtype=np.int64)
        for row in file.attrs["split"]:
            if row["source"].decode() == "genres":
                number = list(LISTS.values()).index(row["split"].decode())
                part[int(row["start"]) : int(row["stop"])] = number
    if (part < 0).any():
        raise ValueError(f"{path} row {int(np.argmin(part)) + 1} is in no split")
    return arrays | {"part": part}
