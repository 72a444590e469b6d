"""The suites of the papers' tables, end to end on twins of their data."""

import json

import pandas as pd
import pytest

from mmbench.bench.spec import load_suite
from mmbench.registry import DATASETS

# suite -> a few of its methods, made small; conditions of its table
SUITES = {
    "redeem_table1": (
        [{"name": "redeem", "args": {"dim": 8, "depth": 2, "warm_epochs": 1}, "label": "redeem"}],
        {"incomplete_text_0.7", "incomplete_image_0.7", "incomplete_both_0.7"},
    ),
    "redeem_severe": (
        [{"name": "maps", "args": {"dim": 8, "depth": 2, "warm_epochs": 1}, "label": "maps"}],
        {"incomplete_text_0.9", "incomplete_both_0.9"},
    ),
    "cp_imoe_table": (
        [{"name": "cp_imoe", "args": {"dim": 8, "views": 2}, "label": "cp_imoe"}],
        {"incomplete_primary_0.2", "incomplete_secondary_0.8", "incomplete_each_0.4"},
    ),
}
METRICS = {
    "redeem_table1": {"micro_f1", "samples_f1", "auroc", "accuracy"},
    "redeem_severe": {"auroc"},
    "cp_imoe_table": {"macro_f1", "cohen_kappa", "accuracy"},
}

# numbers of the methods above that the papers print of these data and conditions
PRINTED = {"redeem_table1": 15, "cp_imoe_table": 1}  # the own row of Table 3 is among the 15
# three of its twelve scenarios do for a test
FEWER = {
    "cp_imoe_table": [
        "cp_imoe_primary_20_full_access",
        "cp_imoe_secondary_80_full_access",
        "cp_imoe_random_40_full_access",
    ]
}


@pytest.fixture
def mmbench(mmbench, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return mmbench


@pytest.mark.parametrize("name", SUITES)
def test_a_suite_says_what_it_needs_and_holds_the_methods_that_are_shrunk_here(name):
    suite = load_suite(name)
    assert suite.seeds
    assert {one["name"] for one in SUITES[name][0]} <= {one.name for one in suite.methods}
    for entry in suite.data:
        assert DATASETS.get(entry.name).source.papers


@pytest.mark.slow
@pytest.mark.parametrize("name", SUITES)
def test_a_suite_runs_end_to_end_on_twins(name, mmbench, tmp_path):
    suite = load_suite(name)
    methods, conditions = SUITES[name]
    data = [{"name": one.name, "args": {"size": 16}, "label": one.label} for one in suite.data]
    for entry in suite.data:
        DATASETS.get(entry.name).write_twin(tmp_path)
    words = [
        f"data={json.dumps(data)}",
        f"methods={json.dumps(methods)}",
        "seeds=1",
        "trainer.max_epochs=1",
        "limit=24",
        *(["encoders.image=''"] if suite.encoders else []),
        *([f"scenarios=[{','.join(FEWER[name])}]"] if name in FEWER else []),
    ]
    code, _, error = mmbench("run", name, *words, "--data-root", tmp_path, "--workers", 1)
    assert code == 0, error
    [file] = (tmp_path / "results").rglob("leaderboard.csv")
    board = pd.read_csv(file)
    assert set(board["data"]) == {one.label for one in suite.data}
    assert set(board["condition"]) == conditions
    assert set(board["metric"]) >= METRICS[name]
    assert (board["n_seeds"] == 1).all()
    if name in PRINTED:  # redeem_severe is a figure
        code, out, _ = mmbench(
            "leaderboard", name, *words, "--data-root", tmp_path, "--against", "reported"
        )
        assert code == 0
        assert out.startswith(f"{PRINTED[name]} matches: ")
