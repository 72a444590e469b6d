"""ADNI: stages of Alzheimer's disease from MRI, genes, clinical records and biospecimens."""

import gzip
import json
import struct
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
from jaxtyping import Shaped
from numpy.typing import NDArray

from mmbench.data.entries import Entries, Joined, ModalityFile
from mmbench.data.files import locate, reading
from mmbench.data.frames import columns_of, read_frame
from mmbench.data.parsed import Arrays, Room, parsed
from mmbench.data.sample_files import read_array
from mmbench.data.samples import SPLITS, Samples, Split
from mmbench.data.scenario import Scenario
from mmbench.data.splits import SPLIT_WORDS, rows_of, stable_ids, stratified
from mmbench.data.task import Modality, Task
from mmbench.data.unpacking import require_stream
from mmbench.datamodule import Counts, DataModule, Source

TABLES = {
    "genetic": "genomic/genomic_merged.csv",
    "clinical": "clinical/clinical_merged.csv",
    "biospecimen": "biospecimen/biospecimen_merged.csv",
}
ANNOTATED = "genomic/genomic_merged.h5ad"
CLASSES = ("cognitively normal", "mild cognitive impairment", "dementia")
VAL, TEST = 0.15, 0.15
# what gives the diagnosis away: onset of symptoms, years and kinds of diagnosis
LEAKS = ("PTCOGBEG", "PTADDX", "PTADBEG", "PTADDDX", "DIAGNOSIS", "DX")
SCANS, SUBJECTS = "image/ADNI_G.npy", "image/ADNI_subj.txt"
MASK = "image/BLSA_SPGR+MPRAGE_averagetemplate_muse_seg_DS222.nii.gz"
GREY_MATTER = 150  # its label in the mask
IDS = "PTID"


