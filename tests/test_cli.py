"""The command line as a user meets it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pytest
import yaml
from sweeps import suite

from mmbench import Sweep, store
from mmbench.bench import home
from mmbench.bench.plan import plan
from mmbench.bench.record import finish
from mmbench.bench.spec import load_suite
from mmbench.cli import main


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to work in, with a small suite in it."""
    monkeypatch.chdir(tmp_path)
    words = suite().model_dump(exclude={"limit", "keep_weights"})
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(words))
    return tmp_path


def call(*words, monkeypatch):
    """Run the command line in this process; returns the exit code."""
    monkeypatch.setattr(sys, "argv", ["mmbench", *words])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code or 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tinny.yaml"], "no suite named 'tinny.yaml'"),
        (["tiny.yaml", "methods=[shapsec]"], "no method named 'shapsec'; did you mean 'shaspec'?"),
        (["tiny.yaml", "data=[mfeet]"], "no data set named 'mfeet'; did you mean 'mfeat'?"),
        (["tiny.yaml", "seeds=[]"], "seeds is empty"),
        (["tiny.yaml", "name=${oc.env:HOME}"], "would write a value of your environment"),
        (["tiny.yaml", "seedz=3"], "unknown key 'seedz'; did you mean 'seeds'?"),
        (["tiny.yaml", "methods=[{name: zero_fill, args: {dimm: 3}}]"], "did you mean 'dim'?"),
        (["tiny.yaml", "trainer.max_epoch=3"], "did you mean 'max_epochs'?"),
        (["tiny.yaml", "select.metric=acuracy"], "did you mean 'accuracy'?"),
        (["tiny.yaml", "scenarios=[nowhere]"], "nowhere"),
        (
            ["tiny.yaml", "scenarios=[{name: s, train: {mechanism: mcar, missing_rat: 0.1}, "
             "test: {mechanism: mcar, missing_rate: 0.1}}]"],
            "did you mean 'missing_rate'?",
        ),
        (
            ["tiny.yaml", "scenarios=[{name: s, train: {mechanism: mcar, missing_rate: 0.7}, "
             "test: {mechanism: mcar, missing_rate: 0.1}}]"],
            "the highest rate is (M - 1) / M = 0.5",
        ),
        (["tiny.yaml", "methods=[no_such_package.Method]"], "does not import"),
        (["tiny.yaml", "methods=[mmbench.data.batch.Batch]"], "is no Method; derive it from"),
        (["tiny.yaml", "methods=[lightning_of_old.Mine]"], "derives from pytorch_lightning"),
        (["tiny.yaml", "data=[]"], "data is empty"),
        (["list.txt"], "list.txt"),
        (["methods.yaml"], "is no YAML"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_exit_code_2_and_writes_nothing(
    here, words, message, monkeypatch, capsys
):
    (here / "list.txt").write_text("just words\n")
    (here / "lightning_of_old.py").write_text(
        "import pytorch_lightning\nclass Mine(pytorch_lightning.LightningModule): pass\n"
    )
    monkeypatch.syspath_prepend(str(here))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (here / "methods.yaml").write_text("name: [x\n")
    before = sorted(here.rglob("*"))
    for verb in ("plan", "run"):
        assert call(verb, *words, monkeypatch=monkeypatch) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert sorted(here.rglob("*")) == before


def test_a_results_folder_that_cannot_be_written_is_one_line(here, monkeypatch, capsys):
    (here / "results").write_text("a file where the folder should be")
    assert call("run", "tiny.yaml", monkeypatch=monkeypatch) == 2
    error = capsys.readouterr().err
    assert "the results folder results/tiny is not writable" in error
    assert error.count("\n") == 1


def test_a_plan_counts_trainings_and_writes_nothing(here, monkeypatch, capsys):
    before = sorted(here.rglob("*"))
    assert call("plan", "tiny.yaml", "seeds=3", monkeypatch=monkeypatch) == 0
    assert "suite tiny: 6 trainings" in capsys.readouterr().out
    assert call("run", "tiny.yaml", "--dry-run", monkeypatch=monkeypatch) == 0
    assert "suite tiny: 2 trainings" in capsys.readouterr().out
    assert sorted(here.rglob("*")) == before


def test_a_leaderboard_of_nothing_says_what_to_do(here, monkeypatch, capsys):
    assert call("leaderboard", "tiny.yaml", monkeypatch=monkeypatch) == 2
    assert "start it with `mmbench run tiny.yaml`" in capsys.readouterr().err


@pytest.mark.slow
def test_a_sweep_runs_continues_repairs_and_reports(here, monkeypatch, capsys):
    sweep = ["tiny.yaml", "--limit", "64"]
    assert call("run", *sweep, "--workers", "1", monkeypatch=monkeypatch) == 0
    out = capsys.readouterr().out
    assert "[2/2] zero_fill / mfeat / mcar30 seed 0: done" in out
    folder = here / "results" / "tiny-limit64"  # a smoke test lies apart from full results
    board = pd.read_csv(folder / "leaderboard.csv")
    shown = board[board["metric"] == "accuracy"]
    assert set(zip(shown["method"], shown["condition"], strict=True)) == {
        (method, condition)
        for method in ("majority", "zero_fill")
        for condition in ("complete", "mcar_0.3")
    }
    assert shown["mean"].notna().all()

    # the same command again has nothing left to do
    assert call("run", *sweep, monkeypatch=monkeypatch) == 0
    assert "runs on" not in capsys.readouterr().out

    # so it has where the folder was moved to and is somebody else's
    moved = here / "moved"
    shutil.copytree(folder, moved)
    for item in [moved, *moved.rglob("*")]:
        item.chmod(0o555 if item.is_dir() else 0o444)
    monkeypatch.setattr(os, "access", lambda path, mode: "moved" not in Path(path).parts)
    shown = (moved / "leaderboard.csv").read_text()
    assert call("leaderboard", "moved", "--format", "csv", monkeypatch=monkeypatch) == 0
    out = capsys.readouterr()
    assert out.out == shown
    assert "nothing is written: " in out.err
    assert call("status", "moved", "--verify", monkeypatch=monkeypatch) == 0
    assert "2 done" in capsys.readouterr().out
    monkeypatch.undo()
    monkeypatch.chdir(here)

    # words that drop a method do not replace the suite's table
    less = [*sweep, "methods=[majority]"]
    assert call("run", *less, monkeypatch=monkeypatch) == 0
    assert "the suite's own table, of more runs, stays in" in capsys.readouterr().out
    assert (folder / "leaderboard.csv").read_text() == shown
    [part] = folder.glob("part-*")
    assert set(pd.read_csv(part / "leaderboard.csv")["method"]) == {"majority"}
    assert call("leaderboard", *less, monkeypatch=monkeypatch) == 0
    assert (folder / "leaderboard.csv").read_text() == shown
    capsys.readouterr()

    # other bytes of the same number are found by reading
    [arrays] = folder.glob("runs/mfeat/mcar30/zero_fill/*/predictions/complete.npz")
    kept = arrays.read_bytes()
    arrays.write_bytes(bytes(len(kept)))
    assert call("status", *sweep, monkeypatch=monkeypatch) == 0
    assert call("status", *sweep, "--verify", monkeypatch=monkeypatch) == 1
    assert "complete.npz holds other bytes" in " ".join(capsys.readouterr().out.split())
    arrays.write_bytes(kept)

    # a damaged run is named and, in the plan, to be done again
    [metrics] = folder.glob("runs/mfeat/mcar30/zero_fill/*/metrics.json")
    metrics.write_text("{}")
    assert call("status", *sweep, monkeypatch=monkeypatch) == 0
    assert "metrics.json has 2 bytes instead of" in " ".join(capsys.readouterr().out.split())
    assert call("run", *sweep, "--workers", "1", monkeypatch=monkeypatch) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "found a broken run" in out
    assert "[1/1] zero_fill" in out
    assert json.loads(metrics.read_text())["conditions"]

    assert call("status", *sweep, monkeypatch=monkeypatch) == 0
    assert "2 done" in capsys.readouterr().out
    assert call("leaderboard", *sweep, "--format", "csv", monkeypatch=monkeypatch) == 0
    assert capsys.readouterr().out == (folder / "leaderboard.csv").read_text()
    assert (folder / "report.html").is_file()
    assert call("leaderboard", *sweep, "--format", "latex", monkeypatch=monkeypatch) == 0
    assert r"\toprule" in capsys.readouterr().out
    assert call("leaderboard", *sweep, "--format", "html", monkeypatch=monkeypatch) == 0
    out = capsys.readouterr().out
    assert out.startswith("<!doctype html>")
    assert "<h2>mfeat, mcar30</h2>" in out
    robust = pd.read_csv(folder / "robustness.csv")
    assert "area_under_rate_curve" in set(robust["measure"])
    plots = ["--plots", "plots", "--no-p-values"]
    assert call("report", *sweep, *plots, monkeypatch=monkeypatch) == 0
    assert "wrote plots/conditions_mfeat_mcar30.svg" in capsys.readouterr().out
    assert (here / "plots" / "conditions_mfeat_mcar30.svg").read_text().startswith("<svg")
    assert call("leaderboard", *sweep, "--against", "reported", monkeypatch=monkeypatch) == 0
    assert "mfeat" in capsys.readouterr().out
    assert call("compare", str(folder), str(folder), monkeypatch=monkeypatch) == 0
    assert capsys.readouterr().out
    assert call("compare", str(folder), "nowhere.csv", monkeypatch=monkeypatch) == 2
    assert "nowhere.csv" in capsys.readouterr().err
    assert call("leaderboard", *sweep, "--metric", "acc", monkeypatch=monkeypatch) == 2
    assert "no metric 'acc'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_watched_page_is_written_when_a_run_ends_and_only_then(here):
    """A whole process, ended as a user does: by Ctrl-C."""
    first = plan(load_suite("tiny.yaml", []))[0]
    page = here / "results" / "tiny" / "report.html"
    words = ["-m", "mmbench", "report", "tiny.yaml", "--watch"]
    with subprocess.Popen(
        [sys.executable, "-u", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell that put the tests into the background lets them ignore Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as watch:
        assert "0 of 2 runs; Ctrl-C stops watching" in watch.stdout.readline()
        assert "data-watched" in page.read_text()
        folder = here / "results" / "tiny" / "runs" / first.folder
        folder.mkdir(parents=True)
        finish(folder, "skipped.json", {"why": "needs <four> modalities"})
        assert "1 of 2 runs" in watch.stdout.readline()
        assert "needs &lt;four&gt; modalities" in page.read_text()
        watch.send_signal(signal.SIGINT)
        out, error = watch.communicate(timeout=600)
    assert (watch.returncode, error) == (0, "")
    assert out.strip() == ""  # nothing else changed, so nothing was written again
    assert "data-watched" not in page.read_text()


@pytest.mark.slow
def test_a_failed_run_is_exit_code_1_with_its_hole_in_the_table(here, monkeypatch, capsys):
    # each step of AdamW multiplies the weights by 1 - lr * weight_decay
    args = "{dim: 8, lr: 100.0, weight_decay: 100.0}"
    words = [f"methods=[majority, {{name: zero_fill, args: {args}}}]", "trainer.batch_size=4"]
    sweep = ["tiny.yaml", "--limit", "64", *words]
    assert call("run", *sweep, "--workers", "1", monkeypatch=monkeypatch) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "failed: diverged: " in out
    assert "failed: zero_fill / mfeat / mcar30 seed 0: diverged: " in out
    assert "log.txt)" in out
    assert "1 of 2 runs are not finished" in out
    board = pd.read_csv(here / "results" / "tiny-limit64" / "leaderboard.csv")
    holes = board[board["method"] == "zero_fill"]
    assert len(holes)
    assert holes["mean"].isna().all()
    assert holes["note"].str.startswith("failed: diverged").all()


def test_a_run_that_somebody_else_is_at_is_no_finished_run(here, monkeypatch, capsys):
    """The claim is that of a process that lives: this one."""
    monkeypatch.setattr("mmbench.bench.executors.local.execute", lambda *_, **__: (x for x in ()))
    words = ["run", "tiny.yaml", "methods=[majority]", "--limit", "64"]
    sweep = Sweep(*words[1:3], "limit=64", data_root=here)
    sweep.check()
    target = sweep.runs_folder / sweep.specs[0].folder
    with store.claim(target):
        assert call(*words, monkeypatch=monkeypatch) == 1
    out = capsys.readouterr().out
    assert "held elsewhere: majority / mfeat / mcar30 seed 0" in out
    assert "1 of 1 runs are not finished" in out
    assert call(*words, monkeypatch=monkeypatch) == 1
    assert "waiting: majority / mfeat / mcar30 seed 0" in capsys.readouterr().out


def test_a_suite_that_a_folder_holds_plans_the_same_runs(here):
    suite = load_suite("tiny.yaml", ["scenarios=[mcar]", "trainer.patience=2"])
    home.hold(here, suite)
    assert plan(load_suite(str(here / "suite.json"))) == plan(suite)


def test_a_folder_here_does_not_stand_for_the_built_in_suite_of_its_name(here):
    tiny = load_suite("tiny.yaml")
    home.hold(here / "quickstart", tiny)
    home.hold(here / "own", tiny)
    assert Sweep("quickstart", results="elsewhere").folder == Path("elsewhere/quickstart")
    assert Sweep("quickstart/").folder == Path("quickstart")
    assert Sweep("own", results="elsewhere").folder == Path("own")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_sweep_that_is_told_to_stop_says_what_is_kept_however_often_it_is_told(here, number):
    words = ["-m", "mmbench", "run", "tiny.yaml", "trainer.max_epochs=100000", "--workers", "1"]
    with subprocess.Popen(
        [sys.executable, "-u", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as sweep:
        for line in sweep.stdout:
            if "majority" in line and "done" in line:
                break
        for _ in range(5):
            sweep.send_signal(number)
            time.sleep(0.05)
        out, error = sweep.communicate(timeout=300)
    assert sweep.returncode == 128 + number
    assert "stopped: 1 of 2 runs are finished and kept" in out
    assert "Traceback" not in error
    assert "resource_tracker" not in error


def test_the_version_and_on_demand_the_traceback(monkeypatch, capsys):
    assert call("--version", monkeypatch=monkeypatch) == 0
    assert capsys.readouterr().out == f"mmbench {version('mmbench')}\n"
    monkeypatch.setattr(sys, "argv", ["mmbench", "--debug", "plan", "nothing.yaml"])
    with pytest.raises(ValueError, match=r"nothing\.yaml"):
        main()


@pytest.mark.parametrize("what", ["methods", "data", "scenarios", "suites", "metrics"])
def test_a_list_has_a_line_for_each(what, monkeypatch, capsys):
    assert call("list", what, monkeypatch=monkeypatch) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= 3
    assert all(len(line.split()) > 1 for line in lines), "something is listed without a word"


@pytest.mark.parametrize("words", [["--help"], ["list", "methods"], ["status", "quickstart"]])
def test_light_commands_import_neither_torch_nor_lightning(words):
    code = (
        "import sys; sys.argv = ['mmbench', *sys.argv[1:]]\n"
        "from mmbench.cli import main\n"
        "try: main()\n"
        "finally: print([m for m in ('torch', 'lightning', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, env=dict(os.environ)
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_the_module_is_the_command(here):
    done = subprocess.run(
        [sys.executable, "-m", "mmbench", "plan", "nothing.yaml"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: no suite named 'nothing.yaml'")
