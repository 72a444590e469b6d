"""A user's files from end to end, through the real command line."""

import csv
import importlib.util
import json
import re

import numpy as np
import pandas as pd
import pytest
import yaml

from mmbench.data.missingness.fixed import natural
from mmbench.data.scenario import Scenario
from mmbench.registry import DATASETS

N = 60
IDS = [f"p{k:02d}" for k in range(N)]
CLASSES = ["<b>ill</b>", "well", "=unsure"]


@pytest.fixture
def mmbench(mmbench, tmp_path, monkeypatch):
    """Runs the command line in a folder of its own; exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MMBENCH_CACHE", str(tmp_path / "cache"))
    return mmbench


def write(root, *, unlabelled=0, task="single_label"):
    """Vitals that give the label away, labs with gaps, and a suite of two methods over them."""
    rng = np.random.default_rng(0)
    which = np.arange(N) % 3
    label = np.array(CLASSES)[which] if task == "single_label" else (100.0 * which).astype(object)
    label[N - unlabelled :] = ""
    pd.DataFrame({"patient": IDS, "diagnosis": label}).to_csv(root / "labels.csv", index=False)
    vitals = np.eye(3)[which] * 3 + rng.normal(size=(N, 3)) / 9
    pd.DataFrame({"patient": IDS, "a": vitals[:, 0], "b": vitals[:, 1], "c": vitals[:, 2]}).to_csv(
        root / "vitals.csv", index=False
    )
    labs = pd.DataFrame({"patient": IDS, "sodium": rng.normal(140, 3, N), "sex": ["M", "F"] * 30})
    labs["sodium"] = labs["sodium"].mask(np.arange(N) % 7 == 0)
    labs.drop(index=5).to_csv(root / "labs.csv", index=False)
    args = {
        "files": {"vitals": "vitals.csv", "labs": "labs.csv"},
        "labels": "labels.csv",
        "id": "patient",
        "target": "diagnosis",
        "task": task,
        "indicators": True,
    }
    if unlabelled:
        args["unlabelled"] = "predict"
    suite = {
        "name": "own",
        "data": [{"name": "table", "args": args}],
        "methods": ["majority", "random_forest"],
        "scenarios": ["natural"],
        "seeds": 1,
        "select": {"metric": "mae" if task == "regression" else "accuracy"},
    }
    (root / "suite.yaml").write_text(yaml.safe_dump(suite))
    return ["run", "suite.yaml", "--data-root", root, "--results", root / "results"]


def folder_of(root, method):
    (done,) = (root / "results").glob(f"own/runs/table/natural/{method}/*/done")
    return done.parent


def test_ids_and_names_of_classes_reach_predictions_tables_and_plots(tmp_path, mmbench):
    code, out, error = mmbench(*write(tmp_path))
    assert code == 0, out + error
    run = folder_of(tmp_path, "random_forest")
    with np.load(run / "predictions" / "natural.npz") as kept:
        rows = [int(one[1:]) for one in kept["id"]]
        assert kept["outputs"].tolist() == sorted(CLASSES)
        names = kept["outputs"][kept["target"]]
        assert names.tolist() == [CLASSES[row % 3] for row in rows]
        assert len(set(rows)) == len(kept["logits"])
    record = json.loads((run / "metrics.json").read_text())
    assert record["task"]["outputs"] == sorted(CLASSES)
    assert any("labs.csv: empty cells filled with the median" in note for note in record["notes"])
    code, out, error = mmbench(
        "report", "suite.yaml", "--data-root", tmp_path, "--results", "results"
    )
    assert code == 0, out + error
    (page,) = (tmp_path / "results").rglob("*.html")
    text = page.read_text()
    assert "&lt;b&gt;ill&lt;/b&gt;" in text
    assert "<b>ill</b>" not in text


def test_rows_without_a_label_are_predicted_with_their_ids_and_classes(tmp_path, mmbench):
    code, out, error = mmbench(*write(tmp_path, unlabelled=6))
    assert code == 0, out + error
    run = folder_of(tmp_path, "random_forest")
    table = pd.read_csv(run / "predictions" / "unlabelled.csv")
    assert table["id"].tolist() == IDS[-6:]
    truth = [CLASSES[k % 3].replace("=", "'=") for k in range(N - 6, N)]
    assert table["predicted"].tolist() == truth
    assert list(table.columns) == ["id", "predicted", "<b>ill</b>", "'=unsure", "well"]
    np.testing.assert_allclose(table.iloc[:, 2:].sum(axis=1), 1, rtol=1e-6)
    with np.load(run / "predictions" / "natural.npz") as kept:
        assert not set(kept["id"]) & set(IDS[-6:])
    record = json.loads((run / "metrics.json").read_text())
    assert "labels.csv: 6 rows without a label predicted and in no split" in record["notes"]


def test_rows_without_a_number_are_predicted_in_its_units(tmp_path, mmbench):
    code, out, error = mmbench(*write(tmp_path, unlabelled=6, task="regression"))
    assert code == 0, out + error
    table = pd.read_csv(folder_of(tmp_path, "random_forest") / "predictions" / "unlabelled.csv")
    assert list(table.columns) == ["id", "diagnosis"]
    truth = np.array([100 * (k % 3) for k in range(N - 6, N)])
    assert np.abs(table["diagnosis"] - truth).max() < 60


# --- one table in many dresses --------------------------------------------------------------------


def plain():
    """Numbers with decimals, a category, a gap, and ids that only quotes keep whole."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"patient": [f"{one}, bed" for one in IDS]})
    table["sodium"] = rng.normal(140, 3, N).round(2)
    table["sex"] = np.where(np.arange(N) % 3, "F", "M")
    table.loc[[4, 9], "sodium"] = np.nan
    return table