class Adni(DataModule):
    """2,380 people of the Alzheimer's Disease Neuroimaging Initiative, many without some modality.

    Format, in `adni/`, as the preprocessing of Flex-MoE leaves it (tables may be compressed)::

        label.csv                              PTID, DIAGNOSIS 1..3
        image/ADNI_G.npy                       (scan, voxel) volumes of grey matter, floats
        image/ADNI_subj.txt                    a line a scan: PTID_DATE, `023_S_0030_2006-02-06`
        image/BLSA_..._muse_seg_DS222.nii.gz   template, 91 x 109 x 91; where it is 150, voxels lie
        genomic/genomic_merged.h5ad            names of rows = PTID (needs anndata); or
        genomic/genomic_merged.csv             PTID, then SNPs as 0, 1, 2
        clinical/clinical_merged.csv           PTID, then columns
        biospecimen/biospecimen_merged.csv     PTID, then columns
        PTID_splits.json                       training, validation, testing: lists of PTID

    Where to get it: ADNI's archive, after an application; scripts and the template are in the
    authors' repository.

    The full name of the template is the constant `MASK`. `image` is a volume: the voxels
    of a scan at their places in the template, zero elsewhere. Of several scans of a person the
    newest counts, by the date; whether a person's label is of that day is not known.

    Missing by nature: a person without a scan, or without a row in a table (or with an empty one).
    Empty cells in part are filled in by the median of training (of words: the most frequent one;
    the paper takes mean and mode), and nothing is learned from other rows: the released code
    scales and fills by all, which shows it the test rows. The authors' `_mean` files are filled
    so, and are not read.

    What gives the diagnosis away is no feature: columns whose names begin with PTCOGBEG, PTADDX,
    PTADBEG, PTADDDX, DIAGNOSIS or DX are left out of every table, and `notes` names them.

    Classes: 1 cognitively normal, 2 mild cognitive impairment, 3 dementia.

    Split `shares`: 70 / 15 / 15 %, stratified by class, in the order of a hash of PTID; 5 folds
    whose test parts do not overlap. `file`: that of `PTID_splits.json`, which no paper published.
    A sample is a person, so nobody is in two parts. The sample id is a hash of PTID.

    Args:
        root: Folder that has `adni/`.
        scenario: See `DataModule`.
        partition: See above.
        indicators: Whether a column that is empty for some training rows gets another beside it
            that says so.
        **common: Passed to `DataModule`; fold is 0 for `file`, 0..4 for `shares`.

    Raises:
        ValueError: If a fold of the split of the file other than 0 is asked for.
    """

    source = Source(
        citation="Weiner et al., The Alzheimer's Disease Neuroimaging Initiative 3, Alzheimer's & "
        "Dementia 13, 2017; preprocessing: Yun et al., Flex-MoE, NeurIPS 2024",
        url="https://adni.loni.usc.edu (application); layout and template: "
        "https://github.com/UNITES-Lab/flex-moe",
        licence="ADNI Data Use Agreement; no redistribution",
        papers=(
            "MoE-Retriever: 2,380 people, 70 / 15 / 15 %, six patterns of modalities, each with "
            "the clinical one; one table for image+genetic, with clinical, and with biospecimen",
            "Flex-MoE: the same preprocessing; the split is a file that is not published",
        ),
    )
    folds: ClassVar[int] = 5
    files: ClassVar[tuple[str, ...]] = tuple(  # of the default arguments
        f"adni/{name}" for name in ("label.csv", SCANS, SUBJECTS, MASK, *TABLES.values())
    )
    published: ClassVar[tuple[Counts, ...]] = (
        Counts("the section Datasets of MoE-Retriever", None, 2380),
    )

    def __init__(
        self,
        root: Path,
        scenario: Scenario,
        *,
        partition: Literal["shares", "file"] = "shares",
        indicators: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(root, scenario, **common)
        if partition == "file" and self.fold:
            raise ValueError(
                f"fold {self.fold} of adni was asked for, but the split of the file is fold 0 "
                "alone; take partition=shares"
            )
        self.partition = partition
        self.indicators = indicators
        annotated = (root / "adni" / ANNOTATED).is_file()
        self.tables = TABLES | ({"genetic": ANNOTATED} if annotated else {})
        names = ["label.csv", SCANS, SUBJECTS, MASK, *self.tables.values()]
        names += ["PTID_splits.json"] if partition == "file" else []
        self.files = tuple(f"adni/{name}" for name in names)  # type: ignore[misc]  # not of the class

    def describe(self) -> Task:
        """Three stages from a volume and three vectors."""
        image = Modality("image", "volume", self._images["x"].shape[1:])
        tables = tuple(entries.modality for entries in self._tables)
        return Task("single_label", (image, *tables), CLASSES)

    def load(self, split: Split) -> Samples:
        """Take the people of one split.

        Raises:
            ValueError: If a file is not there or is not laid out as described, or a person has no
                modality at all.
        """
        return self._samples.take(rows_of(self._people[2], split))

    def subject_of(self, split: Split) -> Shaped[np.ndarray, " sample"]:
        """The people of a split."""
        names, _, part = self._people
        people: Shaped[np.ndarray, " sample"] = names.to_numpy(str)[rows_of(part, split)]
        return people

    def names_of_ids(self) -> Mapping[int, str]:
        """PTID of each sample."""
        names = self._people[0].tolist()
        return dict(zip(stable_ids(names).tolist(), names, strict=True))

    def notes(self) -> tuple[str, ...]:
        """What was left out and filled in, and how many scans were older ones."""
        older = int(self._images["older"])
        said = (
            [f"{older} scans left out, since a newer one of the person is there"] if older else []
        )
        return (*said, *(note for entries in self._tables for note in entries.notes))

    @cached_property
    def _samples(self) -> Samples:
        """Everybody of label.csv."""
        names, target, _ = self._people
        presence = np.stack(
            [self._images["present"], *(entries.present for entries in self._tables)], axis=1
        )
        some = np.asarray(presence.any(axis=1))
        if not some.all():
            lost = names[~some][0]
            raise ValueError(
                f"adni/label.csv: {lost} has neither a scan nor a row in a table "
                f"({int((~some).sum())} such in all); leave the row out"
            )
        tables = {entries.modality.name: entries.x for entries in self._tables}
        return Samples(
            modalities=("image", *TABLES),
            inputs={"image": self._images["x"], **tables},
            target=target,
            sample_id=stable_ids(names.tolist()),
            presence=presence,
        )

    @cached_property
    def _people(self) -> tuple["pd.Index[str]", NDArray[np.int64], NDArray[np.int64]]:
        """PTID, class and part of each person of label.csv."""
        path = locate(self.root, "adni/label.csv")
        frame = read_frame(path, IDS, only=["DIAGNOSIS"])
        text = frame.text("DIAGNOSIS")
        target = np.zeros(len(text), np.int64)
        for row, said in enumerate(text):
            if said not in ("1", "2", "3"):
                raise ValueError(f"{frame.where(row)}: DIAGNOSIS is {said!r}, not 1, 2 or 3")
            target[row] = int(said) - 1
        if self.partition == "file":
            return frame.ids, target, self._given(frame.ids)
        ids = stable_ids(frame.ids.tolist())
        part = stratified(ids, target, val=VAL, test=TEST, fold=self.fold, folds=self.folds)
        return frame.ids, target, part

    def _given(self, names: "pd.Index[str]") -> NDArray[np.int64]:
        """Parts by PTID_splits.json."""
        path = locate(self.root, "adni/PTID_splits.json")
        with reading(path, "JSON file"):
            lists: dict[str, list[str]] = json.loads(path.read_text(encoding="utf-8"))
            words = {"testing": "test", **SPLIT_WORDS}
            part = np.full(len(names), -1, np.int64)
            for word, members in lists.items():
                if word not in words:
                    raise ValueError(f"its key {word!r} is none of training, validation, testing")
                rows = names.isin(members)
                if (part[rows] >= 0).any():
                    raise ValueError(f"{names[rows & (part >= 0)][0]} is in two of its lists")
                part[rows] = SPLITS.index(words[word])
            if (part < 0).any():
                raise ValueError(f"{names[part < 0][0]} of label.csv is in none of its lists")
        return part

    @cached_property
    def _tables(self) -> list[Entries]:
        """The three vectors of each person."""
        names, _, part = self._people
        joined = Joined("adni/label.csv", names, part == SPLITS.index("train"), "drop")
        tables = []
        for name in TABLES:
            path = locate(self.root, f"adni/{self.tables[name]}")
            leaks = [one for one in columns_of(path) if one.upper().startswith(LEAKS)]
            file = ModalityFile(
                name, "vector", path, self.root, IDS, no_features=leaks, indicators=self.indicators
            )
            tables.append(file.read(joined))
        return tables

    @cached_property
    def _images(self) -> Arrays:
        """The volume of each person's newest scan."""
        scans, subjects, mask = (
            locate(self.root, f"adni/{name}") for name in (SCANS, SUBJECTS, MASK)
        )
        names = self._people[0]

        def read(room: Room) -> Arrays:
            grey = read_template(mask) == GREY_MATTER
            values = read_array(scans)
            with reading(subjects, "text file"):
                lines = subjects.read_text(encoding="utf-8").split()
            if values.shape != (len(lines), int(grey.sum())) or values.dtype.kind != "f":
                raise ValueError(
                    f"{scans} has {values.shape} of {values.dtype}, but {subjects} {len(lines)} "
                    f"scans and {mask} {int(grey.sum())} voxels of grey matter"
                )
            newest = newest_scans(lines, subjects)
            rows = np.array([newest.get(name, -1) for name in names])
            present = rows >= 0
            if not present.any():
                raise ValueError(f"{subjects}: no scan is of a person of label.csv")
            x = room("x", (len(names), 1, *grey.shape), values.dtype)
            for row in np.flatnonzero(present):
                x[row, 0][grey] = values[rows[row]]
            older = np.array(len(lines) - len(newest))
            return {"x": x, "present": present, "older": older}

        spec = {"what": "volumes", "people": names.tolist()}
        return parsed([scans, subjects, mask], spec, read, code=__name__)


def newest_scans(lines: list[str], path: Path) -> dict[str, int]:
    """Row of the newest scan of each person.

    Args:
        lines: PTID_DATE of each scan, `023_S_0030_2006-02-06`; dates may be written in any way that
            pandas reads, as long as all are of one kind.
        path: Where they stand, for messages.

    Raises:
        ValueError: If a line is no such name.
    """
    parts = [line.split("_", 3) for line in lines]
    dates = pd.to_datetime(
        pd.Series([one[3].replace("_", "-") if len(one) == 4 else "" for one in parts]),
        errors="coerce",
        format="ISO8601",
    )
    if dates.isna().any():
        row = int(np.flatnonzero(dates.isna())[0])
        raise ValueError(f"{path} row {row + 1}: {lines[row]!r} is not PTID_DATE, such as "
                         "023_S_0030_2006-02-06")  # fmt: skip
    newest: dict[str, int] = {}
    for row in np.argsort(dates.to_numpy(), kind="stable"):
        newest["_".join(parts[row][:3])] = int(row)
    return newest


def read_template(path: Path) -> NDArray[Any]:
    """Voxels of a NIfTI file of one volume of whole numbers or floats, unscaled.

    Only what a template of labels needs: the first version, one file, either byte order. A library
    for all of NIfTI would be a dependency for this one array.

    Raises:
        ValueError: If it is something else, or is cut off.
    """
    kinds = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2"}
    with reading(path, "NIfTI file"):
        require_stream(path)
        content = path.read_bytes()
        content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
        order = "<" if content[:4] == struct.pack("<i", 348) else ">"
        if content[:4] != struct.pack(f"{order}i", 348) or content[344:347] != b"n+1":
            raise ValueError("it does not begin like one")
        axes, *sizes = struct.unpack_from(f"{order}8h", content, 40)
        (kind,) = struct.unpack_from(f"{order}h", content, 70)
        (start,) = struct.unpack_from(f"{order}f", content, 108)
        shape = sizes[:axes]
        if axes < 3 or set(shape[3:]) - {1} or kind not in kinds:
            raise ValueError(f"it is of shape {shape} and type {kind}, not one volume of numbers")
        count = int(np.prod(shape[:3]))
        flat = np.frombuffer(content, f"{order}{kinds[kind]}", count=count, offset=int(start))
        volume: NDArray[Any] = flat.reshape(shape[:3], order="F")  # its first axis runs fastest
    return volume
