"""The search of settings: equal budgets, validation alone, a record that goes on."""

import json
from dataclasses import replace

import numpy as np
import pytest
from sweeps import suite

import mmbench
import mmbench.bench.plan
from mmbench.bench import tuning
from mmbench.bench.record import Run
from mmbench.bench.result import Selection
from mmbench.bench.tuning import SPREAD, TOGETHER, Search, Searches, Trial
from mmbench.search import Choice, Real, Whole, from_json, to_json
from results import result

optuna = pytest.importorskip("optuna")
SPACE = {
    "lr": Real(1e-4, 1e-1, log=True),
    "depth": Whole(1, 6),
    "dim": Choice((8, 16, 32)),
}
DEFAULTS = {"lr": 1e-3, "depth": 2, "dim": 16}


@pytest.mark.parametrize("draw", [*SPACE.values(), Real(0.0, 1.0), Whole(2, 64, log=True)])
def test_every_share_of_a_range_is_in_it_and_both_ends_are_reached(draw):
    drawn = [draw.at(share) for share in np.linspace(0, 1, 1001)]
    assert all(draw.holds(value) for value in drawn)
    assert draw.edge(drawn[0]) == "low"
    assert draw.edge(drawn[-1]) == "high"
    assert draw.edge(drawn[500]) == ""
    assert drawn == sorted(drawn)


def test_a_search_space_comes_back_from_json():
    assert from_json(json.loads(json.dumps(to_json(SPACE)))) == SPACE


class Planned:
    """Searches of one method whose runs score what a function says of their settings."""

    def __init__(self, folder, score, trials, **changes):
        folder.mkdir(exist_ok=True)
        self.suite = suite(methods=["zero_fill"], tune={"trials": trials}, **changes)
        self.folder, self.score, self.asked = folder, score, []
        self.searches = Searches(self.suite, folder)
        self.specs = mmbench.bench.plan.plan(self.suite)
        self.searches.plan(self.specs)

    def find(self, spec):
        self.asked.append(spec)
        score = self.score({**DEFAULTS, **spec.method_args})
        return Run(spec, self.folder / spec.key, "waiting" if score is None else "done")

    def go(self, monkeypatch, steps=1):
        monkeypatch.setattr(tuning, "read_result", self.read)
        self.searches.begin(lambda spec: (SPACE, DEFAULTS))
        for _ in range(steps):
            self.searches.advance(self.find)
        (found,) = [self.searches.of[spec.key] for spec in self.searches.defaults.values()]
        return found

    def read(self, folder):
        spec = next(spec for spec in self.asked if spec.key == folder.name)
        return planned_result(self.score({**DEFAULTS, **spec.method_args}))


def planned_result(score):
    """A record whose run scored so on validation."""
    selected = Selection(epoch=0, score=score, epochs=1, rising=False, metric="accuracy", on="val")
    return result("single_label", {}, selected=selected)


def closeness(settings):
    """Best at lr = 0.03, depth 5."""
    return -abs(np.log10(settings["lr"]) + 1.5) - abs(settings["depth"] - 5) / 5


def test_the_first_trial_has_the_defaults_the_next_are_spread_and_then_scores_decide(
    tmp_path, monkeypatch
):
    search = Planned(tmp_path, closeness, trials=24).go(monkeypatch)
    kinds = [trial.drawn_by for trial in search.trials]
    assert kinds == ["default"] + ["sobol"] * (SPREAD - 1) + ["tpe"] * (24 - SPREAD)
    assert search.trials[0].args == {}
    settings = [search.settings(trial) for trial in search.trials]
    assert len({str(sorted(each.items())) for each in settings}) == 24, "no setting comes twice"
    scores = [trial.score for trial in search.trials]
    assert np.mean(scores[-8:]) > np.mean(scores[:SPREAD]), "what scores say is used"
    best = search.best(24, "accuracy")
    assert best.score == max(scores)


def test_the_same_search_is_drawn_again_and_another_for_another_method(tmp_path, monkeypatch):
    one = Planned(tmp_path / "a", closeness, trials=12).go(monkeypatch)
    two = Planned(tmp_path / "b", closeness, trials=12).go(monkeypatch)
    other = Planned(tmp_path / "c", closeness, trials=12, seeds=[5]).go(monkeypatch)
    assert one.trials == two.trials
    assert one.trials[1:] != other.trials[1:]


