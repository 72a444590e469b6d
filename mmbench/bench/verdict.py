"""What a table says, in sentences that rest on its statistics alone.

Every method is compared with one simple row, the best of them by mean rank, on each data set: the
mean difference over all test conditions, its error over seeds (paired by fold and seed) and over
test samples (bootstrap), p adjusted by Holm. The mean over data sets is of those methods alone that
finished training on each of them; on a data set a method stands wherever it finished there. What
holds of these data sets need not hold of others.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from mmbench.bench.record import Run, is_bootstrapped
from mmbench.bench.resampling import resampled
from mmbench.bench.score_cache import ScoreCache
from mmbench.bench.statistics import (
    POWER,
    Array,
    Spread,
    difference,
    holm,
    mean_ranks,
    pooled_difference,
    rank_stability,
)
from mmbench.metrics.metric import higher_is_better

FILE = "comparisons.csv"  # beside the leaderboard
SIMPLE = ("late_fusion_transformer", "late_logistic", "hist_gradient_boosting", "unimodal")
# baselines that no verdict is about
PLAIN = (
    "backbone_alone", "best_single_modality", "complete_case", "ensemble_unimodal", "logistic",
    "majority", "mean_fusion", "modality_dropout", "neighbour_vote", "random_forest", "tabpfn",
    "zero_fill",
)  # fmt: skip
ALL = "all conditions"
PATTERNS = "patterns"
RATE = "rate "  # begins the name of a group of conditions
EVERY = "all data sets"
CHANCE = 0.05
EASIER = 0.15  # of such a score: validation further above test is of another kind
ASKED = 0.02  # of a score between 0 and 1: what a table had better be able to find
RESAMPLES = 200  # for a variance to about 10 %
COLUMNS = (
    "data", "over", "method", "reference", "metric", "gain", "ci_low", "ci_high", "se_seeds",
    "se_samples", "n_trainings", "p",
)  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """What a table says.

    Args:
        sentences: For people, in order.
        comparisons: One row for each data set, group of conditions and method: `gain` over the
            reference (> 0 is better), its interval and `p` over seeds and samples together, the
            two standard errors apart; `p` is adjusted for the number of tests of its kind.
    """

    sentences: list[str]
    comparisons: pd.DataFrame


@dataclass(frozen=True)
class _Group:
    """Conditions of one data set that go together.

    Args:
        scores: A row each training, a column each method.
        covariance: Of their mean over trainings, by samples: methods by methods.
    """

    scores: pd.DataFrame
    covariance: pd.DataFrame


def verdict(
    runs: Sequence[Run], records: pd.DataFrame, metric: str, score_cache: ScoreCache
) -> Verdict:
    """Compare all methods with the best simple row, and say what came of it.

    Args:
        runs: Every planned run.
        records: What was read of them.
        metric: What they are compared by; data sets without it are left out.
        score_cache: Where variances lie that were computed before.

    Returns:
        Why there is nothing to say where there is no simple row without a hole; nothing at all
        where no method is compared with one.
    """
    rows_of_metric = records
    if len(records):
        rows_of_metric = records[(records["metric"] == metric) & (records["variant"] == "paper")]
    if rows_of_metric.empty or all(run.spec.method in (*SIMPLE, *PLAIN) for run in runs):
        return _without([])
    if not is_bootstrapped(metric):
        return _without(
            [f"No verdict: chance over test samples is not known of {metric}; choose another."]
        )
    kinds = {run.spec.method_label: run.spec.method for run in runs}
    all_tables = _tables(rows_of_metric)
    growing = _growing(all_tables, runs)
    tables = {data: table for data, table in all_tables.items() if data not in growing}
    early = ended_early(rows_of_metric[rows_of_metric["data"].isin(list(tables))])
    whole = [
        name
        for name in kinds
        if all(name in t.columns for t in tables.values()) and name not in early
    ]
    left_out = [name for name, of in kinds.items() if of not in PLAIN and name not in whole]
    simple = [name for name in whole if kinds[name] in SIMPLE]
    others = [name for name, of in kinds.items() if of not in (*SIMPLE, *PLAIN)]
    compared = [name for name in others if name in whole]
    if not simple or not compared:
        who = f"none of the simple rows {', '.join(SIMPLE)}" if not simple else "no other method"
        return _without(
            [
                f"No verdict: {who} has all trainings under all conditions of each data set, with "
                "validation at rest when they ended. With one it says who beats it beyond chance."
            ]
        )
    sign = 1.0 if higher_is_better(metric) else -1.0
    means = np.array([[sign * table[name].mean() for name in simple] for table in tables.values()])
    reference = simple[int(np.argmin(mean_ranks(means, "higher")))]
    names = {
        data: [
            reference,
            *(name for name in others if name in table and data not in early.get(name, ())),
        ]
        for data, table in tables.items()
    }
    groups = {
        data: _groups(data, table[names[data]] * sign, rows_of_metric, runs, metric, score_cache)
        for data, table in tables.items()
    }
    comparisons = pd.DataFrame(_compared(groups, reference, metric), columns=list(COLUMNS))
    for _, part in comparisons.groupby([comparisons["data"] == EVERY, comparisons["over"] == ALL]):
        comparisons.loc[part.index, "p"] = holm(part["p"].to_numpy(float))
    said = _sentences(comparisons, groups, [reference, *compared], metric)
    if len({fold for table in tables.values() for fold in table.index.unique("fold")}) > 1:
        said.append(
            "Folds count here as trainings of their own, though they share training samples: "
            "true errors are somewhat larger than these."
        )
    untrained = [f"{name} ({', '.join(early[name])})" for name in left_out if name in early]
    if untrained:
        said.append(
            "Left out of the mean and of the data sets in brackets, since validation still rose "
            f"when most trainings there ended: {', '.join(untrained)}."
        )
    holes = [name for name in left_out if name not in early]
    if holes:
        said.append(
            "Left out of the mean, for a hole or a data set that they do not apply to: "
            f"{', '.join(holes)}."
        )
    if growing:
        said.append(
            "Left out, since most methods do not have all trainings there yet: "
            f"{', '.join(growing)}."
        )
    without_metric = [str(d) for d in dict.fromkeys(records["data"]) if str(d) not in all_tables]
    if without_metric:
        said.append(f"Left out, since {metric} is not defined there: {', '.join(without_metric)}.")
    return Verdict(said, comparisons)


def validated_elsewhere(records: pd.DataFrame, metric: str) -> list[str]:
    """A sentence for each data set whose validation samples are far easier than its test samples.

    Epochs and settings are then chosen by what says little of the test: parts of another time or
    place, or features that were made with the labels of validation. Of scores between 0 and 1, in
    the median over trainings, which all share the test samples.
    """
    if records.empty or not higher_is_better(metric):
        return []
    said = []
    both = records[(records["metric"] == metric) & records["validation"].notna()]
    for name, part in both.groupby("data", sort=False):
        above = float((part["validation"] - part["value"]).median())
        # the best of many epochs and settings is a little above as well
        if above > max(EASIER, 3 * float(np.sqrt(0.5 / part["effective_n"].median()))):
            said.append(
                f"On {name}, {metric} is {above:.2f} higher on validation than on test, where as "
                f"much is missing (median of {_counted(len(part), 'training')}): what epochs and "
                "settings were chosen on is unlike what is scored. See how the data were split, "
                "and whether their features were made with labels."
            )
    return said


def _without(sentences: list[str]) -> Verdict:
    """No comparisons, and why."""
    return Verdict(sentences, pd.DataFrame(columns=list(COLUMNS)))


def ended_early(records: pd.DataFrame) -> dict[str, list[str]]:
    """Method -> data sets on which most of its trainings ended while validation still rose.

    One is enough to leave a method out of the mean over data sets, and says nothing of the others.
    """
    share = records.groupby(["method", "data", "scenario"], sort=False)["rising"].mean()
    early: dict[str, list[str]] = {}
    for method, data in dict.fromkeys((m, d) for m, d, _ in share.index[share > 0.5]):
        early.setdefault(str(method), []).append(str(data))
    return early


def compare(
    runs: Sequence[Run],
    records: pd.DataFrame,
    names: Sequence[str],
    metric: str,
    score_cache: ScoreCache,
) -> pd.DataFrame:
    """Methods, in whatever variant, against the first of them, where none of them has a hole.

    Args:
        runs: Every planned run.
        records: What was read of them.
        names: The reference, then at least one other.
        metric: What they are compared by.
        score_cache: Where variances lie that were computed before.

    Returns:
        As `Verdict.comparisons`, but `p` is not adjusted; no rows where there are no data.
    """
    rows = records[(records["metric"] == metric) & records["method"].isin(names)]
    sign = 1.0 if higher_is_better(metric) else -1.0
    groups = {
        data: _groups(data, table[list(names)] * sign, rows, runs, metric, score_cache)
        for data, table in _tables(rows).items()
        if set(names) <= set(table.columns)
    }
    return pd.DataFrame(_compared(groups, names[0], metric), columns=list(COLUMNS))


def _tables(records: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Data set -> scores, a row each condition and training; methods with a hole are left out."""
    tables = {}
    for data, part in records.groupby("data", sort=False):
        wide = part.pivot(
            index=["scenario", "condition", "fold", "seed"], columns="method", values="value"
        )
        tables[str(data)] = wide.dropna(axis=1)
    return tables


