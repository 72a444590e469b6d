"""From records to a table: means, intervals, ranks, and holes that stay visible."""

import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from mmbench.bench.record import IPW, Run, is_bootstrapped, read_records, safe_csv
from mmbench.bench.resampling import resampled
from mmbench.bench.robustness import MEASURES, RANKED, degraded, pooled
from mmbench.bench.score_cache import ScoreCache
from mmbench.bench.spec import RunSpec
from mmbench.bench.statistics import (
    best,
    holm,
    interval_over_samples,
    interval_over_seeds,
    mean_ranks,
    paired_p,
)
from mmbench.bench.verdict import FILE as COMPARISONS
from mmbench.bench.verdict import Verdict
from mmbench.metrics.metric import Better, higher_is_better
from mmbench.store import write_text

CELL = ["data", "scenario", "condition", "method", "variant", "metric"]
COLUMNS = (
    "data", "scenario", "condition", "mechanism", "missing_rate_nominal", "missing_rate_realised",
    "incomplete_rate_realised", "method", "variant", "metric", "mean", "std_seeds", "ci_low",
    "ci_high", "sample_ci_low", "sample_ci_high", "n_seeds", "n_seeds_planned", "rank",
    "rank_borda", "p_vs_best",
    "regret_to_bayes", "params_total", "params_trainable", "flops_per_sample", "train_s",
    "infer_ms_per_sample", "peak_mib", "tuned", "protocol", "code", "effective_n", "bayes",
    "bayes_se", "infer_ms_std", "energy_j", "note", "n_folds", "mixed",
    "rising", "sources", "inside_rate_realised",
)  # fmt: skip
ROBUSTNESS = (
    "data", "scenario", "measure", "over", "method", "variant", "metric", "mean", "std_seeds",
    "ci_low", "ci_high", "n_seeds", "n_seeds_planned", "rank", "regret_to_bayes", "bayes", "note",
    "n_folds", "mixed", "rising",
)  # fmt: skip
CONSTANT = ["mechanism", "missing_rate_nominal"]
AVERAGED = [
    "missing_rate_realised", "incomplete_rate_realised", "params_total", "params_trainable",
    "flops_per_sample", "train_s", "infer_ms_per_sample", "peak_mib", "effective_n", "bayes",
    "bayes_se", "infer_ms_std", "energy_j", "rising", "inside_rate_realised",
]  # fmt: skip
LEVEL = 0.95  # of every interval
BEST = "best possible"  # row of the ceilings, where they are known
DASH = "-"  # the method does not apply
RISING = "\N{UPWARDS ARROW}"  # most trainings of a cell ended while validation still rose
MIXED = "\N{DAGGER}"  # runs of one cell that were made by different sources
RANKED_VARIANT = "paper"  # methods of which the best is marked


