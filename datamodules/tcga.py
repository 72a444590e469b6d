"""TCGA: subtypes of breast, kidney and lung cancer from slides, gene expression and reports."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
from jaxtyping import Shaped
from numpy.typing import NDArray

from mmbench.data.bags import MOST, Bags, read_bags
from mmbench.data.columns import features
from mmbench.data.files import locate
from mmbench.data.frames import Frame, columns_of, read_frame
from mmbench.data.mapped import Values
from mmbench.data.parsed import Arrays, parsed
from mmbench.data.pictures import contents
from mmbench.data.samples import SPLITS, Samples, Split
from mmbench.data.scenario import Scenario
from mmbench.data.splits import grouped, rows_of, stable_ids, stratified_groups
from mmbench.data.task import Modality, Task
from mmbench.data.vocabulary import encode, vocabulary, words
from mmbench.datamodule import Counts, DataModule, Source

BARCODE = re.compile(r"(TCGA-\w{2}-\w{4})-\d{2}")
PATIENT, SAMPLE = 12, 15  # letters of a barcode that name a patient, and a tumour of it
VAL, TEST = 0.15, 0.2
FOLDERS: Mapping[str, tuple[str, ...]] = {
    "pt": ("feats_pt_wsi", "pt_files"),
    "h5": ("feats_h5_wsi", "h5_files"),
    "prototypes": ("proto_save_wsi",),
}
REPORTS = {"vector": "global_text", "prototypes": "proto_save_text"}


@dataclass(frozen=True)
class Cohort:
    """Classes of a cancer, the words of reports that name them, and what was published.

    Args:
        classes: In the order of numbers, if the authors' files have numbers.
        leaks: Words that reports are read without.
        published: Counts of the authors' label table.
    """

    classes: tuple[str, ...]
    leaks: frozenset[str]
    published: tuple[Counts, ...] = ()


_ORIGIN = "the label table of MoSARe's release"
COHORTS = {
    "brca": Cohort(
        ("IDC", "ILC"),
        frozenset(words("ductal lobular duct ducts lobule lobules idc ilc dcis lcis")),
        (Counts(_ORIGIN, None, 955, {"IDC": 787, "ILC": 168}),),
    ),
    "rcc": Cohort(
        ("CCRCC", "PRCC"),
        frozenset(words("clear conventional papillary nonpapillary papillae ccrcc prcc")),
        (Counts(_ORIGIN, None, 634, {"CCRCC": 350, "PRCC": 284}),),
    ),
    "nsclc": Cohort(
        ("LUSC", "LUAD"),
        frozenset(
            words(
                "squamous adenocarcinoma adenocarcinomas bronchioloalveolar bronchoalveolar "
                "acinar lepidic keratinizing nonkeratinizing luad lusc"
            )
        ),
    ),
}


class Tcga(DataModule):
    """Slides with a subtype of cancer: features of patches, gene expression, a written report.

    Format, in `tcga/`, a folder for each cohort (BRCA, RCC, NSCLC), as the scripts of MoSARe and
    CLAM leave it::

        labels.csv                    slide_id (or filename), label
        feats_pt_wsi/SLIDE.pt         (patch, 1024) features of a slide's patches, of UNI in the
                                      paper; or pt_files/SLIDE.pt, CLAM's name for it
        feats_h5_wsi/SLIDE.h5         the same as `features` in HDF5; or h5_files/SLIDE.h5
        proto_save_wsi/SLIDE.pt       (16, 1024) means of a mixture of the patches
        rna_all.csv                   `index` = barcode of a sample, then a column a gene
        reports.csv                   patient_filename, text (TCGA-Reports)
        global_text/SLIDE.pt          (1, 1024) embedding of the report
        proto_save_text/SLIDE.pt      (16, 1024) means of a mixture of its sentences
        train_fold_K.csv, test_fold_K.csv   filename, label; K = fold, from 0

    Only what the arguments ask for is read. A sample is a slide. RNA belongs to a tumour, the
    first 15 letters of a barcode (`TCGA-A1-A0SB-01`), of several rows of one tumour the first in
    the order of barcodes; a report to a patient, the first 12; several are read one after another.

    Where to get it: slides and RNA from the Genomic Data Commons, whole reports from TCGA-Reports;
    features are made by CLAM's scripts, prototypes and embeddings by those of MoSARe.

    Missing by nature: a slide without a file of patches, without RNA or without a report.

    Classes: IDC and ILC (brca), CCRCC and PRCC (rcc), LUSC and LUAD (nsclc), as words; of nsclc
    also 0 and 1, the authors' numbers of these two.

    Split `patients`: 65 / 15 / 20 %, by patient and stratified by subtype, 5 folds whose test parts
    do not overlap. `files`: the fold files; they have no validation part, so patients with about
    15 % of the training slides are taken for it. The paper chose epochs on the test fold; here no
    choice sees it. `mmbench data check` names patients that the fold files have in two parts.

    Leaks. Reports state the diagnosis. As tokens they are read without the words that name a
    subtype (whole words: for brca ductal, lobular, IDC, ILC, DCIS, LCIS and the like; the lists
    are in `COHORTS`); what paraphrases it stays. Embeddings of reports (`vector`, `prototypes`)
    hold whatever the text held that they were made of: no filter reaches them, so do not read a
    score with them as one of diagnosis.

    Args:
        root: Folder that has `tcga/`.
        scenario: See `DataModule`.
        cohort: Which cancer.
        slides: Patches from .pt or .h5 files, or prototypes.
        reports: Words, one vector, or prototypes.
        partition: See above.
        complete: Whether slides that lack one of the three are left out, as in the paper.
        most: Patches of a slide, >= 1; of more, training draws others every epoch, validation and
            test always the same ones.
        max_tokens: Words of a report, >= 1; longer ones are cut.
        **common: Passed to `DataModule`; fold is 0..4.

    Raises:
        ValueError: If a number is below 1.
    """

    source = Source(
        citation="The Cancer Genome Atlas Research Network, The Cancer Genome Atlas Pan-Cancer "
        "analysis project, Nature Genetics 45, 2013; reports: Kefeli and Tatonetti, TCGA-Reports, "
        "Patterns 5, 2024",
        url="https://portal.gdc.cancer.gov (slides and RNA); "
        "https://data.mendeley.com/datasets/hyg5xkznpx (reports); patches: CLAM with UNI",
        licence="NIH Genomic Data Sharing Policy, open tier; TCGA-Reports: CC BY 4.0",
        papers=(
            "MoSARe: 5 folds of slides (BRCA IDC 787 / ILC 168, RCC CCRCC 350 / PRCC 284 slides), "
            "2,048 patches drawn with replacement, 16 prototypes of patches and of sentences, "
            "4,999 genes; epochs chosen on the test fold",
        ),
    )
    folds: ClassVar[int] = 5
    files: ClassVar[tuple[str, ...]] = tuple(  # of the default arguments
        f"tcga/BRCA/{name}" for name in ("labels.csv", "feats_pt_wsi", "rna_all.csv", "reports.csv")
    )

    def __init__(
        self,
        root: Path,
        scenario: Scenario,
        *,
        cohort: Literal["brca", "rcc", "nsclc"] = "brca",
        slides: Literal["pt", "h5", "prototypes"] = "pt",
        reports: Literal["tokens", "vector", "prototypes"] = "tokens",
        partition: Literal["patients", "files"] = "patients",
        complete: bool = False,
        most: int = MOST,
        max_tokens: int = 512,
        **common: Any,
    ) -> None:
        super().__init__(root, scenario, **common)
        if min(most, max_tokens) < 1:
            raise ValueError(f"most {most} and max_tokens {max_tokens} must be at least 1")
        self.cohort = COHORTS[cohort]
        self.home = f"tcga/{cohort.upper()}"
        self.slides, self.reports = slides, reports
        self.partition = partition
        self.complete = complete
        self.most, self.max_tokens = most, max_tokens
        names = FOLDERS[slides]
        folder = next((one for one in names if (root / self.home / one).is_dir()), names[0])
        lists = [f"{part}_fold_{self.fold}.csv" for part in ("train", "test")]
        self.lists = ["labels.csv"] if partition == "patients" else lists
        self.folder = f"{self.home}/{folder}"
        text = "reports.csv" if reports == "tokens" else REPORTS[reports]
        self.files = (  # type: ignore[misc]  # not of the class
            *(f"{self.home}/{one}" for one in self.lists),
            self.folder,
            f"{self.home}/rna_all.csv",
            f"{self.home}/{text}",
        )
        self.published = () if complete else self.cohort.published  # type: ignore[misc]

    def ingredients(self) -> dict[str, dict[str, str]]:
        """See `DataModule`; a folder has a hash over the files of its slides."""
        ingredients = super().ingredients()
        folders = [name for name in self.files if (self.root / name).is_dir()]
        files = [file for name in folders for file in self._slide_files(name)]
        ingredients["files"] |= contents(files, self.root)
        return ingredients

    def describe(self) -> Task:
        """Two subtypes; shapes as the files have them."""
        return Task("single_label", self._content[0], self.cohort.classes)

    def load(self, split: Split) -> Samples:
        """Take the slides of one split.

        Raises:
            ValueError: If a file is not there or is not laid out as described; the message names
                it.
        """
        return self._content[1].take(self._rows(split))

    def subject_of(self, split: Split) -> Shaped[np.ndarray, " sample"]:
        """Patients of a split, by the first 12 letters of their barcode."""
        rows = self._rows(split)
        patients: Shaped[np.ndarray, " sample"] = self._index["patient"].to_numpy(str)[rows]
        return patients

    def names_of_ids(self) -> Mapping[int, str]:
        """Names of the slides."""
        names = self._index["slide"].tolist()
        return dict(zip(stable_ids(names).tolist(), names, strict=True))

    def notes(self) -> tuple[str, ...]:
        """What was cut, left out or filled in, and patients that fold files have in two parts."""
        both = set(self.subject_of("train")) & set(self.subject_of("test"))
        said = f"{self.lists[-1]}: {len(both)} of its patients are in training, too"
        return (*self._content[2], *([said] if both else []))

    def _rows(self, split: Split) -> NDArray[np.int_]:
        """Slides of a split."""
        rows = rows_of(self._index["part"].to_numpy(), split)
        return rows[self._content[1].presence[rows].all(axis=1)] if self.complete else rows

    @cached_property
    def _index(self) -> pd.DataFrame:
        """One row a slide: its name, patient, class and part."""
        tables = []
        for name in self.lists:
            path = locate(self.root, f"{self.home}/{name}")
            columns = columns_of(path)
            column = next((one for one in ("slide_id", "filename") if one in columns), "slide_id")
            frame = read_frame(path, column, only=["label"])
            slides = [re.sub(r"\.(pt|h5|svs)$", "", one) for one in frame.ids]
            table = pd.DataFrame({"slide": slides, "test": name.startswith("test")})
            table["class"] = [self._number(frame, row) for row in range(len(frame.ids))]
            for row, slide in enumerate(slides):
                if not BARCODE.match(slide):
                    raise ValueError(
                        f"{frame.where(row)}: a slide is called {slide!r}, not TCGA-.."
                    )
            tables.append(table)
        index = pd.concat(tables, ignore_index=True)
        if (repeated := index["slide"].duplicated()).any():
            twice = index["slide"][repeated].iloc[0]
            raise ValueError(f"slide {twice} occurs twice in {' and '.join(self.lists)}")
        index["patient"] = index["slide"].str[:PATIENT]
        index["part"] = self._parts(index)
        return index

    def _number(self, frame: Frame, row: int) -> int:
        label = frame.text("label")[row]
        classes = self.cohort.classes
        if classes == COHORTS["nsclc"].classes and label in ("0", "1"):
            return int(label)
        if label.upper() not in classes:
            raise ValueError(
                f"{frame.where(row)}: the label is {label!r}, not {' or '.join(classes)}"
            )
        return classes.index(label.upper())

    def _parts(self, index: pd.DataFrame) -> NDArray[np.int64]:
        patients, target = index["patient"].to_numpy(str), index["class"].to_numpy()
        if self.partition == "patients":
            return stratified_groups(
                patients, target, val=VAL, test=TEST, fold=self.fold, folds=self.folds
            )
        test = index["test"].to_numpy(bool)
        part = np.where(test, SPLITS.index("test"), SPLITS.index("train")).astype(np.int64)
        train = np.flatnonzero(~test)
        ids = stable_ids(index["slide"].iloc[train].tolist())
        part[train[grouped(ids, patients[train], share=VAL)]] = SPLITS.index("val")
        return part

    @cached_property
    def _content(self) -> tuple[tuple[Modality, ...], Samples, tuple[str, ...]]:
        """Modalities, all samples, notes."""
        index = self._index
        notes: list[str] = []
        bags = [self._bags("slide", self.folder)]
        genes, has_genes = self._genes(notes)
        report_x: Values
        if self.reports == "tokens":
            text = self._texts(notes)
            report_x, report_length, has_report = text["x"], text["length"], text["present"]
            report = Modality(
                "report", "tokens", text["x"].shape[1:], vocab_size=int(text["vocab_size"])
            )
        else:
            bags.append(self._bags("report", f"{self.home}/{REPORTS[self.reports]}"))
            report_x, report_length = bags[-1], bags[-1].length
            has_report = bags[-1].count > 0
            report = Modality("report", "bag", report_x.shape[1:])
            if self.reports == "vector":
                if report_x.shape[1] != 1:
                    raise ValueError(
                        f"{self.home}/{REPORTS['vector']} has several rows a slide, which are no "
                        "vector; say reports: prototypes"
                    )
                report_x = bags[-1][:, 0]
                report = Modality("report", "vector", report_x.shape[1:])
        notes += [
            f"{one.cut} slides have more than {self.most} patches; so many are drawn, in training "
            "others every epoch"
            for one in bags
            if one.cut
        ]
        presence = np.stack([bags[0].count > 0, has_genes, has_report], axis=1)
        some = np.asarray(presence.any(axis=1))
        if not some.all():
            lost = index["slide"][~some].iloc[0]
            raise ValueError(f"slide {lost} has neither patches nor RNA nor a report; leave it out")
        if self.complete:
            less = int((~presence.all(axis=1)).sum())
            notes.append(f"{less} slides that lack patches, RNA or a report left out")
        lengths = {"slide": bags[0].length}
        if report.has_lengths:
            lengths["report"] = report_length
        modalities = (
            Modality("slide", "bag", bags[0].shape[1:]),
            Modality("rna", "vector", genes.shape[1:]),
            report,
        )
        samples = Samples(
            modalities=("slide", "rna", "report"),
            inputs={"slide": bags[0], "rna": genes, "report": report_x},
            target=index["class"].to_numpy(np.int64),
            sample_id=stable_ids(index["slide"].tolist()),
            presence=presence,
            lengths=lengths,
        )
        return modalities, samples, tuple(notes)

    def _slide_files(self, folder: str) -> list[Path]:
        """The file of each slide in a folder, whether it is there or not."""
        ending = "h5" if self.slides == "h5" and folder == self.folder else "pt"
        return [self.root / folder / f"{slide}.{ending}" for slide in self._index["slide"]]

    def _bags(self, what: str, folder: str) -> Bags:
        """Features of each slide from a folder with a file a slide."""
        locate(self.root, folder)
        files = self._slide_files(folder)
        rows = [row for row, file in enumerate(files) if file.is_file()]
        if not rows:
            raise ValueError(f"{files[0].parent} has no file of any slide, such as {files[0].name}")
        some = [files[row] for row in rows]

        spec = {"what": what, "slides": [file.stem for file in some]}
        arrays = parsed(some, spec, partial(read_bags, some), code=__name__)
        count = np.zeros(len(files), np.int64)
        count[rows] = arrays["count"]
        key = stable_ids(self._index["slide"].tolist())
        return Bags(arrays["instances"], count, key, most=self.most)

    def _genes(self, notes: list[str]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Expression by gene of each slide's tumour, and which slides have it."""
        path = locate(self.root, f"{self.home}/rna_all.csv")
        frame = read_frame(path, "index")
        order = np.argsort(frame.ids.to_numpy(str), kind="stable")
        tumours = pd.Index([frame.ids[row][:SAMPLE] for row in order], dtype=object)
        first = ~tumours.duplicated()
        if not first.all():
            notes.append(f"{path.name}: {int((~first).sum())} further rows of a tumour left out")
        rows = tumours[first].get_indexer(pd.Index(self._index["slide"].str[:SAMPLE]))
        present = rows >= 0
        if not present.any():
            raise ValueError(
                f"{path}: none of its barcodes, such as {frame.ids[0]}, begins with those of a "
                f"slide, such as {self._index['slide'].iloc[0][:SAMPLE]}"
            )
        train = self._index["part"].to_numpy() == SPLITS.index("train")
        expression = features(frame.take(order[first][rows[present]]), train[present])
        notes += expression.notes
        x = np.zeros((len(present), expression.x.shape[1]), expression.x.dtype)
        x[present] = expression.x
        present[present] = expression.present
        return x, present

    def _texts(self, notes: list[str]) -> Arrays:
        """Token ids of each slide's reports, without the words that name a subtype."""
        path = locate(self.root, f"{self.home}/reports.csv")
        frame = read_frame(path, "patient_filename", only=["text"])
        reports: dict[str, list[str]] = {}
        gone = 0
        for name, text in zip(frame.ids, frame.text("text"), strict=True):
            every = words(text)
            left = [word for word in every if word not in self.cohort.leaks]
            gone += len(every) - len(left)
            reports.setdefault(name[:PATIENT], []).extend(left)
        notes.append(f"{path.name}: {gone} words that name a subtype left out")
        texts = [" ".join(reports.get(one, ())) for one in self._index["patient"]]
        present = np.array([bool(text) for text in texts])
        train = present & (self._index["part"].to_numpy() == SPLITS.index("train"))
        ids = vocabulary(text for text, one in zip(texts, train, strict=True) if one)
        longest = max(len(words(text)) for text in texts)
        x, length = encode(texts, ids, steps=min(max(longest, 1), self.max_tokens))
        if longest > self.max_tokens:
            notes.append(f"{path.name}: texts cut to {self.max_tokens} words")
        return {
            "x": x, "length": length, "present": present, "vocab_size": np.array(2 + len(ids)),
        }  # fmt: skip
