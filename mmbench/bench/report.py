"""One HTML page about a suite: what won, how sure that is, what is missing, how it was made.

The page is one file without a single request to the network: plots are inline SVG, tables and
details of runs are JSON inside the page that its own script shows when asked. Whatever comes
from a plugin, a file or a configuration is text to the page, never markup.
"""

import base64
import csv
import hashlib
import importlib.util
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mmbench.bench.leaderboard import is_best, marks, ranked, repeats
from mmbench.bench.record import IPW, Run, count, read_predictions
from mmbench.bench.result import read_result
from mmbench.bench.risk_coverage import coverages, risk_coverage
from mmbench.bench.robustness import COMPLETE, affordable, pattern_names, rate_families
from mmbench.bench.statistics import friedman, mean_ranks, rank_stability
from mmbench.bench.verdict import ALL, CHANCE, EVERY, RATE, Verdict
from mmbench.config import JSON
from mmbench.diagnostics import Matrix, Recovery, Retrieval, RouterUsage, read_diagnostics
from mmbench.metrics.classification import f1_by_class
from mmbench.metrics.degradation import acquired
from mmbench.metrics.metric import higher_is_better
from mmbench.store import write_text

TABLES = 24  # (data, scenario) pairs that get plots and a table of their own
FIRST = 6  # of them that also get scores by class, and operations by pattern
MATRICES = 16  # plots from diagnostics
LARGEST = 64  # rows and columns of a diagnostic matrix that is still drawn
EXAMPLES, NEIGHBOURS, PICTURES = 8, 6, 5  # of retrieval: queries, what they found, with pictures
POINTS_IN_PLANE = 250  # recovered samples that are laid out
ROWS = 20_000  # of the leaderboard inside the page: 4 MB
POINTS = 60_000  # of all training curves together, for each column
SHARES = 50  # points of a risk-coverage curve
WIDEST = 0.5  # of a plot that a band over seeds may cover
HOLES = 200  # rows of the table of holes
TABLE = (
    "data", "scenario", "condition", "name", "metric", "mean", "std_seeds", "ci_low", "ci_high",
    "sample_ci_low", "sample_ci_high", "rank", "rank_borda", "p_vs_best", "regret_to_bayes",
    "seeds", "missing_rate_realised", "incomplete_rate_realised", "effective_n", "params_total",
    "params_trainable",
    "flops_per_sample", "train_s", "infer_ms_per_sample", "infer_ms_std", "peak_mib", "energy_j",
    "note", "mixed", "inside_rate_realised",
)  # fmt: skip
WORDS = ("data", "scenario", "condition", "name", "metric", "seeds", "note", "mixed")
COVERAGE = "split_conformal_coverage_90"
RELIABILITY = {
    "ece": "calibration error of the most likely class (ece). Yellow is better.",
    "brier": "squared error of the probabilities (brier). Yellow is better.",
    COVERAGE: "share of samples whose class is in a set that promises 90 %, by a threshold from "
    "validation samples of which the same is hidden. Blue is less than others reach.",
    "split_conformal_size_90": "mean number of classes in such a set. Yellow is better.",
    "aurc": "error rate of the surest samples, mean over all shares of them (aurc). Yellow is "
    "better.",
}
DASH = "\N{EN DASH}"  # the method does not apply
STATES = ("done", "running", "waiting", "skipped", "broken", "failed")


# score, spread, share of the way from worst to best in % (None for a hole), whether it is best
Cell = tuple[str, str, int | None, bool]
Plot = tuple[str, str]  # SVG and caption
Table = tuple[str, list[str], list[list[str]]]  # caption, heads, rows


@dataclass
class Card:
    """What the page shows of one data set under one scenario.

    Args:
        data: Name of the data set.
        scenario: Name of the scenario.
        metric: The metric shown; not the suite's where that is undefined for the data set.
        plots: SVG and caption of each.
        columns: Test conditions.
        rows: Method and its cells.
    """

    data: str
    scenario: str
    metric: str
    plots: list[Plot] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    rows: list[tuple[str, list[Cell]]] = field(default_factory=list)


@dataclass(frozen=True)
class Answer:
    """Who leads, and whether that is more than chance; what the first screen says.

    Args:
        leader: The method, or those that share the best mean rank.
        rank: Their mean rank over all tables and conditions.
        second: Who comes next, with its mean rank; empty if nobody does.
        beyond: `yes`, `partly`, `no`, or `not tested`.
        why: In one sentence.
    """

    leader: str
    rank: float
    second: str
    beyond: str
    why: str


@dataclass
class Inside:
    """What one run of a method reports about itself: plots and tables of `diagnostics.npz`."""

    title: str
    plots: list[Plot] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)


def write_report(
    suite_name: str,
    runs: Sequence[Run],
    board: pd.DataFrame,
    folder: Path,
    *,
    metric: str,
    robust: pd.DataFrame | None = None,
    watched: bool = False,
    verdict: Verdict | None = None,
    tuning: pd.DataFrame | None = None,
    costs: Mapping[str, float] | None = None,
) -> Path:
    """Write `report.html` by rename.

    Args:
        suite_name: Heading of the page.
        runs: Every planned run, finished or not.
        board: From `mmbench.bench.leaderboard.leaderboard(runs)`.
        folder: Where to write.
        metric: What plots show and the table begins with.
        robust: From `mmbench.bench.leaderboard.robustness(runs)`, for a section of its own.
        watched: Whether the page looks for a newer one every few seconds, while nobody works
            with it.
        verdict: What the page opens with, and the comparisons behind it.
        tuning: From `Sweep.tuning`, for a section of its own.
        costs: Modality -> cost of acquiring it, for the plots of what modalities are worth.

    Returns:
        Path of the page.

    Raises:
        ValueError: If a library that draws the page is not installed, or the metric is unknown.
    """
    _require_libraries()
    searched = [] if tuning is None else _tuned(tuning)
    page = _page(suite_name, runs, board, metric, robust, watched, verdict, searched, costs or {})
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "report.html"
    # a file name that is no Unicode becomes readable, not an error
    write_text(path, page, errors="replace")
    return path


def _require_libraries() -> None:
    absent = [n for n in ("jinja2", "matplotlib") if importlib.util.find_spec(n) is None]
    if absent:
        raise ValueError(
            f"a report needs {' and '.join(absent)}, not installed here; "
            "run: pip install 'mmbench[report]'"
        )