def leaderboard(
    runs: Sequence[Run],
    *,
    compare: str | None = None,
    records: pd.DataFrame | None = None,
    score_cache: ScoreCache | None = None,
) -> pd.DataFrame:
    """One row for each (data, scenario, condition, method, variant, metric).

    `mean`, `std_seeds` and the interval (Student's t over runs, 95 %) are over folds and seeds.
    A cell with fewer finished runs than planned is a hole: its numbers are those of the runs
    that finished, `n_seeds` says how many, and it has no rank. Nor has one of which most trainings
    ended while their validation score still rose (`rising`, the share of them). `rank` is within
    the cell's table and among the methods of the same variant (1 = best, ties share the better
    rank); `rank_borda` is the mean rank over all tables and conditions of a metric, among the
    methods that have no hole in any of them.

    Chance over seeds and chance over samples are two things. `ci_low` and `ci_high` say where the
    mean of other trainings would lie, `sample_ci_low` and `sample_ci_high` where the mean of these
    trainings would on other test samples (percentiles of the bootstrap, 95 %). `p_vs_best` is a
    paired bootstrap over the test samples of each table and condition, adjusted by Holm for the
    number of methods. What rests on samples reads predictions, so it is made for one metric only.

    Args:
        runs: Every planned run, finished or not.
        compare: Metric that gets `p_vs_best` and intervals over samples; None = none.
        records: From `read_records(runs)`, if they are read already.
        score_cache: Where p lies that was computed before.

    Returns:
        Columns as in `COLUMNS`, in order of the plan; `n_seeds` counts trainings, of the `n_folds`
        planned folds together; `note` names what is missing and why; `mixed` says whether the runs
        of a cell were made by different `sources` or on different `machines`.

    Raises:
        ValueError: If runs of one table, condition and fold hold other samples, targets or masks.
    """
    records = read_records(runs) if records is None else records
    _require_comparable(records)
    cells = _cells(runs, records)
    if cells.empty:
        return pd.DataFrame(columns=list(COLUMNS))
    full = ranked(cells)
    cells["rank"] = _ranks(cells, full)
    cells["rank_borda"] = _mean_ranks(cells.assign(mean=cells["mean"].where(full)))
    over_samples = ["p_vs_best", "sample_ci_low", "sample_ci_high"]
    cells[over_samples] = np.nan
    if compare is not None and not is_bootstrapped(compare):
        compare = None
    whole = cells[full & (cells["metric"] == compare)]
    done: dict[tuple[str, str], list[Run]] = {}
    for run in runs if len(whole) else ():
        if run.state == "done":
            done.setdefault((run.spec.data_label, run.spec.scenario_name), []).append(run)
    for key, part in whole.groupby(["data", "scenario", "condition", "variant"], sort=False):
        cells.loc[part.index, over_samples] = _over_samples(
            done, key, part, str(compare), score_cache
        )
    return cells[list(COLUMNS)]


def robustness(
    runs: Sequence[Run],
    *,
    compare: str | None = None,
    records: pd.DataFrame | None = None,
    score_cache: ScoreCache | None = None,
) -> pd.DataFrame:
    """What missing modalities cost each method, over the conditions of each table.

    Means and intervals as in `leaderboard`, of what `mmbench.bench.robustness.degraded` says of
    each training. Measures that are scores (area, worst pattern, means) have a `rank` among the
    methods of the same variant and a regret; the others are differences, smallest for a method
    that uses no modality at all, and have neither.

    Args:
        runs: Every planned run, finished or not.
        compare: Metric that gets `pooled_over_patterns`, which reads predictions; None = none.
        records: From `read_records(runs)`, if they are read already.
        score_cache: Where scores lie that were computed before.

    Returns:
        Columns as in `ROBUSTNESS`; no row without curves over rates and without patterns.
    """
    records = read_records(runs) if records is None else records
    measured = degraded(records)
    if compare is not None and is_bootstrapped(compare):
        more = pooled(
            runs, records, compare, ScoreCache(None) if score_cache is None else score_cache
        )
        measured = pd.concat([measured, more]) if len(more) else measured
        place = measured["mechanism"].map(MEASURES.index)
        measured = measured.iloc[np.argsort(place.to_numpy(), kind="stable")]
    if len(records):
        training = ["data", "scenario", "method", "variant", "fold", "seed"]
        rising = records.drop_duplicates(training)[[*training, "rising"]]
        measured = measured.merge(rising, how="left", on=training)
    cells = _cells(runs, measured)
    if cells.empty:
        return pd.DataFrame(columns=list(ROBUSTNESS))
    is_score = cells["mechanism"].isin(RANKED)
    cells["rank"] = _ranks(cells, ranked(cells) & is_score)
    cells["regret_to_bayes"] = cells["regret_to_bayes"].where(is_score)
    cells["measure"] = cells["mechanism"]
    cells["over"] = [
        condition.removeprefix(f"{measure} ")
        for condition, measure in zip(cells["condition"], cells["measure"], strict=True)
    ]
    return cells[list(ROBUSTNESS)]


