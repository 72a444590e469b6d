"""The traps of Derm7pt."""

import numpy as np
import pandas as pd
import pytest

from datamodules.derm7pt import CRITERIA, REFUSED, Derm7pt
from mmbench.data.missingness.fixed import natural
from mmbench.data.samples import SPLITS
from mmbench.data.scenario import Scenario
from mmbench.health import examine

SCENARIO = Scenario("natural", natural(), natural(), (natural(),))


@pytest.fixture
def root(tmp_path):
    Derm7pt.write_twin(tmp_path)
    return tmp_path


def data_of(root, **changes):
    return Derm7pt(root, SCENARIO, **{"size": 8} | changes)


def meta(root):
    return pd.read_csv(root / "derm7pt" / "meta" / "meta.csv", dtype=str, keep_default_na=False)


def indexes(root, part):
    path = root / "derm7pt" / "meta" / f"{part}_indexes.csv"
    return path, pd.read_csv(path)["indexes"].tolist()


def test_an_index_counts_rows_from_zero_without_the_header(root):
    data, cases = data_of(root), meta(root)
    for split, part in zip(SPLITS, ("train", "valid", "test"), strict=True):
        _, rows = indexes(root, part)
        names, samples = data.names_of_ids(), data.load(split)
        assert sorted(int(names[one]) for one in samples.sample_id.tolist()) == sorted(rows)
        for one, target in zip(samples.sample_id.tolist(), samples.target.tolist(), strict=True):
            diagnosis = cases["diagnosis"][int(names[one])]
            group = ("NEV", "BCC", "MEL", "MISC", "SK")[target]
            expected = {"blue nevus": "NEV", "clark nevus": "NEV", "basal cell carcinoma": "BCC",
                        "melanoma": "MEL", "melanoma (in situ)": "MEL", "melanosis": "MISC",
                        "vascular lesion": "MISC", "seborrheic keratosis": "SK"}  # fmt: skip
            assert expected[diagnosis] == group
    path, rows = indexes(root, "train")
    path.write_text("\n".join(map(str, rows)))  # the first number would be eaten as a header
    with pytest.raises(ValueError, match=r"train_indexes.csv has no column indexes"):
        data_of(root).describe()


@pytest.mark.parametrize("name", [*REFUSED, "colour"])
def test_what_gives_the_diagnosis_away_is_refused_by_name(root, name):
    why = REFUSED.get(name, "there is no such column")
    with pytest.raises(ValueError, match=f"meta names {name}, but {why}"):
        data_of(root, meta=["sex", name])
    header = set(meta(root).columns)
    assert header - {"sex", "location", "elevation", "clinic", "derm"} == set(REFUSED)
    assert len(CRITERIA) == 7


def test_meta_is_one_feature_for_each_word_of_training(root):
    _, train = indexes(root, "train")
    _, test = indexes(root, "test")
    cases = meta(root)
    cases.loc[test[0], "location"] = "only here"
    cases.loc[train[0], ["location", "sex"]] = ""
    cases.to_csv(root / "derm7pt" / "meta" / "meta.csv", index=False)
    data = data_of(root, meta=["sex", "location"])
    modality = data.describe().modalities[2]
    words = [
        *sorted(set(cases["sex"][train]) - {""}),
        *sorted(set(cases["location"][train]) - {""}),
    ]
    assert (modality.name, modality.kind, modality.shape) == ("meta", "vector", (len(words),))
    assert "only here" not in words
    ids = {name: one for one, name in data.names_of_ids().items()}
    for split, row in (("train", train[1]), ("test", test[0])):
        samples = data.load(split)
        at = samples.sample_id.tolist().index(ids[str(row)])
        said = [float(word in cases.loc[row, ["sex", "location"]].tolist()) for word in words]
        assert samples.inputs["meta"][at].tolist() == said
    samples = data.load("train")
    at = samples.sample_id.tolist().index(ids[str(train[0])])
    assert np.flatnonzero(~samples.presence[:, 2]).tolist() == [at]


def test_a_case_in_two_lists_or_beyond_the_table_is_named(root):
    path, rows = indexes(root, "test")
    _, train = indexes(root, "train")
    path.write_text("\n".join(["indexes", str(train[3])]))
    with pytest.raises(ValueError, match=f"test_indexes.csv: case {train[3]} is in train already"):
        data_of(root).describe()
    path.write_text("\n".join(["indexes", str(rows[0]), str(len(meta(root)))]))
    with pytest.raises(ValueError, match=r"test_indexes.csv row 3: '104' is no row of meta.csv"):
        data_of(root).describe()
    path.write_text("\n".join(["indexes", *map(str, rows[1:])]))
    data = data_of(root)
    assert len(data.load("test")) == len(rows) - 1
    assert "1 cases that no index file names left out" in data.notes()


def test_a_diagnosis_that_no_class_has_is_named(root):
    cases = meta(root)
    cases.loc[7, "diagnosis"] = "wart"
    cases.to_csv(root / "derm7pt" / "meta" / "meta.csv", index=False)
    with pytest.raises(ValueError, match=r"meta.csv row 9: the diagnosis 'wart' is none of the 21"):
        data_of(root).describe()


def test_a_set_that_claims_to_be_real_is_compared_with_table_s1(root):
    assert examine(data_of(root)).problems == ()
    (root / "derm7pt" / "TWIN.txt").unlink()
    problems = examine(data_of(root)).problems
    assert any(
        one.startswith("train: 52 samples, but 413 in Table S1 of CP-IMoE") for one in problems
    )
    assert any("of SK, but 19 in Table S1 of CP-IMoE" in one for one in problems)