def write_plots(
    board: pd.DataFrame, folder: Path, *, metric: str, costs: Mapping[str, float] | None = None
) -> list[Path]:
    """Write the plots that need the leaderboard alone as SVG files of their own.

    Args:
        board: From `mmbench.bench.leaderboard.leaderboard`, or read back from its CSV file.
        folder: Where to write; made if it is not there.
        metric: What the plots show.
        costs: As in `write_report`.

    Returns:
        Their paths: `conditions_*` (curves over missing rates, scores by pattern), `cost_*` and
        `ranks*`.

    Raises:
        ValueError: If a library that draws them is not installed, or the metric is unknown.
    """
    _require_libraries()
    from mmbench.bench import plots

    board = _named(board)
    styles = {name: i for i, name in enumerate(dict.fromkeys(board["name"]))}
    scores = _rows_of_metric(board, metric)
    pairs = list(scores.groupby(["data", "scenario"], sort=False)) if len(scores) else []
    drawn: dict[str, str] = {}

    def add(name: str, plots_of: Sequence[Plot]) -> None:
        plain = re.sub(r"[^a-z0-9_]+", "_", name.lower()).strip("_")
        for i, (svg, _) in enumerate(plots_of):
            drawn[f"{plain}_{i + 1}" if len(plots_of) > 1 else plain] = svg

    for (data, scenario), part in pairs:
        # curves come before the table of patterns
        card = _card(str(data), str(scenario), part, styles, costs or {})
        add(f"conditions_{data}_{scenario}", card.plots)
    for title, plots_of in _costs(pairs, styles):
        add(f"cost_{title}", plots_of)
    add("ranks", _across(scores, styles, metric)[0])
    folder.mkdir(parents=True, exist_ok=True)
    for name, svg in drawn.items():
        write_text(folder / f"{name}.svg", plots.standalone(svg), errors="replace")
    return [folder / f"{name}.svg" for name in drawn]


def _named(board: pd.DataFrame) -> pd.DataFrame:
    return board.assign(
        name=[_name(m, v) for m, v in zip(board.method, board.variant, strict=True)]
    )


