"""A frozen sweep and its leaderboard, letter for letter.

The records were made once by a real sweep; only what turns records into a table is run here. A
change that moves a number of this table says so in results/CHANGES.md.
"""

from pathlib import Path

import pandas as pd
from sweeps import specs

from mmbench.bench.leaderboard import leaderboard, render
from mmbench.bench.record import Run

HERE = Path(__file__).parent
PLANNED = specs(seeds=2, limit=200)


def frozen_runs():
    """The planned runs, all finished, with the metrics that were recorded."""
    return [Run(spec, HERE / "runs" / spec.method / str(spec.seed), "done") for spec in PLANNED]


def test_the_leaderboard_of_the_frozen_sweep_has_not_changed():
    board = leaderboard(frozen_runs())
    assert render(board, "csv", metric="accuracy") == (HERE / "leaderboard.csv").read_text()
    assert render(board, "md", metric="accuracy") == (HERE / "leaderboard.md").read_text()


def test_the_frozen_table_is_what_its_records_say():
    board = pd.read_csv(HERE / "leaderboard.csv")
    shown = board[(board["metric"] == "accuracy") & (board["condition"] == "complete")]
    assert set(shown["method"]) == {"majority", "zero_fill"}
    assert shown.set_index("method")["rank"].to_dict() == {"zero_fill": 1.0, "majority": 2.0}
