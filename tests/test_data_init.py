"""`mmbench data init`: a folder loads as it is described, or what is open is said."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

N = 48
IDS = [f"p{k:02d}" for k in range(N)]


@pytest.fixture
def mmbench(mmbench, tmp_path, monkeypatch):
    """Runs the command line beside a folder `ward`; exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ward").mkdir()
    return mmbench


@pytest.fixture
def ward(tmp_path, mmbench):
    """Labels and labs of 48 stays of 24 patients."""
    rng = np.random.default_rng(0)
    ward = tmp_path / "ward"
    labels = pd.DataFrame({"stay_id": IDS, "patient": [f"m{k // 2}" for k in range(N)]})
    labels["diagnosis"] = np.repeat(["ill", "well"], 2)[np.arange(N) % 4]
    labels["age"] = rng.integers(20, 90, N)
    labels.to_csv(ward / "labels.csv", index=False)
    labs = pd.DataFrame(rng.normal(size=(N, 3)).round(3), columns=["na", "k", "sex"])
    labs["sex"] = rng.choice(["M", "F"], N)
    labs.insert(0, "stay_id", IDS)
    labs.to_csv(ward / "labs.csv", sep=";", decimal=",", index=False)
    return ward


def args_of(ward):
    return yaml.safe_load((ward / "suite.yaml").read_text())["data"][0]["args"]


def test_a_folder_of_every_kind_is_described_and_runs(ward, mmbench):
    rng = np.random.default_rng(0)
    notes = [f"patient {k} sleeps, coughs and waits" for k in range(N)]
    told = pd.DataFrame({"stay_id": IDS, "text": notes}).drop(index=4)
    told.to_csv(ward / "notes.csv.gz", index=False)
    np.savez(ward / "ecg.npz", id=np.array(IDS), x=rng.normal(size=(N, 5, 2)))
    (ward / "x rays").mkdir()
    for k, one in enumerate(IDS):
        Image.new("L", (8 + k % 2, 8), 5 * k).save(ward / "x rays" / f"{one}.png")
    (ward / "readme.md").write_text("mine")
    code, out, error = mmbench("data", "init", "ward")
    assert code == 0, out + error
    assert args_of(ward) == {
        "files": {
            "labs": "labs.csv", "notes": "notes.csv.gz", "ecg": "ecg.npz", "x_rays": "x rays",
        },
        "labels": "labels.csv",
        "id": "stay_id",
        "group": "patient",
        "target": "diagnosis",
        "size": 224,
        "kinds": {"notes": "tokens", "ecg": "sequence", "x_rays": "image"},
    }  # fmt: skip
    assert "group: patient, since it repeats; a patient stays in one split" in out
    assert "left out: age of labels.csv" in out
    comments = [line for line in (ward / "suite.yaml").read_text().splitlines() if line[:1] == "#"]
    assert len(comments) == out.count("guessed  ")
    text = (ward / "suite.yaml").read_text()
    (ward / "suite.yaml").write_text(text.replace("size: 224", "size: 8"))
    words = ["methods=[majority]", "seeds=1", "--data-root", "ward"]
    code, out, error = mmbench("run", "ward/suite.yaml", *words)
    assert code == 0, out + error


def test_nothing_is_overwritten(ward, mmbench):
    assert mmbench("data", "init", "ward")[0] == 0
    (ward / "suite.yaml").write_text("mine")
    code, _, error = mmbench("data", "init", "ward")
    assert code == 2
    assert "ward/suite.yaml is there already; remove it, or write another one with --out" in error
    assert (ward / "suite.yaml").read_text() == "mine"
    assert mmbench("data", "init", "ward", "--out", "other.yaml")[0] == 0


def test_what_the_target_is_like_decides_the_task(ward, mmbench):
    labels = pd.read_csv(ward / "labels.csv").drop(columns="age")
    for target, task in (
        (np.linspace(0, 9, N).round(2), {"task": "regression"}),
        (["a|b", "b", "c"] * 16, {"task": "multi_label", "separator": "|"}),
        ([1, 2, 3] * 16, {}),
        (["x"] * 10 + [""] * 8 + ["y"] * 30, {"unlabelled": "predict"}),
    ):
        labels.assign(diagnosis=target).to_csv(ward / "labels.csv", index=False)
        code, out, error = mmbench("data", "init", "ward")
        assert code == 0, out + error
        args = args_of(ward)
        found = {k: args[k] for k in ("task", "separator", "unlabelled") if k in args}
        assert found == task
        (ward / "suite.yaml").unlink()


def survival(ward, **columns):
    labels = pd.read_csv(ward / "labels.csv")[["stay_id", "patient"]]
    labels.assign(**columns).to_csv(ward / "labels.csv", index=False)


