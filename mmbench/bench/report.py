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
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mmbench.bench.record import IPW, Run, count
from mmbench.bench.spec import JSON
from mmbench.bench.statistics import friedman
from mmbench.metrics.metric import higher_is_better

TABLES = 24  # (data, scenario) pairs that get plots and a table of their own
MATRICES = 16  # plots from diagnostics
LARGEST = 64  # rows and columns of a diagnostic matrix that is still drawn
ROWS = 60_000  # of the leaderboard inside the page
POINTS = 60_000  # of all training curves together, for each column
HOLES = 200  # rows of the table of holes
TABLE = (
    "data", "scenario", "condition", "name", "metric", "mean", "std_seeds", "ci_low", "ci_high",
    "rank", "rank_borda", "p_vs_best", "regret_to_bayes", "seeds", "missing_rate_realised",
    "incomplete_rate_realised", "effective_n", "params_total", "train_s", "infer_ms_per_sample",
    "peak_mib", "note",
)  # fmt: skip
DASH = "\N{EN DASH}"  # the method does not apply
STATES = ("done", "running", "waiting", "skipped", "broken", "failed")


# score, spread, share of the way from worst to best in % (None for a hole), whether it is best
Cell = tuple[str, str, int | None, bool]
Plot = tuple[str, str]  # SVG and caption


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


def write_report(
    suite_name: str, runs: Sequence[Run], board: pd.DataFrame, folder: Path, *, metric: str
) -> Path:
    """Write `report.html` by rename.

    Args:
        suite_name: Heading of the page.
        runs: Every planned run, finished or not.
        board: From `mmbench.bench.leaderboard.leaderboard(runs)`.
        folder: Where to write.
        metric: What plots show and the table begins with.

    Returns:
        Path of the page.

    Raises:
        ValueError: If a library that draws the page is not installed, or the metric is unknown.
    """
    absent = [n for n in ("jinja2", "matplotlib") if importlib.util.find_spec(n) is None]
    if absent:
        raise ValueError(
            f"a report needs {' and '.join(absent)}, not installed here; "
            "run: pip install 'mmbench[report]'"
        )
    page = _page(suite_name, runs, board, metric)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "report.html"
    part = path.with_name(f".{path.name}.{os.getpid()}")
    # a file name that is no Unicode becomes readable, not an error
    part.write_text(page, encoding="utf-8", errors="replace")
    part.replace(path)
    return path


def _page(suite_name: str, runs: Sequence[Run], board: pd.DataFrame, metric: str) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    from mmbench.bench import plots

    higher = _better(metric)
    board = board.assign(
        name=[_name(m, v) for m, v in zip(board.method, board.variant, strict=True)]
    )
    styles = {name: i for i, name in enumerate(dict.fromkeys(_run_name(run) for run in runs))}
    states = count(runs)
    shown = _shown(board, metric)
    pairs = list(shown.groupby(["data", "scenario"], sort=False)) if len(shown) else []
    cards = [_card(str(d), str(s), part, styles) for (d, s), part in pairs[:TABLES]]
    costs = _costs(pairs[:TABLES], styles)
    ranks, no_ranks = _across(shown, styles, metric)
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
    used = dict.fromkeys(shown["name"]) if len(shown) else {}
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
        leaders=_leaders(shown),
        swatches=[(n, plots.swatch(styles[n])) for n in used] if cards or costs else [],
        cards=cards,
        cards_left_out=len(pairs) - len(cards),
        pairs=len(pairs),
        costs=costs,
        ranks=ranks,
        no_ranks=no_ranks,
        experts=experts,
        experts_left_out=more_experts,
        holes=_holes(runs)[:HOLES],
        holes_left_out=max(0, len(_holes(runs)) - HOLES),
        undefined=_undefined(board),
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


