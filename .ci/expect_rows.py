"""Fail unless a quickstart leaderboard holds every expected row, none of them a hole.

Arguments: the table, then what was overridden in the suite.
"""

import sys

import pandas as pd

from mmbench.bench.plan import plan
from mmbench.bench.spec import load_suite

board = pd.read_csv(sys.argv[1])
suite = load_suite("quickstart", sys.argv[2:])
conditions = {"complete", "mcar_0.1", "mcar_0.3", "mcar_0.5"}
expected = {
    (spec.data_label, spec.scenario_name, condition, spec.method_label, suite.select.metric)
    for spec in plan(suite)
    for condition in conditions
}
keys = ["data", "scenario", "condition", "method", "metric"]
shown = board[board["metric"] == suite.select.metric]
found = set(shown[keys].itertuples(index=False, name=None))
assert found == expected, f"missing {expected - found}, unexpected {found - expected}"
holes = shown[shown["n_seeds"] != shown["n_seeds_planned"]]
assert holes.empty, f"holes: {holes[keys].to_string()}"
majority = shown[shown["method"] == "majority"].set_index(["data", "condition"])["mean"]
for row in shown[shown["method"] != "majority"].itertuples():
    floor = majority[row.data, row.condition]
    assert row.mean > floor, f"{row.method} on {row.data}, {row.condition}: {row.mean} <= {floor}"
print(f"{len(found)} rows of {suite.select.metric}, no hole, all above majority")