def _growing(tables: Mapping[str, pd.DataFrame], runs: Sequence[Run]) -> list[str]:
    """Data sets that a sweep has only begun, beside others of which it has more.

    There most methods that apply lack a training that others have, or each has only one.
    """
    begun = []
    for data, table in tables.items():
        here = {
            run.spec.method_label
            for run in runs
            if run.spec.data_label == data and run.state != "skipped"
        }
        seeds = table.reset_index()[["fold", "seed"]].drop_duplicates()
        if 2 * len(here & set(table.columns)) < len(here) or len(seeds) < 2:
            begun.append(data)
    return begun if len(begun) < len(tables) else []


def _over(records: pd.DataFrame, data: str) -> dict[tuple[str, str], str]:
    """(scenario, condition) -> the group that it belongs to besides `ALL`."""
    first = records[records["data"] == data].drop_duplicates(["scenario", "condition"])
    groups: dict[tuple[str, str], str] = {}
    row: Any
    for row in first.itertuples():
        if row.mechanism == "pattern":
            group = PATTERNS
        elif pd.isna(row.missing_rate_nominal):
            group = str(row.condition)
        else:
            group = f"{RATE}{row.missing_rate_nominal:g}"
        groups[row.scenario, row.condition] = group
    return groups


def _groups(
    data: str,
    table: pd.DataFrame,
    records: pd.DataFrame,
    runs: Sequence[Run],
    metric: str,
    score_cache: ScoreCache,
) -> dict[str, _Group]:
    over = _over(records, data)
    names = [ALL, *sorted(set(over.values()))]
    conditions = {
        name: [pair for pair, group in over.items() if name in (ALL, group)] for name in names
    }
    methods = [str(name) for name in table.columns]
    here = [
        run
        for run in runs
        if run.state == "done"  # a seed, or a fold, that no method has yet is no hole of one
        and run.spec.data_label == data
        and run.spec.method_label in methods
    ]

    def make() -> list[float]:
        by_scenario: dict[str, list[Run]] = {}
        for run in here:
            by_scenario.setdefault(run.spec.scenario_name, []).append(run)
        scores = {
            (scenario, condition): resampled(
                by_scenario[scenario], methods, condition, metric, resamples=RESAMPLES
            )
            for scenario, condition in over
        }
        variances = []
        for name in names:
            mean = np.mean([scores[pair] for pair in conditions[name]], axis=0)
            variances.append(np.cov(mean))
        return [float(value) for value in np.ravel(variances)]

    cached = score_cache(["covariance", metric, data, *methods], here, make)
    shape = (len(names), len(methods), len(methods))
    by_condition = table.groupby(level=["scenario", "condition"], sort=False)
    parts = {pair: part.droplevel(["scenario", "condition"]) for pair, part in by_condition}
    return {
        name: _Group(
            pd.DataFrame(
                np.mean(
                    [parts[pair].sort_index().to_numpy(float) for pair in conditions[name]], axis=0
                ),
                columns=methods,
            ),
            pd.DataFrame(covariance, index=methods, columns=methods),
        )
        for name, covariance in zip(names, np.reshape(cached, shape), strict=True)
    }


