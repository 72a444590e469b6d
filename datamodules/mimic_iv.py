"""MIMIC-IV: whether a patient dies within a year of a stay, from labs, notes and codes."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
from jaxtyping import Shaped
from numpy.typing import NDArray

from mmbench.data.columns import features
from mmbench.data.files import locate, read_csv, reading
from mmbench.data.frames import Frame
from mmbench.data.parsed import Arrays, Room, parsed
from mmbench.data.samples import SPLITS, Samples, Split
from mmbench.data.scenario import Scenario
from mmbench.data.splits import rows_of, stratified_groups
from mmbench.data.task import Modality, Task
from mmbench.data.unpacking import require_stream
from mmbench.data.vocabulary import PADDING, UNKNOWN, encode, vocabulary, words
from mmbench.datamodule import DataModule, Source

TABLES = ("patients", "admissions", "labevents", "diagnoses_icd", "procedures_icd")
MODALITIES = ("lab", "notes", "code")
VAL, TEST = 0.15, 0.15
YEAR_DAYS = 365
ADULT_YEARS = 18
ROWS = 1_000_000  # of labevents held at a time; the whole has 118 million
MIN_COUNT = 2  # training visits that a code occurs in
MIN_SHARE = 0.01  # of training visits that have a lab value of an item
NOTES = "note/discharge.csv"


class MimicIv(DataModule):
    """Adults with more than one stay in a hospital, as released by PhysioNet.

    Format, in `mimic_iv/` (or `folder`), CSV with the released headers, compressed or not::

        hosp/patients.csv.gz         subject_id, anchor_age, anchor_year, dod
        hosp/admissions.csv.gz       subject_id, hadm_id, admittime, dischtime, deathtime
        hosp/labevents.csv.gz        hadm_id, itemid, valuenum
        hosp/diagnoses_icd.csv.gz    hadm_id, seq_num, icd_code, icd_version
        hosp/procedures_icd.csv.gz   hadm_id, seq_num, icd_code, icd_version
        note/discharge.csv.gz        hadm_id, text: of the module MIMIC-IV-Note; it may be absent

    Where to get it: PhysioNet, after its training; the demo of 100 patients is open.

    Cohort, by the rules of MoE-Retriever's appendix: patients of at least 18 years with more than
    one stay; stays that end with the patient's death (or on its day) are left out. What the
    paper leaves open is decided here: the stay of a patient is the last one that is left
    (`visits: last`), or each is a sample (`visits: every`); its age is that at admission; the two
    stays are counted before deaths are left out. `last` knows that no other stay follows, so its
    rate of deaths is not that of all stays.

    Target: `died` if the date of death is at most 365 days after the day of discharge. MIMIC-IV
    knows deaths up to one year after the last discharge, so nothing is censored.

    Modalities. `lab`: mean of each item's values in the stay, for items that at least 1 % (and
    two) of the training stays have; where a stay has none, the median of training, and beside each
    such item a feature that says so. `code`: diagnoses and procedures, ICD-9 and ICD-10, each
    with its version and kind (`d9:4139`), as far as two training stays have them: one feature each
    (`multi_hot`), or their numbers in the order of the record (`tokens`). `notes`: words of the
    discharge summary. Vital signs, which the paper has, are in another module and not read.

    Missing by nature: a stay without lab values, without codes or without a note, as the tables
    have it; without the note module, notes are absent for all. A stay without any is left out.

    Split: 70 / 15 / 15 % by patient, stratified by the outcome of most of a patient's stays; 5
    folds whose test parts do not overlap. The sample id is `hadm_id`.

    Traps. Codes are assigned after discharge, and some tell the outcome: palliative care (ICD-9
    V667, ICD-10 Z515) and do-not-resuscitate orders (V4986, Z66). Discharge summaries say where a
    patient goes, hospices included. They are what the paper has, and so they stay; a score is not
    one of prediction during a stay. Majorities are large (77.4 % in the paper): read macro F1.

    Args:
        root: Folder that has `mimic_iv/`.
        scenario: See `DataModule`.
        folder: In place of `mimic_iv`, such as `mimic_iv_demo`.
        visits: See above.
        codes: See above.
        max_tokens: Words of a note, codes of a stay, >= 1; more are cut.
        **common: Passed to `DataModule`; fold is 0..4.

    Raises:
        ValueError: If `max_tokens` is below 1.
    """

    source = Source(
        citation="Johnson et al., MIMIC-IV, a freely accessible electronic health record dataset, "
        "Scientific Data 10, 2023; Johnson et al., MIMIC-IV-Note, PhysioNet, 2023; Goldberger et "
        "al., PhysioBank, PhysioToolkit, and PhysioNet, Circulation 101, 2000",
        url="https://physionet.org/content/mimiciv and https://physionet.org/content/mimic-iv-note "
        "(credentials and training); https://physionet.org/content/mimic-iv-demo (open, 100 "
        "patients, no notes)",
        licence="PhysioNet Credentialed Health Data License 1.5.0; the demo: ODbL 1.0",
        papers=(
            "MoE-Retriever: 9,003 patients with more than one stay, one-year mortality (majority "
            "77.4 %), 70 / 15 / 15 %; 2,172 labs of which 94.2 % are empty, 108 records without "
            "notes, 4 without diagnoses, 1,777 without procedures; ICD-9 codes alone",
            "Flex-MoE: the same preprocessing; its tables are not published",
        ),
    )
    folds: ClassVar[int] = 5
    files: ClassVar[tuple[str, ...]] = tuple(f"mimic_iv/hosp/{name}.csv" for name in TABLES)

    def __init__(
        self,
        root: Path,
        scenario: Scenario,
        *,
        folder: str = "mimic_iv",
        visits: Literal["last", "every"] = "last",
        codes: Literal["multi_hot", "tokens"] = "multi_hot",
        max_tokens: int = 512,
        **common: Any,
    ) -> None:
        super().__init__(root, scenario, **common)
        if max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, found {max_tokens}")
        self.home = folder
        self.visits, self.codes, self.max_tokens = visits, codes, max_tokens
        tables = [f"{folder}/hosp/{name}.csv" for name in TABLES]
        if (root / folder / "note").is_dir():
            tables.append(f"{folder}/{NOTES}")
        self.files = tuple(tables)  # type: ignore[misc]  # not of the class

    def describe(self) -> Task:
        """Survived or died; widths as training has them."""
        return Task("single_label", self._content[0], ("survived", "died"))

    def load(self, split: Split) -> Samples:
        """Take the stays of one split.

        Raises:
            ValueError: If a file is not there or lacks a column, a date is none, or nobody is in
                the cohort.
        """
        return self._content[1].take(rows_of(self._content[2], split))

    def subject_of(self, split: Split) -> Shaped[np.ndarray, " sample"]:
        """Patients of a split."""
        rows = np.isin(self._cohort["hadm_id"], self.samples(split).sample_id)
        return self._cohort["subject_id"].to_numpy(str)[rows]

    def names_of_ids(self) -> Mapping[int, str]:
        """`hadm_id` and `subject_id` of each stay."""
        cohort = self._cohort
        stays, subjects = cohort["hadm_id"].tolist(), cohort["subject_id"].tolist()
        return {stay: f"{stay} of {subject}" for stay, subject in zip(stays, subjects, strict=True)}

    def notes(self) -> tuple[str, ...]:
        """What was left out, cut or filled in."""
        return self._content[3]

    # --- the cohort ---

    @cached_property
    def _cohort(self) -> pd.DataFrame:
        """One row a stay, in the order of `hadm_id`: hadm_id, subject_id, died."""
        patients = self._table("patients", ["subject_id", "anchor_age", "anchor_year", "dod"])
        stays = self._table(
            "admissions", ["subject_id", "hadm_id", "admittime", "dischtime", "deathtime"]
        )
        for table, column, file in (
            (patients, "dod", "patients"),
            *((stays, column, "admissions") for column in ("admittime", "dischtime", "deathtime")),
        ):
            filled = table[column].notna()
            times = pd.to_datetime(table[column], errors="coerce", format="ISO8601")
            if (bad := filled & times.isna()).any():
                row = int(np.flatnonzero(bad)[0])
                raise ValueError(
                    f"{self.home}/hosp/{file}.csv row {row + 2}, column {column}: "
                    f"{table[column].iloc[row]!r} is no date"
                )
            table[column] = times
        several = stays.groupby("subject_id")["hadm_id"].transform("size") > 1
        stays = stays.merge(patients, on="subject_id", how="inner")
        if len(stays) != len(several):
            raise ValueError(f"{self.home}/hosp/admissions.csv has patients without a row")
        age = stays["anchor_age"] + stays["admittime"].dt.year - stays["anchor_year"]
        discharge = stays["dischtime"].dt.normalize()
        alive = stays["deathtime"].isna() & ~(stays["dod"] <= discharge)
        stays["died"] = (stays["dod"] - discharge).dt.days <= YEAR_DAYS
        stays = stays[several & (age >= ADULT_YEARS) & alive & discharge.notna()]
        if self.visits == "last":
            stays = stays.sort_values(["dischtime", "hadm_id"]).groupby("subject_id").tail(1)
        if stays.empty:
            raise ValueError(
                f"{self.home}: nobody of {patients['subject_id'].nunique()} patients is in the "
                "cohort (adults with more than one stay, not all of which ended with their death)"
            )
        cohort: pd.DataFrame = stays.sort_values("hadm_id")[["hadm_id", "subject_id", "died"]]
        return cohort.reset_index(drop=True)

    def _table(self, name: str, columns: list[str]) -> pd.DataFrame:
        path = locate(self.root, f"{self.home}/hosp/{name}.csv")
        numbers = {
            column: "int64" for column in columns if column.endswith("_id") or "anchor" in column
        }
        return read_csv(path, usecols=columns, dtype=numbers)

    # --- what the tables have of it ---

    @cached_property
    def _events(self) -> Arrays:
        """For each modality, side by side: stay and content, in the order of stays."""
        wanted = self._cohort["hadm_id"].to_numpy()
        files = [locate(self.root, name) for name in self.files]
        spec = {"what": "events of stays", "visits": self.visits, "max_tokens": self.max_tokens}

        def read(_: Room) -> Arrays:
            labs = self._read_labs(wanted)
            codes = pd.concat(
                [self._read_codes("diagnoses_icd", "d", wanted),
                 self._read_codes("procedures_icd", "p", wanted)]
            ).sort_values("hadm_id", kind="stable")  # fmt: skip
            texts = self._read_notes(wanted)
            return {
                "labs_hadm": labs["hadm_id"].to_numpy(np.int64),
                "labs_item": labs["itemid"].to_numpy(np.int64),
                "labs_value": labs["valuenum"].to_numpy(np.float64),
                "codes_hadm": codes["hadm_id"].to_numpy(np.int64),
                "codes_code": codes["code"].to_numpy(str),
                "notes_hadm": texts["hadm_id"].to_numpy(np.int64),
                "notes_text": texts["text"].to_numpy(str),
            }

        return parsed(files, spec, read, code=__name__)

    def _read_labs(self, wanted: NDArray[np.int64]) -> pd.DataFrame:
        """Mean value of each item in each stay; values that belong to no stay are left out."""
        path = locate(self.root, f"{self.home}/hosp/labevents.csv")
        parts = []
        columns = {"hadm_id": "float64", "itemid": "int64", "valuenum": "float64"}
        with reading(path, "CSV file"):
            require_stream(path)
            with pd.read_csv(path, usecols=list(columns), dtype=columns, chunksize=ROWS) as chunks:
                for chunk in chunks:
                    chunk = chunk[chunk["hadm_id"].isin(wanted) & np.isfinite(chunk["valuenum"])]
                    by = chunk.groupby(["hadm_id", "itemid"])["valuenum"]
                    parts.append(by.agg(["sum", "size"]))
        total = pd.concat(parts).groupby(level=[0, 1]).sum()
        means: pd.DataFrame = (total["sum"] / total["size"]).rename("valuenum").reset_index()
        return means

    def _read_codes(self, name: str, kind: str, wanted: NDArray[np.int64]) -> pd.DataFrame:
        path = locate(self.root, f"{self.home}/hosp/{name}.csv")
        columns = {"hadm_id": "int64", "seq_num": "int64", "icd_code": str, "icd_version": str}
        table = read_csv(path, usecols=list(columns), dtype=columns)
        table = table[table["hadm_id"].isin(wanted)].sort_values(["hadm_id", "seq_num"])
        code = kind + table["icd_version"] + ":" + table["icd_code"].str.strip()
        return pd.DataFrame({"hadm_id": table["hadm_id"], "code": code})

    def _read_notes(self, wanted: NDArray[np.int64]) -> pd.DataFrame:
        if not (self.root / self.home / "note").is_dir():
            return pd.DataFrame({"hadm_id": np.zeros(0, np.int64), "text": np.zeros(0, str)})
        path = locate(self.root, f"{self.home}/{NOTES}")
        with reading(path, "CSV file"):
            require_stream(path)
            columns = {"hadm_id": "float64", "text": "str"}
            with pd.read_csv(path, usecols=list(columns), dtype=columns, chunksize=ROWS) as chunks:
                parts = [chunk[chunk["hadm_id"].isin(wanted)].dropna() for chunk in chunks]
        table = pd.concat(parts).sort_values("hadm_id", kind="stable")
        text = table.groupby("hadm_id")["text"].agg(" ".join)
        # words in a row: what lies beyond the last that is read need not be kept
        text = text.map(lambda one: " ".join(words(one)[: self.max_tokens + 1]))
        return text[text != ""].rename_axis("hadm_id").reset_index()

    # --- modalities ---

    @cached_property
    def _content(
        self,
    ) -> tuple[tuple[Modality, ...], Samples, NDArray[np.int64], tuple[str, ...]]:
        """Modalities, all samples, the part of each, notes."""
        cohort = self._cohort
        died = cohort["died"].to_numpy(np.int64)
        part = stratified_groups(
            cohort["subject_id"].to_numpy(), died,
            val=VAL, test=TEST, fold=self.fold, folds=self.folds,
        )  # fmt: skip
        train = part == SPLITS.index("train")
        labs, has_labs, said = self._labs(train)
        notes, has_notes, note_length, note_ids = self._words(train)
        codes, has_codes, code_length, code_ids = self._codes(train)
        lengths = {"notes": note_length}
        if self.codes == "tokens":
            lengths["code"] = code_length
        modalities = (
            Modality("lab", "vector", labs.shape[1:]),
            Modality("notes", "tokens", notes.shape[1:], vocab_size=note_ids),
            Modality("code", "tokens", codes.shape[1:], vocab_size=code_ids)
            if self.codes == "tokens"
            else Modality("code", "vector", codes.shape[1:]),
        )
        presence = np.stack([has_labs, has_notes, has_codes], axis=1)
        some = presence.any(axis=1)
        if not some.all():
            said.append(f"{int((~some).sum())} stays without labs, notes and codes left out")
        if not has_notes.any():
            said.append(f"{self.home} has no notes of these stays; they are absent for all")
        samples = Samples(
            modalities=MODALITIES,
            inputs={
                "lab": labs[some], "notes": notes[some], "code": codes[some],
            },
            target=died[some],
            sample_id=cohort["hadm_id"].to_numpy(np.int64)[some],
            presence=presence[some],
            lengths={name: steps[some] for name, steps in lengths.items()},
        )  # fmt: skip
        return modalities, samples, part[some], tuple(said)

    def _rows(self, name: str) -> NDArray[np.int_]:
        """Row of the cohort that each event of a modality belongs to."""
        hadm = self._cohort["hadm_id"].to_numpy()
        return np.searchsorted(hadm, self._events[f"{name}_hadm"])

    def _labs(self, train: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[np.bool_], list[str]]:
        """Means by item, filled in by training, and what was not measured; who has some; notes."""
        rows, items = self._rows("labs"), self._events["labs_item"]
        least = max(MIN_COUNT, MIN_SHARE * train.sum())
        every, counts = np.unique(items[train[rows]], return_counts=True)
        chosen = every[counts >= least]
        if not len(chosen):
            raise ValueError(f"{self.home}: no lab item was measured in {least:g} training stays")
        known = np.isin(items, chosen)
        values = np.full((len(train), len(chosen)), np.nan)
        column = np.searchsorted(chosen, items[known])
        values[rows[known], column] = self._events["labs_value"][known]
        frame = Frame(
            path=Path(f"{self.home}/hosp/labevents.csv"),
            ids=pd.Index(self._cohort["hadm_id"].astype(str), dtype=object),
            names=tuple(map(str, chosen)),
            numbers=values,
            others={},
            lines=np.arange(len(train)),
        )
        vectors = features(frame, train, indicators=True)
        return vectors.x, vectors.present, list(vectors.notes)

    def _words(
        self, train: NDArray[np.bool_]
    ) -> tuple[NDArray[Any], NDArray[np.bool_], NDArray[np.int64], int]:
        """Token ids of the notes, who has one, their lengths, and how many ids there are."""
        rows, texts = self._rows("notes"), self._events["notes_text"].tolist()
        ids = vocabulary(text for row, text in zip(rows, texts, strict=True) if train[row])
        steps = min(max((len(words(text)) for text in texts), default=1), self.max_tokens)
        x = np.full((len(train), steps), PADDING)
        length = np.ones(len(train), np.int64)
        if texts:
            x[rows], length[rows] = encode(texts, ids, steps=steps)
        return x, _marked(rows, len(train)), length, 2 + len(ids)

    def _codes(
        self, train: NDArray[np.bool_]
    ) -> tuple[NDArray[Any], NDArray[np.bool_], NDArray[np.int64], int]:
        """Codes as features or as ids, who has some, how many, and how many ids there are."""
        table = pd.DataFrame({"row": self._rows("codes"), "code": self._events["codes_code"]})
        table = table.drop_duplicates()
        rows = table["row"].to_numpy(np.int64)
        has = _marked(rows, len(train))
        counts = table.loc[train[rows], "code"].value_counts()
        known = pd.Index(sorted(counts.index[counts >= MIN_COUNT]), dtype=object)
        number = known.get_indexer(pd.Index(table["code"], dtype=object))
        if self.codes == "multi_hot":
            x = np.zeros((len(train), max(len(known), 1)), np.float32)
            x[rows[number >= 0], number[number >= 0]] = 1
            return x, has, np.ones(len(train), np.int64), 0
        sizes = np.bincount(rows, minlength=len(train))
        steps = min(max(int(sizes.max()), 1), self.max_tokens)
        place = table.groupby("row").cumcount().to_numpy()
        ids = np.full((len(train), steps), PADDING, np.int64)
        read = place < steps
        ids[rows[read], place[read]] = np.where(number < 0, UNKNOWN, number + UNKNOWN + 1)[read]
        return ids, has, np.clip(sizes, 1, steps).astype(np.int64), 2 + len(known)


def _marked(rows: NDArray[np.int_], samples: int) -> NDArray[np.bool_]:
    marked = np.zeros(samples, bool)
    marked[rows] = True
    return marked