def test_more_trials_go_on_from_fewer(tmp_path, monkeypatch):
    few = Planned(tmp_path, closeness, trials=10)
    first = few.go(monkeypatch).trials
    more = Planned(tmp_path, closeness, trials=13)
    found = more.go(monkeypatch)
    assert found.trials[:10] == first
    assert len(found.trials) == 13
    again = Planned(tmp_path, closeness, trials=10)
    again.go(monkeypatch)
    assert not again.asked, "what is recorded is not looked up again"


def test_trials_wait_for_scores_only_where_they_need_them(tmp_path, monkeypatch):
    search = Planned(tmp_path, lambda settings: None, trials=20).go(monkeypatch, steps=3)
    assert [trial.state for trial in search.trials] == ["open"] * SPREAD
    planned = Planned(tmp_path / "later", closeness, trials=20)
    done = iter(range(SPREAD))  # scores come in for the first ones alone
    planned.score = lambda settings: closeness(settings) if next(done, None) is not None else None
    monkeypatch.setattr(planned, "read", lambda folder: planned_result(0.5))
    search = planned.go(monkeypatch)
    assert [trial.state for trial in search.trials] == ["done"] * SPREAD + ["open"] * TOGETHER


def test_trials_of_all_methods_are_given_the_same_epochs_and_the_best_length_goes_on(
    tmp_path, monkeypatch
):
    """A method that needs long trainings gets no more epochs to search with than any other."""
    tune = {"trials": 10, "lengths": [1, 0.5, 3, 0.5]}
    methods = ["zero_fill", "mean_fusion"]
    planned = Planned(tmp_path, closeness, trials=10)
    planned.suite = suite(methods=methods, tune=tune, trainer={"max_epochs": 30}, seeds=2)
    planned.searches = Searches(planned.suite, tmp_path)
    planned.specs = mmbench.bench.plan.plan(planned.suite)
    planned.searches.plan(planned.specs)
    monkeypatch.setattr(tuning, "read_result", planned.read)
    planned.searches.begin(lambda spec: (SPACE, DEFAULTS))
    planned.searches.advance(planned.find)
    of = {name: [] for name in methods}
    for spec in planned.searches.trials:
        of[spec.method].append(spec.epochs())
    assert of["zero_fill"] == of["mean_fusion"] == [30, 15, 90, 15, 30, 15, 90, 15, 30, 15]
    for spec in planned.searches.plan(planned.specs):
        search = planned.searches.of[
            next(
                name for name in planned.searches.of if name.startswith(default_key(planned, spec))
            )
        ]
        best = search.best(10, "accuracy")
        assert spec.length == best.length
        assert spec.trainer_args["max_epochs"] == 30, "the trainer is the suite's for all"
    rows = planned.searches.table(lambda spec: Run(spec, tmp_path, "waiting"))
    assert all("length=" in settings for settings in rows["settings"])
    plain = Searches(suite(methods=methods, tune={"trials": 10}), tmp_path)
    plain.plan(planned.specs)
    assert not plain.trials, "trials of other lengths are another search"


def default_key(planned, spec):
    """Key of the run with the suite's settings of the same method."""
    return next(s.key for s in planned.specs if s.method == spec.method and s.seed == 0)


def test_a_length_of_one_leaves_every_key_as_it_was_and_another_makes_another_run():
    (spec,) = mmbench.bench.plan.plan(suite(methods=["zero_fill"]))
    long = replace(spec, length=2.0)
    assert long.key != spec.key
    assert replace(long, length=1.0).key == spec.key
    assert long.epochs() == 2 * spec.epochs()


def test_a_search_without_a_score_keeps_the_defaults_and_says_so(tmp_path, monkeypatch):
    planned = Planned(tmp_path, closeness, trials=9)
    monkeypatch.setattr(
        Planned, "find", lambda self, spec: Run(spec, self.folder, "failed", "diverged")
    )
    search = planned.go(monkeypatch)
    assert [trial.state for trial in search.trials] == ["failed"] * 9
    (spec,) = planned.searches.plan(planned.specs)
    assert spec.method_args == {}
    assert spec.tuned == 9