def _paired(group: _Group, one: str, other: str) -> tuple[Float[Array, " training"], float]:
    """Difference of each pair of trainings, and variance of their mean over test samples."""
    of_both = group.covariance.loc[[one, other], [one, other]].to_numpy()
    over_samples = max(0.0, float(of_both.trace() - 2 * of_both[0, 1]))
    return (group.scores[one] - group.scores[other]).to_numpy(), over_samples


def _compared(
    groups: Mapping[str, Mapping[str, _Group]], reference: str, metric: str
) -> Iterator[tuple[Any, ...]]:
    """Rows of `COLUMNS`: each method against the reference, p not adjusted yet.

    Over all data sets only those are compared that stand on each.
    """
    overs = list(dict.fromkeys(over for group in groups.values() for over in group))
    names = {data: list(group[ALL].scores.columns) for data, group in groups.items()}
    methods = dict.fromkeys(name for part in names.values() for name in part if name != reference)
    for over in overs:
        for method in methods:
            parts = {}
            for data, group in groups.items():
                if over not in group or method not in names[data]:
                    continue
                paired, over_samples = _paired(group[over], method, reference)
                parts[data] = result = difference(paired, over_samples)
                n = len(paired)
                seeds = float(np.std(paired, ddof=1) / np.sqrt(n)) if n > 1 else np.nan
                yield (
                    data, over, method, reference, metric, result.gain, *result.interval(),
                    seeds, np.sqrt(over_samples), n, result.p,
                )  # fmt: skip
            if all(method in part for part in names.values()):
                mean = pooled_difference(list(parts.values()))
                yield (
                    EVERY, over, method, reference, metric, mean.gain, *mean.interval(),
                    np.nan, np.nan, len(parts), mean.p,
                )  # fmt: skip


