"""The state of a run is what its files say."""

import json
import os

import numpy as np
import pytest
from filelock import FileLock
from sweeps import specs

from mmbench.bench.record import (
    LOCK,
    clear,
    count,
    find,
    finish,
    read_metrics,
    read_records,
    write_arrays,
    write_json,
)


@pytest.fixture
def spec():
    return specs()[0]


@pytest.fixture
def folder(spec, tmp_path):
    """A finished run, written by hand."""
    path = tmp_path / spec.folder
    (path / "predictions").mkdir(parents=True)
    write_json(path / "spec.json", spec.to_json())
    arrays = {"logits": np.eye(3, dtype=np.float32), "target": np.array([0, 1, 1])}
    write_arrays(path / "predictions" / "complete.npz", arrays)
    write_json(
        path / "metrics.json",
        {
            "task": {"kind": "single_label"},
            "conditions": {
                "complete": {
                    "mechanism": "mcar",
                    "missing_rate_nominal": 0.0,
                    "realised": {"missing_rate": 0.0, "incomplete_rate": 0.0},
                    "scores": {"accuracy": 0.5},
                    "bayes": {"accuracy": 0.75},
                    "bayes_se": {"accuracy": 0.1},
                    "effective_n": None,
                    "n": 3,
                    "samples": "same",
                }
            },
            "cost": {"params_total": 7},
            "code": "0.1",
        },
    )
    finish(path, "done")
    return path


def test_a_finished_run_is_done(spec, folder, tmp_path):
    assert find(spec, tmp_path).state == "done"


def test_a_run_that_never_began_is_waiting(spec, tmp_path):
    assert find(spec, tmp_path).state == "waiting"


def test_a_run_cut_off_is_broken(spec, folder, tmp_path):
    (folder / "done").unlink()
    found = find(spec, tmp_path)
    assert (found.state, found.why) == ("broken", "it was cut off before it ended")


@pytest.mark.parametrize("name", ["metrics.json", "predictions/complete.npz"])
def test_a_lost_or_shortened_file_is_noticed_by_name(spec, folder, tmp_path, name):
    file = folder / name
    file.write_bytes(file.read_bytes()[:-1])
    assert find(spec, tmp_path).state == "broken"
    assert name in find(spec, tmp_path).why
    file.unlink()
    assert find(spec, tmp_path).why == f"{name} is missing"


def test_a_damaged_end_mark_is_noticed(spec, folder, tmp_path):
    (folder / "done").write_text('{"fil')
    assert (find(spec, tmp_path).state, find(spec, tmp_path).why) == ("broken", "done is damaged")


def test_a_locked_run_is_running(spec, tmp_path):
    path = tmp_path / spec.folder
    path.mkdir(parents=True)
    child = os.fork()
    if child == 0:  # another process holds the lock until it is told to end
        with FileLock(path / LOCK):
            (path / "held").touch()
            while not (path / "release").exists():
                pass
        os._exit(0)
    while not (path / "held").exists():
        pass
    assert find(spec, tmp_path).state == "running"
    (path / "release").touch()
    os.waitpid(child, 0)
    assert find(spec, tmp_path).state == "broken"


def test_a_failure_keeps_its_reason(spec, tmp_path):
    path = tmp_path / spec.folder
    path.mkdir(parents=True)
    finish(path, "failed.json", {"why": "out of memory: 3 GiB"})
    assert find(spec, tmp_path).state == "failed"
    assert find(spec, tmp_path).why == "out of memory: 3 GiB"
    assert count([find(spec, tmp_path)]) == {"failed": 1}


def test_clearing_removes_all_but_the_lock(spec, folder):
    (folder / LOCK).touch()
    clear(folder)
    assert [file.name for file in folder.iterdir()] == [LOCK]


def test_a_metric_newer_than_the_run_is_scored_from_its_predictions(spec, folder, tmp_path):
    records = read_records([find(spec, tmp_path)]).set_index("metric")
    assert records.loc["accuracy", "value"] == 0.5  # as stored
    assert records.loc["accuracy", "bayes"] == 0.75
    # predictions 0, 1, 2 against 0, 1, 1: recalls 1 and 1/2
    assert records.loc["balanced_accuracy", "value"] == pytest.approx(0.75)
    assert set(records["params_total"]) == {7}


def test_damaged_metrics_are_one_line(spec, folder, tmp_path):
    size = (folder / "metrics.json").stat().st_size
    (folder / "metrics.json").write_text("{" + " " * (size - 1))
    with pytest.raises(ValueError, match=r"metrics\.json is damaged") as error:
        read_metrics(find(spec, tmp_path))
    assert "\n" not in str(error.value)


def test_json_is_written_whole_or_not_at_all(tmp_path):
    write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": object()})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}