def _require_comparable(records: pd.DataFrame) -> None:
    if records.empty:
        return
    same = ["data", "scenario", "fold", "condition"]
    one = records.drop_duplicates([*same, "method", "seed", "samples"])
    for key, part in one.groupby(same, sort=False):
        if part["samples"].nunique() == 1:
            continue
        data, scenario, fold, condition = key
        groups = [
            ", ".join(f"{m} seed {s}" for m, s in zip(group["method"], group["seed"], strict=True))
            for _, group in part.groupby("samples", sort=False)
        ]
        raise ValueError(
            f"runs of {data}, {scenario}, fold {fold} cannot be compared: under {condition} "
            f"{' | '.join(groups)} hold different samples, targets or masks; "
            "repeat those of the old data with --overwrite"
        )


def ranked(cells: pd.DataFrame) -> "pd.Series[bool]":
    """Cells that take part in ranks: without a hole, and trained to the end of their rise."""
    whole = (cells["n_seeds"] == cells["n_seeds_planned"]) & cells["mean"].notna()
    if "rising" not in cells:
        return whole  # a leaderboard of before that column
    return whole & ~(cells["rising"] > 0.5)


def _ranks(cells: pd.DataFrame, among: "pd.Series[bool]") -> "pd.Series[float]":
    return (
        (-cells["metric"].map(_sign) * cells["mean"])
        .where(among)
        .groupby([cells[c] for c in CELL if c != "method"], sort=False)
        .rank(method="min")
    )


def _over_samples(
    done: Mapping[tuple[str, str], Sequence[Run]],
    key: Any,
    part: pd.DataFrame,
    metric: str,
    score_cache: ScoreCache | None,
) -> Float[np.ndarray, "method 3"]:
    """Each method of one table: adjusted p against its best (NaN for it), ends of its interval."""
    data, scenario, condition, variant = key
    methods = set(part["method"])
    here = [run for run in done[data, scenario] if run.spec.method_label in methods]

    def make() -> list[float]:
        return [float(x) for x in _compared(here, condition, part, metric).ravel()]

    name = ["over_samples", metric, data, scenario, condition, variant]
    return np.reshape(make() if score_cache is None else score_cache(name, here, make), (-1, 3))


def _compared(
    here: Sequence[Run], condition: str, part: pd.DataFrame, metric: str
) -> Float[np.ndarray, "method 3"]:
    over_folds = resampled(here, list(part["method"]), condition, metric)
    scores = part["mean"].to_numpy(float)
    leader = best(scores, _better(metric))
    p = paired_p(scores, over_folds, leader)
    p[leader] = np.nan
    low, high = interval_over_samples(over_folds, LEVEL)
    return np.stack([holm(p), low, high], axis=1)


def _mean_ranks(cells: pd.DataFrame) -> pd.Series:
    """Each method's mean rank over the tables of a metric; none for a method with a hole."""
    ranks = pd.Series(np.nan, index=cells.index)
    for (metric, _), part in cells.groupby(["metric", "variant"], sort=False):
        # not `pivot_table`, which makes rows for conditions that other data sets have
        wide = part.pivot(index=["data", "scenario", "condition"], columns="method", values="mean")
        values = mean_ranks(wide.to_numpy(float), _better(str(metric)))
        rank: dict[Any, float] = dict(zip(wide.columns.to_list(), values.tolist(), strict=True))
        ranks[part.index] = part["method"].map(rank).to_numpy(float)
    return ranks


