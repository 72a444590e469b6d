"""Survival from a user's files to tables, through the real command line."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml

from datamodules.table import Table
from mmbench.data.missingness.fixed import natural
from mmbench.data.scenario import Scenario
from mmbench.metrics.metric import score

N = 400
CENSORING = 0.3  # rate of an exponential
SCENARIO = Scenario("natural", natural(), natural(), (natural(),))
FILES = {"lab": "lab.csv", "gene": "gene.csv"}


@pytest.fixture(scope="module")
def hazards():
    """Logs of constant hazards, one half of them in each modality."""
    return np.random.default_rng(0).normal(size=(N, 2)) * [1.5, 1.0]


@pytest.fixture(scope="module")
def root(tmp_path_factory, hazards):
    """400 patients whose time to death is exponential."""
    folder, rng = tmp_path_factory.mktemp("cohort"), np.random.default_rng(1)
    ids = np.arange(N)
    death = rng.exponential(size=N) / np.exp(hazards.sum(axis=1))
    lost = rng.exponential(size=N) / CENSORING
    frame = {"id": ids, "time": np.minimum(death, lost), "event": death <= lost}
    pd.DataFrame(frame).to_csv(folder / "labels.csv", index=False)
    for column, file in enumerate(FILES.values()):
        x = np.stack([hazards[:, column], rng.normal(size=N)], axis=1)
        table = pd.DataFrame({"id": ids, "a": x[:, 0], "b": x[:, 1]})
        table[ids % 10 != 1 + column].to_csv(folder / file, index=False)
    return folder


def table(root, **args):
    return Table(root, SCENARIO, files=FILES, labels="labels.csv", task="survival", **args)


def best_c_index(log_hazard):
    """Expected share of pairs that true hazards order: of i and j, i dies first by its share."""
    hazard = np.exp(log_hazard)
    i, j = np.triu_indices(len(hazard), 1)
    both = hazard[i] + hazard[j]
    comparable = both / (both + 2 * CENSORING)  # a death comes before anybody is lost
    return float(np.sum(comparable * np.maximum(hazard[i], hazard[j]) / both) / comparable.sum())


@pytest.fixture
def mmbench(mmbench, tmp_path, monkeypatch):
    """Runs the command line in a folder of its own; exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    return mmbench


def write_suite(folder, **changes):
    args = {"files": FILES, "labels": "labels.csv", "task": "survival"}
    labels = {"hazards": {}, "cox": {"intervals": 0}}
    suite = {
        "name": "own",
        "data": [{"name": "table", "label": n, "args": args | a} for n, a in labels.items()],
        "methods": [
            "majority",
            "logistic",
            {"name": "mean_fusion", "args": {"dim": 16, "lr": 0.02}},
        ],
        "scenarios": ["natural"],
        "seeds": 1,
        "select": {"metric": "c_index"},
        "trainer": {"max_epochs": 8},
    }
    (folder / "suite.yaml").write_text(yaml.safe_dump(suite | changes))


@pytest.mark.slow
def test_the_tables_and_the_report_hold_scores_that_come_near_the_best(
    root, hazards, tmp_path, mmbench
):
    write_suite(tmp_path)
    code, out, error = mmbench("run", "suite.yaml", "--data-root", root, "--results", tmp_path)
    assert code == 0, out + error
    board = pd.read_csv(tmp_path / "own" / "leaderboard.csv")
    wide = board.pivot(index=["data", "method"], columns="metric", values="mean")
    assert {"c_index", "integrated_brier"} <= {*wide}
    assert "logistic" not in wide["c_index"].dropna().reset_index()["method"].tolist()
    data = table(root, intervals=0)
    best = best_c_index(hazards[data.split("test").samples.sample_id].sum(axis=1))
    for name in ("hazards", "cox"):
        c_index, brier = (wide.loc[name][metric] for metric in ("c_index", "integrated_brier"))
        assert c_index["majority"] == 0.5
        assert abs(c_index["mean_fusion"] - best) < 0.1  # 60 samples, a tenth lacks each modality
        assert brier["mean_fusion"] < brier["majority"]
    said = (tmp_path / "own" / "leaderboard.md").read_text()
    assert "c_index" in said
    skipped = [*(tmp_path / "own").rglob("skipped.json")]
    assert len(skipped) == 2
    assert all("not survival" in file.read_text() for file in skipped)
    code, out, error = mmbench("report", "suite.yaml", "--results", tmp_path)
    assert code == 0, out + error
    run = next((tmp_path / "own").glob("runs/cox/natural/mean_fusion/*/done")).parent
    scores = json.loads((run / "metrics.json").read_text())["conditions"]["natural"]["scores"]
    with np.load(run / "predictions" / "natural.npz") as kept:
        np.testing.assert_allclose(kept["outputs"].astype(float), data.target_scale.times)
        again = score(
            "integrated_brier", kept["logits"], kept["target"], "survival", train=kept["train"]
        )
    assert again == scores["integrated_brier"]


def test_a_cox_model_is_not_selected_by_what_needs_its_baseline(root, tmp_path, mmbench):
    write_suite(tmp_path, select={"metric": "integrated_brier"})
    code, _, error = mmbench("plan", "suite.yaml", "--data-root", root, "--results", tmp_path)
    assert code == 2, error
    assert "select by c_index, or learn hazards of intervals" in error
    assert len(error.strip().splitlines()) == 1