def _page(
    suite_name: str,
    runs: Sequence[Run],
    board: pd.DataFrame,
    metric: str,
    robust: pd.DataFrame | None,
    watched: bool,
    verdict: Verdict | None,
    tuning: Sequence[Sequence[str]],
    prices: Mapping[str, float],
) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    from mmbench.bench import plots

    higher = _better(metric)
    board = _named(board)
    styles = {name: i for i, name in enumerate(dict.fromkeys(_run_name(run) for run in runs))}
    states = count(runs)
    scores = _rows_of_metric(board, metric)
    pairs = list(scores.groupby(["data", "scenario"], sort=False)) if len(scores) else []
    cards = [_card(str(d), str(s), part, styles, prices) for (d, s), part in pairs[:TABLES]]
    costs = _costs(pairs[:TABLES], styles)
    ranks, no_ranks = _across(scores, styles, metric)
    experts, more_experts = _experts(runs)
    environments, details = _details(runs)
    rows, rows_left_out = _rows(board, metric)
    script = _text("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = Environment(
        loader=PackageLoader("mmbench.bench"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["json"] = lambda value: Markup(safe_json(value))
    environment.filters["svg"] = Markup
    used = dict.fromkeys(scores["name"]) if len(scores) else {}
    return environment.get_template("report.html.j2").render(
        suite=suite_name,
        metric=metric,
        better="higher is better" if higher else "lower is better",
        states=[(state, states[state]) for state in STATES if state in states],
        planned=len(runs),
        data=list(dict.fromkeys(r.spec.data_label for r in runs)),
        scenarios=list(dict.fromkeys(r.spec.scenario_name for r in runs)),
        methods=list(styles),
        repeats=len({(r.spec.fold, r.spec.seed) for r in runs}),
        conditions=len(set(board["condition"])),
        answer=_answer(scores),
        swatches=[(n, plots.swatch(styles[n])) for n in used] if cards or costs else [],
        cards=cards,
        cards_left_out=len(pairs) - len(cards),
        pairs=len(pairs),
        costs=costs,
        operations=_operations(runs),
        losses=[] if robust is None else _losses(_named(robust), cards),
        classes=_classes(runs, cards),
        reliability=_reliability(board, cards),
        risks=_risks(runs, board, cards, styles),
        watched=watched,
        said=[] if verdict is None else verdict.sentences,
        compared=[] if verdict is None else _compared(verdict.comparisons),
        tuning=tuning,
        ranks=ranks,
        by_rate=_ranks_by_rate(scores, metric),
        no_ranks=no_ranks,
        experts=experts,
        experts_left_out=more_experts,
        holes=_holes(runs)[:HOLES],
        holes_left_out=max(0, len(_holes(runs)) - HOLES),
        undefined=_undefined(board),
        doubts=_doubts(runs),
        environments=environments,
        settings=_settings(runs),
        board=rows,
        rows_left_out=rows_left_out,
        details=details,
        style=Markup(_text("report.css")),
        script=Markup(script),
        digest=digest,
    )


def safe_json(value: JSON) -> str:
    """JSON that may stand inside a script element: no tag or comment can begin or end there."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _text(name: str) -> str:
    return (files("mmbench.bench") / "templates" / name).read_text(encoding="utf-8")


def _name(method: str, variant: str) -> str:
    """Variants are different rows, and never share a name."""
    return method if variant == "paper" else f"{method} ({variant})"


def _run_name(run: Run) -> str:
    return _name(run.spec.method_label, run.spec.variant)


def _better(metric: str) -> bool:
    return higher_is_better(metric.removesuffix(IPW))


def _rows_of_metric(board: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Rows of the metric; of another one for a data set that it is not defined for."""
    parts = []
    for _, part in board.groupby(["data", "scenario"], sort=False):
        metrics = list(dict.fromkeys(part["metric"]))
        parts.append(part[part["metric"] == (metric if metric in metrics else metrics[0])])
    return pd.concat(parts) if parts else board


# --- one data set under one scenario ----------------------------------------------------------


def _card(
    data: str,
    scenario: str,
    part: pd.DataFrame,
    styles: Mapping[str, int],
    costs: Mapping[str, float],
) -> Card:
    card = Card(data, scenario, str(part["metric"].iloc[0]))
    higher = _better(card.metric)
    for stem, conditions in rate_families(part).items():
        card.plots.append(_curves(card, stem, part, conditions, higher, styles))
    if present := pattern_names(part):
        card.plots.append(_pattern_heat(card, part, present, higher))
        card.plots += _acquisition(card, part, present, higher, styles, costs)
    _fill_table(card, part, higher)
    return card


def _wide(part: pd.DataFrame, conditions: Sequence[str], column: str) -> pd.DataFrame:
    """Methods down, conditions across; NaN where there is nothing, or not all of it."""
    wide = part.pivot(index="name", columns="condition", values=column)
    order = list(dict.fromkeys(part["name"]))
    return wide.reindex(index=order, columns=list(conditions)).astype(float)


def _curves(
    card: Card,
    stem: str,
    part: pd.DataFrame,
    conditions: Sequence[str],
    higher: bool,
    styles: Mapping[str, int],
) -> tuple[str, str]:
    from mmbench.bench import plots

    first = part.drop_duplicates("condition").set_index("condition").loc[list(conditions)]
    rates = first["missing_rate_nominal"].to_numpy(np.float64)
    mean, low, high = (_wide(part, conditions, c) for c in ("mean", "ci_low", "ci_high"))
    notes = _hole_notes(part)
    bayes = part.groupby("condition")["bayes"].first().reindex(list(conditions)).astype(float)
    best: Any = bayes.to_numpy(np.float64)
    ceiling = (rates, best) if bayes.notna().any() else None
    scores = [*mean.to_numpy(np.float64), *([] if ceiling is None else [best])]
    bottom, top = plots.limits(scores, higher)
    # a band that covers the plot says nothing, and hides the others
    wide = (high - low > WIDEST * (top - bottom)).any(axis=1)
    low, high = low.mask(wide), high.mask(wide)
    spread = _wide(part, conditions, "std_seeds").where(wide)
    lines = [
        plots.Line(
            name, styles[name], rates,
            mean.loc[name].to_numpy(np.float64), low.loc[name].to_numpy(np.float64),
            high.loc[name].to_numpy(np.float64), notes[name],
            spread.loc[name].to_numpy(np.float64),
        )
        for name in mean.index
    ]  # fmt: skip
    last = mean[conditions[-1]].dropna().sort_values(ascending=not higher)
    alt = (
        f"{card.metric} on {card.data} under {stem} at missing rates {rates[0]:g} to "
        f"{rates[-1]:g}, a line a method. At {rates[-1]:g}, best first: "
        + ", ".join(f"{name} {value:.3f}" for name, value in last.items())
    )
    over = repeats(part)
    bands = f" Bands: 95 % t interval over {over}." if low.notna().any(axis=None) else ""
    if wide.any():
        bands += (
            " Thin bars: one standard deviation to either side, for methods whose 95 % t interval "
            f"over {over} is wider than half the plot."
        )
    holes = (
        " A fraction after a name: trainings finished of those planned."
        if any(notes.values())
        else ""
    )
    dashed = " Long dashes: the best possible score." if ceiling else ""
    svg = plots.curves(lines, ceiling, metric=card.metric, higher=higher, alt=alt)
    return svg, f"{card.metric} over the missing rate, {stem}.{bands}{holes}{dashed}"


def _hole_notes(part: pd.DataFrame) -> dict[Any, str]:
    """Method -> `2/3` where a condition has some of the planned trainings, else nothing."""
    least = part.sort_values("n_seeds").groupby("name")[["n_seeds", "n_seeds_planned"]].first()
    return {
        name: f"{n:.0f}/{planned:.0f}" if 0 < n < planned else ""
        for name, n, planned in least.itertuples()
    }


def _pattern_heat(
    card: Card, part: pd.DataFrame, patterns: Sequence[str], higher: bool
) -> tuple[str, str]:
    from mmbench.bench import plots

    mean = _wide(part, patterns, "mean")
    rows, values = list(mean.index), mean.to_numpy()
    bayes = part.groupby("condition")["bayes"].first().reindex(list(patterns)).astype(float)
    if bayes.notna().any():
        rows, values = [*rows, "best possible"], np.vstack([values, bayes.to_numpy()])
    alt = (
        f"{card.metric} on {card.data} of {len(mean)} methods on {len(patterns)} patterns of "
        "present modalities; the numbers are in the table below"
    )
    svg = plots.heat(
        values, rows, list(patterns), alt=alt, across="present modalities", reverse=not higher
    )
    return svg, f"{card.metric} by pattern: only these modalities are present. Yellow is better."


def _acquisition(
    card: Card,
    part: pd.DataFrame,
    patterns: Sequence[str],
    higher: bool,
    styles: Mapping[str, int],
    costs: Mapping[str, float],
) -> list[tuple[str, str]]:
    """What modalities are worth, where all 2^M - 1 patterns were tested; over costs if known."""
    from mmbench.bench import plots

    modalities = sorted({m for p in patterns if p != COMPLETE for m in p.split("+")})
    if len(modalities) < 2 or len(patterns) < 2 ** len(modalities) - 1:
        return []
    unknown = [name for name in modalities if name not in costs]
    over = None if unknown else affordable({name: costs[name] for name in modalities})
    lines, everything = [], "+".join(modalities)
    for name, row in _wide(part, patterns, "mean").iterrows():
        scores = {str(p).replace(COMPLETE, everything): float(row[p]) for p in patterns}
        if over is None:
            worth = acquired(scores, modalities, "higher" if higher else "lower")
            count = np.arange(1.0, len(modalities) + 1)
            ends = (worth["worst"], worth["best"]) if higher else (worth["best"], worth["worst"])
            curve = (count, worth["random"], *ends)
        else:
            curve = _within(over, scores)
        lines.append(plots.Line(str(name), styles[str(name)], *curve))
    steps = ", ".join(f"{line.name} {line.mean[0]:.3f} to {line.mean[-1]:.3f}" for line in lines)
    alt = f"{card.metric} on {card.data} with one to all modalities, a line a method: {steps}"
    svg = plots.curves(
        lines, None, metric=card.metric, higher=higher, alt=alt, steps=over is not None,
        across="modalities acquired" if over is None else "spent on modalities",
    )  # fmt: skip
    if over is None:
        caption = (
            f"What a modality is worth: {card.metric} over the number of modalities acquired, in "
            "random order; bands from the worst order to the best, one modality after the other."
        )
        if costs:
            caption += f" Not over costs: none is given for {', '.join(unknown)}."
    else:
        prices = ", ".join(f"{name} {costs[name]:g}" for name in modalities)
        caption = (
            f"What a modality is worth: {card.metric} over what is spent ({prices}), modalities "
            "acquired in random order as long as they fit; bands from the worst to the best that "
            "may come of it."
        )
    return [(svg, caption)]


def _within(
    over: tuple[Any, Sequence[str], Any], scores: Mapping[str, float]
) -> tuple[Any, Any, Any, Any]:
    """Budgets, and of what each may end with the mean score, the lowest and the highest."""
    budgets, patterns, chance = over
    by_set = {frozenset(pattern.split("+")): score for pattern, score in scores.items()}
    reached = chance > 0
    each = np.array([by_set.get(frozenset(p.split("+")), math.nan) for p in patterns])
    each = np.broadcast_to(each, chance.shape)
    mean = np.where(reached, chance * each, 0).sum(axis=1)
    low, high = np.where(reached, each, np.inf).min(1), np.where(reached, each, -np.inf).max(1)
    return budgets, mean, low, high


def _fill_table(
    card: Card, part: pd.DataFrame, higher: bool, shaded: "pd.Series[float] | None" = None
) -> None:
    """Methods down, conditions across; columns without a single rank in `shaded` stay plain."""
    card.columns = list(dict.fromkeys(part["condition"]))
    ends = {str(c): _shades(subset["mean"], higher) for c, subset in part.groupby("condition")}
    plain = set()
    if shaded is not None:
        ranked = shaded.notna().groupby(part["condition"]).any()
        plain = set(ranked.index[~ranked])
    row: Any
    for name, subset in part.groupby("name", sort=False):
        cells: list[Cell] = []
        for row in subset.set_index("condition").reindex(card.columns).itertuples():
            worst, best = ends[row.Index]
            shade = None
            if pd.notna(row.mean) and row.n_seeds == row.n_seeds_planned:
                place = (row.mean - worst) / (best - worst) if best != worst else 0.5
                shade = 0 if row.Index in plain else round(100 * min(1.0, max(0.0, place)))
            cells.append((*_cell(row), shade, is_best(row)))
        card.rows.append((str(name), cells))
    bayes = part.groupby("condition")["bayes"].first().reindex(card.columns)
    if bayes.notna().any():
        cells = [(DASH if pd.isna(b) else f"{b:.3f}", "", None, False) for b in bayes]
        card.rows.append(("best possible", cells))


def _shades(means: "pd.Series[float]", higher: bool) -> tuple[float, float]:
    """Scores of the palest and the strongest cell; a far outlier (chance) does not set the scale.

    The fence is Tukey's: one and a half times the range of the middle half away from it.
    """
    low, quarter, three, high = means.quantile([0, 0.25, 0.75, 1]).tolist()
    fence = 1.5 * (three - quarter)
    return (max(low, quarter - fence), high) if higher else (min(high, three + fence), low)


def _cell(row: Any) -> tuple[str, str]:
    """`0.812` and `± 0.010`, `3/5` where runs are missing; what is wrong where all are."""
    note = row.note if isinstance(row.note, str) else ""
    if note.startswith("skipped"):
        return DASH, ""
    if pd.isna(row.mean):
        return note.split(":")[0][:20] or "undefined", ""
    spread = "" if pd.isna(row.std_seeds) else f"± {row.std_seeds:.3f}"
    hole = f"{row.n_seeds:.0f}/{row.n_seeds_planned:.0f}"
    score = f"{round(row.mean, 3) + 0.0:.3f}"  # no "-0.000"
    score += marks(row)
    return score, spread if row.n_seeds == row.n_seeds_planned else f"{spread} ({hole})"


# --- verdict -----------------------------------------------------------------------------------


def _compared(comparisons: pd.DataFrame) -> list[Table]:
    """Each method against the best simple row: by data set, and by what is missing."""
    if comparisons.empty:
        return []
    reference = comparisons["reference"].iloc[0]
    overall = comparisons[(comparisons["data"] == EVERY) & (comparisons["over"] == ALL)]
    order = overall.sort_values("gain", ascending=False)["method"]
    partly = [name for name in dict.fromkeys(comparisons["method"]) if name not in set(order)]
    wholes = comparisons[comparisons["over"] == ALL]
    sets = [*(d for d in dict.fromkeys(wholes["data"]) if d != EVERY)]
    mean = wholes[wholes["data"] == EVERY].set_index("method")
    single = wholes.set_index(["data", "method"])
    rows = [
        [
            name,
            *([DASH, DASH] if name in partly else [_gain(mean.loc[name]), _p(mean.loc[name])]),
            *(_apart(single.loc[at]) if (at := (data, name)) in single.index else DASH
              for data in sets),
        ]
        for name in [*order, *partly]
    ]  # fmt: skip
    by_data = (
        f"Gain over {reference}, mean over all test conditions. In the mean over data sets with "
        "its 95 % interval over seeds and test samples together, and p after Holm; on each data "
        "set, the standard error over seeds (s) and the one over test samples (t) apart. "
        f"{DASH}: left out, as said above.",
        ["method", "all data sets", "p", *sets],
        rows,
    )
    grouped = comparisons[(comparisons["data"] == EVERY) & (comparisons["over"] != ALL)]
    groups = sorted(dict.fromkeys(grouped["over"]), key=_rate_of)
    if len(groups) < 2:
        return [by_data]
    cells = grouped.set_index(["over", "method"])
    by_group = (
        "The same by what is missing in the test split, mean over data sets, with 95 % intervals. "
        "An asterisk: beyond chance, p below 0.05 after Holm.",
        ["method", *groups],
        [[name, *(_starred(cells.loc[group, name]) for group in groups)] for name in order],
    )
    return [by_data, by_group]


def _rate_of(group: str) -> tuple[float, str]:
    """Rates in their order, other groups of conditions behind them."""
    rate = group.removeprefix(RATE)
    return (float(rate) if rate != group else math.inf, group)


def _gain(row: Any) -> str:
    if pd.isna(row["ci_low"]):
        return f"{row['gain']:+.3f}"
    return f"{row['gain']:+.3f} [{row['ci_low']:+.3f}, {row['ci_high']:+.3f}]"


def _p(row: Any) -> str:
    return DASH if pd.isna(row["p"]) else "< 0.001" if row["p"] < 0.001 else f"{row['p']:.3f}"


def _starred(row: Any) -> str:
    return _gain(row) + (" *" if row["p"] < CHANCE else "")


def _apart(row: Any) -> str:
    """A gain with its two errors."""
    seeds = "" if pd.isna(row["se_seeds"]) else f" s {row['se_seeds']:.3f}"
    return f"{row['gain']:+.3f}{seeds} t {row['se_samples']:.3f}"


# --- costs, ranks, leaders --------------------------------------------------------------------


def _costs(
    pairs: Sequence[tuple[Any, pd.DataFrame]], styles: Mapping[str, int]
) -> list[tuple[str, list[Plot]]]:
    """Plots of score over training time and over parameters, for each data set and scenario."""
    from mmbench.bench import plots

    groups = []
    for (data, scenario), part in pairs:
        metric = str(part["metric"].iloc[0])
        higher = _better(metric)
        # one hole makes the mean a hole: means over different conditions do not compare
        means = part.groupby("name", sort=False).agg(
            score=("mean", lambda x: x.mean(skipna=False)),
            train_s=("train_s", "mean"),
            params=("params_total", "mean"),
        )
        notes = _hole_notes(part)
        drawn = []
        for column, label in (("train_s", "training, seconds"), ("params", "parameters")):
            known = means[means["score"].notna() & means[column].notna()]
            if len(known) < 2:
                continue
            alt = f"{metric} on {data}, {scenario}, over {label}: " + ", ".join(
                f"{n} {row.score:.3f} at {row[column]:.3g}" for n, row in known.iterrows()
            )
            dots = [
                plots.Dot(str(n), styles[str(n)], float(row[column]), float(row.score), notes[n])
                for n, row in known.iterrows()
            ]
            svg = plots.pareto(
                dots, cost=label, metric=f"{metric}, mean over conditions", higher=higher, alt=alt
            )
            drawn.append((svg, f"{data}, {scenario}: score over {label.partition(',')[0]}"))
        if drawn:
            groups.append((f"{data}, {scenario}", drawn))
    return groups


def _operations(runs: Sequence[Run]) -> list[Plot]:
    """Operations to predict one sample by pattern, where runs counted them; one plot a data set."""
    from mmbench.bench import plots

    tables: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for run in runs:
        if run.state != "done":
            continue
        of = tables.setdefault((run.spec.data_label, run.spec.scenario_name), {})
        if _run_name(run) in of:
            continue
        flops = read_result(run.folder).cost.flops_per_pattern or {}
        counted = {name: value for name, value in flops.items() if value is not None}
        if any(counted.values()):
            of[_run_name(run)] = counted
    drawn: list[Plot] = []
    for (data, scenario), rows in tables.items():
        names = list(dict.fromkeys(name for row in rows.values() for name in row))
        if not 1 < len(names) <= LARGEST or len(drawn) == FIRST:
            continue
        values = np.array([[row.get(name, math.nan) for name in names] for row in rows.values()])
        alt = (
            f"operations on {data}, {scenario}, of {len(rows)} methods on {len(names)} patterns: "
            f"from {np.nanmin(values) / 1e6:.3g} to {np.nanmax(values) / 1e6:.3g} million a sample"
        )
        svg = plots.heat(values / 1e6, list(rows), names, alt=alt, across="present modalities")
        drawn.append((svg, f"{data}, {scenario}: million operations to predict one sample."))
    return drawn


# --- over conditions, by class ----------------------------------------------------------------


def _losses(robust: pd.DataFrame, cards: Sequence[Card]) -> list[Card]:
    """What missing modalities cost, for the data sets and metrics of the cards."""
    from mmbench.bench import plots

    losses = []
    for card in cards:
        here = (robust["data"] == card.data) & (robust["scenario"] == card.scenario)
        part = robust[here & (robust["metric"] == card.metric)]
        if part.empty:
            continue
        loss = Card(card.data, card.scenario, card.metric)
        costs = part[part["measure"] == "cost_of_absence"].assign(condition=lambda x: x["over"])
        if costs["mean"].notna().any():
            absent = [str(name) for name in dict.fromkeys(costs["over"])]
            wide = _wide(costs, absent, "mean")
            bayes = costs.groupby("over", sort=False)["bayes"].first().astype(float)
            rows, values = list(wide.index), wide.to_numpy()
            if bayes.notna().any():
                rows, values = [*rows, "best possible"], np.vstack([values, bayes.to_numpy()])
            alt = (
                f"{card.metric} on {card.data}, {card.scenario}: what the absence of each of "
                f"{', '.join(absent)} costs {len(wide)} methods; the numbers are in the table below"
            )
            svg = plots.heat(values, rows, absent, alt=alt, across="absent modality")
            caption = f"{card.metric} lost where a modality is absent, mean over all others that "
            loss.plots.append((svg, f"{caption}may be there. Yellow is a larger loss."))
        across = [
            f"{str(measure).replace('_', ' ')}, {over}"
            for measure, over in zip(part["measure"], part["over"], strict=True)
        ]
        _fill_table(loss, part.assign(condition=across), _better(card.metric), shaded=part["rank"])
        losses.append(loss)
    return losses


def _classes(runs: Sequence[Run], cards: Sequence[Card]) -> list[Plot]:
    """F1 of each class in the first test condition of each card, a row a method (one run).

    Scenarios that train alike have the same there, and are drawn once.
    """
    from mmbench.bench import plots

    by_place = _first_runs(runs)
    tables: dict[Any, tuple[Any, tuple[str, ...], list[str]]] = {}
    for card in cards[:FIRST]:
        rows: dict[str, Any] = {}
        labels: tuple[str, ...] = ()
        for name, run in by_place.get((card.data, card.scenario), {}).items():
            path = run.folder / "predictions" / f"{card.columns[0]}.npz"
            task = read_result(run.folder).task
            if task.kind in ("single_label", "multi_label") and path.is_file():
                labels = task.outputs
                predictions = read_predictions(run, card.columns[0], only=("logits", "target"))
                rows[name] = f1_by_class(predictions["logits"], predictions["target"])
        if not 1 < len(labels) <= LARGEST:
            continue
        values = np.stack(list(rows.values()))
        key = (card.data, card.columns[0], tuple(rows), values.tobytes())
        tables.setdefault(key, (values, labels, []))[2].append(card.scenario)
    drawn = []
    for (data, condition, names, _), (values, labels, scenarios) in tables.items():
        where = f"{data}, {' and '.join(scenarios)}"
        alt = (
            f"F1 by class on {where}, {condition}, of {len(names)} methods on {len(labels)} "
            f"classes: from {np.nanmin(values):.3f} to {np.nanmax(values):.3f}"
        )
        svg = plots.heat(values, names, labels, alt=alt, across="class")
        drawn.append((svg, f"{where}: F1 by class, {condition}, first training."))
    return drawn


def _first_runs(runs: Sequence[Run]) -> dict[tuple[str, str], dict[str, Run]]:
    """(data, scenario) -> method -> the first of its finished runs."""
    by_place: dict[tuple[str, str], dict[str, Run]] = {}
    for run in runs:
        if run.state == "done":
            place = (run.spec.data_label, run.spec.scenario_name)
            by_place.setdefault(place, {}).setdefault(_run_name(run), run)
    return by_place


def _risks(
    runs: Sequence[Run], board: pd.DataFrame, cards: Sequence[Card], styles: Mapping[str, int]
) -> list[Plot]:
    """Error among the surest share of the samples, all patterns together; one run a method.

    All test conditions together where no patterns were tested.
    """
    from mmbench.bench import plots

    by_place = _first_runs(runs)
    drawn: list[Plot] = []
    for card in cards[:FIRST]:
        part = board[(board["data"] == card.data) & (board["scenario"] == card.scenario)]
        conditions = pattern_names(part) or card.columns
        lines = []
        for name, run in by_place.get((card.data, card.scenario), {}).items():
            files = [run.folder / "predictions" / f"{c}.npz" for c in conditions]
            if read_result(run.folder).task.kind != "single_label" or not all(
                file.is_file() for file in files
            ):
                continue
            read = [read_predictions(run, c, only=("logits", "target")) for c in conditions]
            logits, target = (np.concatenate([r[n] for r in read]) for n in ("logits", "target"))
            share = coverages(len(target), SHARES)
            if len(share) < 2:
                continue  # so few samples make no curve
            error, unknown = risk_coverage(logits, target, share), np.full(len(share), np.nan)
            lines.append(plots.Line(name, styles[name], share, error, unknown, unknown))
        if not lines:
            continue
        of = f"{len(conditions)} {'patterns' if pattern_names(part) else 'conditions'}"
        alt = (
            f"Error rate on {card.data}, {card.scenario}, {of} together, over the share of samples "
            "that is answered, a line a method, of half of them and of all: "
            + ", ".join(
                f"{line.name} {np.interp(0.5, line.rates, line.mean):.3f} and {line.mean[-1]:.3f}"
                for line in lines
            )
        )
        svg = plots.curves(
            lines, None, metric="error rate", higher=False, alt=alt,
            across="coverage: share answered, the surest first",
        )  # fmt: skip
        caption = (
            f"{card.data}, {card.scenario}: errors among the answers that a method is surest of, "
            f"{of} together, first training. The lower, the better it knows when to abstain; aurc "
            "is the area under such a curve."
        )
        drawn.append((svg, caption))
    return drawn


def _reliability(board: pd.DataFrame, cards: Sequence[Card]) -> list[Plot]:
    """How far probabilities may be relied on, by pattern; by condition where none was tested."""
    from mmbench.bench import plots

    drawn = []
    for card in cards[:FIRST]:
        here = board[(board["data"] == card.data) & (board["scenario"] == card.scenario)]
        for metric, caption in RELIABILITY.items():
            part = here[here["metric"] == metric]
            columns = pattern_names(part) or list(dict.fromkeys(part["condition"]))
            if not 0 < len(columns) <= LARGEST or part["mean"].isna().all():
                continue
            mean = _wide(part, columns, "mean")
            values = mean.to_numpy()
            alt = (
                f"{metric} on {card.data}, {card.scenario}, of {len(mean)} methods under "
                f"{len(columns)} conditions: from {np.nanmin(values):.3f} to "
                f"{np.nanmax(values):.3f}"
            )
            svg = plots.heat(
                values, [*mean.index], columns, alt=alt, reverse=metric != COVERAGE,
                across="present modalities" if pattern_names(part) else "condition",
            )  # fmt: skip
            drawn.append((svg, f"{card.data}, {card.scenario}: {caption}"))
    return drawn


def _across(board: pd.DataFrame, styles: Mapping[str, int], metric: str) -> tuple[list[Plot], str]:
    """Critical-difference diagrams, one a scenario and variant; else why there is none."""
    from mmbench.bench import plots

    higher, drawn = _better(metric), []
    same = board[board["metric"] == metric]
    for (scenario, variant), part in same.groupby(["scenario", "variant"], sort=False):
        means = (
            part.assign(value=part["mean"].where(ranked(part)))
            .groupby(["data", "name"], sort=False)["value"]
            .agg(lambda x: x.mean(skipna=False))
            .unstack("name")
        )
        means = means[[n for n in styles if n in means]]
        test = friedman(means.to_numpy(float), "higher" if higher else "lower")
        if math.isnan(test.critical_difference):
            continue
        ranks = {
            str(n): (float(r), styles[str(n)])
            for n, r in zip(means, test.mean_ranks, strict=True)
            if not math.isnan(r)
        }
        ordered = sorted(ranks, key=lambda n: ranks[n][0])
        alt = (
            f"Mean ranks over {len(means)} data sets under {scenario}: "
            + ", ".join(f"{n} {ranks[n][0]:.2f}" for n in ordered)
            + f"; ranks closer than {test.critical_difference:.2f} do not differ"
        )
        verdict = "differ" if test.p < 0.05 else "cannot be told apart"
        left_out = [str(n) for n in means if n not in ranks]
        caption = (
            f"{scenario}{'' if variant == 'paper' else f' ({variant})'}: mean rank over "
            f"{len(means)} data sets of {metric}, averaged over test conditions. Friedman "
            f"p = {test.p:.3g}: the methods {verdict}. Methods joined by a bar do not differ "
            "(Nemenyi, 5 %)."
            + _stability(part, higher)
            + (" Rough below about 10 data sets." if len(means) < 10 else "")
            + (f" Left out for their holes: {', '.join(left_out)}." if left_out else "")
        )
        drawn.append((plots.critical_difference(ranks, test.critical_difference, alt=alt), caption))
    why = (
        "No ranks over data sets: they need at least 3 methods without a hole on at least 2 data "
        f"sets that share a scenario and {metric}."
    )
    return drawn, "" if drawn else why


def _by_rate(part: pd.DataFrame) -> pd.DataFrame:
    """Ranked scores under conditions that are a missing rate, in order of it."""
    rated = part[(part["mechanism"] != "pattern") & part["missing_rate_nominal"].notna()]
    return rated.assign(value=rated["mean"].where(ranked(rated))).sort_values(
        "missing_rate_nominal", kind="stable"
    )


def _ranks_by_rate(board: pd.DataFrame, metric: str) -> list[Table]:
    """Mean rank over data sets at each missing rate; a table for each scenario and variant."""
    tables: list[Table] = []
    same = board[board["metric"] == metric]
    for (scenario, variant), part in same.groupby(["scenario", "variant"], sort=False):
        by_rate = {}
        for rate, table in _by_rate(part).groupby("missing_rate_nominal"):
            wide = table.pivot_table("value", "data", "name", sort=False, dropna=False)
            by_rate[f"rate {rate:g}"] = pd.Series(
                mean_ranks(wide.to_numpy(float), "higher" if _better(metric) else "lower"),
                index=wide.columns,
            )
        ranks = pd.DataFrame(by_rate)
        if len(by_rate) < 2 or len(ranks) < 3:
            continue
        ranks = ranks.assign(all=ranks.mean(axis=1, skipna=False)).sort_values("all")
        rows = [
            [str(name), *(DASH if pd.isna(r) else f"{r:.1f}" for r in row)]
            for name, *row in ranks.drop(columns="all").itertuples(name=None)
        ]
        suffix = "" if variant == "paper" else f" ({variant})"
        caption = f"{scenario}{suffix}: mean rank over data sets at each missing rate, 1 = best."
        tables.append((caption, ["method", *by_rate], rows))
    return tables


def _stability(part: pd.DataFrame, higher: bool) -> str:
    """How alike the order of the methods is at the lowest and the highest missing rate."""
    taus = []
    for _, table in _by_rate(part).groupby("data", sort=False):
        wide = table.pivot_table("value", "condition", "name", sort=False, dropna=False)
        if len(wide) < 2:
            continue
        tau = rank_stability(wide.to_numpy(float), "higher" if higher else "lower")[0, -1]
        if not math.isnan(tau):
            taus.append(tau)
    if not taus:
        return ""
    return (
        " Order at the lowest and at the highest missing rate: Kendall's tau "
        f"{np.mean(taus):.2f} (mean over data sets; 1 = the same)."
    )


def _answer(rows: pd.DataFrame) -> Answer | None:
    """Who leads by mean rank over all conditions, of the methods without holes; None if nobody.

    It is beyond chance where the leader is best and every other one is told apart from it
    (`p_vs_best`).
    """
    papers = rows[rows["variant"] == "paper"] if len(rows) else rows  # never compared with others
    ranks = papers.dropna(subset="rank_borda").groupby("name", sort=False)["rank_borda"].first()
    if ranks.empty:
        return None
    ranks = ranks.sort_values(kind="stable")
    leaders = [str(name) for name in ranks.index[ranks == ranks.iloc[0]]]
    second = "".join(f"{name} ({rank:.2f})" for name, rank in [*ranks.items()][len(leaders) :][:1])
    best = beaten = sure = tested = 0
    tables = [part for _, part in papers.groupby(["data", "scenario", "condition"], sort=False)]
    for part in tables:
        leads = part["name"].isin(leaders)
        p = part.loc[ranked(part), "p_vs_best"]
        others = p[~leads[p.index]]
        tested += bool(p.notna().any())
        won = bool((part.loc[leads, "rank"] == 1).any())
        best += won
        sure += won and bool((others < CHANCE).all() and len(others))
        beaten += bool((part.loc[leads, "p_vs_best"] < CHANCE).any())
    beyond = "not tested" if not tested else "no" if not sure else "partly"
    if tested and sure == len(tables):
        beyond = "yes"
    why = f"Best in {best} of {len(tables)} conditions"
    if tested:
        why += (
            f", in {sure} of them ahead of every other method beyond chance; beaten beyond chance "
            f"in {beaten} (p below {CHANCE} after Holm, over test samples)"
        )
    return Answer(" and ".join(leaders), float(ranks.iloc[0]), second, beyond, f"{why}.")


# --- inside the methods -----------------------------------------------------------------------


def _experts(runs: Sequence[Run]) -> tuple[list[Inside], int]:
    """Diagnostics of the first run of each method on each data set, drawn by their type."""
    seen, insides = set(), []
    room = _Room(MATRICES)
    for run in runs:
        place = (run.spec.data_label, run.spec.scenario_name, _run_name(run))
        path = run.folder / "diagnostics.npz"
        if run.state != "done" or place in seen or not path.is_file():
            continue
        seen.add(place)
        of = f"{place[2]} on {place[0]}, {place[1]}"
        inside = Inside(f"{of}, seed {run.spec.seed}")
        try:
            diagnostics = read_diagnostics(path)
        except ValueError as error:  # of another version, or damaged: the page goes on
            inside.tables.append((str(error), [], []))
            diagnostics = {}
        for name, diagnostic in diagnostics.items():
            match diagnostic:
                case RouterUsage():
                    _usage(inside, name, diagnostic, of, room)
                case Retrieval():
                    _retrieval(inside, diagnostic, of, room)
                case Recovery():
                    _recovery(inside, diagnostic, of, room)
                case Matrix():
                    _matrix(inside, name, diagnostic, of, room)
        if inside.plots or inside.tables:
            insides.append(inside)
    return insides, room.refused


class _Room:
    """How many plots a page may still hold, and how many it had to refuse."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.refused = 0

    def has_one(self) -> bool:
        """Take room for a plot, if there is any."""
        if self.left == 0:
            self.refused += 1
            return False
        self.left -= 1
        return True


def _usage(inside: Inside, name: str, usage: RouterUsage, of: str, room: _Room) -> None:
    """How the experts share the work, by pattern; the patterns that occur most often."""
    from mmbench.bench import plots

    if not room.has_one():
        return
    most = np.sort(np.argsort(-usage.count, kind="stable")[:LARGEST])
    rows, experts = [str(p) for p in usage.pattern[most]], [str(e) for e in usage.expert]
    share = usage.share[most]
    alt = f"{name} of {of}, {len(rows)} patterns by {len(experts)} experts: " + "; ".join(
        f"{row} mostly {experts[int(np.nan_to_num(each).argmax())]}"
        for row, each in zip(rows[:12], share, strict=False)
    )
    caption = f"{name.capitalize()}: share of each expert by present modalities."
    if len(most) < len(usage.pattern):
        caption += f" The {len(most)} most frequent of {len(usage.pattern)} patterns."
    if len(experts) > LARGEST:  # too many to be seen: the busiest
        busiest = np.sort(np.argsort(-share.mean(0), kind="stable")[:LARGEST])
        share, experts = share[:, busiest], [experts[e] for e in busiest]
        caption += f" The {LARGEST} busiest experts."
    inside.plots.append((plots.heat(share, rows, experts, alt=alt, across="expert"), caption))


def _retrieval(inside: Inside, retrieval: Retrieval, of: str, room: _Room) -> None:
    """Which training samples were retrieved for the first queries, in numbers and pictures."""
    from mmbench.bench import plots

    scored = bool(np.isfinite(retrieval.score).any())
    head = ["query", "retrieved training samples"]
    head += ["best score"] * scored + ["same label"] * (retrieval.label is not None)
    rows = []
    for i in range(min(EXAMPLES, len(retrieval.query))):
        neighbours = retrieval.neighbour[i][retrieval.neighbour[i] >= 0]
        rows.append([str(retrieval.query[i]), ", ".join(str(j) for j in neighbours[:NEIGHBOURS])])
        if scored:
            rows[-1].append(_numbers(retrieval.score[i, 0]))
        if retrieval.label is not None:
            known = retrieval.label[i][np.isfinite(retrieval.label[i])]
            rows[-1].append(_numbers(known.mean()) if len(known) else "-")
    caption = f"{len(retrieval.query)} queries; sample ids."
    if retrieval.by is not None:
        caption += f" Looked up by {', '.join(dict.fromkeys(map(str, retrieval.by)))}."
    if retrieval.label is not None and np.isfinite(retrieval.label).any():
        caption += f" Their labels agree in a share of {float(np.nanmean(retrieval.label)):.2f}."
    inside.tables.append((caption, head, rows))
    if retrieval.query_image is None or retrieval.neighbour_image is None or not room.has_one():
        return
    count = min(PICTURES, len(retrieval.query_image), len(retrieval.neighbour_image))
    svg = plots.gallery(
        [_picture(p) for p in retrieval.query_image[:count]],
        [[_picture(p) for p in row[:NEIGHBOURS]] for row in retrieval.neighbour_image[:count]],
        labels=[row[0] + " \N{RIGHTWARDS ARROW} " + row[1] for row in rows[:count]],
        alt=f"pictures of {count} queries of {of} and what was retrieved for each",
    )
    inside.plots.append((svg, "Queries and the training samples retrieved for them."))


def _picture(values: Any) -> Any:
    """Rows and columns with colours last, as small as it is shown."""
    values = np.moveaxis(values, 0, -1)
    if values.shape[-1] == 1:
        values = values[..., 0]
    step = -(-max(values.shape[:2]) // 128)
    return np.ascontiguousarray(values[::step, ::step])


def _recovery(inside: Inside, recovery: Recovery, of: str, room: _Room) -> None:
    """Where recovered embeddings lie among the true ones, laid out in the plane."""
    from mmbench.bench import plots

    some = np.linspace(0, len(recovery.true) - 1, min(len(recovery.true), POINTS_IN_PLANE)).astype(
        int
    )
    both = np.stack([recovery.true[some], recovery.recovered[some]]).astype(float)
    if len(some) < 3 or not np.isfinite(both).all() or not room.has_one():
        return
    plane, how = _in_plane(both.reshape(2 * len(some), -1))
    parts = []
    for name in dict.fromkeys(map(str, recovery.modality)):
        rows = recovery.modality == name
        error = np.sqrt(np.square(recovery.true[rows] - recovery.recovered[rows]).mean())
        parts.append(f"{name} {error:.3g} of {recovery.true[rows].std():.3g}")
    errors = "; ".join(parts)
    alt = f"recovered embeddings of {of} beside the true ones, {len(some)} entries: {errors}"
    svg = plots.pairs(plane[: len(some)], plane[len(some) :], alt=alt)
    inside.plots.append(
        (svg, f"Recovered embeddings of hidden modalities joined to the true ones ({how}). "
              f"Root mean square error, of the spread of the true ones: {errors}.")
    )  # fmt: skip


def _in_plane(points: Any) -> tuple[Any, str]:
    """t-SNE, or principal components where scikit-learn is not installed or points are few."""
    centred = points - points.mean(axis=0)
    if len(points) < 20 or importlib.util.find_spec("sklearn") is None:
        left, size, _ = np.linalg.svd(centred, full_matrices=False)
        plane = np.zeros((len(points), 2))
        plane[:, : min(2, len(size))] = (left * size)[:, :2]
        return plane, "principal components"
    from sklearn.manifold import TSNE

    plane = TSNE(perplexity=min(30, len(points) // 4), init="random", random_state=0)
    return plane.fit_transform(centred).astype(float), "t-SNE"


def _matrix(inside: Inside, name: str, matrix: Matrix, of: str, room: _Room) -> None:
    """Numbers with the names of their rows and columns; one row becomes bars."""
    from mmbench.bench import plots

    values = matrix.values.astype(float)
    if max(values.shape) > LARGEST or (len(values) == 1 and not np.isfinite(values).all()):
        return
    if not room.has_one():
        return
    rows, columns = [str(r) for r in matrix.row], [str(c) for c in matrix.column]
    known = values[np.isfinite(values)]
    ends = f"from {known.min():.3g} to {known.max():.3g}" if known.size else "undefined"
    alt = f"{name} of {of}: {ends}"
    if len(values) == 1:
        svg = plots.bars(values[0], columns, alt=alt, across=name)
    else:
        svg = plots.heat(values, rows, columns, alt=alt)
    inside.plots.append((svg, f"{name.replace('_', ' ').capitalize()}."))


def _numbers(values: Any) -> str:
    return ", ".join(f"{float(v):.3g}" for v in np.ravel(values)[:8])


# --- holes ------------------------------------------------------------------------------------


def _tuned(table: pd.DataFrame) -> list[list[str]]:
    """A row for each search: data, fold, method, trials, what they brought, settings, edges."""
    numbers = ("default", "best", "brought", "brought_on_test")
    return [
        [
            row["data"], str(row["fold"]), row["method"], str(row["trials"]),
            *(DASH if pd.isna(row[name]) else f"{row[name]:.3f}" for name in numbers),
            row["settings"], row["at_edge"],
        ]
        for _, row in table.iterrows()
    ]  # fmt: skip


def _holes(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Runs that are not there, grouped by reason; failures first."""
    holes: dict[tuple[str, ...], list[str]] = {}
    for run in runs:
        if run.state == "done":
            continue
        spec = run.spec
        key = (run.state, spec.data_label, spec.scenario_name, _run_name(run), run.why)
        fold = f"fold {spec.fold} " if spec.fold else ""
        holes.setdefault(key, []).append(f"{fold}{spec.seed}")
    names = ("state", "data", "scenario", "method", "why")
    rows = [dict(zip(names, key, strict=True)) | {"seeds": s} for key, s in holes.items()]
    return sorted(rows, key=lambda row: -STATES.index(row["state"]))


def _doubts(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """What is doubtful about each data set, as its records say; one run of a fold tells it."""
    seen: set[tuple[str, str, int]] = set()
    doubts: dict[tuple[str, str], None] = {}
    for run in runs:
        key = (run.spec.data_label, run.spec.scenario_name, run.spec.fold)
        if run.state == "done" and key not in seen:
            seen.add(key)
            doubts |= {(run.spec.data_label, note): None for note in read_result(run.folder).notes}
    return list(doubts)


def _undefined(board: pd.DataFrame) -> list[dict[str, Any]]:
    """Scores that finished runs do not have: the metric is undefined there."""
    lost = board[(board["n_seeds"] < board["n_seeds_planned"]) & (board["note"] == "")]
    grouped = lost.groupby(["data", "scenario", "name", "metric"], sort=False)["condition"]
    return [
        {"data": d, "scenario": s, "method": n, "metric": m, "conditions": sorted(set(conditions))}
        for (d, s, n, m), conditions in list(grouped)[:HOLES]
    ]


# --- provenance and runs ----------------------------------------------------------------------


def _settings(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """What all runs share, and what differs between them."""

    def values(of: Callable[[Run], Any]) -> str:
        return "; ".join(dict.fromkeys(_words(of(run)) for run in runs)) or "none"

    return [
        ("selection", values(lambda r: r.spec.select)),
        ("trainer", values(lambda r: r.spec.trainer_args)),
        ("seeds", ", ".join(dict.fromkeys(str(r.spec.seed) for r in runs)) or "none"),
        ("folds", ", ".join(dict.fromkeys(str(r.spec.fold) for r in runs)) or "none"),
        ("samples a split", values(lambda r: r.spec.limit or "all")),
        ("protocol", values(lambda r: r.spec.protocol)),
    ]


def _words(value: JSON) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} = {inner}" for key, inner in value.items()) or "defaults"
    return str(value)


def _details(runs: Sequence[Run]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Environments with the number of runs in each, and all runs in a compact form.

    Values that many runs share (scenarios, settings, environments) stand in a pool once.
    """
    pool: dict[str, int] = {}

    def pooled(value: JSON) -> int:
        return pool.setdefault(json.dumps(value, allow_nan=False, default=str), len(pool))

    points = int(np.clip(POINTS // max(len(runs), 1), 8, 120))
    environments: dict[str, int] = {}
    rows = []
    for run in runs:
        environment = _read_json(run.folder / "env.json") if run.state == "done" else None
        if environment is not None:
            text = json.dumps(environment)
            environments[text] = environments.get(text, 0) + 1
        spec = {name: pooled(_finite(value)) for name, value in run.spec.to_json().items()}
        rows.append(
            [
                run.spec.title,
                STATES.index(run.state),
                run.why,
                run.spec.key,
                list(spec.values()),
                None if environment is None else pooled(_finite(environment)),
                _curve(run.folder / "metrics.csv", points) if run.state == "done" else None,
            ]
        )
    keys = list(runs[0].spec.to_json()) if runs else []
    ordered = sorted(environments.items(), key=lambda item: -item[1])
    settings = [{"runs": n, "settings": _flat(json.loads(text))} for text, n in ordered[:20]]
    return settings, {
        "states": STATES,
        "keys": keys,
        "pool": [json.loads(text) for text in pool],
        "runs": rows,
    }


def _flat(settings: Mapping[str, JSON]) -> list[tuple[str, str]]:
    return [(key, _words(value)) for key, value in settings.items()]


def _read_json(path: Path) -> dict[str, JSON] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _finite(value: JSON) -> JSON:
    """NaN and infinity, which JSON cannot hold, as words."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value


def _curve(path: Path, points: int) -> dict[str, list[list[float]]] | None:
    """Column -> epochs and values of `metrics.csv`, thinned evenly to so many points."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error):
        return None
    curves: dict[str, list[list[float]]] = {}
    for name in rows[0] if rows else ():
        if name in ("epoch", "step", None):
            continue
        pairs = [(_to_float(r.get("epoch")), _to_float(r.get(name))) for r in rows]
        known = [(e, v) for e, v in pairs if math.isfinite(e) and math.isfinite(v)]
        if len(known) > points:
            known = [known[i] for i in np.linspace(0, len(known) - 1, points).astype(int)]
        if known:
            curves[name] = [[e for e, _ in known], [_round(v, 4) for _, v in known]]
    return curves or None


def _to_float(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


def _round(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")


# --- the leaderboard as data ------------------------------------------------------------------


def _rows(board: pd.DataFrame, metric: str) -> tuple[dict[str, Any], int]:
    """Columns of the table in a compact form, and how many rows did not fit.

    The metric of the page comes first, then whole metrics as long as they fit.
    """
    board = board.assign(
        seeds=[
            f"{n:.0f}/{m:.0f}" for n, m in zip(board.n_seeds, board.n_seeds_planned, strict=True)
        ]
    )
    board = _best_first(board)
    metrics = sorted(dict.fromkeys(board["metric"]), key=lambda m: m != metric)
    parts: list[pd.DataFrame] = []
    total = 0
    for name in metrics:
        part = board[board["metric"] == name]
        if parts and total + len(part) > ROWS:
            continue
        parts.append(part.head(ROWS))
        total += len(parts[-1])
    table = pd.concat(parts) if parts else board
    columns: dict[str, JSON] = {}
    for name in TABLE:
        if name not in table:
            continue  # a leaderboard of before that column
        column = table[name]
        if name not in WORDS:
            numbers = pd.to_numeric(column).to_numpy(float)
            if np.isfinite(numbers).any():
                columns[name] = [_round(v, 5) if math.isfinite(v) else None for v in numbers]
        elif len(table):
            codes, values = pd.factorize(column.astype(str))
            if name not in ("note", "mixed") or any(values):
                columns[name] = {"codes": codes.tolist(), "values": [str(v) for v in values]}
    lower = [m for m in metrics if not _better(m)]
    summary = {"n": len(table), "columns": columns, "metric": metric, "lower": lower}
    return summary, len(board) - len(table)


def _best_first(board: pd.DataFrame) -> pd.DataFrame:
    """Tables in their order, the methods of each by rank, holes last."""
    if board.empty:
        return board
    table = board.groupby(["data", "scenario", "metric", "condition"], sort=False).ngroup()
    ordered = board.assign(_table=table).sort_values(["_table", "rank"], kind="stable")
    return ordered.drop(columns="_table")