def _cells(runs: Sequence[Run], records: pd.DataFrame) -> pd.DataFrame:
    """Means over runs, holes included as rows without numbers."""
    if records.empty:
        return pd.DataFrame()
    order = {name: i for i, name in enumerate(dict.fromkeys(r.spec.method_label for r in runs))}
    # what older records do not have, and what measures over conditions cannot have
    columns = [*CONSTANT, *AVERAGED, "protocol", "code", "sources", "machine"]
    records = records.assign(**{name: np.nan for name in columns if name not in records})
    grouped = records.groupby(CELL, sort=False, dropna=False)
    cells = grouped["value"].agg(mean="mean", std_seeds="std", n_seeds="count").reset_index()
    # one undefined score makes the cell a hole; pandas would average the others
    undefined = cells["n_seeds"].to_numpy() < grouped.size().to_numpy()
    cells.loc[undefined, ["mean", "std_seeds"]] = np.nan
    cells["ci_low"], cells["ci_high"] = interval_over_seeds(
        cells["mean"].to_numpy(float),
        cells["std_seeds"].to_numpy(float),
        cells["n_seeds"].to_numpy(),
        LEVEL,
    )
    for name in CONSTANT:
        cells[name] = grouped[name].first().to_numpy()
    for name in AVERAGED:
        cells[name] = grouped[name].mean().to_numpy(float)
    cells["regret_to_bayes"] = cells["metric"].map(_sign) * (cells["bayes"] - cells["mean"])
    cells["protocol"] = grouped["protocol"].first().to_numpy()
    for name in ("code", "sources"):
        cells[name] = grouped[name].first().to_numpy()
        # a cell that mixes commits or sources says so
        for cell in np.flatnonzero(grouped[name].nunique().to_numpy() > 1):
            several = grouped[name].get_group(tuple(cells.loc[cell, CELL]))
            cells.loc[cell, name] = " ".join(sorted(set(several)))
    mixed = {name: grouped[name].nunique().to_numpy() > 1 for name in ("sources", "machine")}
    cells["mixed"] = [
        " ".join(word for word, is_so in (("sources", a), ("machines", b)) if is_so)
        for a, b in zip(mixed["sources"], mixed["machine"], strict=True)
    ]
    cells = _with_empty_cells(cells, runs)
    cells["mixed"] = cells["mixed"].fillna("")
    planned, notes = _plan_by_cell(runs)
    key = list(zip(cells["data"], cells["scenario"], cells["method"], strict=True))
    cells["n_seeds_planned"] = [len(planned[k]) for k in key]
    cells["n_folds"] = [len({fold for fold, _ in planned[k]}) for k in key]
    cells["n_seeds"] = cells["n_seeds"].fillna(0).astype(int)
    cells["note"] = [notes[k] for k in key]
    tuned = {_cell_of(run.spec): run.spec.tuned for run in runs}
    cells["tuned"] = [tuned[k] for k in key]
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
) -> tuple[dict[tuple[str, str, str], list[tuple[int, int]]], dict[tuple[str, str, str], str]]:
    """Folds and seeds that each (data, scenario, method) should have, and why some are missing."""
    planned: dict[tuple[str, str, str], list[tuple[int, int]]] = {}
    whys: dict[tuple[str, str, str], list[str]] = {}
    for run in runs:
        key = _cell_of(run.spec)
        planned.setdefault(key, []).append((run.spec.fold, run.spec.seed))
        reasons = whys.setdefault(key, [])
        if run.state != "done":
            reasons.append(f"{run.state}: {run.why}" if run.why else run.state)
    # an error may quote a file name that is no Unicode, which a string column refuses
    joined = {key: "; ".join(dict.fromkeys(reasons)) for key, reasons in whys.items()}
    return planned, {key: note.encode(errors="replace").decode() for key, note in joined.items()}


