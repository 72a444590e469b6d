"""A user's files from end to end, through the real command line."""

import json
import sys

import numpy as np
import pandas as pd
import pytest
import yaml

from mmbench.cli import main

N = 60
IDS = [f"p{k:02d}" for k in range(N)]
CLASSES = ["<b>ill</b>", "well", "=unsure"]


@pytest.fixture
def mmbench(tmp_path, monkeypatch, capsys):
    """Runs the command line in a folder of its own; exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MMBENCH_CACHE", str(tmp_path / "cache"))

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["mmbench", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr()
        return end.value.code or 0, said.out, said.err

    return call


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
