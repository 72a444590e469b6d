"""What missing modalities cost: one number from a training's scores under many test conditions.

Two kinds of conditions go together: those that differ in missing rate alone (a curve), and those
that show one set of modalities each (patterns). A number is computed for each training and then
averaged as scores are, so that it has a spread and an interval as they have.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from mmbench.bench.record import IPW, Run, read_scored
from mmbench.bench.result import read_result
from mmbench.bench.score_cache import ScoreCache
from mmbench.metrics.degradation import (
    Curve,
    area_under_rate_curve,
    cost_of_absence,
    pooled_over_patterns,
    slope,
)
from mmbench.metrics.metric import higher_is_better
from mmbench.metrics.weighted import Array

COMPLETE = "complete"
POOLED = "pooled_over_patterns"
MEASURES = (
    "area_under_rate_curve", "slope", "drop_from_complete", "worst_pattern", "mean_over_patterns",
    POOLED, "cost_of_absence", "inequity",
)  # fmt: skip
# a method that uses no modality loses nothing: only measures that are scores are ranked
RANKED = ("area_under_rate_curve", "worst_pattern", "mean_over_patterns", POOLED)
TRAINING = ["method", "variant", "fold", "seed", "metric"]


def rate_families(table: pd.DataFrame) -> dict[str, list[str]]:
    """Conditions that differ in nominal rate alone, rising; at least two in each family.

    Args:
        table: Rows of one (data, scenario), with `condition`, `mechanism` and
            `missing_rate_nominal`.
    """
    stems: dict[str, dict[str, float]] = {}
    complete = {}
    row: Any
    for row in table.drop_duplicates("condition").itertuples():
        rate = row.missing_rate_nominal
        if row.condition == COMPLETE:
            complete[COMPLETE] = 0.0
        elif pd.notna(rate) and row.mechanism != "pattern":
            # "mnar_label_0.3_strength_2": the first number is the rate
            stem = re.sub(r"_\d[\d.]*(e-\d+)?(?=_|$)", "", str(row.condition), count=1)
            stems.setdefault(stem, {})[str(row.condition)] = float(rate)
    families = {}
    for stem, rates in stems.items():
        rates = complete | rates
        if len(rates) > 1 and len(set(rates.values())) == len(rates):
            families[stem] = sorted(rates, key=lambda name: rates[name])
    return families


def pattern_names(table: pd.DataFrame) -> list[str]:
    """Conditions that are patterns, the complete one among them; none if there is only one.

    Args:
        table: As in `rate_families`.
    """
    is_pattern = (table["mechanism"] == "pattern") | (table["condition"] == COMPLETE)
    names = list(dict.fromkeys(table.loc[is_pattern, "condition"]))
    return names if len(names) > 1 else []


def degraded(records: pd.DataFrame) -> pd.DataFrame:
    """Turn the scores of each training under many conditions into what it loses over them.

    `area_under_rate_curve`, `slope` and `drop_from_complete` (to the highest rate) of each family
    of rates; `worst_pattern` and `mean_over_patterns`; and, where all 2^M - 1 patterns were
    tested, `cost_of_absence` of each modality and their `inequity`. The worst pattern and the
    inequity are those of each training.

    Args:
        records: From `mmbench.bench.record.read_records`.

    Returns:
        A row for each training, metric and measure: `mechanism` names the measure, `condition` is
        the measure and what it is taken over, `value` and `bayes` (the same measure of the best
        possible scores); NaN where a score that it needs is missing.
    """
    parts: list[pd.DataFrame] = []
    if len(records):
        for _, table in records.groupby(["data", "scenario"], sort=False):
            parts.extend(_of_table(table))
    columns = ["data", "scenario", *TRAINING, "condition", "mechanism", "value", "bayes"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def _of_table(table: pd.DataFrame) -> Iterator[pd.DataFrame]:
    row = table.groupby(TRAINING, sort=False).ngroup().to_numpy()
    column, conditions = pd.factorize(table["condition"])
    scores, best = np.full((2, row.max() + 1, len(conditions)), np.nan)
    scores[row, column] = table["value"].to_numpy(float)
    best[row, column] = table["bayes"].to_numpy(float)
    trainings = table.drop_duplicates(TRAINING)[["data", "scenario", *TRAINING]]
    up = trainings["metric"].map(_is_better_up).to_numpy()
    both = zip(_measures(table, scores, up), _measures(table, best, up), strict=True)
    for (name, over, value), (_, _, bayes) in both:
        yield trainings.assign(condition=f"{name} {over}", mechanism=name, value=value, bayes=bayes)


def _is_better_up(metric: str) -> bool:
    return higher_is_better(metric.removesuffix(IPW))


def _measures(
    table: pd.DataFrame, scores: Curve, up: Float[np.ndarray, " cell"] | Any
) -> Iterator[tuple[str, str, Float[Array, " cell"]]]:
    """Name, what it is taken over, and a value for each row of scores."""
    first = table.drop_duplicates("condition").set_index("condition")
    place = {str(name): i for i, name in enumerate(first.index)}
    sign = np.where(up, 1.0, -1.0)
    for stem, names in rate_families(table).items():
        rates = first.loc[names, "missing_rate_nominal"].to_numpy(float)
        curve = scores[:, [place[name] for name in names]]
        over = f"{stem} {rates[0]:g} to {rates[-1]:g}"
        yield "area_under_rate_curve", over, area_under_rate_curve(rates, curve)
        yield "slope", over, slope(rates, curve)
        if names[0] == COMPLETE:
            yield "drop_from_complete", names[-1], sign * (curve[:, 0] - curve[:, -1])
    if not (names := pattern_names(table)):
        return
    values = scores[:, [place[name] for name in names]]
    over = f"{len(names)} patterns"
    yield "worst_pattern", over, sign * (sign[:, None] * values).min(axis=1)  # NaN wins a minimum
    yield "mean_over_patterns", over, values.mean(axis=1)
    modalities = _modalities(table)
    if len(modalities) < 2 or len(names) < 2 ** len(modalities) - 1:
        return
    costs = np.stack(
        [sign * _weighed(values, weights) for weights in _absence(names, modalities)], axis=1
    )
    for m, modality in enumerate(modalities):
        yield "cost_of_absence", modality, costs[:, m]
    yield "inequity", f"{len(modalities)} modalities", costs.max(axis=1) - costs.min(axis=1)


def _modalities(table: pd.DataFrame) -> list[str]:
    return str(table["modalities"].iloc[0]).split("+")


def _absence(names: Sequence[str], modalities: Sequence[str]) -> Float[Array, "modality pattern"]:
    """`cost_of_absence` as weights of the patterns, for it is a sum of scores."""
    full = ["+".join(modalities) if name == COMPLETE else name for name in names]
    units = [
        cost_of_absence({name: float(name == one) for name in full}, modalities, "higher")
        for one in full
    ]
    return np.array([[unit[modality] for unit in units] for modality in modalities])


def _weighed(scores: Curve, weights: Float[Array, " condition"]) -> Float[Array, " cell"]:
    needed = weights != 0  # a hole elsewhere is none here
    return np.asarray(scores[:, needed] @ weights[needed])


def affordable(
    costs: Mapping[str, float],
) -> tuple[Float[Array, " budget"], list[str], Float[Array, "budget pattern"]]:
    """Which modalities a budget ends with, if they are acquired in random order while they fit.

    Args:
        costs: Modality -> cost, > 0; at least one.

    Returns:
        Budgets at which that changes, rising; all patterns (`audio+text`); and for each budget
        the chance to end with each pattern, to which nothing more can be added.
    """
    names, each = list(costs), np.array(list(costs.values()), np.float64)
    members = np.arange(2 ** len(names))[:, None] >> np.arange(len(names)) & 1
    price = np.round(members @ each, 9)  # sums in another order are the same budget
    budgets = np.unique(price[1:])
    chance = np.zeros((len(budgets), len(price)))
    chance[:, 0] = 1
    for chosen in range(len(price)):  # what is added to has the smaller number
        more = [chosen | 1 << m for m in range(len(names)) if not members[chosen, m]]
        fits = price[more][:, None] <= budgets  # (modality, budget)
        ways = fits.sum(axis=0)
        for other, fit in zip(more, fits, strict=True):
            chance[:, other] += np.where(fit, chance[:, chosen] / np.maximum(ways, 1), 0)
        chance[ways > 0, chosen] = 0
    patterns = ["+".join(n for n, has in zip(names, row, strict=True) if has) for row in members]
    return budgets, patterns[1:], chance[:, 1:]


def pooled(
    runs: Sequence[Run], records: pd.DataFrame, metric: str, score_cache: ScoreCache
) -> pd.DataFrame:
    """Score the predictions of all patterns together, for each finished run.

    Args:
        runs: Every planned run.
        records: What was read of them.
        metric: Which metric; a table without it gets nothing.
        score_cache: Where results lie that were computed before, since this reads all predictions.

    Returns:
        Rows as `degraded` returns them, for `pooled_over_patterns`.
    """
    tables: dict[Any, list[str]] = {}
    cells = records[records["metric"] == metric] if len(records) else records
    if len(cells):
        for key, table in cells.groupby(["data", "scenario"], sort=False):
            if names := pattern_names(table):
                tables[key] = names
    rows = []
    for run in runs:
        spec = run.spec
        names = tables.get((spec.data_label, spec.scenario_name), [])
        if run.state != "done" or not names:
            continue

        def make(run: Run = run, names: list[str] = names) -> list[float]:
            predictions = {n: read_scored(run, n) for n in names}
            logits = {name: arrays["logits"] for name, arrays in predictions.items()}
            target = {name: arrays["target"] for name, arrays in predictions.items()}
            kind = read_result(run.folder).task.kind
            train = predictions[names[0]].get("train")
            return [pooled_over_patterns(metric, logits, target, kind, train=train)]

        rows.append(
            {
                "data": spec.data_label,
                "scenario": spec.scenario_name,
                "method": spec.method_label,
                "variant": spec.variant,
                "fold": spec.fold,
                "seed": spec.seed,
                "metric": metric,
                "condition": f"{POOLED} {len(names)} patterns",
                "mechanism": POOLED,
                "value": score_cache([POOLED, metric, str(spec.folder)], [run], make)[0],
                "bayes": np.nan,
            }
        )
    return pd.DataFrame(rows)
