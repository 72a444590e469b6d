"""Derm7pt: a skin lesion's diagnosis from a clinical and a dermoscopic picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mmbench.data.files import locate, read_texts
from mmbench.data.samples import SPLITS, Split
from mmbench.data.scenario import Scenario
from mmbench.data.task import Modality
from mmbench.datamodule import Counts, Source
from mmbench.picture_set import Column, Index, PictureSet

GROUPS = {
    "NEV": (
        "nevus", "blue nevus", "clark nevus", "combined nevus", "congenital nevus", "dermal nevus",
        "recurrent nevus", "reed or spitz nevus",
    ),
    "BCC": ("basal cell carcinoma",),
    "MEL": (
        "melanoma", "melanoma (in situ)", "melanoma (less than 0.76 mm)",
        "melanoma (0.76 to 1.5 mm)", "melanoma (more than 1.5 mm)", "melanoma metastasis",
    ),
    "MISC": ("dermatofibroma", "lentigo", "melanosis", "miscellaneous", "vascular lesion"),
    "SK": ("seborrheic keratosis",),
}  # fmt: skip
CLASS_OF = {name: group for group, names in GROUPS.items() for name in names}
META = ("sex", "location", "elevation")
CRITERIA = (
    "pigment_network", "streaks", "pigmentation", "regression_structures", "dots_and_globules",
    "blue_whitish_veil", "vascular_structures",
)  # fmt: skip
REFUSED = {
    "diagnosis": "it is the target",
    "seven_point_score": "it sums up criteria that experts marked to find the diagnosis",
    "level_of_diagnostic_difficulty": "it was judged by who knew the diagnosis",
    "management": "it was decided on the diagnosis",
    "notes": "they may name the diagnosis",
    "case_num": "cases are numbered by diagnosis",
    "case_id": "it numbers cases, and may follow the diagnosis",
    **dict.fromkeys(CRITERIA, "experts marked it on the pictures to find the diagnosis"),
}
INDEXES: dict[Split, str] = {
    "train": "derm7pt/meta/train_indexes.csv",
    "val": "derm7pt/meta/valid_indexes.csv",
    "test": "derm7pt/meta/test_indexes.csv",
}
CASES = "derm7pt/meta/meta.csv"


class Derm7pt(PictureSet):
    """1,011 skin lesions, each as a clinical and a dermoscopic picture, in five diagnoses.

    Format, in `derm7pt/`, as `release_v0` unpacks:

    - `meta/meta.csv`: a row a case, with a header; read are `diagnosis`, `clinic` and `derm` (paths
      below `images/`) and the columns that `meta` asks for.
    - `meta/{train,valid,test}_indexes.csv`: header `indexes`, then numbers of rows of `meta.csv`,
      counted from 0 without its header.
    - `images/`: the pictures, in folders.

    Where to get it: derm.cs.sfu.ca, after a request.

    Missing by nature: nothing; with `meta`, cells that are empty.

    Classes, as the authors group rare diagnoses: NEV (any nevus), BCC (basal cell carcinoma), MEL
    (any melanoma), MISC (dermatofibroma, lentigo, melanosis, vascular lesion, miscellaneous), SK
    (seborrheic keratosis).

    Split: the official index files, 413 / 203 / 395. The sample id is a hash of the number of the
    row. No numbers of patients are published, so a person with two lesions may be in two splits.

    Traps. Rows stand in the order of their diagnoses, so whoever reads them in order without
    shuffling learns one class at a time. Columns that experts filled in to find the diagnosis, or
    that follow from it, are refused as features, by name and with the reason.

    Args:
        root: Folder that has `derm7pt/`.
        scenario: See `DataModule`.
        meta: Columns of `meta.csv` that make a third modality, `meta`: sex, location, elevation.
            Each word that training shows is a feature, 0 or 1.
        **common: Passed to `PictureSet`: `size`, `skip_bad`.

    Raises:
        ValueError: If a column of `meta` gives the diagnosis away or is none.
    """

    source = Source(
        citation="Kawahara et al., Seven-Point Checklist and Skin Lesion Classification Using "
        "Multitask Multimodal Neural Nets, IEEE Journal of Biomedical and Health Informatics 23, "
        "2019",
        url="https://derm.cs.sfu.ca",
        licence="research and education, see the page of the authors; no redistribution",
        papers=(
            "Kawahara et al.: 413 / 203 / 395, 20 rare labels grouped to 5 diagnoses",
            "CP-IMoE: Table S1 has the official train and test, 413 / 395; where the 203 of "
            "validation went is not said; clinic and derm; macro F1, kappa, accuracy",
        ),
    )
    files: ClassVar[tuple[str, ...]] = (CASES, *INDEXES.values(), "derm7pt/images")
    published: ClassVar[tuple[Counts, ...]] = (
        Counts(
            "Table S1 of CP-IMoE",
            "train",
            413,
            {"NEV": 256, "BCC": 19, "MEL": 90, "MISC": 32, "SK": 16},
        ),
        Counts("the official index files", "val", 203),
        Counts(
            "Table S1 of CP-IMoE",
            "test",
            395,
            {"NEV": 219, "BCC": 16, "MEL": 101, "MISC": 40, "SK": 19},
        ),
    )
    pictures: ClassVar[tuple[str, ...]] = ("derm", "clinic")

    _cases: pd.DataFrame  # rows of `meta.csv` that the index has, in its order

    def __init__(
        self, root: Path, scenario: Scenario, *, meta: Sequence[str] = (), **common: Any
    ) -> None:
        super().__init__(root, scenario, **common)
        for name in meta:
            if name not in META:
                why = REFUSED.get(name, "there is no such column")
                raise ValueError(f"meta names {name}, but {why}; it may name {', '.join(META)}")
        self.meta = tuple(meta)

    def modalities(self) -> tuple[Modality, ...]:
        """The two pictures, and what `meta` asks for."""
        if not self.meta:
            return super().modalities()
        width = sum(len(words) for words in self._words().values())
        return (*super().modalities(), Modality("meta", "vector", (width,)))

    def columns(self) -> list[Column]:
        """See `PictureSet`."""
        columns = super().columns()
        if not self.meta:
            return columns
        features = [
            (self._cases[name].to_numpy() == word).astype(np.float32)
            for name, words in self._words().items()
            for word in words
        ]
        filled = np.stack([(self._cases[name] != "").to_numpy() for name in self.meta])
        present = np.asarray(filled.any(axis=0))
        return [*columns, Column(self.modalities()[-1], np.stack(features, axis=1), present)]

    def _words(self) -> dict[str, list[str]]:
        """Words of each column of `meta` that training shows."""
        rows = self.index.part == SPLITS.index("train")  # the index is read before its cases
        train = self._cases[rows]
        return {name: sorted(set(train[name]) - {""}) for name in self.meta}

    def read_index(self) -> Index:
        """See `PictureSet`."""
        path = locate(self.root, CASES)
        cases = read_texts(path, "diagnosis", "clinic", "derm", *self.meta)
        cases = cases.apply(lambda column: column.str.strip())
        diagnosis = cases["diagnosis"].str.lower()
        if (unknown := ~diagnosis.isin(CLASS_OF)).any():
            row = int(np.argmax(unknown.to_numpy()))
            raise ValueError(
                f"{path} row {row + 2}: the diagnosis {cases['diagnosis'][row]!r} is none of the "
                f"{len(CLASS_OF)} that the five classes are made of"
            )
        part = self._parts(len(cases))
        rows = np.flatnonzero(part >= 0)
        self._cases = cases.iloc[rows].reset_index(drop=True)
        outputs = tuple(GROUPS)
        folder = self.root / "derm7pt" / "images"
        lost = len(cases) - len(rows)
        return Index(
            names=[str(row) for row in rows.tolist()],
            outputs=outputs,
            target=diagnosis.map(CLASS_OF).map(outputs.index).to_numpy(np.int64)[rows],
            part=part[rows],
            pictures={
                name: [folder / one if one else None for one in self._cases[name]]
                for name in self.pictures
            },
            notes=(f"{lost} cases that no index file names left out",) if lost else (),
        )

    def _parts(self, cases: int) -> NDArray[np.int64]:
        """Split of each case, -1 = none."""
        part = np.full(cases, -1, dtype=np.int64)
        for number, (split, name) in enumerate(INDEXES.items()):
            path = locate(self.root, name)
            said = read_texts(path, "indexes")["indexes"]
            rows = pd.to_numeric(said, errors="coerce")
            if (bad := ~rows.isin(range(cases))).any():
                at = int(np.argmax(bad.to_numpy()))
                raise ValueError(
                    f"{path} row {at + 2}: {said[at]!r} is no row of meta.csv, 0..{cases - 1}"
                )
            numbers = rows.to_numpy(np.int64)
            if (twice := part[numbers] >= 0).any():
                other = SPLITS[part[numbers[twice][0]]]
                raise ValueError(f"{path}: case {numbers[twice][0]} is in {other} already")
            if len(set(numbers.tolist())) != len(numbers):
                raise ValueError(f"{path}: a case occurs twice in {split}")
            part[numbers] = number
        return part
