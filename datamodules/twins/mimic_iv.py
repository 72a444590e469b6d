"""A twin of MIMIC-IV and of its notes."""

import gzip
import io
from pathlib import Path

import numpy as np
import pandas as pd

from datamodules.twins._parts import sign

PATIENTS = 160
ITEMS = np.arange(50_801, 50_825)
CODES = {9: [f"{n:04d}" for n in range(4100, 4130)], 10: [f"I{n}" for n in range(20, 50)]}
WORDS = {False: "stable improved ambulating home", True: "frail metastatic worsening hospice"}
PLAIN = "admitted with pain fever cough discharge plan medication follow up"


def write(root: Path, *, seed: int = 0) -> None:
    """Write 160 patients with 1 to 3 stays, 0.3 MB; some stays lack labs, codes or a note."""
    rng = np.random.default_rng(seed)
    folder = root / "mimic_iv"
    (folder / "hosp").mkdir(parents=True)
    (folder / "note").mkdir()
    people = np.arange(PATIENTS)
    ill = rng.random(PATIENTS) < 0.3
    visits = rng.choice([1, 2, 3], PATIENTS, p=[0.15, 0.6, 0.25])
    stays = pd.DataFrame({"person": np.repeat(people, visits)})
    stays["subject_id"] = 10_000_000 + 7 * stays["person"]
    stays["hadm_id"] = 20_000_000 + rng.permutation(10 * len(stays))[: len(stays)]
    number = stays.groupby("person").cumcount()
    start = pd.Timestamp("2150-01-01") + pd.to_timedelta(stays["person"] * 30 + number * 90, "D")
    stays["admittime"] = start + pd.to_timedelta(rng.integers(0, 1_400, len(stays)), "min")
    stays["dischtime"] = stays["admittime"] + pd.to_timedelta(rng.integers(1, 15, len(stays)), "D")
    last = stays.groupby("person")["dischtime"].max()
    # of those who die, some in their last stay, and some after more than a year
    days = rng.choice([0, 20, 200, 360, 500], PATIENTS, p=[0.1, 0.3, 0.3, 0.2, 0.1])
    dod = (last.dt.normalize() + pd.to_timedelta(days, "D")).where(ill)
    final = stays["dischtime"] == stays["person"].map(last)
    at_end = final & (stays["person"].map(pd.Series(ill & (days == 0))))
    stays["deathtime"] = stays["dischtime"].where(at_end)
    patients = pd.DataFrame(
        {"subject_id": 10_000_000 + 7 * people, "gender": rng.choice(["F", "M"], PATIENTS)}
    )
    patients["anchor_age"] = rng.integers(18, 90, PATIENTS)
    patients["anchor_year"] = 2150
    patients["dod"] = dod.dt.strftime("%Y-%m-%d")
    _write(folder / "hosp" / "patients.csv.gz", patients)
    times = ["admittime", "dischtime", "deathtime"]
    written = stays[["subject_id", "hadm_id"]].copy()
    for column in times:
        written[column] = stays[column].dt.strftime("%Y-%m-%d %H:%M:%S")
    _write(folder / "hosp" / "admissions.csv.gz", written)
    sick = stays["person"].map(pd.Series(ill)).to_numpy(bool)
    labs, diagnoses, procedures, notes = [], [], [], []
    for k, (hadm, subject) in enumerate(zip(stays["hadm_id"], stays["subject_id"], strict=True)):
        lacks = rng.random(3) < (0.15, 0.1, 0.3)
        if lacks.all():
            lacks[1] = False
        if not lacks[0]:
            for item in rng.choice(ITEMS, 12, replace=False):
                for _ in range(rng.integers(1, 4)):
                    value = 10 + rng.normal(2.0 * sick[k] * (item % 4 == 0), 1)
                    labs.append((subject, hadm, item, round(value, 2)))
        if not lacks[1]:
            version = int(rng.choice([9, 10]))
            typical = CODES[version][:15] if sick[k] else CODES[version][15:]
            chosen = [*rng.choice(typical, 3, replace=False), *rng.choice(CODES[version], 2)]
            diagnoses += [(subject, hadm, n + 1, c, version) for n, c in enumerate(chosen)]
            if rng.random() < 0.7:
                procedures.append((subject, hadm, 1, str(rng.choice(["0042", "3961"])), version))
        if not lacks[2]:
            text = [*rng.choice(PLAIN.split(), 20), *rng.choice(WORDS[bool(sick[k])].split(), 3)]
            notes.append((f"{subject}-DS-1", subject, hadm, " ".join(rng.permutation(text))))
    labs.append((10_000_000, None, ITEMS[0], 5.0))  # taken outside a stay, as many are
    columns = ["subject_id", "hadm_id", "itemid", "valuenum"]
    lab_table = pd.DataFrame(labs, columns=columns).astype({"hadm_id": "Int64"})
    _write(folder / "hosp" / "labevents.csv.gz", lab_table)
    codes = ["subject_id", "hadm_id", "seq_num", "icd_code", "icd_version"]
    _write(folder / "hosp" / "diagnoses_icd.csv.gz", pd.DataFrame(diagnoses, columns=codes))
    _write(folder / "hosp" / "procedures_icd.csv.gz", pd.DataFrame(procedures, columns=codes))
    said = pd.DataFrame(notes, columns=["note_id", "subject_id", "hadm_id", "text"])
    _write(folder / "note" / "discharge.csv.gz", said)
    sign(folder, seed)


def _write(path: Path, table: pd.DataFrame) -> None:
    text = io.StringIO()
    table.to_csv(text, index=False)
    path.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))  # the same at any time