def spread(comparisons: pd.DataFrame) -> Spread | None:
    """Typical variances of a comparison; None where no data set has two trainings of two methods.

    Args:
        comparisons: From `verdict`, or read back from its file.
    """
    means = comparisons[(comparisons["over"] == ALL) & (comparisons["data"] != EVERY)]
    means = means.dropna(subset=["se_seeds", "se_samples"])
    if means.empty:
        return None
    seeds = (means["se_seeds"] ** 2 * means["n_trainings"]).groupby(means["data"]).median().mean()
    samples = (means["se_samples"] ** 2).groupby(means["data"]).median().mean()
    return Spread(float(seeds), float(samples))


# --- sentences --------------------------------------------------------------------------------


def _sentences(
    comparisons: pd.DataFrame,
    groups: Mapping[str, Mapping[str, _Group]],
    names: Sequence[str],
    metric: str,
) -> list[str]:
    reference, n, sets = names[0], len(names) - 1, len(groups)
    trainings = min(len(group[ALL].scores) for group in groups.values())
    mean = comparisons[(comparisons["data"] == EVERY) & (comparisons["over"] == ALL)]
    mean = mean.sort_values("gain", ascending=False)
    if trainings < 2:
        return [
            f"One training of each method cannot tell chance from merit: "
            f"{_counted(n, 'method')} {'stands' if n == 1 else 'stand'} beside {reference}, the "
            "best simple row, and nothing is said of their order. Take at least three seeds; how "
            "many are enough can be computed once there are two."
        ]
    better, worse = (mean[(mean["p"] < CHANCE) & (mean["gain"] * s > 0)] for s in (1, -1))
    undecided = mean[mean["p"] >= CHANCE]
    on = f"on {next(iter(groups))}" if sets == 1 else f"in the mean over these {sets} data sets"
    direction = "" if higher_is_better(metric) else ", of which less is better: a gain is a fall"
    said = [
        f"{len(better)} of {_counted(n, 'method')} {'beats' if len(better) == 1 else 'beat'} "
        f"{reference}, the best simple row by mean rank, beyond chance {on}"
        f"{': ' + _gains(better) if len(better) else ''}; {len(worse)} "
        f"{'is' if len(worse) == 1 else 'are'} worse beyond chance and {len(undecided)} undecided "
        f"({metric}{direction}; p below {CHANCE} after Holm, over seeds and test samples together)."
    ]
    single = comparisons[(comparisons["data"] != EVERY) & (comparisons["over"] == ALL)]
    if sets > 1:
        said.append(_where(single, "data", f"On single data sets (of {sets})", reference))
    rates = comparisons[(comparisons["data"] == EVERY) & (comparisons["over"] != ALL)]
    if len(set(rates["over"])) > 1:
        said.append(_where(rates, "over", "At single missing rates and on patterns", reference))
    said.append(_largest(mean, reference))
    if len(alike := _alike(groups, names)) > 1:
        said.append(f"Not to be told apart from the best in the mean: {', '.join(alike)}.")
    said += _stability(groups)
    typical = spread(comparisons)
    if typical is not None:
        said.append(power_sentence(typical, metric, trainings, sets, _meaningful(metric)))
        if len(undecided):
            nearest = float(undecided["gain"].abs().median())
            one = len(undecided) == 1
            said.append(
                f"The {_counted(len(undecided), 'method')} undecided here "
                f"{'differs' if one else 'differ'} from {reference} by {nearest:.3f}"
                f"{'' if one else ' in the median'}; if that is the truth, "
                f"{needed(typical, nearest, trainings, sets)}."
            )
    if sets == 1:
        said.append("This is one data set: of others the table says nothing.")
    return said


