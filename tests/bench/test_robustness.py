"""What missing modalities cost, from records: by the functions of one curve, and holes kept."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest
from sweeps import specs

from mmbench.bench.leaderboard import ROBUSTNESS, render, robustness, robustness_tables, write
from mmbench.bench.record import Run, finish
from mmbench.bench.result import write_result
from mmbench.bench.robustness import affordable, degraded, pattern_names, rate_families
from mmbench.bench.score_cache import FILE, ScoreCache
from mmbench.metrics.degradation import (
    area_under_rate_curve,
    cost_of_absence,
    inequity,
    mean_over_patterns,
    pooled_over_patterns,
    slope,
    worst_pattern,
)
from mmbench.metrics.metric import metrics_for, score
from mmbench.store import write_arrays, write_json
from results import condition, result

NAMES = ("a", "t", "v")
PATTERNS = ["+".join(p) for n in (1, 2) for p in itertools.combinations(NAMES, n)]
RATES = {"complete": 0.0, "mcar_0.2": 0.2, "mcar_0.6": 0.6}
PLANNED = specs(seeds=2)  # majority and zero_fill
KIND = "single_label"


def made(spec, runs, rng, *, without=(), state="done"):
    """A run with predictions of 40 samples of three classes under rates and all patterns."""
    folder = runs / spec.folder
    (folder / "predictions").mkdir(parents=True)
    target = np.tile(np.arange(3), 14)[:40]
    conditions = {}
    for name in [*RATES, *PATTERNS]:
        if name in without:
            continue
        logits = rng.normal(size=(40, 3)).astype(np.float32) + np.eye(3, dtype=np.float32)[target]
        write_arrays(folder / "predictions" / f"{name}.npz", {"logits": logits, "target": target})
        conditions[name] = condition(
            mechanism="mcar" if name in RATES else "pattern",
            missing_rate_nominal=RATES.get(name),
            missing=0.1,
            incomplete=0.2,
            scores={m: score(m, logits, target, KIND) for m in metrics_for(KIND)},
            bayes={"accuracy": 1 - RATES.get(name, 0.5)},
            bayes_se={"accuracy": 0.01},
            n=40,
        )
    cost = {"flops_per_sample": 9.0}
    write_result(folder, result(KIND, conditions, modalities=NAMES, cost=cost))
    finish(folder, "done")
    return Run(spec, folder, state)


@pytest.fixture
def runs(tmp_path):
    rng = np.random.default_rng(0)
    return [made(spec, tmp_path, rng) for spec in PLANNED]


def scores_of(run, metric):
    words = json.loads((run.folder / "metrics.json").read_text())
    return {name: of["scores"][metric] for name, of in words["conditions"].items()}


def value(robust, measure, method="zero_fill", metric="accuracy", over=None, column="mean"):
    rows = robust[
        (robust["measure"] == measure)
        & (robust["method"] == method)
        & (robust["metric"] == metric)
        & ((robust["over"] == over) | (over is None))
    ]
    assert len(rows) == 1
    return rows.iloc[0][column]


@pytest.mark.parametrize("metric", ["accuracy", "log_loss"])
def test_every_measure_is_the_mean_over_trainings_of_its_function(runs, metric):
    robust = robustness(runs)
    assert tuple(robust.columns) == ROBUSTNESS
    better = "higher" if metric == "accuracy" else "lower"
    own = [scores_of(run, metric) for run in runs if run.spec.method == "zero_fill"]
    rates = np.array(list(RATES.values()))
    curves = [np.array([one[name] for name in RATES]) for one in own]
    shown = [{name: one[name] for name in ["complete", *PATTERNS]} for one in own]
    named = [
        {"+".join(NAMES) if name == "complete" else name: v for name, v in one.items()}
        for one in shown
    ]
    costs = [cost_of_absence(one, NAMES, better) for one in named]
    sign = 1 if better == "higher" else -1
    expected = {
        ("area_under_rate_curve", "mcar 0 to 0.6"): [
            area_under_rate_curve(rates, c) for c in curves
        ],
        ("slope", "mcar 0 to 0.6"): [slope(rates, c) for c in curves],
        ("drop_from_complete", "mcar_0.6"): [sign * (c[0] - c[-1]) for c in curves],
        ("worst_pattern", "7 patterns"): [worst_pattern(one, better)[1] for one in shown],
        ("mean_over_patterns", "7 patterns"): [mean_over_patterns(one) for one in shown],
        **{("cost_of_absence", m): [one[m] for one in costs] for m in NAMES},
        ("inequity", "3 modalities"): [inequity(one) for one in costs],
    }
    for (measure, over), values in expected.items():
        found = value(robust, measure, metric=metric, over=over)
        assert found == pytest.approx(np.mean(values)), measure
        spread = value(robust, measure, metric=metric, over=over, column="std_seeds")
        assert spread == pytest.approx(np.std(values, ddof=1)), measure


def test_the_pooled_score_is_that_of_all_predictions_and_made_for_one_metric(runs):
    robust = robustness(runs, compare="macro_f1")
    expected = []
    for run in (r for r in runs if r.spec.method == "zero_fill"):
        kept = {
            name: dict(np.load(run.folder / "predictions" / f"{name}.npz"))
            for name in ["complete", *PATTERNS]
        }
        logits = {name: arrays["logits"] for name, arrays in kept.items()}
        target = {name: arrays["target"] for name, arrays in kept.items()}
        expected.append(pooled_over_patterns("macro_f1", logits, target, KIND))
    found = value(robust, "pooled_over_patterns", metric="macro_f1")
    assert found == pytest.approx(np.mean(expected))
    assert set(robust.loc[robust["measure"] == "pooled_over_patterns", "metric"]) == {"macro_f1"}


def test_scores_are_ranked_and_differences_are_not(runs):
    robust = robustness(runs)
    ranked = robust.groupby("measure")["rank"].apply(lambda x: x.notna().all())
    assert set(ranked.index[ranked]) == {
        "area_under_rate_curve", "worst_pattern", "mean_over_patterns",
    }  # fmt: skip
    assert robust.loc[~robust["measure"].isin(ranked.index[ranked]), "rank"].isna().all()
    for metric, first in (("accuracy", max), ("log_loss", min)):
        area = {
            m: value(robust, "area_under_rate_curve", m, metric) for m in ("majority", "zero_fill")
        }
        best = first(area, key=lambda m: area[m])
        assert value(robust, "area_under_rate_curve", best, metric, column="rank") == 1


def test_the_best_possible_scores_are_measured_alike(runs):
    robust = robustness(runs)
    best = value(robust, "area_under_rate_curve", column="bayes")
    assert best == pytest.approx((0.2 * 0.9 + 0.4 * 0.6) / 0.6)
    regret = value(robust, "area_under_rate_curve", column="regret_to_bayes")
    assert regret == pytest.approx(best - value(robust, "area_under_rate_curve"))
    assert value(robust, "slope", column="bayes") == pytest.approx(-1)
    assert np.isnan(value(robust, "slope", column="regret_to_bayes"))


def test_a_missing_training_or_condition_is_a_hole_and_never_averaged(runs, tmp_path):
    lost = [*runs[:-1], Run(runs[-1].spec, runs[-1].folder, "failed", "out of memory: x")]
    robust = robustness(lost)
    assert value(robust, "worst_pattern", column="n_seeds") == 1
    assert value(robust, "worst_pattern", column="n_seeds_planned") == 2
    assert np.isnan(value(robust, "worst_pattern", column="rank"))
    assert value(robust, "worst_pattern", column="note") == "failed: out of memory: x"
    part = made(
        PLANNED[-1], tmp_path / "part", np.random.default_rng(1), without=("t+v", "mcar_0.6")
    )
    robust = robustness([*runs[:-1], part])
    for measure in ("worst_pattern", "mean_over_patterns", "area_under_rate_curve", "slope"):
        assert np.isnan(value(robust, measure)), measure
    assert np.isnan(value(robust, "cost_of_absence", over="t"))
    # v alone, a+v and so on are there: what does not need the hole keeps its value
    assert not np.isnan(value(robust, "mean_over_patterns", "majority"))
    table = robustness_tables(robust, "accuracy")["mfeat", "mcar30"]
    assert (
        table.loc["zero_fill", "worst pattern, 7 patterns"]
        != table.loc["majority", "worst pattern, 7 patterns"]
    )


def test_a_method_without_a_run_keeps_its_row(runs):
    gone = [r if r.spec.method == "majority" else Run(r.spec, r.folder, "waiting") for r in runs]
    robust = robustness(gone)
    assert np.isnan(value(robust, "worst_pattern"))
    assert value(robust, "worst_pattern", column="n_seeds") == 0


def test_nothing_to_measure_gives_no_row(tmp_path):
    assert robustness([Run(spec, tmp_path, "waiting") for spec in PLANNED]).empty
    assert degraded(pd.DataFrame()).empty


def test_families_and_patterns_are_found_by_mechanism_and_rate():
    rows = [
        ("complete", "mcar", 0.0), ("mcar_0.5", "mcar", 0.5), ("mcar_0.1", "mcar", 0.1),
        ("mnar_label_0.3_strength_2", "mnar_label", 0.3), ("a+t", "pattern", 0.3),
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["condition", "mechanism", "missing_rate_nominal"])
    assert rate_families(table) == {
        "mcar": ["complete", "mcar_0.1", "mcar_0.5"],
        "mnar_label_strength_2": ["complete", "mnar_label_0.3_strength_2"],
    }
    assert pattern_names(table) == ["complete", "a+t"]
    assert pattern_names(table[:2]) == []


def test_the_tables_are_written_beside_the_leaderboard(runs, tmp_path):
    from mmbench.bench.leaderboard import leaderboard

    board, robust = leaderboard(runs), robustness(runs)
    write(board, tmp_path, metric="accuracy", title="tiny", robust=robust)
    again = pd.read_csv(tmp_path / "robustness.csv")
    assert list(again.columns) == list(ROBUSTNESS)
    assert len(again) == len(robust)
    text = (tmp_path / "leaderboard.md").read_text()
    assert "## mfeat, mcar30: over conditions" in text
    assert "area under rate curve, mcar 0 to 0.6" in text
    assert text == render(board, "md", metric="accuracy", title="tiny", robust=robust)


# --- numbers that are kept --------------------------------------------------------------------


def test_what_is_kept_is_computed_again_only_where_a_run_changed(runs, tmp_path):
    calls = []

    def ask(score_cache, runs):
        return score_cache(["p", "x"], runs, lambda: calls.append(1) or [0.5, float("nan")])

    score_cache = ScoreCache(tmp_path)
    assert ask(score_cache, runs)[0] == 0.5
    score_cache.write()
    again = ScoreCache(tmp_path)
    np.testing.assert_array_equal(ask(again, runs), [0.5, np.nan])
    assert len(calls) == 1
    ask(again, runs[:-1])  # one run less
    assert len(calls) == 2
    again.write()
    write_json(runs[0].folder / "metrics.json", {})  # repeated
    ask(ScoreCache(tmp_path), runs[:-1])
    assert len(calls) == 3
    (tmp_path / FILE).write_text("{cut of")
    ask(ScoreCache(tmp_path), runs)
    assert len(calls) == 4


def test_kept_p_values_are_those_computed(runs, tmp_path):
    from mmbench.bench.leaderboard import leaderboard

    fresh = leaderboard(runs, compare="accuracy")
    score_cache = ScoreCache(tmp_path)
    first = leaderboard(runs, compare="accuracy", score_cache=score_cache)
    score_cache.write()
    for run in runs:  # not read again
        for file in (run.folder / "predictions").iterdir():
            file.unlink()
    second = leaderboard(runs, compare="accuracy", score_cache=ScoreCache(tmp_path))
    assert fresh["p_vs_best"].notna().any()
    pd.testing.assert_frame_equal(fresh, first)
    pd.testing.assert_frame_equal(first, second)


def test_operations_of_a_pattern_stand_in_the_rows_of_its_condition(runs):
    from mmbench.bench.record import read_records

    path = runs[0].folder / "metrics.json"
    words = json.loads(path.read_text())
    words["cost"] |= {"flops_per_pattern": {"a": 3.0, "a+t+v": 7.0}, "infer_ms_std": 0.1}
    path.write_text(json.dumps(words))
    records = read_records(runs[:1]).drop_duplicates("condition").set_index("condition")
    assert records["flops_per_sample"].loc[["a", "complete", "t", "mcar_0.2"]].tolist() == [
        3,
        7,
        9,
        9,
    ]
    assert "flops_per_pattern" not in records


def test_with_equal_costs_a_budget_ends_with_every_set_of_its_size_alike():
    budgets, patterns, chance = affordable(dict.fromkeys("abc", 0.1))
    assert budgets == pytest.approx([0.1, 0.2, 0.3])
    sizes = np.array([len(p.split("+")) for p in patterns])
    expected = [np.where(sizes == k, 1 / (sizes == k).sum(), 0) for k in (1, 2, 3)]
    assert chance == pytest.approx(np.array(expected))


def test_a_budget_is_spent_in_random_order_on_what_still_fits():
    """Against all orders, one after the other."""
    costs = {"a": 1.0, "b": 2.0, "c": 2.5, "d": 4.0}
    budgets, patterns, chance = affordable(costs)
    orders = list(itertools.permutations(costs))
    for budget, row in zip(budgets, chance, strict=True):
        ends = []
        for order in orders:
            left, chosen = budget, []
            for name in order:
                if costs[name] <= left + 1e-9:
                    left -= costs[name]
                    chosen.append(name)
            ends.append("+".join(sorted(chosen)))
        assert dict(zip(patterns, row, strict=True)) == pytest.approx(
            {p: ends.count(p) / len(orders) for p in patterns}
        )