def dressed(dress, table, folder):
    """Write the table as other programs do; name of the file."""
    quoted = {"quoting": csv.QUOTE_ALL, "index": False}
    if dress == "excel":  # of a country with decimal commas: byte-order mark, semicolons, CRLF
        text = table.to_csv(sep=";", decimal=",", index=False, lineterminator="\r\n")
        (folder / "labs.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
        return "labs.csv"
    if dress == "r":  # names of rows in a first column without a name
        table.rename(columns={"patient": ""}).to_csv(folder / "labs.csv", na_rep="NA", **quoted)
        return "labs.csv"
    if dress == "parquet":
        table.astype({"sex": "category"}).to_parquet(folder / "labs.parquet")
        return "labs.parquet"
    if dress == "tsv":
        table.to_csv(folder / "labs.tsv", sep="\t", index=False)
        return "labs.tsv"
    table.to_csv(folder / f"labs.csv{dress}", **quoted)
    return f"labs.csv{dress}"


DRESSES = ["", ".gz", ".xz", ".bz2", "excel", "r", "tsv"]
if importlib.util.find_spec("pyarrow"):
    DRESSES.append("parquet")


@pytest.mark.parametrize("dress", DRESSES)
def test_a_table_is_the_same_in_every_dress(tmp_path, mmbench, dress):
    table = plain()
    labels = table[["patient"]].assign(label=["a", "b"] * (N // 2), fold=np.arange(N) % 4)
    labels.to_csv(tmp_path / "labels.csv", index=False)
    file = dressed(dress, table, tmp_path)
    words = ["table", f"files.labs={file}", "labels=labels.csv", "id=patient", "split=fold"]
    words = [*words, "indicators=true", "--data-root", tmp_path, "--fold", 2]
    code, out, error = mmbench("data", "describe", *words)
    assert code == 0, error
    assert re.search(r"labs\W+vector\W+4\b", out)  # sodium, F, M, and whether sodium was empty
    assert f"{file}: empty cells filled with the median" in " ".join(out.split())
    assert "cells: 2, rows: 2" in out
    cls = DATASETS.get("table")
    bound = {"files": {"labs": file}, "labels": "labels.csv", "id": "patient", "split": "fold"}
    scenario = Scenario("natural", natural(), natural(), (natural(),))
    data = cls(tmp_path, scenario, **bound, indicators=True, fold=2)
    test = data.load("test")
    rows = np.arange(2, N, 4)
    names = data.names_of_ids()
    assert [names[one] for one in test.sample_id.tolist()] == labels["patient"][rows].tolist()
    sex = np.stack([table["sex"] == "F", table["sex"] == "M"], axis=1)[rows]
    np.testing.assert_array_equal(test.inputs["labs"][:, 0], table["sodium"][rows])
    np.testing.assert_array_equal(test.inputs["labs"][:, 1:3], sex)
    gap = data.load("train").inputs["labs"]
    trained = table["sodium"][(np.arange(N) % 4 != 2) & (np.arange(N) % 4 != 3)]
    assert gap[gap[:, 3] == 1, 0].tolist() == [trained.median()] * 2


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("inf", "'inf' is no finite number"),
        ("1e300", "'1e+300' is no finite number"),
        ("140 mmol/l", "'140 mmol/l' is no finite number, but others of the column are"),
        ("<135", "'<135' is no finite number, but others of the column are"),
        ("1,200.5", "'1,200.5' is no finite number, but others of the column are"),
    ],
)
def test_what_is_no_number_is_named_with_row_and_column(tmp_path, mmbench, value, message):
    table = plain().astype(object)
    table[["patient"]].assign(label=["a", "b"] * (N // 2)).to_csv(
        tmp_path / "labels.csv", index=False
    )
    table.loc[6, "sodium"] = value
    table.to_csv(tmp_path / "labs.csv", index=False)
    words = ["table", "files.labs=labs.csv", "labels=labels.csv", "id=patient"]
    code, _, error = mmbench("data", "describe", *words, "--data-root", tmp_path)
    assert code == 2
    assert error.count("\n") == 1
    assert f"labs.csv row 8 (id p06, bed), column sodium: {message}" in error
    assert "(skip_bad: 1 lets it pass)" in error
    table.loc[8, "sodium"] = "-inf"
    table.to_csv(tmp_path / "labs.csv", index=False)
    pd.DataFrame({"patient": table["patient"], "age": 1}).to_csv(tmp_path / "ages.csv", index=False)
    words = [*words, "files.ages=ages.csv", "--data-root", tmp_path, "--skip-bad"]
    code, _, error = mmbench("data", "describe", *words, 1)
    assert code == 2
    assert "1 bad samples passed before (skip_bad: 2 lets it pass)" in error
    code, out, error = mmbench("data", "describe", *words, 2)
    assert code == 0, error
    out = " ".join(out.split())
    assert "labs.csv: 2 bad samples left out by skip_bad: 2: " in out
    assert f"column sodium: {message}" in out
    assert re.search(r"ages\W+\d+\W", out)  # some samples have ages alone


def test_a_bad_cell_among_decimal_commas_is_named_itself(tmp_path, mmbench):
    table = plain()
    labels = table[["patient"]].assign(label=["a", "b"] * (N // 2))
    labels.to_csv(tmp_path / "labels.csv", index=False)
    cells = table["sodium"].map(lambda v: "" if np.isnan(v) else str(v).replace(".", ","))
    cells[6] = "<135"
    table.assign(sodium=cells).to_csv(tmp_path / "labs.csv", sep=";", index=False)
    words = ["table", "files.labs=labs.csv", "labels=labels.csv", "id=patient"]
    code, _, error = mmbench("data", "describe", *words, "--data-root", tmp_path)
    assert code == 2
    assert "row 8 (id p06, bed), column sodium: '<135' is no finite number" in error
