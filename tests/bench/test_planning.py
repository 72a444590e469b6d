"""What `plan` says before anything is trained: how long, and what would be found."""

import json

import numpy as np
import pandas as pd
import pytest
from sweeps import NO_DATA, suite

import mmbench
from mmbench.bench.record import Outcome
from mmbench.bench.run import timing
from mmbench.bench.run.timing import seconds_of
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
        "majority": 2 + 5,  # until the search begins, nobody knows that it has nothing to draw
        "zero_fill": 2 + 5,
    }
    one = sweep(tmp_path, seeds=1, methods=methods)
    one.run(workers=1)
    known = sweep(tmp_path, seeds=2, methods=methods).expected().set_index("method")
    assert known["runs"].to_dict() == {"majority": 1, "zero_fill": 1}
    assert (known["seconds"] > 0).all()


def test_short_trainings_tell_how_long_a_long_one_takes(tmp_path, monkeypatch):
    def run(spec, runs, root):
        return Outcome("done", "", 2.0 + 0.5 * spec.trainer_args["max_epochs"])

    monkeypatch.setattr(timing, "run", run)
    methods = ["majority", "zero_fill"]
    majority, trained = sweep(tmp_path, methods=methods, trainer={"max_epochs": 30}).specs
    assert seconds_of(trained, NO_DATA) == pytest.approx(2.0 + 0.5 * 30)
    assert seconds_of(majority, NO_DATA) == 2.5
    (more,) = sweep(
        tmp_path, methods=["zero_fill"], trainer={"max_epochs": 1, "min_steps": 40, "batch_size": 8}
    ).specs
    steps = 64 // 8  # of an epoch
    assert seconds_of(more, NO_DATA) == pytest.approx(2.0 + 0.5 * 40 / steps)


def test_what_was_measured_is_kept(tmp_path):
    own = sweep(tmp_path, methods=["majority"], trainer={"max_epochs": 2})
    own.measure()
    record = json.loads((own.folder / "timings.json").read_text())
    assert record["mfeat"]["majority"] > 0
    assert own.expected()["seconds"].tolist() == [record["mfeat"]["majority"]]
    assert not own.runs_folder.exists()


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