def _shown(board: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Rows of the metric; of another one for a data set that it is not defined for."""
    parts = []
    for _, part in board.groupby(["data", "scenario"], sort=False):
        metrics = list(dict.fromkeys(part["metric"]))
        parts.append(part[part["metric"] == (metric if metric in metrics else metrics[0])])
    return pd.concat(parts) if parts else board


# --- one data set under one scenario ----------------------------------------------------------


def _card(data: str, scenario: str, part: pd.DataFrame, styles: Mapping[str, int]) -> Card:
    card = Card(data, scenario, str(part["metric"].iloc[0]))
    higher = _better(card.metric)
    for stem, conditions in _rate_families(part).items():
        card.plots.append(_curves(card, stem, part, conditions, higher, styles))
    if patterns := _patterns(part):
        card.plots.append(_pattern_heat(card, part, patterns, higher))
    _fill_table(card, part, higher)
    return card


def _rate_families(part: pd.DataFrame) -> dict[str, list[str]]:
    """Conditions that differ in nominal rate alone, rising; at least two in each family."""
    found: dict[str, dict[str, float]] = {}
    complete = {}
    row: Any
    for row in part.drop_duplicates("condition").itertuples():
        rate = row.missing_rate_nominal
        if row.condition == "complete":
            complete["complete"] = 0.0
        elif pd.notna(rate) and row.mechanism != "pattern":
            # "mnar_label_0.3_strength_2": the first number is the rate
            stem = re.sub(r"_\d[\d.]*(e-\d+)?(?=_|$)", "", str(row.condition), count=1)
            found.setdefault(stem, {})[str(row.condition)] = float(rate)
    families = {}
    for stem, rates in found.items():
        rates = complete | rates
        if len(rates) > 1 and len(set(rates.values())) == len(rates):
            families[stem] = sorted(rates, key=lambda name: rates[name])
    return families


def _patterns(part: pd.DataFrame) -> list[str]:
    """Conditions that are patterns, the complete one among them; none if there is only one."""
    is_pattern = (part["mechanism"] == "pattern") | (part["condition"] == "complete")
    found = list(dict.fromkeys(part.loc[is_pattern, "condition"]))
    return found if len(found) > 1 else []


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
    lines = [
        plots.Line(
            name, styles[name], rates, mean.loc[name].to_numpy(np.float64),
            low.loc[name].to_numpy(np.float64), high.loc[name].to_numpy(np.float64), notes[name],
        )
        for name in mean.index
    ]  # fmt: skip
    bayes = part.groupby("condition")["bayes"].first().reindex(list(conditions)).astype(float)
    best: Any = bayes.to_numpy(np.float64)
    ceiling = (rates, best) if bayes.notna().any() else None
    last = mean[conditions[-1]].dropna().sort_values(ascending=not higher)
    alt = (
        f"{card.metric} on {card.data} under {stem} at missing rates {rates[0]:g} to "
        f"{rates[-1]:g}, a line a method. At {rates[-1]:g}, best first: "
        + ", ".join(f"{name} {value:.3f}" for name, value in last.items())
    )
    bands = " Bands: 95 % t interval over seeds." if low.notna().any(axis=None) else ""
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


def _fill_table(card: Card, part: pd.DataFrame, higher: bool) -> None:
    card.columns = list(dict.fromkeys(part["condition"]))
    ends = {str(c): _shades(own["mean"], higher) for c, own in part.groupby("condition")}
    row: Any
    for name, own in part.groupby("name", sort=False):
        cells: list[Cell] = []
        for row in own.set_index("condition").reindex(card.columns).itertuples():
            worst, best = ends[row.Index]
            shade = None
            if pd.notna(row.mean) and row.n_seeds == row.n_seeds_planned:
                place = (row.mean - worst) / (best - worst) if best != worst else 0.5
                shade = round(100 * min(1.0, max(0.0, place)))
            cells.append((*_cell(row), shade, bool(row.rank == 1)))
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
    """`0.812` and `± 0.010`, `3/5` where seeds are missing; what is wrong where all are."""
    note = row.note if isinstance(row.note, str) else ""
    if note.startswith("skipped"):
        return DASH, ""
    if pd.isna(row.mean):
        return note.split(":")[0][:20] or "undefined", ""
    spread = "" if pd.isna(row.std_seeds) else f"± {row.std_seeds:.3f}"
    hole = f"{row.n_seeds:.0f}/{row.n_seeds_planned:.0f}"
    return f"{row.mean:.3f}", spread if row.n_seeds == row.n_seeds_planned else f"{spread} ({hole})"


# --- costs, ranks, leaders --------------------------------------------------------------------


def _costs(
    pairs: Sequence[tuple[Any, pd.DataFrame]], styles: Mapping[str, int]
) -> list[tuple[str, list[Plot]]]:
    """Plots of score over training time and over parameters, for each data set and scenario."""
    from mmbench.bench import plots

    found = []
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
            found.append((f"{data}, {scenario}", drawn))
    return found


def _across(shown: pd.DataFrame, styles: Mapping[str, int], metric: str) -> tuple[list[Plot], str]:
    """Critical-difference diagrams, one a scenario and variant; else why there is none."""
    from mmbench.bench import plots

    higher, drawn = _better(metric), []
    same = shown[shown["metric"] == metric]
    for (scenario, variant), part in same.groupby(["scenario", "variant"], sort=False):
        means = (
            part.assign(value=part["mean"].where(part["n_seeds"] == part["n_seeds_planned"]))
            .groupby(["data", "name"], sort=False)["value"]
            .agg(lambda x: x.mean(skipna=False))
            .unstack("name")
        )
        means = means[[n for n in styles if n in means]]
        found = friedman(means.to_numpy(float), "higher" if higher else "lower")
        if math.isnan(found.critical_difference):
            continue
        ranks = {
            str(n): (float(r), styles[str(n)])
            for n, r in zip(means, found.mean_ranks, strict=True)
            if not math.isnan(r)
        }
        ordered = sorted(ranks, key=lambda n: ranks[n][0])
        alt = (
            f"Mean ranks over {len(means)} data sets under {scenario}: "
            + ", ".join(f"{n} {ranks[n][0]:.2f}" for n in ordered)
            + f"; ranks closer than {found.critical_difference:.2f} do not differ"
        )
        verdict = "differ" if found.p < 0.05 else "cannot be told apart"
        left_out = [str(n) for n in means if n not in ranks]
        caption = (
            f"{scenario}{'' if variant == 'paper' else f' ({variant})'}: mean rank over "
            f"{len(means)} data sets of {metric}, averaged over test conditions. Friedman "
            f"p = {found.p:.3g}: the methods {verdict}. Methods joined by a bar do not differ "
            "(Nemenyi, 5 %)."
            + (" Rough below about 10 data sets." if len(means) < 10 else "")
            + (f" Left out for their holes: {', '.join(left_out)}." if left_out else "")
        )
        drawn.append(
            (plots.critical_difference(ranks, found.critical_difference, alt=alt), caption)
        )
    why = (
        "No ranks over data sets: they need at least 3 methods without a hole on at least 2 data "
        f"sets that share a scenario and {metric}."
    )
    return drawn, "" if drawn else why


def _leaders(shown: pd.DataFrame) -> list[tuple[str, float]]:
    """Up to three methods by mean rank over all conditions; only methods without holes."""
    if shown.empty:
        return []
    own = shown[shown["variant"] == "paper"]  # variants are never compared
    best = own.dropna(subset="rank_borda").groupby("name", sort=False)["rank_borda"].first()
    return [(str(n), float(r)) for n, r in best.sort_values(kind="stable").head(3).items()]


# --- inside the methods -----------------------------------------------------------------------


def _experts(runs: Sequence[Run]) -> tuple[list[tuple[str, list[Plot]]], int]:
    """Plots of `diagnostics.npz`, of the first run of each method on each data set."""
    from mmbench.bench import plots

    seen, found, drawn, left_out = set(), [], 0, 0
    for run in runs:
        place = (run.spec.data_label, run.spec.scenario_name, _run_name(run))
        path = run.folder / "diagnostics.npz"
        if run.state != "done" or place in seen or not path.is_file():
            continue
        seen.add(place)
        own = []
        with np.load(path, allow_pickle=False) as kept:
            arrays = {name: kept[name] for name in kept.files}
        for name in sorted(arrays, key=lambda n: (not n.startswith("routing/"), n)):
            values = np.asarray(arrays[name])
            usable = np.issubdtype(values.dtype, np.number) or values.dtype == bool
            if not usable or values.ndim not in (1, 2) or not 0 < max(values.shape) <= LARGEST:
                continue
            values = values.astype(float)
            if not values.size or (values.ndim == 1 and not np.isfinite(values).all()):
                continue
            if drawn == MATRICES:
                left_out += 1
                continue
            drawn += 1
            known = values[np.isfinite(values)]
            ends = f"from {known.min():.3g} to {known.max():.3g}" if known.size else "undefined"
            alt = f"{name} of {place[2]} on {place[0]}, {place[1]}: {ends}"
            if values.ndim == 1:
                svg = plots.bars(values, [str(i) for i in range(len(values))], alt=alt, across=name)
            else:
                svg = plots.heat(
                    values,
                    [str(i) for i in range(values.shape[0])],
                    [str(i) for i in range(values.shape[1])],
                    alt=alt,
                )
            own.append((svg, f"{name}, {' by '.join(str(n) for n in values.shape)}"))
        if own:
            found.append((f"{place[2]} on {place[0]}, {place[1]}, seed {run.spec.seed}", own))
    return found, left_out


# --- holes ------------------------------------------------------------------------------------


def _holes(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Runs that are not there, grouped by reason; failures first."""
    found: dict[tuple[str, ...], list[str]] = {}
    for run in runs:
        if run.state == "done":
            continue
        spec = run.spec
        key = (run.state, spec.data_label, spec.scenario_name, _run_name(run), run.why)
        fold = f"fold {spec.fold} " if spec.fold else ""
        found.setdefault(key, []).append(f"{fold}{spec.seed}")
    names = ("state", "data", "scenario", "method", "why")
    rows = [dict(zip(names, key, strict=True)) | {"seeds": s} for key, s in found.items()]
    return sorted(rows, key=lambda row: -STATES.index(row["state"]))


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
        found = _read_json(run.folder / "env.json") if run.state == "done" else None
        if found is not None:
            text = json.dumps(found)
            environments[text] = environments.get(text, 0) + 1
        spec = {name: pooled(_finite(value)) for name, value in run.spec.to_json().items()}
        rows.append(
            [
                run.spec.title,
                STATES.index(run.state),
                run.why,
                run.spec.key,
                list(spec.values()),
                None if found is None else pooled(_finite(found)),
                _curve(run.folder / "metrics.csv", points) if run.state == "done" else None,
            ]
        )
    keys = list(runs[0].spec.to_json()) if runs else []
    ordered = sorted(environments.items(), key=lambda item: -item[1])
    kept = [{"runs": n, "words": _flat(json.loads(text))} for text, n in ordered[:20]]
    return kept, {
        "states": STATES,
        "keys": keys,
        "pool": [json.loads(text) for text in pool],
        "runs": rows,
    }


def _flat(words: Mapping[str, JSON]) -> list[tuple[str, str]]:
    return [(key, _words(value)) for key, value in words.items()]


def _read_json(path: Path) -> dict[str, JSON] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


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
    found: dict[str, list[list[float]]] = {}
    for name in rows[0] if rows else ():
        if name in ("epoch", "step", None):
            continue
        pairs = [(_to_float(r.get("epoch")), _to_float(r.get(name))) for r in rows]
        known = [(e, v) for e, v in pairs if math.isfinite(e) and math.isfinite(v)]
        if len(known) > points:
            known = [known[i] for i in np.linspace(0, len(known) - 1, points).astype(int)]
        if known:
            found[name] = [[e for e, _ in known], [_round(v, 4) for _, v in known]]
    return found or None


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
    kept: list[pd.DataFrame] = []
    total = 0
    for name in metrics:
        part = board[board["metric"] == name]
        if kept and total + len(part) > ROWS:
            continue
        kept.append(part.head(ROWS))
        total += len(kept[-1])
    table = pd.concat(kept) if kept else board
    columns: dict[str, JSON] = {}
    for name in TABLE:
        column = table[name]
        numeric = name not in ("data", "scenario", "condition", "name", "metric", "seeds", "note")
        if numeric:
            numbers = pd.to_numeric(column).to_numpy(float)
            if np.isfinite(numbers).any():
                columns[name] = [_round(v, 5) if math.isfinite(v) else None for v in numbers]
        elif len(table):
            codes, values = pd.factorize(column.astype(str))
            if name != "note" or any(values):
                columns[name] = {"codes": codes.tolist(), "values": [str(v) for v in values]}
    lower = [m for m in metrics if not _better(m)]
    words = {"n": len(table), "columns": columns, "metric": metric, "lower": lower}
    return words, len(board) - len(table)


def _best_first(board: pd.DataFrame) -> pd.DataFrame:
    """Tables in their order, the methods of each by rank, holes last."""
    if board.empty:
        return board
    table = board.groupby(["data", "scenario", "metric", "condition"], sort=False).ngroup()
    ordered = board.assign(_table=table).sort_values(["_table", "rank"], kind="stable")
    return ordered.drop(columns="_table")
