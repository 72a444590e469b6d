"""What `plan` says before anything is trained: how long, and what would be found."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from sweeps import suite

import mmbench
from mmbench.bench.record import find_run
from mmbench.bench.result import read_result
from mmbench.bench.verdict import ALL, COLUMNS


def sweep(folder, *overrides, **changes):
    return mmbench.Sweep(suite(**changes).model_dump(), *overrides, results=folder)


def test_what_is_left_counts_trials_and_what_is_known_is_taken_from_finished_runs(tmp_path):
    methods = ["majority", {"name": "zero_fill", "args": {"dim": 8}}]
    plain = sweep(tmp_path, seeds=2, methods=methods)
    expected = plain.expected().set_index("method")
    assert expected["runs"].to_dict() == {"majority": 2, "zero_fill": 2}
    assert expected["seconds"].isna().all()
    tuned = sweep(tmp_path, "tune.trials=5", seeds=2, methods=methods)
    assert tuned.expected().set_index("method")["runs"].to_dict() == {
        "majority": 1 + 5,  # until the search begins, nobody knows that it has nothing to draw
        "zero_fill": 1 + 5,  # the best trial is the run of the first seed
    }
    tuned.plan()
    assert tuned.expected().set_index("method")["runs"].to_dict() == {
        "majority": 2, "zero_fill": 1 + 5,
    }  # fmt: skip
    one = sweep(tmp_path, seeds=1, methods=methods)
    one.run(workers=1)
    known = sweep(tmp_path, seeds=2, methods=methods).expected().set_index("method")
    assert known["runs"].to_dict() == {"majority": 1, "zero_fill": 1}
    assert (known["seconds"] > 0).all()


def test_one_run_of_each_tells_how_long_the_others_take_and_is_none_too_many(tmp_path):
    methods = ["majority", {"name": "zero_fill", "args": {"dim": 8}}, "abmil"]
    own = sweep(tmp_path, "tune.trials=2", "tune.lengths=[1,3]", methods=methods)
    todo = own.unmeasured()
    assert [run.spec.method for run in todo] == ["zero_fill", "majority"], "abmil does not apply"
    for event in own.execute(todo, 1):
        assert event.outcome is None or event.outcome.state == "done"
    assert own.unmeasured() == []
    own.plan()
    (row,) = own.expected().to_dict("records")
    found = [find_run(spec, own.runs_folder) for spec in own.searches.trials]
    [run] = [run for run in found if run.state == "done"]
    took = json.loads((run.folder / "done").read_text())["wall_s"]
    assert took > read_result(run.folder).cost.seconds
    assert row == {"data": "mfeat", "method": "zero_fill", "runs": 1,
                   "seconds": pytest.approx(3 * took)}  # fmt: skip


def test_a_published_table_tells_how_long_its_runs_took(tmp_path):
    own = sweep(tmp_path, seeds=1)
    own.run(workers=1)
    [cost] = [read_result(run.folder).cost for run in own.runs() if run.spec.method == "zero_fill"]
    shutil.rmtree(own.runs_folder)
    again = sweep(tmp_path, seeds=1).expected().set_index("method")
    assert again.loc["zero_fill", "seconds"] == pytest.approx(cost.seconds, rel=1e-3)


def test_the_power_rests_on_tables_that_are_there(tmp_path):
    own = sweep(tmp_path)
    with pytest.raises(ValueError, match=r"no table in .* says how much accuracy varies"):
        own.spread()
    row = dict.fromkeys(COLUMNS, 0.0) | {
        "data": "d", "over": ALL, "method": "m", "reference": "r", "metric": "accuracy",
        "se_seeds": 0.02, "se_samples": 0.01, "n_trainings": 4,
    }  # fmt: skip
    (tmp_path / "other").mkdir()
    pd.DataFrame([row]).to_csv(tmp_path / "other" / "comparisons.csv", index=False)
    typical, tables = own.spread()
    assert tables == "other"
    assert typical.seeds == pytest.approx(4 * 0.02**2)
    assert typical.samples == pytest.approx(0.01**2)
    assert np.isfinite(typical.detectable(3, 2))