def test_a_space_of_few_settings_ends_when_all_are_tried(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "SPACE", {"dim": Choice((8, 16, 32))})
    monkeypatch.setitem(globals(), "DEFAULTS", {"dim": 16, "lr": 0.1, "depth": 1})
    search = Planned(tmp_path, closeness, trials=20).go(monkeypatch)
    assert sorted(search.settings(trial)["dim"] for trial in search.trials) == [8, 16, 32]
    assert search.exhausted
    assert search.ended(20)


def test_the_best_is_the_earliest_of_equals_in_the_direction_of_the_metric():
    trials = [Trial({"dim": dim}, "sobol", "done", score) for dim, score in ((1, 3.0), (2, 1.0))]
    search = Search(SPACE, DEFAULTS, [Trial({}, "default", "done", 1.0), *trials])
    assert search.best(3, "accuracy").args == {"dim": 1}
    assert search.best(3, "mae").args == {}
    assert search.best(1, "accuracy").args == {}


def test_a_damaged_record_is_one_line(tmp_path):
    (tmp_path / "search.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"search\.json is damaged"):
        Searches(suite(tune={"trials": 2}), tmp_path)


def test_a_scenario_that_the_suite_lacks_is_an_error(tmp_path):
    words = suite(tune={"trials": 2, "scenario": "mcar50"}).model_dump()
    with pytest.raises(ValueError, match=r"tune\.scenario: 'mcar50' is no scenario.*mcar30"):
        mmbench.Sweep(words, results=tmp_path)


def test_a_tuned_sweep_tries_all_scores_on_validation_and_goes_on_with_all_seeds(tmp_path):
    words = suite(methods=["majority", "zero_fill"], seeds=2, tune={"trials": 3}).model_dump()
    sweep = mmbench.Sweep(words, results=tmp_path)
    sweep.run(workers=1)
    record = json.loads((sweep.folder / "search.json").read_text())
    searched = [said["trials"] for said in record.values()]
    assert sorted(len(trials) for trials in searched) == [0, 3], "majority has nothing to search"
    trials = max(searched, key=len)
    assert all(trial["state"] == "done" for trial in trials)
    best = max(trials, key=lambda trial: trial["score"])
    finals = [spec for spec in sweep.specs if spec.method == "zero_fill"]
    assert [spec.method_args for spec in finals] == [best["args"]] * 2
    assert [spec.seed for spec in finals] == [0, 1]
    folders = list((sweep.runs_folder / "mfeat/mcar30/zero_fill").glob("[!.]*"))
    assert len(folders) == 3 + 1, "the best trial is the run of the first seed"
    assert all(run.state == "done" for run in sweep.runs())
    board = sweep.leaderboard()
    assert set(board[board["method"] == "zero_fill"]["tuned"]) == {3}
    assert set(board[board["method"] == "majority"]["tuned"]) == {0}
    before = {folder: folder.stat().st_mtime_ns for folder in folders}
    again = mmbench.Sweep(words, results=tmp_path)
    assert again.todo() == []
    again.run(workers=1)
    assert {folder: folder.stat().st_mtime_ns for folder in folders} == before


def test_a_lost_record_of_a_search_is_made_again_from_its_runs(tmp_path):
    words = suite(methods=["zero_fill"], tune={"trials": 2}).model_dump()
    sweep = mmbench.Sweep(words, results=tmp_path)
    sweep.run(workers=1)
    record = (sweep.folder / "search.json").read_text()
    (sweep.folder / "search.json").unlink()
    other = mmbench.Sweep(words, results=tmp_path)
    assert [run.state for run in other.runs()] == ["waiting"]
    assert other.todo() == []
    assert (sweep.folder / "search.json").read_text() == record


def test_an_untuned_table_and_a_tuned_one_do_not_replace_each_other(tmp_path):
    words = suite(methods=["zero_fill"]).model_dump()
    mmbench.Sweep(words, results=tmp_path).todo()
    tuned = mmbench.Sweep(words, "tune.trials=2", results=tmp_path)
    assert tuned.board_folder.name.startswith("part-")
    more = mmbench.Sweep(words, "tune.trials=3", results=tmp_path)
    assert more.board_folder != tuned.board_folder
