"""What may go goes after a question, and nothing else does."""

import json
import os
import shutil

import pytest
import yaml
from sweeps import suite
from typer.testing import CliRunner

from mmbench.bench import home
from mmbench.bench.record import finish
from mmbench.bench.result import write_result
from mmbench.cli.app import app
from mmbench.sources import hash_of
from mmbench.store import MARK, OLD, checksums, claim, private, write_json
from mmbench.sweep import Sweep
from results import condition, result

MODULE = "mmbench.methods.zero_fill"


def finished(sweep, spec, *, sources=None):
    """A finished run of some sources; those of today by default."""
    folder = sweep.runs_folder / spec.folder
    folder.mkdir(parents=True)
    write_json(folder / "spec.json", spec.to_json())
    sources = {MODULE: hash_of(MODULE)} if sources is None else sources
    write_result(folder, result("single_label", {"complete": condition()}, sources=sources))
    finish(folder, "done")
    return folder


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Four planned runs: two done, one of them by other sources, one failed, one waiting."""
    monkeypatch.chdir(tmp_path)
    words = suite(seeds=2).model_dump(exclude={"limit", "keep_weights"})
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(words))
    sweep = Sweep("tiny.yaml")
    finished(sweep, sweep.specs[0])
    finished(sweep, sweep.specs[1], sources={MODULE: "0" * 16})
    failed = sweep.runs_folder / sweep.specs[2].folder
    failed.mkdir(parents=True)
    write_json(failed / "spec.json", sweep.specs[2].to_json())
    finish(failed, "failed.json", {"why": "diverged"})
    home.hold(sweep.folder, sweep.suite)
    return sweep


def states(sweep):
    return [run.state for run in sweep.runs()]


def call(*words, answer=""):
    return CliRunner().invoke(app, ["delete", "tiny.yaml", *words], input=answer)


def test_nothing_goes_without_a_yes(sweep):
    asked = call(answer="n\n")
    assert asked.exit_code == 1
    assert "delete 3 runs, " in asked.output
    assert "KiB" in asked.output
    for spec in sweep.specs[:3]:
        assert spec.title in asked.output
    assert states(sweep) == ["done", "done", "failed", "waiting"]
    assert call().exit_code == 1  # nobody there to answer
    assert states(sweep) == ["done", "done", "failed", "waiting"]


def test_without_a_flag_all_runs_go_and_the_suite_stays(sweep):
    assert call(answer="y\n").exit_code == 0
    assert states(sweep) == ["waiting"] * 4
    assert os.listdir(sweep.runs_folder) == []  # noqa: PTH208 - hidden files, too
    assert (sweep.folder / home.FILE).is_file()
    assert "nothing to delete" in call("--yes").output


def test_failed_runs_go_alone(sweep):
    asked = call("--failed", "--yes")
    assert asked.exit_code == 0
    assert "failed: diverged" in asked.output
    assert states(sweep) == ["done", "done", "waiting", "waiting"]


def test_stale_are_runs_of_other_sources_and_of_no_plan(sweep):
    other = Sweep("tiny.yaml", "trainer.max_epochs=7")
    strange = finished(sweep, other.specs[0])
    asked = call("--stale", "--yes")
    assert asked.exit_code == 0
    assert f"({MODULE} was another)" in asked.output
    assert "(not in the plan)" in asked.output
    assert "2 runs" in asked.output
    assert not strange.exists()
    assert states(sweep) == ["done", "waiting", "failed", "waiting"]


def test_a_run_of_the_suite_that_the_folder_holds_is_not_stale_for_words_that_drop_it(sweep):
    assert call("seeds=1", "methods=[majority]", "--stale", "--yes").exit_code == 0
    assert states(sweep) == ["done", "waiting", "failed", "waiting"]


def test_a_run_that_somebody_is_at_stays(sweep):
    with claim(sweep.runs_folder / sweep.specs[2].folder):
        assert call("--yes").exit_code == 0
    assert states(sweep) == ["waiting", "waiting", "failed", "waiting"]


@pytest.mark.parametrize(
    ("flag", "place", "why"),
    [
        ((), 0, "(moved aside)"),
        (("--stale",), 1, f"({MODULE} was another; moved aside)"),
        (("--failed",), 2, "(failed: diverged; moved aside)"),
    ],
)
def test_a_run_that_was_moved_aside_is_listed_and_goes(sweep, flag, place, why):
    folder = sweep.runs_folder / sweep.specs[place].folder
    shutil.copytree(folder, private(folder, OLD))  # of an attempt before
    folder.rename(private(folder, OLD))
    asked = call(*flag, "--yes")
    assert asked.exit_code == 0
    assert f"{sweep.specs[place].title} {why}" in asked.output
    assert states(sweep)[place] == "waiting"
    assert not folder.parent.exists() or not list(folder.parent.glob(f".{folder.name}.*"))


def test_verify_reads_back_weights_that_several_share(sweep):
    made = sweep.runs_folder / ".shared" / "abc"
    made.mkdir(parents=True)
    (made / "weights.safetensors").write_bytes(b"right")
    write_json(made / MARK, {"files": checksums(made)})
    words = ["status", "tiny.yaml", "--verify"]
    assert CliRunner().invoke(app, words).exit_code == 0
    (made / "weights.safetensors").write_bytes(b"wrong")
    told = CliRunner().invoke(app, words)
    assert told.exit_code == 1
    assert "weights.safetensors holds other bytes than were written" in told.output
    assert json.loads((made / MARK).read_text())
