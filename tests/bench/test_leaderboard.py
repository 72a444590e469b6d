"""From records to a table: numbers by hand, and holes that stay holes."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sweeps import specs

from mmbench.bench.compare import changes, read_board
from mmbench.bench.leaderboard import COLUMNS, leaderboard, render, tables, write
from mmbench.bench.record import Run, finish
from mmbench.bench.result import write_result
from mmbench.metrics.metric import metrics_for
from mmbench.store import write_arrays, write_json
from results import condition, result

ALL_REGRESSION = dict.fromkeys(metrics_for("regression"), 0.0)
PLANNED = specs(seeds=3)  # majority and zero_fill, seeds 0 to 2


def record(
    spec,
    runs,
    values,
    *,
    bayes=0.9,
    code="0.1-abc",
    samples="same",
    sources=None,
    machine="one",
    rising=False,
    last="mcar_0.3",
):
    """Write a finished run whose accuracy under each condition is given."""
    folder = runs / spec.folder
    folder.mkdir(parents=True)
    conditions = {
        name: condition(
            missing=rate + 0.01,
            incomplete=2 * rate,
            missing_rate_nominal=rate,
            scores={"accuracy": value, **ALL_REGRESSION},
            bayes={"accuracy": bayes},
            bayes_se={"accuracy": 0.01},
            samples=samples,
        )
        for (name, rate), value in zip((("complete", 0.0), (last, 0.3)), values, strict=True)
    }
    made = {"sources": sources or {"mmbench.method": "a"}, "machine": machine, "code": code}
    # of the kind with few metrics, all of them given above
    write_result(folder, result("regression", conditions, rising=rising, **made))
    finish(folder, "done")
    return Run(spec, folder, "done")


@pytest.fixture
def runs(tmp_path):
    """Majority .1 thrice; zero_fill .8 .7 .6 complete, .5 .5 .5 at 30 %."""
    found = []
    for spec in PLANNED:
        values = (0.1, 0.1) if spec.method == "majority" else (0.8 - 0.1 * spec.seed, 0.5)
        found.append(record(spec, tmp_path, values))
    return found


def cell(board, method, condition, metric="accuracy"):
    rows = board[
        (board["method"] == method)
        & (board["condition"] == condition)
        & (board["metric"] == metric)
    ]
    assert len(rows) == 1
    return rows.iloc[0]


def test_numbers_are_those_worked_by_hand(runs):
    board = leaderboard(runs)
    assert tuple(board.columns) == COLUMNS
    row = cell(board, "zero_fill", "complete")
    assert row["mean"] == pytest.approx(0.7)
    assert row["std_seeds"] == pytest.approx(0.1)
    half = 4.302652729911275 * 0.1 / np.sqrt(3)  # t quantile with 2 degrees of freedom
    assert row["ci_low"] == pytest.approx(0.7 - half)
    assert row["ci_high"] == pytest.approx(0.7 + half)
    assert (row["n_seeds"], row["n_seeds_planned"], row["rank"]) == (3, 3, 1)
    assert row["regret_to_bayes"] == pytest.approx(0.2)
    assert row["missing_rate_realised"] == pytest.approx(0.01)
    assert cell(board, "majority", "mcar_0.3")["rank"] == 2
    assert cell(board, "zero_fill", "mcar_0.3")["rank_borda"] == 1


def test_data_sets_with_other_patterns_are_ranked_together(runs, tmp_path):
    """A condition that a data set does not have is no hole."""
    other = [
        record(replace(run.spec, data_label="other"), tmp_path, (0.2, 0.1), last="image+text")
        if run.spec.method == "zero_fill"
        else record(replace(run.spec, data_label="other"), tmp_path, (0.6, 0.7), last="image+text")
        for run in runs
    ]
    board = leaderboard([*runs, *other])
    assert cell(board, "zero_fill", "mcar_0.3")["rank_borda"] == 1.5
    assert cell(board, "majority", "image+text")["rank_borda"] == 1.5


def test_lower_is_better_where_it_is(runs):
    board = leaderboard(runs)
    # both methods have the same zeros there: a tie shares the better rank
    assert cell(board, "zero_fill", "complete", "mae")["rank"] == 1
    assert cell(board, "majority", "complete", "mae")["rank"] == 1


def test_a_hole_is_shown_and_neither_ranked_nor_averaged_away(runs):
    lost = runs[-1]
    assert lost.spec.method == "zero_fill"
    holed = [*runs[:-1], Run(lost.spec, lost.folder, "failed", "out of memory: x")]
    board = leaderboard(holed)
    row = cell(board, "zero_fill", "complete")
    assert (row["n_seeds"], row["n_seeds_planned"]) == (2, 3)
    assert np.isnan(row["rank"])
    assert np.isnan(row["rank_borda"])
    assert row["note"] == "failed: out of memory: x"
    assert cell(board, "majority", "complete")["rank"] == 1
    table = tables(board, "accuracy")["mfeat", "mcar30"]
    assert "(2/3 runs)" in table.loc["zero_fill", "complete"]


def test_a_method_without_any_run_keeps_its_row(runs):
    gone = [r if r.spec.method == "majority" else Run(r.spec, r.folder, "waiting") for r in runs]
    row = cell(leaderboard(gone), "zero_fill", "complete")
    assert row["n_seeds"] == 0
    assert np.isnan(row["mean"])
    skipped = [
        r if r.spec.method == "majority" else Run(r.spec, r.folder, "skipped", "needs 2")
        for r in runs
    ]
    board = leaderboard(skipped)
    assert cell(board, "zero_fill", "complete")["note"] == "skipped: needs 2"
    table = tables(board, "accuracy")["mfeat", "mcar30"]
    assert table.loc["zero_fill", "complete"] == "-"
    assert table.loc["best possible", "complete"] == "0.900 ± 0.010"


def test_an_undefined_score_is_a_hole(runs, tmp_path):
    spec = PLANNED[0]
    other = record(spec, tmp_path / "other", (float("nan"), 0.1))
    row = cell(leaderboard([other, *runs[1:]]), "majority", "complete")
    assert row["n_seeds"] == 2
    assert np.isnan(row["mean"])
    assert np.isnan(row["rank"])


def test_a_cell_that_mixes_commits_says_so(runs, tmp_path):
    other = record(PLANNED[0], tmp_path / "other", (0.1, 0.1), code="0.1-def")
    row = cell(leaderboard([other, *runs[1:]]), "majority", "complete")
    assert row["code"] == "0.1-abc 0.1-def"


def test_no_run_at_all_gives_an_empty_board(tmp_path):
    board = leaderboard([Run(spec, tmp_path, "waiting") for spec in PLANNED])
    assert board.empty
    assert tuple(board.columns) == COLUMNS


def test_what_is_written_is_what_is_shown(runs, tmp_path):
    board = leaderboard(runs)
    path = write(board, tmp_path, metric="accuracy", title="tiny")
    again = pd.read_csv(path)
    assert list(again.columns) == list(COLUMNS)
    assert len(again) == len(board)
    text = (tmp_path / "leaderboard.md").read_text()
    assert text == render(board, "md", metric="accuracy", title="tiny")
    assert "| zero_fill | **0.700 ± 0.100** | **0.500 ± 0.000** |" in " ".join(
        text.split()
    ).replace("  ", " ")


def test_p_values_come_from_paired_predictions(runs):
    """Two seeds of one real split: the better method against the worse one, and against itself."""
    target = np.tile(np.arange(4), 50)
    for run in runs:
        right = 0.3 if run.spec.method == "majority" else 0.6
        rng = np.random.default_rng(run.spec.seed)
        said = np.where(rng.random(200) < right, target, (target + 1) % 4)
        (run.folder / "predictions").mkdir()
        for name in ("complete", "mcar_0.3"):
            write_arrays(
                run.folder / "predictions" / f"{name}.npz",
                {"logits": np.eye(4, dtype=np.float32)[said], "target": target},
            )
        words = json.loads((run.folder / "metrics.json").read_text())
        words["task"]["kind"] = "single_label"
        for one in words["conditions"].values():
            one["scores"] = dict.fromkeys(metrics_for("single_label"), 0.0)
            one["scores"]["accuracy"] = float((said == target).mean())
        write_json(run.folder / "metrics.json", words)
    board = leaderboard(runs, compare="accuracy")
    assert cell(board, "majority", "complete")["p_vs_best"] < 0.01
    assert np.isnan(cell(board, "zero_fill", "complete")["p_vs_best"])
    assert board.loc[board["metric"] != "accuracy", "p_vs_best"].isna().all()
    for method in ("majority", "zero_fill"):
        row = cell(board, method, "complete")
        assert row["sample_ci_low"] <= row["mean"] <= row["sample_ci_high"]
    assert board.loc[board["metric"] != "accuracy", "sample_ci_low"].isna().all()


def test_runs_that_were_asked_other_things_are_refused_by_name(runs, tmp_path):
    other = record(PLANNED[1], tmp_path / "other", (0.8, 0.5), samples="edited")
    assert PLANNED[1].method == "zero_fill"
    with pytest.raises(ValueError, match="cannot be compared") as error:
        leaderboard([runs[0], other, *runs[2:]])
    assert "mfeat, mcar30, fold 0" in str(error.value)
    assert "| zero_fill seed 0 hold" in str(error.value)
    assert "\n" not in str(error.value)


def test_other_folds_may_hold_other_samples(tmp_path):
    planned = specs(data=[{"name": "mfeat", "folds": 2}], seeds=2)
    assert {spec.fold for spec in planned} == {0, 1}
    found = [record(s, tmp_path, (0.1, 0.1), samples=f"fold {s.fold}") for s in planned]
    board = leaderboard(found)
    row = cell(board, "zero_fill", "complete")
    assert (row["n_folds"], row["n_seeds"], row["n_seeds_planned"]) == (2, 4, 4)
    text = render(board, "md", metric="accuracy")
    assert "mean ± standard deviation over 2 folds x 2 seeds" in text


def test_a_cell_that_mixes_sources_says_so_and_machines_are_counted(runs, tmp_path):
    sources = {"mmbench.method": "b"}
    other = record(PLANNED[1], tmp_path / "a", (0.8, 0.5), sources=sources, machine="two")
    elsewhere = record(PLANNED[1], tmp_path / "b", (0.8, 0.5), machine="two")
    plain = leaderboard(runs)
    assert set(plain["mixed"]) == {""}
    for mark in ("†", "machine"):
        assert mark not in render(plain, "md", metric="accuracy")
    board = leaderboard([runs[0], other, *runs[2:]])
    assert cell(board, "zero_fill", "complete")["mixed"] == "sources machines"
    assert cell(board, "majority", "complete")["mixed"] == ""
    text = render(board, "md", metric="accuracy")
    assert "0.700 ± 0.100†" in text
    assert "†: its runs were made by different sources" in text
    board = leaderboard([runs[0], elsewhere, *runs[2:]])
    assert cell(board, "zero_fill", "complete")["mixed"] == "machines"
    text = render(board, "md", metric="accuracy")
    assert "†" not in text
    assert "1 of 2 rows have runs of several kinds of machine" in text


def test_a_board_of_several_sources_and_machines_reads_back(runs, tmp_path):
    sources = {"mmbench.method": "b"}
    other = record(PLANNED[1], tmp_path / "a", (0.8, 0.5), sources=sources, machine="two")
    written = leaderboard([runs[0], other, *runs[2:]])
    (tmp_path / "leaderboard.csv").write_text(render(written, "csv", metric="accuracy"))
    read = read_board(tmp_path)
    assert set(read["mixed"]) == {"", "sources machines"}
    assert changes(written, read).empty
    assert render(read, "md", metric="accuracy") == render(written, "md", metric="accuracy")


def test_a_variant_is_ranked_among_its_own_and_never_bold(tmp_path):
    methods = ["majority", {"name": "zero_fill", "args": {"dim": 8}, "label": "released"}]
    planned = [
        replace(s, method_args={**s.method_args, "variant": "official"})
        if s.method_label == "released"
        else s
        for s in specs(methods=methods, seeds=2)
    ]
    board = leaderboard([record(s, tmp_path, (0.5, 0.5)) for s in planned])
    assert cell(board, "released", "complete")["rank"] == 1
    table = tables(board, "accuracy")["mfeat", "mcar30"]
    assert table.loc["majority", "complete"].startswith("**")
    assert "**" not in table.loc["released", "complete"]


def test_a_method_whose_curve_still_rises_is_shown_with_a_mark_and_not_ranked(tmp_path):
    runs = []
    for spec in PLANNED:
        better = spec.method == "zero_fill"
        rising = better and spec.seed < 2  # two of three
        runs.append(record(spec, tmp_path, [0.9, 0.8] if better else [0.5, 0.4], rising=rising))
    board = leaderboard(runs)
    shown = board[board["metric"] == "accuracy"].set_index("method")
    assert shown.loc["zero_fill", "rank"].isna().all()
    assert (shown.loc["majority", "rank"] == 1).all()
    assert shown.loc["zero_fill", "rising"].tolist() == pytest.approx([2 / 3] * 2)
    text = render(board, "md", metric="accuracy")
    assert "0.900 ± 0.000\N{UPWARDS ARROW}" in text
    assert "still rose" in text
    calm = leaderboard([record(s, tmp_path / "b", [0.9, 0.8]) for s in PLANNED])
    assert "still rose" not in render(calm, "md", metric="accuracy")