def _cell_of(spec: RunSpec) -> tuple[str, str, str]:
    return spec.data_label, spec.scenario_name, spec.method_label


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
        Cells such as `0.812 ± 0.010`, `3/5 runs`, `failed: ...`, or a dash where the method does
        not apply. Bold is the best method; a variant such as `official` is another program and
        never bold. A dagger marks cells whose runs differ in sources. Where the ceiling is known,
        a last row has it with its standard error on this very test split.
    """
    cells = board[board["metric"] == metric]
    pivots = {}
    for key, part in cells.groupby(["data", "scenario"], sort=False):
        text = part.assign(text=[_cell(row) for row in part.itertuples()])
        methods = list(dict.fromkeys(part["method"]))
        conditions = list(dict.fromkeys(part["condition"]))
        wide = text.pivot(index="method", columns="condition", values="text")
        wide = wide.loc[methods, conditions]
        best = part.dropna(subset="bayes").drop_duplicates("condition").set_index("condition")
        if len(best):
            wide.loc[BEST] = [
                _number(best.bayes[c], best.bayes_se[c]) if c in best.index else DASH
                for c in conditions
            ]
        pivots[(str(key[0]), str(key[1]))] = wide
    return pivots


def _cell(row: object) -> str:
    n, planned = row.n_seeds, row.n_seeds_planned  # type: ignore[attr-defined]
    note, mean, spread = row.note, row.mean, row.std_seeds  # type: ignore[attr-defined]
    if note.startswith("skipped"):
        return DASH
    if n == 0:
        return str(note.split(":")[0] if note.startswith("waiting") else note)[:40] or DASH
    number = _number(mean, spread) + marks(row)
    if n < planned:
        return f"{number} ({n}/{planned} runs)"
    return f"**{number}**" if is_best(row) else number


def is_best(row: Any) -> bool:
    """Whether a cell is marked as the best of its column; variants never are."""
    return bool(row.rank == 1 and row.variant == RANKED_VARIANT)


def marks(row: Any) -> str:
    """Signs behind a number that say what is not as usual with it."""
    return (RISING if is_rising(row) else "") + (MIXED if is_mixed(row) else "")


def is_rising(row: Any) -> bool:
    """Whether most trainings of a cell ended while their validation score still rose."""
    return bool(getattr(row, "rising", 0.0) > 0.5)


def is_mixed(row: Any) -> bool:
    """Whether the runs of a cell were made by different sources."""
    mixed = getattr(row, "mixed", "")  # a leaderboard of before that column has none
    return isinstance(mixed, str) and "sources" in mixed


def on_machines(board: pd.DataFrame) -> str:
    """How many rows have runs of several kinds of machine; nothing where none has.

    That is no fault of a row, as different sources would be: the same seeds end elsewhere, as
    other seeds do, and a suite that goes on on another machine has many such rows.
    """
    row = ["data", "scenario", "method"]
    several = board[board["mixed"].fillna("").str.contains("machines")]
    if several.empty:
        return ""
    n, of = (len(part.drop_duplicates(row)) for part in (several, board))
    return f" {n} of {of} rows have runs of several kinds of machine (column mixed)."


def repeats(board: pd.DataFrame) -> str:
    """What means are taken over: `3 seeds`, `5 folds x 2 seeds`; by data set where they differ.

    Args:
        board: From `leaderboard`, or read back from its CSV file.
    """
    if "n_folds" not in board:
        return "runs"  # a leaderboard of before that column
    said: dict[str, list[str]] = {}
    for data, part in board.groupby("data", sort=False):
        runs, folds = int(part["n_seeds_planned"].max()), int(part["n_folds"].max())
        seeds = f"{runs // folds} seed{'s' * (runs // folds > 1)}"
        said.setdefault(f"{folds} folds x {seeds}" if folds > 1 else seeds, []).append(str(data))
    if len(said) == 1:
        return next(iter(said))
    return ", ".join(f"{text} ({', '.join(names)})" for text, names in said.items())


def _number(mean: float, spread: float) -> str:
    # no "-0.000"
    return f"{round(mean, 3) + 0.0:.3f}" + ("" if np.isnan(spread) else f" ± {spread:.3f}")


def robustness_tables(robust: pd.DataFrame, metric: str) -> dict[tuple[str, str], pd.DataFrame]:
    """For reading, as `tables`: methods down, measures and what they are taken over across.

    Args:
        robust: From `robustness`.
        metric: Which metric to show.
    """
    across = [
        f"{str(measure).replace('_', ' ')}, {over}"
        for measure, over in zip(robust["measure"], robust["over"], strict=True)
    ]
    return tables(robust.assign(condition=across, bayes_se=np.nan), metric)


def render(
    board: pd.DataFrame,
    form: Literal["csv", "md", "html"],
    *,
    metric: str,
    title: str = "",
    robust: pd.DataFrame | None = None,
    said: Sequence[str] = (),
) -> str:
    """The leaderboard as text.

    Args:
        board: From `leaderboard`.
        form: `csv` holds everything; `md` and `html` one metric, a table for each data set and
            scenario. The page is whole, without script and without request to the network.
        metric: Which metric `md` and `html` show.
        title: Heading of `md` and `html`.
        robust: From `robustness`, as further tables of `md` and `html`.
        said: Sentences that `md` begins with.
    """
    if form == "csv":
        return safe_csv(board, digits=6)
    sections = {", ".join(key): table for key, table in tables(board, metric).items()}
    lost = {} if robust is None else robustness_tables(robust, metric)
    sections |= {f"{', '.join(key)}: over conditions": table for key, table in lost.items()}
    about = (
        f"Metric: {metric}, mean ± standard deviation over {repeats(board)}; **best** of a column."
    )
    of_metric = board[board["metric"] == metric]
    if (of_metric["rising"] > 0.5).any():
        about += (
            f" {RISING}: validation still rose when most of its trainings ended, so it is not "
            "ranked; raise trainer.max_epochs or trainer.min_steps."
        )
    if any(is_mixed(row) for row in of_metric.itertuples()):
        about += f" {MIXED}: its runs were made by different sources."
    about += on_machines(of_metric)
    if form == "html":
        return _html(title or "leaderboard", about, sections)
    parts = [f"# {in_markdown(title)}", ""] if title else []
    for sentence in said:
        parts += [in_markdown(sentence), ""]
    parts += [about]
    for heading, table in sections.items():
        named = table.rename(index=in_markdown, columns=in_markdown)
        parts += ["", f"## {in_markdown(heading)}", "", named.to_markdown()]
    return "\n".join(parts) + "\n"


def in_markdown(text: object) -> str:
    """Any name as it is in Markdown: no cell's end, no tag, no link and no emphasis."""
    plain = re.sub(r"([\\`*|]|(?<=\])\()", r"\\\1", " ".join(str(text).split()))
    return re.sub(r"&(?=#?\w+;)", "&amp;", plain).replace("<", "&lt;")


HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem }}
body {{ padding: 0 1rem }}
div {{ overflow-x: auto }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums }}
th, td {{ padding: .25rem .7rem; text-align: right; white-space: nowrap }}
th, td {{ border-bottom: 1px solid #8886 }}
th:first-child {{ text-align: left }}
</style>
</head>
<body>
"""


def _html(title: str, about: str, sections: Mapping[str, pd.DataFrame]) -> str:
    """Tables as a page; names from outside are text and never markup."""

    def text(value: object) -> str:
        plain = escape(str(value))
        # only our own marks of the best come in pairs of stars
        return re.sub(r"\*\*([^*]*)\*\*", r"<b>\1</b>", plain)

    lines = [HEAD.format(title=escape(title)), f"<h1>{escape(title)}</h1>", f"<p>{text(about)}</p>"]
    for heading, table in sections.items():
        head = "".join(f'<th scope="col">{escape(str(c))}</th>' for c in ["method", *table])
        lines += [
            f"<h2>{escape(heading)}</h2>",
            f'<div tabindex="0" role="region" aria-label="{escape(heading)}"><table>',
            f"<thead><tr>{head}</tr></thead><tbody>",
        ]
        for method, row in zip(table.index, table.itertuples(index=False, name=None), strict=True):
            cells = "".join(f"<td>{text(cell)}</td>" for cell in row)
            lines.append(f'<tr><th scope="row">{escape(str(method))}</th>{cells}</tr>')
        lines.append("</tbody></table></div>")
    return "\n".join([*lines, "</body>", "</html>"]) + "\n"


def write(
    board: pd.DataFrame,
    folder: Path,
    *,
    metric: str,
    title: str,
    robust: pd.DataFrame | None = None,
    verdict: Verdict | None = None,
    tuning: pd.DataFrame | None = None,
) -> Path:
    """Write `leaderboard.csv` and `leaderboard.md`, and a CSV of each further table, by rename.

    Returns:
        Path of the first.
    """
    said = [] if verdict is None else verdict.sentences
    texts = {
        "leaderboard.csv": render(board, "csv", metric=metric),
        "leaderboard.md": render(board, "md", metric=metric, title=title, robust=robust, said=said),
    }
    further = {
        "robustness.csv": robust,
        COMPARISONS: None if verdict is None else verdict.comparisons,
        "tuning.csv": tuning,
    }
    for name, table in further.items():
        if table is not None and len(table):
            texts[name] = render(table, "csv", metric=metric)
    for name, text in texts.items():
        write_text(folder / name, text)
    return folder / "leaderboard.csv"
