"""From records to a table: means, intervals, ranks, and holes that stay visible."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats

from mmbench.bench.record import IPW, Run, read_metrics, read_predictions, read_records
from mmbench.bench.statistics import best, bootstrap, holm, mean_ranks, paired_p
from mmbench.metrics.metric import Better, higher_is_better

CELL = ["data", "scenario", "condition", "method", "variant", "metric"]
COLUMNS = (
    "data", "scenario", "condition", "mechanism", "missing_rate_nominal", "missing_rate_realised",
    "incomplete_rate_realised", "method", "variant", "metric", "mean", "std_seeds", "ci_low",
    "ci_high", "n_seeds", "n_seeds_planned", "rank", "rank_borda", "p_vs_best",
    "regret_to_bayes", "params_total", "params_trainable", "flops_per_sample", "train_s",
    "infer_ms_per_sample", "peak_mib", "protocol", "code", "effective_n", "bayes", "bayes_se",
    "note",
)  # fmt: skip
CONSTANT = ["mechanism", "missing_rate_nominal"]
AVERAGED = [
    "missing_rate_realised", "incomplete_rate_realised", "params_total", "params_trainable",
    "flops_per_sample", "train_s", "infer_ms_per_sample", "peak_mib", "effective_n", "bayes",
    "bayes_se",
]  # fmt: skip
LEVEL = 0.95  # of every interval
BEST = "best possible"  # row of the ceilings, where they are known
DASH = "-"  # the method does not apply


def leaderboard(runs: Sequence[Run], *, compare: str | None = None) -> pd.DataFrame:
    """One row for each (data, scenario, condition, method, variant, metric).

    `mean`, `std_seeds` and the interval (Student's t over runs, 95 %) are over folds and seeds.
    A cell with fewer finished runs than planned is a hole: its numbers are those of the runs
    that finished, `n_seeds` says how many, and it has no rank. `rank` is within the cell's table
    and among the methods of the same variant (1 = best, ties share the better rank);
    `rank_borda` is the mean rank over all tables and conditions of a metric, among the methods
    that have no hole in any of them.

    `p_vs_best` is a paired bootstrap over the test samples of each table and condition, adjusted
    by Holm for the number of methods; it reads predictions, so it is made for one metric only.

    Args:
        runs: Every planned run, finished or not.
        compare: Metric that gets `p_vs_best`; None = none.

    Returns:
        Columns as in `COLUMNS`, in order of the plan; `note` names what is missing and why.
    """
    cells = _cells(runs, read_records(runs))
    if cells.empty:
        return pd.DataFrame(columns=list(COLUMNS))
    full = (cells["n_seeds"] == cells["n_seeds_planned"]) & cells["mean"].notna()
    cells["rank"] = (
        (-cells["metric"].map(_sign) * cells["mean"])
        .where(full)
        .groupby([cells[c] for c in CELL if c != "method"], sort=False)
        .rank(method="min")
    )
    cells["rank_borda"] = _mean_ranks(cells.assign(mean=cells["mean"].where(full)))
    cells["p_vs_best"] = np.nan
    if compare is not None and compare.endswith(IPW):
        compare = None  # the bootstrap would have to draw the weights anew as well
    whole = cells[full & (cells["metric"] == compare)]
    for key, part in whole.groupby(["data", "scenario", "condition", "variant"], sort=False):
        cells.loc[part.index, "p_vs_best"] = _p_values(runs, key, part, str(compare))
    return cells[list(COLUMNS)]


def _p_values(
    runs: Sequence[Run], key: Any, part: pd.DataFrame, metric: str
) -> Float[np.ndarray, " method"]:
    """Adjusted p of each method of one table against its best; NaN for the best itself."""
    data, scenario, condition, _ = key
    here = [
        run
        for run in runs
        if (run.spec.data_label, run.spec.scenario_name) == (data, scenario) and run.state == "done"
    ]
    kind = read_metrics(here[0])["task"]["kind"]
    resampled = []
    for fold in sorted({run.spec.fold for run in here}):
        logits, target = [], np.empty(0)
        for method in part["method"]:
            kept = [
                read_predictions(run, condition)
                for run in here
                if (run.spec.fold, run.spec.method_label) == (fold, method)
            ]
            logits.append([one["logits"] for one in kept])
            target = kept[0]["target"]
        resampled.append(bootstrap(metric, logits, target, kind, seed=fold))
    scores = part["mean"].to_numpy(float)
    leader = best(scores, _better(metric))
    p = paired_p(scores, np.mean(resampled, axis=0), leader)
    p[leader] = np.nan
    return holm(p)


def _mean_ranks(cells: pd.DataFrame) -> pd.Series:
    """Each method's mean rank over the tables of a metric; none for a method with a hole."""
    found = pd.Series(np.nan, index=cells.index)
    for (metric, _), part in cells.groupby(["metric", "variant"], sort=False):
        wide = part.pivot_table(
            index=["data", "scenario", "condition"],
            columns="method",
            values="mean",
            dropna=False,
            sort=False,
        )
        values = mean_ranks(wide.to_numpy(float), _better(str(metric)))
        rank: dict[Any, float] = dict(zip(wide.columns.to_list(), values.tolist(), strict=True))
        found[part.index] = part["method"].map(rank).to_numpy(float)
    return found


def _cells(runs: Sequence[Run], records: pd.DataFrame) -> pd.DataFrame:
    """Means over runs, holes included as rows without numbers."""
    if records.empty:
        return pd.DataFrame()
    order = {name: i for i, name in enumerate(dict.fromkeys(r.spec.method_label for r in runs))}
    grouped = records.groupby(CELL, sort=False, dropna=False)
    cells = grouped["value"].agg(mean="mean", std_seeds="std", n_seeds="count").reset_index()
    # one undefined score makes the cell a hole; pandas would average the others
    undefined = cells["n_seeds"].to_numpy() < grouped.size().to_numpy()
    cells.loc[undefined, ["mean", "std_seeds"]] = np.nan
    half = stats.t.ppf(0.5 + LEVEL / 2, cells["n_seeds"] - 1) * cells["std_seeds"]
    half = half / np.sqrt(cells["n_seeds"])
    cells["ci_low"], cells["ci_high"] = cells["mean"] - half, cells["mean"] + half
    for name in CONSTANT:
        cells[name] = grouped[name].first().to_numpy()
    for name in AVERAGED:
        cells[name] = grouped[name].mean().to_numpy(float)
    cells["regret_to_bayes"] = cells["metric"].map(_sign) * (cells["bayes"] - cells["mean"])
    cells["protocol"] = grouped["protocol"].first().to_numpy()
    cells["code"] = grouped["code"].first().to_numpy()
    # a cell that mixes commits says so
    for cell in np.flatnonzero(grouped["code"].nunique().to_numpy() > 1):
        codes = grouped["code"].get_group(tuple(cells.loc[cell, CELL]))
        cells.loc[cell, "code"] = " ".join(sorted(set(codes)))
    cells = _with_empty_cells(cells, runs)
    planned, notes = _plan_by_cell(runs)
    key = list(zip(cells["data"], cells["scenario"], cells["method"], strict=True))
    cells["n_seeds_planned"] = [planned[k] for k in key]
    cells["n_seeds"] = cells["n_seeds"].fillna(0).astype(int)
    cells["note"] = [notes[k] for k in key]
    position = cells["method"].map(order)
    return (
        cells.assign(_position=position, _row=np.arange(len(cells)))
        .pipe(_in_plan_order, runs)
        .reset_index(drop=True)
    )


def _better(metric: str) -> Better:
    return "higher" if higher_is_better(metric.removesuffix(IPW)) else "lower"


def _sign(metric: str) -> float:
    """1 where more is better, -1 where less is."""
    return 1.0 if _better(metric) == "higher" else -1.0


def _with_empty_cells(cells: pd.DataFrame, runs: Sequence[Run]) -> pd.DataFrame:
    """Add a row for each cell of which no run finished."""
    tables = cells.drop_duplicates(["data", "scenario", "condition", "metric"])
    tables = tables[["data", "scenario", "condition", "metric", *CONSTANT]]
    methods = pd.DataFrame(
        [(r.spec.data_label, r.spec.scenario_name, r.spec.method_label, r.spec.variant)
         for r in runs],
        columns=["data", "scenario", "method", "variant"],
    ).drop_duplicates()  # fmt: skip
    planned = tables.merge(methods, on=["data", "scenario"])
    return planned.merge(cells.drop(columns=CONSTANT), on=CELL, how="left")


def _plan_by_cell(
    runs: Sequence[Run],
) -> tuple[dict[tuple[str, str, str], int], dict[tuple[str, str, str], str]]:
    """How many runs each (data, scenario, method) should have, and why some are missing."""
    planned: dict[tuple[str, str, str], int] = {}
    whys: dict[tuple[str, str, str], list[str]] = {}
    for run in runs:
        key = (run.spec.data_label, run.spec.scenario_name, run.spec.method_label)
        planned[key] = planned.get(key, 0) + 1
        words = whys.setdefault(key, [])
        if run.state != "done":
            words.append(f"{run.state}: {run.why}" if run.why else run.state)
    # an error may quote a file name that is no Unicode, which a string column refuses
    joined = {key: "; ".join(dict.fromkeys(words)) for key, words in whys.items()}
    return planned, {key: note.encode(errors="replace").decode() for key, note in joined.items()}


def _in_plan_order(cells: pd.DataFrame, runs: Sequence[Run]) -> pd.DataFrame:
    data = list(dict.fromkeys(r.spec.data_label for r in runs))
    scenarios = list(dict.fromkeys(r.spec.scenario_name for r in runs))
    metrics = list(dict.fromkeys(cells["metric"]))
    conditions = list(dict.fromkeys(cells["condition"]))
    return cells.sort_values(
        by=["data", "scenario", "metric", "condition", "_position"],
        key=lambda column: column.map(
            {
                "data": data.index,
                "scenario": scenarios.index,
                "metric": metrics.index,
                "condition": conditions.index,
            }.get(str(column.name), lambda x: x)
        ),
        kind="stable",
    )


def tables(board: pd.DataFrame, metric: str) -> dict[tuple[str, str], pd.DataFrame]:
    """For reading: a table for each (data, scenario), methods down and conditions across.

    Args:
        board: From `leaderboard`.
        metric: Which metric to show.

    Returns:
        Cells such as `0.812 ± 0.010`, `3/5 seeds`, `failed: ...`, or a dash where the method does
        not apply. Where the ceiling is known, a last row has it with its standard error on this
        very test split.
    """
    shown = board[board["metric"] == metric]
    found = {}
    for key, part in shown.groupby(["data", "scenario"], sort=False):
        text = part.assign(text=[_cell(row) for row in part.itertuples()])
        methods = list(dict.fromkeys(part["method"]))
        conditions = list(dict.fromkeys(part["condition"]))
        wide = text.pivot(index="method", columns="condition", values="text")
        wide = wide.loc[methods, conditions]
        best = part.dropna(subset="bayes").drop_duplicates("condition").set_index("condition")
        if len(best):
            wide.loc[BEST] = [
                f"{best.bayes[c]:.3f} ± {best.bayes_se[c]:.3f}" if c in best.index else DASH
                for c in conditions
            ]
        found[(str(key[0]), str(key[1]))] = wide
    return found


def _cell(row: object) -> str:
    n, planned = row.n_seeds, row.n_seeds_planned  # type: ignore[attr-defined]
    note, mean, spread = row.note, row.mean, row.std_seeds  # type: ignore[attr-defined]
    if note.startswith("skipped"):
        return DASH
    if n == 0:
        return str(note.split(":")[0] if note.startswith("waiting") else note)[:40] or DASH
    number = f"{mean:.3f}" + ("" if np.isnan(spread) else f" ± {spread:.3f}")
    if n < planned:
        return f"{number} ({n}/{planned} seeds)"
    return f"**{number}**" if row.rank == 1 else number  # type: ignore[attr-defined]


def render(board: pd.DataFrame, form: Literal["csv", "md"], *, metric: str, title: str = "") -> str:
    """The leaderboard as text.

    Args:
        board: From `leaderboard`.
        form: `csv` holds everything; `md` one metric, a table for each data set and scenario.
        metric: Which metric `md` shows.
        title: Heading of `md`.
    """
    if form == "csv":
        return board.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    parts = [f"# {title}", ""] if title else []
    parts += [f"Metric: {metric}, mean ± standard deviation over seeds; **best** of a column."]
    for (data, scenario), table in tables(board, metric).items():
        parts += ["", f"## {data}, {scenario}", "", table.to_markdown()]
    return "\n".join(parts) + "\n"


def write(board: pd.DataFrame, folder: Path, *, metric: str, title: str) -> Path:
    """Write `leaderboard.csv` and `leaderboard.md` by rename; return the path of the first."""
    for form in ("csv", "md"):
        path = folder / f"leaderboard.{form}"
        part = path.with_name(f".{path.name}.part")
        part.write_text(
            render(board, "csv" if form == "csv" else "md", metric=metric, title=title),
            encoding="utf-8",
        )
        part.replace(path)
    return folder / "leaderboard.csv"
