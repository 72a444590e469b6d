"""The state of a run is what its files say."""

import json
import math
import os
import shutil
import signal
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sweeps import specs
from waiting import wait_until

from mmbench import store
from mmbench.bench.record import (
    SMALL,
    count,
    find_run,
    finish,
    read_records,
    record_failure,
)
from mmbench.bench.result import read_result, write_result
from mmbench.store import attempt, claim, identity, publish, restore, write_arrays, write_json
from results import condition, result


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
    one = condition(
        scores={"accuracy": 0.5}, bayes={"accuracy": 0.75}, bayes_se={"accuracy": 0.1}, n=3
    )
    write_result(path, result("single_label", {"complete": one}))
    finish(path, "done")
    return path


def test_a_finished_run_is_done(spec, folder, tmp_path):
    assert find_run(spec, tmp_path).state == "done"


@pytest.mark.parametrize("end", ["done", "failed", "damaged"])
def test_a_run_that_was_to_be_replaced_counts_until_its_successor_appears(
    spec, folder, tmp_path, end
):
    """In between its replacement is killed; nothing but a new run puts it back."""
    if end == "failed":
        (folder / "done").unlink()
        finish(folder, "failed.json", {"why": "disk: full"})
    if end == "damaged":
        (folder / "metrics.json").write_text("{}")
    before, rows = find_run(spec, tmp_path), read_records([find_run(spec, tmp_path)])
    child = os.fork()
    if child == 0:
        rename = store._rename

        def die(old, new):
            moved = rename(old, new)
            if store.OLD in new.name:
                os.kill(os.getpid(), signal.SIGKILL)
            return moved

        store._rename = die
        with attempt(folder) as part:
            publish(part, folder, instead_of=identity(folder))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not folder.exists()
    files = sorted(tmp_path.rglob("*"))
    after = find_run(spec, tmp_path)
    assert (after.state, after.why) == (before.state, before.why)
    pd.testing.assert_frame_equal(read_records([after]), rows)
    assert sorted(tmp_path.rglob("*")) == files
    restore(folder)
    assert find_run(spec, tmp_path) == before


def test_a_look_never_meets_a_run_half_replaced(spec, folder, tmp_path):
    """Another process replaces it again and again by its like."""
    child = os.fork()
    if child == 0:
        try:
            while not (tmp_path / "stop").exists():
                seen = identity(folder)
                with attempt(folder) as part:
                    shutil.copytree(folder, part, dirs_exist_ok=True)
                    publish(part, folder, instead_of=seen)
            os._exit(0)
        finally:
            os._exit(1)
    try:
        states = {find_run(spec, tmp_path, read_up_to=None).state for _ in range(1000)}
    finally:
        (tmp_path / "stop").touch()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert states == {"done"}


def test_a_run_that_never_began_is_waiting(spec, tmp_path):
    assert find_run(spec, tmp_path).state == "waiting"


def test_a_folder_that_does_not_say_how_it_ended_is_broken(spec, folder, tmp_path):
    (folder / "done").unlink()
    found = find_run(spec, tmp_path)
    assert (found.state, found.why) == ("broken", "it does not say how it ended")


def test_what_an_attempt_left_is_no_run(spec, tmp_path):
    with attempt(tmp_path / spec.folder) as part:
        finish(part, "done")
        assert find_run(spec, tmp_path).state == "waiting"
    assert find_run(spec, tmp_path).state == "waiting"


@pytest.mark.parametrize("name", ["metrics.json", "predictions/complete.npz"])
def test_other_bytes_of_the_same_number_are_noticed_when_they_are_read(
    spec, folder, tmp_path, name
):
    file = folder / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert find_run(spec, tmp_path).state == "done"  # sizes and names alone
    found = find_run(spec, tmp_path, read_up_to=SMALL)
    assert (found.state, found.why) == ("broken", f"{name} holds other bytes than were written")


@pytest.mark.parametrize("name", ["metrics.json", "predictions/complete.npz"])
def test_a_lost_or_shortened_file_is_noticed_by_name(spec, folder, tmp_path, name):
    file = folder / name
    file.write_bytes(file.read_bytes()[:-1])
    assert find_run(spec, tmp_path).state == "broken"
    assert name in find_run(spec, tmp_path).why
    file.unlink()
    assert find_run(spec, tmp_path).why == f"{name} is missing"


