"""Every table of reported numbers joins the board of its suite."""

import shlex
from itertools import product

import pandas as pd
import pytest

from mmbench.bench.compare import against_reported, read_reported
from mmbench.bench.leaderboard import COLUMNS
from mmbench.bench.plan import plan
from mmbench.bench.spec import load_suite
from mmbench.data.scenario import Scenario
from mmbench.metrics.metric import metrics_for
from mmbench.paths import folder
from mmbench.registry import DATASETS, METHODS

BENCHMARKS = folder("benchmarks")
TABLES = sorted(file.stem for file in (BENCHMARKS / "reported").glob("*.csv"))

# whose board a table stands beside; in its file are the commands for the paper's data
SUITES = {
    "cp_imoe_section_2_3": "cp_imoe_main",
    "cp_imoe_table_s3": "cp_imoe_backbone",
    "moe_retriever_table1": "moe_retriever_table1",
    "moe_retriever_table2": "moe_retriever_table2",
    "moe_retriever_table3": "moe_retriever_ablation",
    "redeem_table1": "redeem_main",
    "redeem_table3": "redeem_ablation",
}
# of suites whose file has no command
MMIMDB = (
    "data=[{name: table, args: {files: {image: image.npz, text: text.csv}, labels: labels.csv}, "
    'label: "mmimdb(image+text)"}]'
)
OVERRIDES = {
    "redeem_main": [MMIMDB, "scenarios=[redeem_text, redeem_image, redeem_both]"],
    "redeem_ablation": [MMIMDB, "scenarios=[redeem_text]"],
}
# methods that we have and that the suite leaves out: no table beside which it stands needs them
LEFT_OUT = {"redeem_table1": {"momke", "shaspec"}}


def commands(name):
    """The suite as it stands, and as each command in its file runs it."""
    found = [load_suite(name, OVERRIDES.get(name, []))]
    for line in (BENCHMARKS / f"{name}.yaml").read_text(encoding="utf-8").splitlines():
        if line.startswith("#   mmbench run "):
            _, _, _, suite, *words = shlex.split(line)
            assert suite == name
            found.append(load_suite(name, words))
    return found


def empty_board(suite):
    """The board of a suite without scores: its cells are known before any run."""
    metrics = metrics_for("single_label") + metrics_for("multi_label")
    rows = {}
    for spec in plan(suite):
        scenario = Scenario.parse(spec.scenario)
        for condition, metric in product(scenario.conditions(("a", "b")), metrics):
            cell = (spec.data_label, scenario.name, condition, spec.method_label, metric)
            rows[cell] = {
                **dict.fromkeys(COLUMNS, float("nan")),
                **dict(
                    zip(("data", "scenario", "condition", "method", "metric"), cell, strict=True)
                ),
                "variant": spec.method_args.get("variant", "paper"),
                "mean": 0.0,
            }
    return pd.DataFrame(rows.values(), columns=list(COLUMNS))


def test_every_table_has_its_suite():
    assert list(SUITES) == TABLES


@pytest.mark.parametrize("table", TABLES)
def test_a_table_joins_the_board_of_its_suite(table):
    reported = read_reported(BENCHMARKS / "reported" / f"{table}.csv")
    boards = [empty_board(suite) for suite in commands(SUITES[table])]
    found = pd.concat([against_reported(board, reported) for board in boards])
    matched = found[(found["status"] == "matched") & (found["variant"] == "paper")]
    # every method of the table is somewhere on a board, or known not to be
    left_out = LEFT_OUT.get(table, set())
    assert set(reported["row"]) == {*matched["method"], *left_out}
    assert left_out <= set(METHODS.names())


def test_commands_for_data_of_ones_own_say_what_a_table_needs(tmp_path):
    entries = [
        (entry, suite)
        for name in set(SUITES.values())
        for suite in commands(name)
        for entry in suite.data
        if entry.name == "table"
    ]
    assert entries
    for entry, suite in entries:
        scenario = Scenario.parse(plan(suite)[0].scenario)
        DATASETS.get("table")(tmp_path, scenario, **entry.args)
