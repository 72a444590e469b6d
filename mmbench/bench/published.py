"""Published tables: by which sources they were made, and whether the same comes out again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from mmbench.bench.record import Run, read_predictions
from mmbench.bench.result import read_result
from mmbench.bench.spec import PROTOCOL

LEVEL = 0.99  # of the interval that a run made again has to lie in: many are looked at
ROUNDING = 1e-5  # of a table's numbers, which have six digits


@dataclass(frozen=True)
class Check:
    """What came of one run that was made again.

    Args:
        title: Which run.
        state: `equal` predictions, `within` the interval over seeds, `differs`, or `unknown`
            where the table gives no interval.
        why: For people.
    """

    title: str
    state: str
    why: str


Table = tuple[str, str]  # data, scenario


def stale(board: pd.DataFrame, now: Mapping[tuple[str, str, str], str]) -> dict[Table, list[str]]:
    """Tables of which rows were made by other sources than those that lie there now.

    Args:
        board: A published leaderboard, from `read_board`.
        now: (data, scenario, method) -> what `sources` would be today.

    Returns:
        (data, scenario) -> methods; every method of a table that does not name its sources.
    """
    tables: dict[Table, list[str]] = {}
    known = board["sources"] if "sources" in board else pd.Series("", index=board.index)
    rows = board.assign(sources=known.fillna(""))
    rows = rows[rows["n_seeds"] > 0].drop_duplicates(["data", "scenario", "method", "sources"])
    row: Any
    for row in rows.itertuples():
        methods = tables.setdefault((row.data, row.scenario), [])
        if (
            row.sources != now.get((row.data, row.scenario, row.method))
            and row.method not in methods
        ):
            methods.append(row.method)
    return {table: methods for table, methods in tables.items() if methods}


def why_older(board: pd.DataFrame) -> str:
    """Why no run of a table comes out again by this version; empty if it may."""
    if "sources" not in board or not board["sources"].any():
        return f"made by version {_version(board)}, whose runs did not name their sources"
    if (board["protocol"] < PROTOCOL).all():
        return f"made by version {_version(board)}, under an older protocol"
    return ""


def _version(board: pd.DataFrame) -> str:
    codes = (str(code).partition("-")[0] for code in board["code"])
    return ", ".join(code for code in dict.fromkeys(codes) if code)


def check_again(made: Run, board: pd.DataFrame, reference: Run | None, metric: str) -> Check:
    """Compare a run that was made again with what is published of it.

    Args:
        made: The run, finished now.
        board: The published leaderboard.
        reference: The run as it was published, with its predictions, where those are there.
        metric: What is compared where predictions need not be equal.
    """
    title = made.spec.title
    if made.state != "done":
        return Check(title, "differs", f"{made.state}: {made.why}")
    now = read_result(made.folder)
    if reference is not None and reference.state == "done":
        before = read_result(reference.folder)
        if before.machine == now.machine:
            return _check_equal(title, made, reference, sorted(now.conditions))
    rows = board[
        (board["data"] == made.spec.data_label)
        & (board["scenario"] == made.spec.scenario_name)
        & (board["method"] == made.spec.method_label)
        & (board["metric"] == metric)
    ].set_index("condition")
    said = []
    for condition, result in now.conditions.items():
        if condition not in rows.index:
            return Check(title, "differs", f"the table has no condition {condition}")
        row: Any = rows.loc[condition]
        score = result.scores.get(metric)
        if score is None or np.isnan(row["mean"]):
            continue
        n, spread = int(row["n_seeds"]), float(row["std_seeds"])
        # one of the trainings that the mean is of: its own place among them
        half = stats.t.ppf(0.5 + LEVEL / 2, n - 1) * spread if n > 1 else 0.0
        away = abs(score - row["mean"])
        if away <= half + ROUNDING:
            continue
        if n < 2:
            return Check(title, "unknown", f"{condition}: {score:.4f}, published {row['mean']:.4f} "
                         "of one seed, which says nothing of its interval")  # fmt: skip
        said.append(f"{condition}: {score:.4f}, published {row['mean']:.4f} ± {spread:.4f}")
    if said:
        return Check(title, "differs", "; ".join(said))
    return Check(title, "within", f"{metric} under {len(now.conditions)} conditions")


def _check_equal(title: str, made: Run, reference: Run, conditions: Sequence[str]) -> Check:
    for condition in conditions:
        ours, theirs = (read_predictions(r, condition, only=("logits",)) for r in (made, reference))
        a, b = ours["logits"], theirs["logits"]
        if a.shape == b.shape and np.array_equal(a, b):
            continue
        if a.shape == b.shape and np.array_equal(_half(a), b.astype(np.float32)):
            continue  # kept in half precision
        return Check(title, "differs", f"predictions under {condition} are not equal")
    return Check(title, "equal", f"predictions under {len(conditions)} conditions")


def _half(values: Any) -> Any:
    with np.errstate(over="ignore"):
        return values.astype(np.float16).astype(np.float32)
