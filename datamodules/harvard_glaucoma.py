"""Harvard-FairVision, glaucoma: from a scan through the retina and a picture of it."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image

from mmbench.data.files import locate, read_npz
from mmbench.data.parsed import Arrays, Room, parsed
from mmbench.data.pictures import Pictures, decoded
from mmbench.data.sample_files import Skipped, pixels_of
from mmbench.data.samples import SPLITS
from mmbench.data.scenario import Scenario
from mmbench.datamodule import Counts, Source
from mmbench.picture_set import Index, PictureSet

HOME = "harvard_glaucoma"
FOLDERS = ("Training", "Validation", "Test")
RENAMED = ("train", "val", "test")  # as the authors' code wants them
ARRAYS = {"oct": "oct_bscans", "fundus": "slo_fundus"}
DIMENSIONS = {"oct": 3, "fundus": 2}
Slices = Literal["middle", "mean"]


class HarvardGlaucoma(PictureSet):
    """10,000 persons with an OCT volume and an SLO fundus picture: glaucoma or not.

    Format, in `harvard_glaucoma/`: the folders `Training/`, `Validation/` and `Test/` of the
    archive's folder `Glaucoma` (or train, val, test, as the authors rename them), with one file
    `data_<number>.npz` a person. Read are `oct_bscans` (200 B-scans of 200 x 200), `slo_fundus`
    (200 x 200, transposed, as the authors' loader does) and `glaucoma` (0 or 1). The larger
    `slo_<number>.jpg` and the summary are not read, nor are age, race and the other attributes.

    Where to get it: github.com/Harvard-Ophthalmology-AI-Lab/FairVision, after an agreement; the
    three diseases together are about 600 GB. An OCT volume is read once, for its slices.

    Missing by nature: a file whose array is empty lacks that picture.

    Classes: 0 normal, 1 glaucoma.

    OCT as a picture: papers that feed volumes to a ResNet-50 do not say how. Here it is the middle
    B-scan, or the mean of the three in the middle (`slices: mean`), grey in all three channels.

    Split: the official folders; one person a file, so no person is in two splits. The sample id is
    a hash of folder and number.

    Traps. CP-IMoE uses 1,487 / 372 persons of the 10,000 and does not say which. The set was
    balanced for studies of fairness: shares of classes and groups are not those of a clinic.

    Args:
        root: Folder that has `harvard_glaucoma/`.
        scenario: See `DataModule`.
        slices: What of an OCT volume is read, see above.
        **common: Passed to `PictureSet`: `size`, `skip_bad`.
    """

    source = Source(
        citation="Luo, Tian, Shi et al., FairVision: Equitable Deep Learning for Eye Disease "
        "Screening via Fair Identity Scaling, arXiv 2310.02492, 2024",
        url="https://github.com/Harvard-Ophthalmology-AI-Lab/FairVision",
        licence="CC BY-NC-ND 4.0; non-commercial research, no clinical use",
        papers=(
            "FairVision: the official folders; AUC, and gaps between groups",
            "CP-IMoE (as Harvard30k): train 859 normal and 628 glaucoma, test 224 and 148, a "
            "subset that is not named; fundus and OCT; macro F1, kappa, accuracy",
        ),
    )
    files: ClassVar[tuple[str, ...]] = tuple(f"{HOME}/{name}" for name in FOLDERS)
    published: ClassVar[tuple[Counts, ...]] = (Counts("the authors' page", None, 10_000),)
    pictures: ClassVar[tuple[str, ...]] = tuple(ARRAYS)

    def __init__(
        self, root: Path, scenario: Scenario, *, slices: Slices = "middle", **common: Any
    ) -> None:
        super().__init__(root, scenario, **common)
        self.slices: Slices = slices
        if (root / HOME / RENAMED[0]).is_dir() and not (root / HOME / FOLDERS[0]).is_dir():
            self.files = tuple(f"{HOME}/{name}" for name in RENAMED)  # type: ignore[misc]

    def read_index(self) -> Index:
        """See `PictureSet`."""
        folders = [locate(self.root, name) for name in self.files]
        parts = [sorted(folder.glob("data_*.npz")) for folder in folders]
        for folder, part in zip(folders, parts, strict=True):
            if not part:
                raise ValueError(f"{folder} has no file data_<number>.npz")
        files = [file for part in parts for file in part]
        spec = {"what": "labels", "skip_bad": self.skip_bad, "names": [f.name for f in files]}
        labels = parsed(files, spec, partial(_labels, files, self.skip_bad), code=__name__)
        label = labels["glaucoma"]
        rows = np.flatnonzero(label >= 0)
        of = np.repeat(np.arange(len(SPLITS)), [len(part) for part in parts])
        files = [files[row] for row in rows]
        return Index(
            names=[f"{file.parent.name}/{file.stem}" for file in files],
            outputs=("normal", "glaucoma"),
            target=np.array(label[rows]),
            part=of[rows],
            pictures=dict.fromkeys(self.pictures, files),
            subjects=[file.stem for file in files],
            notes=tuple(labels["notes"].tolist()),
        )

    def decoded(self, name: str, files: Sequence[Path | None]) -> Pictures:
        """See `PictureSet`; the pictures are arrays in the files of persons."""
        return decoded(
            files,
            partial(_picture, name=name, slices=self.slices, size=self.size),
            size=self.size,
            skip_bad=self.skip_bad,
            name=name,
            spec={"slices": self.slices},
            code=__name__,
        )


def _labels(files: Sequence[Path], skip_bad: int, room: Room) -> Arrays:
    """Label of each file, -1 = it is bad and was let pass."""
    label = np.full(len(files), -1, dtype=np.int64)
    bad = Skipped(skip_bad, "glaucoma")
    for row, file in enumerate(files):
        room.held.require()
        with bad.may_fail(f"file {row + 1:,} of {len(files):,}"):
            value = read_npz(file, ["glaucoma"])["glaucoma"]
            if value.size != 1 or value.dtype.kind not in "biuf" or value.item() not in (0, 1):
                raise ValueError(f"{file}: glaucoma must be 0 or 1, found {value!r}")
            label[row] = int(value.item())
    return {"glaucoma": label, "notes": np.array(bad.notes, dtype=str)}


def _picture(
    file: Path, *, name: str, slices: Slices, size: tuple[int, int]
) -> UInt8[np.ndarray, "channel height width"]:
    """The picture that a file holds; without channels if its array is empty."""
    if not file.is_file():
        raise ValueError(f"no file {file}")
    key = ARRAYS[name]
    array: NDArray[Any] = read_npz(file, [key])[key]
    if not array.size:
        return np.zeros((0, *size), np.uint8)
    if array.ndim != DIMENSIONS[name] or array.dtype.kind not in "uif":
        raise ValueError(
            f"{file}: {key} is {array.shape} of {array.dtype}, but {DIMENSIONS[name]} axes of "
            "numbers are expected"
        )
    if name == "fundus":
        plane = array.T
    elif slices == "middle":
        plane = array[len(array) // 2]
    else:
        middle = max(len(array) // 2, 1)
        plane = array[middle - 1 : middle + 2].astype(np.float64).mean(axis=0)
    if not (np.isfinite(plane).all() and plane.min() >= 0 and plane.max() <= 255):
        raise ValueError(f"{file}: {key} has values outside 0..255")
    return pixels_of(Image.fromarray(np.round(plane).astype(np.uint8)), size)