def test_a_time_and_an_event_are_a_survival_task_that_runs(ward, mmbench):
    months = np.random.default_rng(1).exponential(20, N).round(1) + 0.1
    survival(ward, survival_months=months, os_status=[0, 1, 1] * 16, age=range(30, 30 + N))
    code, out, error = mmbench("data", "init", "ward")
    assert code == 0, out + error
    args = args_of(ward)
    assert (args["task"], args["target"]) == ("survival", ["survival_months", "os_status"])
    assert args["group"] == "patient"
    said = "task: survival, since survival_months of labels.csv holds times above 0 and os_status"
    assert f"guessed  {said}" in out
    assert f"# guessed: {said}" in (ward / "suite.yaml").read_text()
    assert "left out: age of labels.csv" in out
    words = ["methods=[zero_fill]", "seeds=1", "trainer.max_epochs=1", "--data-root", "ward"]
    code, out, error = mmbench("run", "ward/suite.yaml", *words)
    assert code == 0, out + error


@pytest.mark.parametrize(
    ("columns", "target"),
    [
        ({"os_time": range(1, N + 1), "os_status": [0, 1] * 24, "pfs_time": range(2, N + 2)},
         ["os_time", "os_status"]),
        ({"time": range(N), "event": [0, 1] * 24}, None),  # a time of 0
        ({"time": range(1, N + 1), "event": [0, 1, 2] * 16}, None),
        ({"time": range(1, N + 1), "status": [0, 1] * 24, "died": [0, 0, 1] * 16}, None),
        ({"time": range(1, N + 1), "event": [0, 1] * 24, "label": ["a", "b"] * 24}, "label"),
    ],
)  # fmt: skip
def test_what_is_no_single_pair_of_time_and_event_is_no_survival(ward, mmbench, columns, target):
    survival(ward, **columns)
    code, out, _ = mmbench("data", "init", "ward")
    assert args_of(ward).get("target") == target
    assert code == (0 if target else 2)
    assert ("open     target: which" in out) == (target is None)


@pytest.mark.parametrize(
    ("column", "values"),
    [("part", ["train"] * 24 + ["valid"] * 12 + ["test"] * 12), ("fold", [1, 2, 3, 4] * 12)],
)
def test_a_column_of_splits_is_found_by_what_it_says(ward, mmbench, column, values):
    labels = pd.read_csv(ward / "labels.csv").drop(columns=["age", "patient"])
    labels.assign(**{column: values}).to_csv(ward / "labels.csv", index=False)
    code, out, error = mmbench("data", "init", "ward")
    assert code == 0, out + error
    assert args_of(ward)["split"] == column


def test_one_wide_file_is_labels_and_modality(ward, mmbench):
    (ward / "labs.csv").unlink()
    code, out, error = mmbench("data", "init", "ward")
    assert code == 0, out + error
    assert args_of(ward)["files"] == {"labels": "labels.csv"}
    assert "take out what gives the label away" in out


def spoil_ids(ward):
    labs = pd.read_csv(ward / "labs.csv", sep=";")
    labs["stay_id"] = labs["stay_id"].str.upper()
    labs.to_csv(ward / "labs.csv", index=False)


def spoil_rows(ward):
    labs = pd.read_csv(ward / "labs.csv", sep=";")
    pd.concat([labs, labs]).to_csv(ward / "labs.csv", index=False)


def spoil_target(ward):
    labels = pd.read_csv(ward / "labels.csv").rename(columns={"diagnosis": "d1", "age": "d2"})
    labels.to_csv(ward / "labels.csv", index=False)


def spoil_dates(ward):
    labs = pd.read_csv(ward / "labs.csv", sep=";", decimal=",").assign(taken="2020-01-01")
    labs.to_csv(ward / "labs.csv", index=False)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_ids, r"open +ward/labs.csv: none of its 48 ids .* they differ in capitals"),
        (spoil_rows, r"open +ward/labs.csv row 50: id p00 occurs a second time"),
        (spoil_target, r"open +target: which column of labels.csv is to predict\? d1, d2"),
        (spoil_dates, r"open +ward/labs.csv row 2 .*, column taken: '2020-01-01' is a date"),
    ],
)
def test_what_cannot_be_guessed_is_said_in_the_terminal_and_in_the_file(
    ward, mmbench, spoil, message
):
    spoil(ward)
    code, out, error = mmbench("data", "init", "ward")
    assert code == 2
    assert re.search(message, " ".join(out.split()))
    assert error.startswith("error: ")
    assert "could not be guessed, see above; say it in ward/suite.yaml" in error
    assert "# OPEN: " in (ward / "suite.yaml").read_text()


def test_a_folder_without_a_table_leaves_nothing(tmp_path, mmbench):
    (tmp_path / "ward" / "notes.md").write_text("none")
    code, _, error = mmbench("data", "init", "ward")
    assert code == 2
    assert "ward has no table (.csv, .tsv, .txt, .parquet)" in error
    assert [one.name for one in (tmp_path / "ward").iterdir()] == ["notes.md"]
    assert mmbench("data", "init", "nowhere")[2] == "error: no folder nowhere\n"


def test_hostile_names_are_only_names(ward, mmbench):
    labels = pd.read_csv(ward / "labels.csv").rename(columns={"diagnosis": "a label"})
    labels["age\n# seeds: 9"] = 1
    labels.to_csv(ward / "labels.csv", index=False)
    code, out, error = mmbench("data", "init", "ward")
    assert code == 0, out + error
    assert yaml.safe_load((ward / "suite.yaml").read_text())["seeds"] == 3
    assert json.dumps(args_of(ward)["target"]) == '"a label"'