def _meaningful(metric: str) -> float | None:
    """The difference that a table had better find; None for errors, which have a unit."""
    return ASKED if higher_is_better(metric) else None


def _largest(mean: pd.DataFrame, reference: str) -> str:
    """Who is furthest ahead of the reference, or least behind; `mean` with the best first."""
    top = mean.iloc[0]
    median = f"; the median method is at {mean['gain'].median():+.3f}" if len(mean) > 1 else ""
    if top["gain"] > 0:
        return (
            f"The largest mean gain over {reference} is that of {top['method']}: "
            f"{_gain(top)}{median}."
        )
    return (
        f"No method is ahead of {reference} in the mean; {top['method']} comes nearest: "
        f"{_gain(top)}{median}."
    )


def power_sentence(
    typical: Spread, metric: str, trainings: int, data_sets: int, gain: float | None
) -> str:
    """How likely a difference of two methods is found; `trainings` are those of each data set."""
    if trainings < 2:
        return (
            "One training of each method finds no difference beyond chance, however large: how "
            "much another seed changes is not known from it. Take at least two, better three."
        )
    of_that = ""
    if gain is not None:
        chance = typical.power(gain, trainings, data_sets)
        of_that = f"of {gain:.3g} in {100 * chance:.0f} % of cases, one "
    sets = "one data set" if data_sets == 1 else f"each of {data_sets} data sets"
    return (
        f"{trainings} trainings of each method on {sets} find a difference in {metric} {of_that}"
        f"of {typical.detectable(trainings, data_sets):.3g} in {100 * POWER:.0f} % (two methods "
        "alone; adjusted for many, less often)."
    )