def test_scores_reach_the_table_and_who_has_no_outcome_yet_is_given_a_survival_curve(
    root, tmp_path, mmbench
):
    labels = pd.read_csv(root / "labels.csv", dtype=str)
    labels.loc[:4, "event"] = ""
    for file in FILES.values():
        (tmp_path / file).write_text((root / file).read_text())
    labels.to_csv(tmp_path / "labels.csv", index=False)
    args = {"files": FILES, "labels": "labels.csv", "task": "survival", "unlabelled": "predict"}
    data = [{"name": "table", "args": args | {"intervals": k}, "label": f"k{k}"} for k in (0, 3)]
    methods = [{"name": "zero_fill", "args": {"dim": 4}}]
    write_suite(tmp_path, data=data, methods=methods, seeds=1, trainer={"max_epochs": 1})
    code, out, error = mmbench("run", "suite.yaml", "--data-root", ".", "--results", ".")
    assert code == 0, out + error
    board = pd.read_csv(tmp_path / "own" / "leaderboard.csv")
    wide = board.pivot(index="data", columns="metric", values="mean")
    assert {*wide} >= {"c_index", "integrated_brier"}
    assert wide.notna().all(axis=None)
    found = sorted(tmp_path.glob("own/runs/k*/natural/zero_fill/*/predictions/unlabelled.csv"))
    assert len(found) == 2
    for file in found:
        curves = pd.read_csv(file, index_col="id")
        assert curves.index.tolist() == [0, 1, 2, 3, 4]
        assert all(name.startswith("survival ") for name in curves)
        assert ((curves >= 0) & (curves <= 1)).all(axis=None)
        assert (np.diff(curves.to_numpy(), axis=1) < 0).all()


def small(folder, *, time=None, event=None, split=None):
    """Sixteen patients, or a column of theirs in the place of another."""
    frame = pd.DataFrame({"id": range(16), "time": np.arange(16) % 6 + 1.5, "event": 1})
    frame["event"] = np.arange(16) % 3 > 0
    frame["split"] = ["train"] * 10 + ["val"] * 3 + ["test"] * 3
    for name, column in {"time": time, "event": event, "split": split}.items():
        if column is not None:
            frame[name] = column
    frame.to_csv(folder / "labels.csv", index=False)
    pd.DataFrame({"id": range(16), "a": range(16)}).to_csv(folder / "lab.csv", index=False)
    return {"files": {"lab": "lab.csv"}, "labels": "labels.csv", "split": "split"}


WRONG = [
    ({"time": [*range(15), -3.0]}, r"labels.csv row 2 \(id 0\), time and event: a time is 0, but"),
    ({"time": [1.0] * 15 + [-3.0]}, r"row 17 .*: a time is -3, but times are above 0"),
    ({"event": [1] * 15 + [2]}, r"row 17 .*: an event is 2, but it is 1 \(it occurred\) or 0"),
    ({"event": ["yes"] * 16}, r"row 2 .*, column event: 'yes' is no finite number"),
    ({"event": [0] * 10 + [1] * 6}, r"labels.csv: no event occurs in training"),
    ({"event": [1] * 10 + [0] * 3 + [1] * 3}, r"the val split has no event, so that it has no"),
    ({"time": [*range(1, 14), 5, 5, 5], "event": [1] * 16}, r"the test split has no sample that"),
]


@pytest.mark.parametrize(("columns", "message"), WRONG, ids=[m[:30] for _, m in WRONG])
def test_outcomes_that_cannot_be_learned_are_refused_in_one_line(tmp_path, columns, message):
    args = small(tmp_path, **columns)
    with pytest.raises(ValueError, match=message) as found:
        Table(tmp_path, SCENARIO, task="survival", intervals=3, **args).describe()
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"target": "time"}, "two target columns, time and event"),
        ({"intervals": 2}, "must be 0, the log risk of Cox, or at least 3, found 2"),
        ({"intervals": 1}, "must be 0"),
        ({"intervals": 7}, "7 intervals need 7 different times of an event in training, found 4"),
        ({"task": "regression", "target": "time", "intervals": 3}, "belongs to task=survival"),
    ],
)
def test_arguments_that_do_not_fit_survival_are_refused(tmp_path, args, message):
    with pytest.raises(ValueError, match=message):
        Table(tmp_path, SCENARIO, **(small(tmp_path) | {"task": "survival"} | args)).describe()


def test_columns_of_any_name_in_any_unit_are_time_and_event(tmp_path):
    args = small(tmp_path)
    frame = pd.read_csv(tmp_path / "labels.csv").rename(columns={"time": "days", "event": "died"})
    frame.to_csv(tmp_path / "labels.csv", index=False)
    data = Table(tmp_path, SCENARIO, task="survival", target=["days", "died"], intervals=3, **args)
    assert data.describe().outputs == ("hazard 1", "hazard 2", "hazard 3")
    frame = frame[frame["split"] == "val"]
    np.testing.assert_array_equal(data.load("val").target, frame[["days", "died"]].astype(float))


def test_shares_are_dealt_by_event(root):
    data = table(root)
    share = [data.load(split).target[:, 1].mean() for split in ("train", "val", "test")]
    assert np.ptp(share) < 0.02


def test_a_data_set_of_survival_is_described_and_keeps_the_contract(root, mmbench):
    words = ["table", "files={lab: lab.csv, gene: gene.csv}", "labels=labels.csv", "task=survival"]
    code, out, error = mmbench("data", "describe", *words, "--data-root", root)
    assert code == 0, error
    assert "median time" in out
    assert "events" in out