def test_a_damaged_end_mark_is_noticed(spec, folder, tmp_path):
    (folder / "done").write_text('{"fil')
    assert (find_run(spec, tmp_path).state, find_run(spec, tmp_path).why) == (
        "broken",
        "done is damaged",
    )


def test_a_claimed_run_is_running_until_its_process_ends(spec, tmp_path):
    path = tmp_path / spec.folder
    child = os.fork()
    if child == 0:  # another process holds the claim until it is killed
        with claim(path):
            (tmp_path / "held").touch()
            signal.pause()
    wait_until((tmp_path / "held").exists)
    assert find_run(spec, tmp_path).state == "running"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert find_run(spec, tmp_path).state == "waiting"
    with claim(path) as held:
        assert held.ours


def test_a_run_that_was_killed_is_recorded_with_what_it_had_written(spec, tmp_path):
    child = os.fork()
    if child == 0:
        with attempt(tmp_path / spec.folder) as part:
            (part / "log.txt").write_text("so far")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    record_failure(spec, tmp_path, "killed: by signal 9 (SIGKILL)")
    found = find_run(spec, tmp_path)
    assert (found.state, found.why) == ("failed", "killed: by signal 9 (SIGKILL)")
    assert (found.folder / "log.txt").read_text() == "so far"
    assert [item.name for item in found.folder.parent.iterdir()] == [spec.key]


def test_a_failure_from_outside_does_not_replace_a_run_that_finished(spec, folder, tmp_path):
    record_failure(spec, tmp_path, "killed")
    assert find_run(spec, tmp_path).state == "done"


def test_a_failure_keeps_its_reason(spec, tmp_path):
    path = tmp_path / spec.folder
    path.mkdir(parents=True)
    finish(path, "failed.json", {"why": "out of memory: 3 GiB"})
    assert find_run(spec, tmp_path).state == "failed"
    assert find_run(spec, tmp_path).why == "out of memory: 3 GiB"
    assert count([find_run(spec, tmp_path)]) == {"failed": 1}


def test_a_metric_newer_than_the_run_is_scored_from_its_predictions(spec, folder, tmp_path):
    records = read_records([find_run(spec, tmp_path)]).set_index("metric")
    assert records.loc["accuracy", "value"] == 0.5  # as stored
    assert records.loc["accuracy", "bayes"] == 0.75
    # predictions 0, 1, 2 against 0, 1, 1: recalls 1 and 1/2
    assert records.loc["balanced_accuracy", "value"] == pytest.approx(0.75)
    assert set(records["params_total"]) == {7}


def test_damaged_metrics_are_one_line(spec, folder, tmp_path):
    size = (folder / "metrics.json").stat().st_size
    (folder / "metrics.json").write_text("{" + " " * (size - 1))
    with pytest.raises(ValueError, match=r"metrics\.json is damaged") as error:
        read_result(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("schema", "named"), [(1, "schema 1"), (None, "schema none")])
def test_a_record_of_another_version_is_refused_with_its_version(
    spec, folder, tmp_path, schema, named
):
    file = folder / "metrics.json"
    words = json.loads(file.read_text()) | {"schema": schema, "code": "0.0.7"}
    write_json(file, words)
    with pytest.raises(ValueError, match=r"written by mmbench 0\.0\.7") as error:
        read_result(folder)
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def test_a_record_reads_back_as_it_was_written_and_an_undefined_score_as_none(tmp_path):
    scores = {"accuracy": 0.5, "auroc": math.nan}
    whole = result("single_label", {"complete": condition(scores=scores)}, modalities=("a", "b"))
    write_result(tmp_path, whole)
    none = {"complete": condition(scores=scores | {"auroc": None})}
    assert read_result(tmp_path) == replace(whole, conditions=none)


@pytest.mark.parametrize("key", ["task", "conditions", "cost", "selected", "sources"])
def test_a_record_without_one_of_its_parts_is_damaged_and_names_the_part(folder, key):
    file = folder / "metrics.json"
    words = json.loads(file.read_text())
    del words[key]
    write_json(file, words)
    with pytest.raises(ValueError, match=rf"metrics\.json is damaged: {key}: Field required"):
        read_result(folder)


def test_a_record_with_a_word_for_a_number_is_damaged_and_names_the_place(folder):
    file = folder / "metrics.json"
    words = json.loads(file.read_text())
    words["conditions"]["complete"]["realised"]["missing_rate"] = "0.5"
    write_json(file, words)
    with pytest.raises(ValueError, match=r"conditions\.complete\.realised\.missing_rate: Input"):
        read_result(folder)
