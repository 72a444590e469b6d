"""What the program says of a table, on runs whose truth is known."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sweeps import specs

from mmbench.bench.record import Run, read_records
from mmbench.bench.report import DASH, _compared
from mmbench.bench.result import read_result, write_result
from mmbench.bench.score_cache import ScoreCache
from mmbench.bench.statistics import Spread, difference, pooled_difference
from mmbench.bench.verdict import (
    ALL,
    EVERY,
    Verdict,
    _Group,
    _stability,
    compare,
    needed,
    power_sentence,
    spread,
    validated_elsewhere,
    verdict,
)
from mmbench.metrics.metric import score
from mmbench.store import write_arrays
from results import condition, result

SAMPLES = 400


def made(folder, shares, *, seeds=3, data=("one", "two"), jitter=0.01, metric="accuracy"):
    """Finished runs: method -> share of test samples that each training of it gets right.

    Which samples are hard is the same for all, so that methods are paired.
    """
    (spec,) = specs(methods=["majority"])
    runs = []
    for d, name in enumerate(data):
        target = np.random.default_rng(d).integers(0, 2, SAMPLES)
        hard = np.random.default_rng(10 + d).permutation(SAMPLES) / SAMPLES
        for m, (method, share) in enumerate(shares.items()):
            for seed in range(seeds):
                rng = np.random.default_rng([d, m, seed])
                right = hard < share + jitter * rng.normal()
                logits = np.eye(2)[np.where(right, target, 1 - target)].astype(np.float32)
                own = replace(spec, method=method, method_label=method, data_label=name, seed=seed)
                at = folder / own.folder
                (at / "predictions").mkdir(parents=True)
                conditions = {}
                for rate in (0.0, 0.3):
                    condition_name = f"mcar_{rate}" if rate else "complete"
                    found = score(metric, logits, target, "single_label")
                    conditions[condition_name] = condition(
                        missing_rate_nominal=rate, scores={metric: found}, n=SAMPLES
                    )
                    arrays = {"logits": logits, "target": target}
                    write_arrays(at / "predictions" / f"{condition_name}.npz", arrays)
                write_result(at, result("single_label", conditions))
                runs.append(Run(own, at, "done"))
    return runs


def said(runs, metric="accuracy"):
    return verdict(runs, read_records(runs), metric, ScoreCache(None))


def over_all(found, data):
    """Rows of one data set, over all its conditions, by method."""
    rows = found.comparisons
    return rows[(rows["data"] == data) & (rows["over"] == ALL)].set_index("method")


def test_a_better_and_a_worse_method_are_told_from_one_that_is_alike(tmp_path):
    shares = {"late_logistic": 0.7, "shaspec": 0.85, "momke": 0.701, "muse": 0.5}
    found = said(made(tmp_path, shares))
    first = found.sentences[0]
    assert first.startswith(
        "1 of 3 methods beats late_logistic, the best simple row by mean rank, beyond chance in "
        "the mean over these 2 data sets: shaspec +0.1"
    )
    assert "1 is worse beyond chance and 1 undecided" in first
    assert any(line.startswith("On single data sets") and "shaspec on one, two" in line
               for line in found.sentences)  # fmt: skip
    mean = over_all(found, EVERY)
    assert mean["gain"].to_dict() == pytest.approx(
        {"shaspec": 0.15, "momke": 0.001, "muse": -0.2}, abs=0.02
    )
    assert mean.loc["shaspec", "ci_low"] < 0.15 < mean.loc["shaspec", "ci_high"]


def test_the_reference_is_the_best_simple_row_and_plain_baselines_are_not_counted(tmp_path):
    shares = {"late_logistic": 0.6, "unimodal": 0.8, "majority": 0.5, "shaspec": 0.7}
    found = said(made(tmp_path, shares))
    assert set(found.comparisons["reference"]) == {"unimodal"}
    assert set(found.comparisons["method"]) == {"shaspec"}
    assert found.sentences[0].startswith("0 of 1 method beat unimodal")


def test_equal_methods_are_found_different_no_more_often_than_stated():
    """Trainings and samples drawn anew for both methods, a thousand times."""
    rng = np.random.default_rng(0)
    n, seeds, samples = 5, 0.02, 0.01
    found = [
        difference(rng.normal(0, seeds, n) + rng.normal(0, samples), samples**2).p
        for _ in range(1000)
    ]
    assert np.mean(np.array(found) < 0.05) == pytest.approx(0.05, abs=0.025)


def test_without_a_simple_row_that_is_said_and_a_method_with_a_hole_is_left_out(tmp_path):
    [line] = said(made(tmp_path / "a", {"shaspec": 0.8, "momke": 0.7})).sentences
    assert line.startswith("No verdict: none of the simple rows late_fusion_transformer, ")
    assert said(made(tmp_path / "c", {"late_logistic": 0.8, "majority": 0.5})).sentences == []
    runs = made(tmp_path / "b", {"late_logistic": 0.8, "shaspec": 0.7, "momke": 0.7})
    found = said([run for run in runs if (run.spec.method, run.spec.seed) != ("momke", 2)])
    assert set(found.comparisons["method"]) == {"shaspec"}
    assert found.sentences[-1] == (
        "Left out of the mean, for a hole or a data set that they do not apply to: momke."
    )


def test_a_method_that_one_data_set_leaves_untrained_is_left_out_by_name(tmp_path):
    runs = made(tmp_path, {"late_logistic": 0.6, "shaspec": 0.8, "momke": 0.7, "mce": 0.7})
    records = read_records(runs)
    most = records["method"].map({"shaspec": 2, "mce": 1}).fillna(0)  # of three trainings
    records["rising"] = (records["data"] == "two") & (records["seed"] < most)
    found = verdict(runs, records, "accuracy", ScoreCache(None))
    assert set(over_all(found, EVERY).index) == {"momke", "mce"}
    assert set(over_all(found, "two").index) == {"momke", "mce"}
    assert over_all(found, "one")["gain"].to_dict() == pytest.approx(
        {"momke": 0.1, "mce": 0.1, "shaspec": 0.2}, abs=0.03
    )
    assert found.sentences[0].startswith("2 of 2 methods beat late_logistic")
    assert "shaspec on one" in found.sentences[1]
    assert "shaspec" not in "".join(found.sentences[2:-1])
    assert found.sentences[-1] == (
        "Left out of the mean and of the data sets in brackets, since validation still rose when "
        "most trainings there ended: shaspec (two)."
    )


@pytest.mark.parametrize("made_there", [("late_logistic",), ("late_logistic", "shaspec", "momke")])
def test_a_data_set_that_a_sweep_has_only_begun_takes_no_verdict_from_the_others(
    tmp_path, made_there
):
    runs = made(tmp_path, {"late_logistic": 0.6, "shaspec": 0.8, "momke": 0.7})
    seeds = 1 if "momke" in made_there else 3
    runs = [
        run
        if run.spec.data_label == "one" or (run.spec.method in made_there and run.spec.seed < seeds)
        else replace(run, folder=tmp_path / "none", state="waiting")
        for run in runs
    ]
    found = said(runs)
    of_one = said([run for run in runs if run.spec.data_label == "one"])
    assert found.sentences == [
        *of_one.sentences,
        "Left out, since most methods do not have all trainings there yet: two.",
    ]
    assert found.comparisons.equals(of_one.comparisons)


def test_a_method_that_does_not_apply_everywhere_stands_where_it_does(tmp_path):
    runs = made(tmp_path, {"late_logistic": 0.6, "shaspec": 0.8, "gcnet": 0.7})
    hole = ("gcnet", "one")
    found = said([run for run in runs if (run.spec.method, run.spec.data_label) != hole])
    assert set(over_all(found, EVERY).index) == set(over_all(found, "one").index) == {"shaspec"}
    assert over_all(found, "two").loc["gcnet", "gain"] == pytest.approx(0.1, abs=0.03)
    [table, *_] = _compared(found.comparisons)
    [row] = [row for row in table[2] if row[0] == "gcnet"]
    assert row[:4] == ["gcnet", DASH, DASH, DASH]
    assert row[4].startswith("+0.1")


def test_a_seed_that_no_method_has_yet_is_no_hole(tmp_path):
    shares = {"late_logistic": 0.7, "shaspec": 0.85}
    runs = made(tmp_path, shares)
    planned = [
        replace(run, spec=replace(run.spec, seed=3), folder=tmp_path / "none", state="waiting")
        for run in runs
        if run.spec.seed == 0
    ]
    assert said([*runs, *planned]).sentences == said(runs).sentences


def test_one_seed_cannot_tell_chance_from_merit(tmp_path):
    found = said(made(tmp_path, {"late_logistic": 0.6, "shaspec": 0.9}, seeds=1))
    assert len(found.sentences) == 1
    assert "1 method stands beside late_logistic" in found.sentences[0]
    assert "Take at least three seeds" in found.sentences[0]


def test_the_error_over_samples_is_that_of_paired_counts(tmp_path):
    """McNemar: the variance of a paired difference of accuracies rests on discordant samples."""
    runs = made(tmp_path, {"late_logistic": 0.6, "shaspec": 0.8}, seeds=2, data=("one",), jitter=0)
    found = over_all(said(runs), "one").iloc[0]
    share = 0.2  # of samples that one gets right and the other does not
    assert found["se_samples"] == pytest.approx(np.sqrt(share * (1 - share) / SAMPLES), rel=0.15)
    assert found["se_seeds"] == 0


def test_a_difference_without_noise_over_samples_is_students():
    paired = np.array([0.1, 0.3, 0.2, 0.4])
    found = difference(paired, 0.0)
    assert found.p == pytest.approx(stats.ttest_1samp(paired, 0).pvalue)
    interval = stats.ttest_1samp(paired, 0).confidence_interval()
    assert found.interval() == pytest.approx((interval.low, interval.high))
    both = pooled_difference([found, found])
    assert both.gain == pytest.approx(found.gain)
    assert both.error == pytest.approx(found.error / np.sqrt(2))
    assert both.dof == pytest.approx(2 * found.dof)
    assert np.isnan(difference(paired[:1], 0.1).p)


@pytest.mark.parametrize(("seeds", "sets"), [(2, 1), (3, 2), (5, 4)])
def test_the_power_is_that_of_simulated_tables(seeds, sets):
    """Tables drawn a thousand times and judged as the verdict judges them."""
    typical, rng = Spread(seeds=4e-4, samples=1e-4), np.random.default_rng(0)
    gain = typical.error(seeds, sets) * 3

    def table():
        over = rng.normal(0, 0.01, sets)
        return [
            difference(gain + one + rng.normal(0, 0.02, seeds), typical.samples) for one in over
        ]

    judged = [pooled_difference(table()) for _ in range(1000)]
    share = np.mean([one.p < 0.05 and one.gain > 0 for one in judged])
    assert typical.power(gain, seeds, sets) == pytest.approx(share, abs=0.05)


def test_two_trainings_find_far_less_than_a_normal_test_would():
    typical = Spread(seeds=4e-4, samples=0.0)
    assert typical.detectable(2, 1) > 5 * 2.8 * typical.error(2, 1)
    assert typical.detectable(100, 1) == pytest.approx(2.8 * typical.error(100, 1), rel=0.03)
    assert typical.power(1.0, 1, 5) == 0
    assert np.isinf(typical.detectable(1, 5))
    assert typical.data_sets_needed(0.1, 1) is None


def test_what_is_needed_is_enough_and_one_less_is_not():
    typical = Spread(seeds=4e-4, samples=1e-4)
    seeds = typical.seeds_needed(0.02, 3)
    assert typical.power(0.02, seeds, 3) >= 0.8 > typical.power(0.02, seeds - 1, 3)
    sets = typical.data_sets_needed(0.02, 3)
    assert typical.power(0.02, 3, sets) >= 0.8 > typical.power(0.02, 3, sets - 1)
    assert typical.seeds_needed(0.005, 3) is None, "the samples alone blur more than that"
    assert typical.power(typical.detectable(3, 2), 3, 2) == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("seeds", "sets", "words"),
    [
        (1, 2, "One training of each method finds no difference beyond chance"),
        (2, 1, "2 trainings of each method on one data set find a difference in accuracy of 0.02"),
        (3, 2, "3 trainings of each method on each of 2 data sets find a difference"),
    ],
)
def test_the_sentence_on_power_fits_the_size_of_the_table(seeds, sets, words):
    assert power_sentence(Spread(4e-4, 1e-4), "accuracy", seeds, sets, 0.02).startswith(words)


def test_what_would_be_enough_is_said_of_seeds_and_of_data_sets():
    blurred = Spread(seeds=4e-4, samples=1e-4)
    assert needed(blurred, 0.0, 3, 2) == "no number of seeds or data sets tells equals apart"
    assert needed(blurred, 0.02, 3, 1) == (
        "no number of seeds on these test splits tells it in 80 % of cases, but 5 data sets like "
        "these do"
    )
    assert needed(blurred, 0.06, 3, 1).endswith("; so does 1 data set like these")
    assert needed(Spread(4e-4, 0.0), 0.02, 1, 1) == (
        "10 trainings of each on that data set tell it in 80 % of cases; of 1 training each, no "
        "number of data sets does"
    )


def test_one_data_set_two_seeds_and_folds_are_called_what_they_are(tmp_path):
    shares = {"late_logistic": 0.7, "shaspec": 0.6, "momke": 0.65}
    runs = made(tmp_path, shares, seeds=2, data=("one",))
    sentences = said(runs).sentences
    text = " ".join(sentences)
    assert "beyond chance on one;" in sentences[0]
    assert "On single data sets" not in text
    assert "No method is ahead of late_logistic in the mean; momke comes nearest: -0.0" in text
    assert "2 trainings of each method on one data set find" in text
    assert sentences[-1] == "This is one data set: of others the table says nothing."
    assert "Folds count" not in text
    folds = [replace(run, spec=replace(run.spec, fold=run.spec.seed, seed=0)) for run in runs]
    assert "Folds count here as trainings of their own" in said(folds).sentences[-1]


def test_of_an_error_less_is_better_and_what_a_gain_is_is_said(tmp_path):
    runs = made(tmp_path, {"late_logistic": 0.7, "shaspec": 0.85}, metric="brier")
    found = said(runs, "brier")
    assert found.sentences[0].startswith("1 of 1 method beats late_logistic")
    assert "brier, of which less is better: a gain is a fall" in found.sentences[0]
    assert "0.02 in" not in " ".join(found.sentences), "an error has a unit"
    assert over_all(found, EVERY).loc["shaspec", "gain"] == pytest.approx(0.16, abs=0.04)


def test_methods_that_tie_are_undecided_and_nothing_is_needed_to_tell_them_apart(tmp_path):
    shares = {"late_logistic": 0.7, "shaspec": 0.7, "momke": 0.7}
    sentences = said(made(tmp_path, shares, jitter=0)).sentences
    assert sentences[0].startswith("0 of 2 methods beat late_logistic")
    assert "0 are worse beyond chance and 2 undecided" in sentences[0]
    text = " ".join(sentences)
    assert "No method is ahead of late_logistic in the mean" in text
    assert "if that is the truth, no number of seeds or data sets tells equals apart" in text


def test_a_data_set_without_the_metric_is_named(tmp_path):
    runs = made(tmp_path, {"late_logistic": 0.6, "shaspec": 0.8})
    records = read_records(runs)
    records.loc[records["data"] == "two", "metric"] = "mse"
    found = verdict(runs, records, "accuracy", ScoreCache(None))
    assert found.sentences[-1] == "Left out, since accuracy is not defined there: two."


def test_typical_variances_come_back_from_a_table(tmp_path):
    found = said(made(tmp_path, {"late_logistic": 0.6, "shaspec": 0.8, "momke": 0.7}, seeds=8))
    typical = spread(found.comparisons)
    assert typical.seeds == pytest.approx(2 * 0.01**2, rel=0.6)
    assert typical.samples == pytest.approx(0.15 * 0.85 / SAMPLES, rel=0.6)
    assert spread(found.comparisons.assign(se_seeds=np.nan)) is None


def test_the_order_at_the_lowest_rate_is_compared_with_that_at_the_highest(
    tmp_path,
):
    shares = {"late_logistic": 0.6, "shaspec": 0.9, "momke": 0.75}
    sentences = said(made(tmp_path, shares)).sentences
    [line] = [one for one in sentences if "Kendall's tau" in one]
    assert line == (
        "The order of the methods at rate 0 and at rate 0.3 agrees by a Kendall's tau of 1.00 (1 = "
        "the same; mean over 2 data sets), and the same method is best on 2 of 2."
    )
    up, down = (
        _Group(pd.DataFrame([scores, scores]), pd.DataFrame(np.eye(3)))
        for scores in ([0.1, 0.2, 0.3], [3, 2, 1.0])
    )
    [line] = _stability({"d": {ALL: up, "patterns": up, "rate 0": up, "rate 0.65": down}})
    assert "tau of -1.00" in line
    assert "best on 0 of 1" in line
    assert _stability({"d": {ALL: up, "patterns": up, "rate 0": up}}) == []


def test_methods_of_any_variant_are_compared_with_the_first_where_none_has_a_hole(tmp_path):
    runs = made(tmp_path, {"a": 0.8, "b": 0.6})
    runs = [run for run in runs if (run.spec.method, run.spec.data_label) != ("b", "two")]
    found = compare(runs, read_records(runs), ["a", "b"], "accuracy", ScoreCache(None))
    assert set(found["data"]) == {"one", EVERY}
    assert over_all(Verdict([], found), "one").loc["b", "gain"] == pytest.approx(-0.2, abs=0.03)
    runs = [run for run in runs if run.spec.method == "a"]
    nowhere = compare(runs, read_records(runs), ["a", "b"], "accuracy", ScoreCache(None))
    assert nowhere.empty
    assert list(nowhere.columns) == list(found.columns)


@pytest.mark.parametrize(("validation", "named"), [(0.95, True), (0.6, False), (0.3, False)])
def test_a_data_set_that_is_easier_to_validate_on_than_to_test_on_is_named(
    tmp_path, validation, named
):
    runs = made(tmp_path, {"majority": 0.5, "zero_fill": 0.52}, data=("one",))
    for run in runs:
        made_of = read_result(run.folder)
        selected = replace(made_of.selected, score=validation)
        write_result(run.folder, replace(made_of, selected=selected))
    lacks = {"mechanism": "mcar", "missing_rate": 0.3}
    scenario = {"name": "some", "train": lacks, "test": [lacks]}
    runs = [replace(run, spec=replace(run.spec, scenario=scenario)) for run in runs]
    records = read_records(runs)
    alike = (records["missing_rate_nominal"] == 0.3) & (records["metric"] == "accuracy")
    assert list(records["validation"].notna()) == list(alike)
    said = validated_elsewhere(records, "accuracy")
    assert [one.partition(",")[0] for one in said] == (["On one"] if named else [])
    assert not named or "0.44 higher on validation" in said[0], said
    assert not validated_elsewhere(records, "macro_f1")  # of which nothing was selected