def needed(typical: Spread, gain: float, trainings: int, data_sets: int) -> str:
    """How many trainings, or how many data sets, would find a difference in 80 % of cases."""
    if gain <= 0:
        return "no number of seeds or data sets tells equals apart"
    seeds = typical.seeds_needed(gain, data_sets)
    more = typical.data_sets_needed(gain, trainings)
    where = "that data set" if data_sets == 1 else "each data set"
    by_seeds = (
        "no number of seeds on these test splits tells it in 80 % of cases"
        if seeds is None
        else f"{_counted(seeds, 'training')} of each on {where} tell it in 80 % of cases"
    )
    if more is None:
        return f"{by_seeds}; of {_counted(trainings, 'training')} each, no number of data sets does"
    do = "does" if more == 1 else "do"
    if seeds is None:
        return f"{by_seeds}, but {_counted(more, 'data set')} like these {do}"
    return f"{by_seeds}; so {do} {_counted(more, 'data set')} like these"


def _alike(groups: Mapping[str, Mapping[str, _Group]], names: Sequence[str]) -> list[str]:
    """The best in the mean, and all that do not differ from it beyond chance."""
    means = np.mean([group[ALL].scores[list(names)].mean() for group in groups.values()], axis=0)
    best = names[int(np.argmax(means))]
    others = [name for name in names if name != best]
    p = [
        pooled_difference([difference(*_paired(g[ALL], name, best)) for g in groups.values()]).p
        for name in others
    ]
    return [best, *(name for name, of in zip(others, holm(np.array(p)), strict=True)
                    if of >= CHANCE)]  # fmt: skip


def _stability(groups: Mapping[str, Mapping[str, _Group]]) -> list[str]:
    """How alike the order of the methods is at the lowest and at the highest missing rate."""
    taus, same, ends = [], 0, set()
    for group in groups.values():
        rates = sorted((name for name in group if name.startswith(RATE)), key=_rate)
        if len(rates) < 2:
            continue
        low, high = (group[name].scores.mean().to_numpy() for name in (rates[0], rates[-1]))
        ends.add((rates[0], rates[-1]))
        tau = rank_stability(np.stack([low, high]), "higher")[0, 1]
        if not np.isnan(tau):
            taus.append(tau)
            same += int(np.argmax(low) == np.argmax(high))
    if not taus:
        return []
    where = " and at ".join(ends.pop()) if len(ends) == 1 else "the lowest and at the highest rate"
    return [
        f"The order of the methods at {where} agrees by a Kendall's tau of {np.mean(taus):.2f} "
        f"(1 = the same; mean over {_counted(len(taus), 'data set')}), and the same method is best "
        f"on {same} of {len(taus)}."
    ]


def _rate(group: str) -> float:
    return float(group.removeprefix(RATE))


def _where(rows: pd.DataFrame, column: str, heading: str, reference: str) -> str:
    won = rows[(rows["p"] < CHANCE) & (rows["gain"] > 0)]
    if won.empty:
        return f"{heading}, no method beats {reference} beyond chance."
    places = [
        f"{method} {'on' if column == 'data' else 'at'} {', '.join(map(str, part[column]))}"
        for method, part in won.groupby("method", sort=False)
    ]
    return f"{heading}, beyond chance: {'; '.join(places)}."


def _gains(rows: pd.DataFrame) -> str:
    return ", ".join(f"{row['method']} {_gain(row)}" for _, row in rows.iterrows())


def _gain(row: "pd.Series[Any]") -> str:
    return f"{row['gain']:+.3f} [{row['ci_low']:+.3f}, {row['ci_high']:+.3f}]"


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
