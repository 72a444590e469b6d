"""MMC-AMD: age-related macular degeneration from a fundus picture and an OCT scan of an eye."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Shaped

from mmbench.data.files import locate
from mmbench.data.samples import SPLITS, Split
from mmbench.data.scenario import Scenario
from mmbench.datamodule import Source
from mmbench.picture_set import Index, PictureSet

HOME = "mmc_amd"
# modality -> its name in the lists, how names of its pictures begin, their folder
LISTS = {"oct": "oct", "fundus": "cfp"}
LETTERS = {"oct": "o-", "fundus": "f-"}
FOLDERS = {"oct": "oct-median3x3-448x448", "fundus": "cfp-clahe-448x448"}
CLASSES = ("normal", "dryAMD", "PCV", "wetAMD")


@dataclass(frozen=True)
class _Picture:
    """A picture of the lists: its name, whose eye, the class, the file."""

    name: str
    eye: str
    label: int
    file: Path


def _files(partition: str) -> tuple[str, ...]:
    folders = [f"{HOME}/ImageData/{name}" for name in FOLDERS.values()]
    lists = [
        f"{HOME}/mmc-amd-split{partition}-{split}/{kind}/{name}.txt"
        for split in SPLITS
        for kind in ("ImageSets", "annotations", "SubjectSets")
        for name in LISTS.values()
    ]
    return (*folders, *lists)


class MmcAmd(PictureSet):
    """1,094 colour fundus pictures and 1,289 OCT scans; 768 eyes have both. Four classes.

    Format, in `mmc_amd/`, as the archive unpacks:

    - `ImageData/cfp-clahe-448x448/f-*.jpg`, `ImageData/oct-median3x3-448x448/o-*.jpg`: cleaned by
      the authors. A name is the modality's letter, the eye, and after `_` the picture's number.
    - `mmc-amd-split{A,AP}-{train,val,test}/`: `ImageSets/{cfp,oct}.txt`, a name without .jpg a
      line; `annotations/{cfp,oct}.txt`, the same lines with the label 0..3 at their end;
      `SubjectSets/{cfp,oct}.txt`, the persons of that split. `EyeSets/` is not read.

    Where to get it: the form that github.com/li-xirong/mmc-amd names; research only.

    Samples are pairs of a fundus picture and an OCT scan of the same eye, all of them, as in the
    authors' strict pairing: an eye with two scans gives two pairs. With `unpaired`, a picture whose
    eye has none of the other modality is a sample, too. (The authors' loose pairing, which joins
    any two pictures of a class, would show a test class's pictures many times.)

    Missing by nature: nothing; with `unpaired`, about a third of the eyes lack one modality.

    Classes: 0 normal, 1 dryAMD, 2 PCV (polypoidal choroidal vasculopathy), 3 wetAMD.

    Split `AP`: no person is in two parts. Split `A`: no eye is, but persons are, and
    `mmbench data check` says how many: with the other eye in training, scores are too good. The
    sample id is a hash of the names of the pictures.

    Traps. The authors report .917 for two streams under A, .919 under AP. CP-IMoE's 615 / 153 pairs
    fit neither.

    Args:
        root: Folder that has `mmc_amd/`.
        scenario: See `DataModule`.
        partition: `AP` or `A`, see above.
        unpaired: Whether eyes with one modality are samples.
        **common: Passed to `PictureSet`: `size`, `skip_bad`.
    """

    source = Source(
        citation="Wang, Li, Xu et al., Learning Two-Stream CNN for Multi-Modal Age-Related Macular "
        "Degeneration Categorization, IEEE Journal of Biomedical and Health Informatics 26, 2022",
        url="https://github.com/li-xirong/mmc-amd",
        licence="research only, upon request",
        papers=(
            "Wang et al.: splitA by eye, splitAP by person; pairs of one eye, loose pairs in "
            "training; F1, .917 / .919 for two streams",
            "CP-IMoE: train 266 wetAMD, 50 dryAMD, 143 PCV, 156 normal, test 65, 8, 41, 39; which "
            "pairs is not said, and they fit neither split; macro F1, kappa, accuracy",
        ),
    )
    files: ClassVar[tuple[str, ...]] = _files("AP")
    pictures: ClassVar[tuple[str, ...]] = tuple(FOLDERS)

    def __init__(
        self,
        root: Path,
        scenario: Scenario,
        *,
        partition: Literal["AP", "A"] = "AP",
        unpaired: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(root, scenario, **common)
        self.partition = partition
        self.unpaired = unpaired
        self.files = _files(partition)  # type: ignore[misc]  # not of the class

    def read_index(self) -> Index:
        """See `PictureSet`."""
        samples: list[dict[str, _Picture]] = []
        parts: list[int] = []
        for number, split in enumerate(SPLITS):
            pictures = {name: self._listed(split, name) for name in self.pictures}
            pairs = _pairs(pictures)
            if self.unpaired:
                eyes = {one.eye for pair in pairs for one in pair.values()}
                pairs += [
                    {name: one}
                    for name, listed in pictures.items()
                    for one in listed
                    if one.eye not in eyes
                ]
            samples += pairs
            parts += [number] * len(pairs)
        return Index(
            names=["+".join(one.name for one in sample.values()) for sample in samples],
            outputs=CLASSES,
            target=np.array([next(iter(one.values())).label for one in samples], dtype=np.int64),
            part=np.array(parts, dtype=np.int64),
            pictures={
                name: [sample[name].file if name in sample else None for sample in samples]
                for name in self.pictures
            },
        )

    def subject_of(self, split: Split) -> Shaped[np.ndarray, " person"]:
        """Persons of a split as its lists name them."""
        paths = [self._list(split, "SubjectSets", name) for name in self.pictures]
        return np.array(sorted({line for path in paths for line in _lines(path)}), dtype=str)

    def _list(self, split: Split, kind: str, name: str) -> Path:
        where = f"{HOME}/mmc-amd-split{self.partition}-{split}/{kind}/{LISTS[name]}.txt"
        return locate(self.root, where)

    def _listed(self, split: Split, name: str) -> list["_Picture"]:
        """Pictures of a modality in a split."""
        images, labels = (self._list(split, kind, name) for kind in ("ImageSets", "annotations"))
        lines = [line.split() for line in _lines(labels)]
        folder = self.root / HOME / "ImageData" / FOLDERS[name]
        if len(lines) != len(names := _lines(images)):
            raise ValueError(f"{labels} has {len(lines)} lines, but {images} has {len(names)}")
        pictures = []
        for row, (image, line) in enumerate(zip(names, lines, strict=True), start=1):
            if len(line) > 1 and line[0].removesuffix(".jpg") != image:
                raise ValueError(f"{labels} row {row} is about {line[0]}, but {images} has {image}")
            if line[-1] not in ("0", "1", "2", "3"):
                raise ValueError(f"{labels} row {row}: the label {line[-1]!r} is none of 0..3")
            if "/" in image or not image.startswith(LETTERS[name]):
                raise ValueError(f"{images} row {row}: {image!r} is no picture of {LISTS[name]}")
            file = folder / f"{image}.jpg"
            pictures.append(_Picture(image, image[2:].split("_")[0], int(line[-1]), file))
        return pictures


def _pairs(pictures: dict[str, list[_Picture]]) -> list[dict[str, _Picture]]:
    """Pairs of the same eye, in the order of the lists.

    Raises:
        ValueError: If the two have different labels.
    """
    first, second = pictures
    of_eye: dict[str, list[_Picture]] = {}
    for one in pictures[second]:
        of_eye.setdefault(one.eye, []).append(one)
    pairs = []
    for one in pictures[first]:
        for other in of_eye.get(one.eye, ()):
            if one.label != other.label:
                raise ValueError(
                    f"{one.name} has the label {one.label}, but {other.name} of the same eye "
                    f"{other.label}"
                )
            pairs.append({first: one, second: other})
    return pairs


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
