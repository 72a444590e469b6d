"""MIMIC-IV: who is in the cohort, what its tables say of a stay, and what is missing."""

import shutil

import numpy as np
import pandas as pd
import pytest

from datamodules import mimic_iv
from mmbench.data.missingness.fixed import natural
from mmbench.data.samples import SPLITS
from mmbench.data.scenario import Scenario
from mmbench.data.vocabulary import UNKNOWN
from mmbench.health import examine
from mmbench.registry import DATASETS

SCENARIO = Scenario("natural", natural(), natural(), (natural(),))


@pytest.fixture
def root(tmp_path):
    DATASETS.get("mimic_iv").write_twin(tmp_path)
    return tmp_path


def mimic(root, **arguments):
    return DATASETS.get("mimic_iv")(root, SCENARIO, **arguments)


def samples_of(data):
    """All samples, by `hadm_id`: split, target, presence and inputs."""
    found = {}
    for split in SPLITS:
        part = data.load(split)
        for k, one in enumerate(part.sample_id.tolist()):
            inputs = {name: x[k] for name, x in part.inputs.items()}
            lengths = {name: x[k] for name, x in part.lengths.items()}
            found[one] = (split, part.target[k], part.presence[k], inputs, lengths)
    return found


def table(root, name):
    return pd.read_csv(root / f"mimic_iv/hosp/{name}.csv.gz", dtype={"icd_code": str})


def add(root, name, rows):
    old = table(root, name)
    new = pd.DataFrame(rows).reindex(columns=old.columns)
    both = pd.concat([old.astype(object), new.astype(object)])
    both.to_csv(root / f"mimic_iv/hosp/{name}.csv.gz", index=False)


PEOPLE = [  # age in 2150, year of two stays, day of death, how the last one ends, (stay, target)
    ("one stay", 50, [2150], None, False, []),
    ("dies 365 days after discharge", 50, [2150, 2151], "2152-01-11", False, [(2151, 1)]),
    ("dies 366 days after discharge", 50, [2150, 2151], "2152-01-12", False, [(2151, 0)]),
    ("dies in the last stay", 50, [2150, 2151], "2151-01-11", True, [(2150, 1)]),
    ("dies on the day of discharge", 50, [2150, 2150], "2150-01-11", False, []),
    ("of age at the last stay alone", 17, [2150, 2151], None, False, [(2151, 0)]),
    ("never of age", 10, [2150, 2151], None, False, []),
]


@pytest.mark.parametrize(("_", "age", "years", "dod", "ends", "expected"), PEOPLE)
def test_the_cohort_follows_its_rules(root, _, age, years, dod, ends, expected):
    add(root, "patients", [{"subject_id": 7, "anchor_age": age, "anchor_year": 2150, "dod": dod}])
    stays = [
        {
            "subject_id": 7,
            "hadm_id": 100 + k,
            "admittime": f"{year}-01-0{1 + k} 10:00:00",
            "dischtime": f"{year}-01-11 0{k}:00:00",
            "deathtime": f"{year}-01-11 0{k}:00:00" if ends and k == len(years) - 1 else None,
        }
        for k, year in enumerate(years)
    ]
    add(root, "admissions", stays)
    codes = [
        {"subject_id": 7, "hadm_id": 100 + k, "seq_num": 1, "icd_code": "4100", "icd_version": 9}
        for k in range(len(years))
    ]
    add(root, "diagnoses_icd", codes)
    found = samples_of(mimic(root))
    mine = [(years[one - 100], found[one][1]) for one in found if one < 1_000]
    assert mine == expected


def test_a_stay_is_the_last_one_or_each_and_nobody_is_in_two_splits(root):
    last, every = mimic(root), mimic(root, visits="every")
    assert set(samples_of(last)) < set(samples_of(every))
    for data in (last, every):
        subjects = [set(data.subject_of(split).tolist()) for split in SPLITS]
        assert sum(map(len, subjects)) == len(set.union(*subjects))
    sizes = [len(every.subject_of(split)) for split in SPLITS]
    assert len(set(np.concatenate([every.subject_of(s) for s in SPLITS]))) < sum(sizes)


def test_labs_are_means_of_the_stay_and_say_what_was_not_measured(root, monkeypatch):
    monkeypatch.setattr(mimic_iv, "ROWS", 200)  # values of one stay come in several pieces
    labs = table(root, "labevents")
    found = samples_of(mimic(root))
    means = labs.dropna(subset=["hadm_id"]).groupby(["hadm_id", "itemid"])["valuenum"].mean()
    means = means.unstack().reindex(list(found))
    train = [one for one in found if found[one][0] == "train"]
    medians = means.loc[train].median()
    items = means.columns
    assert len(items) == 24
    for one, (_, _, presence, inputs, _) in found.items():
        measured = means.loc[one].notna().to_numpy()
        assert presence[0] == measured.any()
        if presence[0]:
            expected = means.loc[one].fillna(medians).to_numpy()
            np.testing.assert_allclose(inputs["lab"][:24], expected, rtol=1e-6)
            np.testing.assert_array_equal(inputs["lab"][24:] == 0, measured)


def test_codes_keep_kind_version_and_order_and_rare_ones_are_unknown(root):
    add(root, "procedures_icd", [{"hadm_id": h, "seq_num": 9, "icd_code": "4100", "icd_version": 9}
                                 for h in table(root, "admissions")["hadm_id"]])  # fmt: skip
    tokens, hot = mimic(root, codes="tokens"), mimic(root)
    found, features = samples_of(tokens), samples_of(hot)
    train = [one for one in found if found[one][0] == "train"]
    codes = {}
    for kind, name in (("d", "diagnoses_icd"), ("p", "procedures_icd")):
        rows = table(root, name).sort_values(["hadm_id", "seq_num"])
        for hadm, code, version in zip(
            rows["hadm_id"], rows["icd_code"], rows["icd_version"], strict=True
        ):
            mine = codes.setdefault(hadm, [])
            if (one := f"{kind}{version}:{code}") not in mine:
                mine.append(one)
    counts = pd.Series([code for one in train for code in codes[one]]).value_counts()
    known = sorted(counts.index[counts >= 2])
    assert {"d9:4100", "p9:4100"} <= set(known) != set(counts.index)
    ids = {code: number for number, code in enumerate(known, start=UNKNOWN + 1)}
    for one, (_, _, _, inputs, lengths) in found.items():
        expected = [ids.get(code, UNKNOWN) for code in codes[one]]
        assert inputs["code"][: lengths["code"]].tolist() == expected
        marked = {known[k] for k in np.flatnonzero(features[one][3]["code"])}
        assert marked == set(codes[one]) & set(known)


def test_without_the_note_module_notes_are_absent_for_all_and_a_line_says_so(root):
    assert mimic(root).load("train").presence[:, 1].any()
    shutil.rmtree(root / "mimic_iv/note")
    data = mimic(root)
    assert not any(data.load(split).presence[:, 1].any() for split in SPLITS)
    assert not examine(data).problems
    assert any("no notes of these stays" in note for note in data.notes())


def test_a_date_or_a_column_that_is_none_is_refused_in_a_line(root):
    path = root / "mimic_iv/hosp/patients.csv.gz"
    patients = table(root, "patients")
    patients.astype({"dod": object}).assign(dod="soon").to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"patients.csv row 2, column dod: 'soon' is no date"):
        mimic(root).load("train")
    patients.drop(columns="dod").to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"patients.csv.gz is no readable CSV file: .*dod"):
        mimic(root).load("train")
