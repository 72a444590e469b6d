"""`mmbench work`: workers that share a folder, as processes of their own."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from sleeper import held, shut_gate, sleepers
from sweeps import suite
from waiting import wait_until

import mmbench
from mmbench import Sweep
from mmbench.bench.executors.engine import Order, engine, parse_args
from mmbench.bench.executors.slurm import script
from mmbench.store import is_claimed

SRC = Path(mmbench.__file__).parents[1]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a suite of twelve runs that take a while and leave marks."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "marks").mkdir()
    words = suite().model_dump(exclude={"limit", "keep_weights"})
    methods = sleepers(tmp_path / "marks", 12, 0.5)
    (tmp_path / "twelve.yaml").write_text(
        yaml.safe_dump(words | {"name": "twelve", "methods": methods})
    )
    path = [str(SRC), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return tmp_path


def start(*words):
    return subprocess.Popen(
        [sys.executable, "-m", "mmbench", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def end(process, code=0):
    out, _ = process.communicate(timeout=300)
    assert process.returncode == code, out
    return out


def said(answer, code=0):
    """What the command line said in this process, where nothing else runs beside it."""
    ended, out, error = answer
    assert ended == code, out + error
    return out + error


def begun(here):
    """How often runs have begun, in all."""
    return sum(len(file.read_text().splitlines()) for file in here.glob("marks/*.txt"))


@pytest.mark.slow
def test_workers_that_begin_together_share_the_runs_and_none_is_done_twice(here):
    gate = shut_gate(here / "marks", 0)  # until both are at a run, and seen there
    watch = start("status", "twelve.yaml", "--watch")
    shown = [watch.stdout.readline()]
    workers = [start("work", "twelve.yaml", "--workers", "1") for _ in range(2)]
    wait_until(lambda: held(here / "marks") == 2)
    while "at it: 2 workers with 2 slots" not in shown[-1]:
        shown.append(watch.stdout.readline())
        assert shown[-1], shown
    gate.unlink()
    texts = [end(worker) for worker in workers]
    assert begun(here) == 12
    assert sum(text.count(": done") for text in texts) == 12
    assert all(": done" in text for text in texts)
    assert [run.state for run in Sweep("twelve.yaml").runs(read_up_to=None)] == ["done"] * 12
    assert not Sweep("twelve.yaml").workers()
    out = end(watch)  # ends when all is done
    assert shown[0].endswith("12 waiting\n")
    assert "12 done" in out


@pytest.mark.slow
def test_workers_that_begin_together_search_settings_and_end_with_the_best(here):
    meeting = {"name": "sleeper.Meeting", "args": {"marks": str(here / "marks")}}
    words = suite(methods=[meeting], seeds=2, tune={"trials": 10})
    (here / "tuned.yaml").write_text(yaml.safe_dump(words.model_dump()))
    workers = [start("work", "tuned.yaml", "--workers", "1") for _ in range(2)]
    texts = [end(worker) for worker in workers]
    sweep = Sweep("tuned.yaml")
    assert {run.state for run in sweep.runs(read_up_to=None)} == {"done"}
    assert {spec.tuned for spec in sweep.specs} == {10}
    runs = len(sweep.known)
    assert runs == 10 + 1, "the best trial is the run of the first seed"
    assert sum(text.count(": done") for text in texts) == runs
    assert all(": done" in text for text in texts)


@pytest.mark.slow
def test_a_worker_that_is_told_to_end_gives_its_runs_back_at_once(here, mmbench):
    gate = shut_gate(here / "marks", 4)
    worker = start("work", "twelve.yaml", "--workers", "2")
    runs = Sweep("twelve.yaml").runs()
    wait_until(lambda: held(here / "marks") == 2)
    worker.send_signal(signal.SIGTERM)
    out = end(worker, code=128 + signal.SIGTERM)
    assert "goes on from its checkpoints" in out
    assert not [run for run in runs if is_claimed(run.folder)]
    assert not list((here / "results").rglob(".*.claim"))
    gate.unlink()
    assert "are finished)" in said(mmbench("run", "twelve.yaml", "--workers", "2"))
    assert begun(here) == 14
    assert not list((here / "results").rglob(".*.left.*"))


@pytest.mark.slow
def test_a_worker_joins_what_was_asked_with_overrides_and_less_than_the_suite(here, mmbench):
    assert "12 done" not in said(mmbench("status", "twelve.yaml"))
    said(mmbench("run", "twelve.yaml", "--workers", "2", "seeds=2", "methods=[majority]"))
    said(mmbench("run", "twelve.yaml", "--workers", "2", "methods=[majority]"))
    part = Sweep("twelve.yaml", "methods=[majority]").board_folder
    assert part.name.startswith("part-")
    assert Sweep(part).specs == Sweep("twelve.yaml", "methods=[majority]").specs
    assert Sweep(part).runs_folder == Sweep("twelve.yaml").runs_folder
    assert Sweep(part).board_folder == part
    for run in Sweep("twelve.yaml", "seeds=2", "methods=[majority]").runs():
        (run.folder / "done").unlink()
    # by the suite's name: what its folder holds, two seeds of one method
    assert said(mmbench("work", "twelve.yaml", "--workers", "1")).count(": done") == 2


@pytest.mark.slow
def test_a_worker_leaves_failures_alone_and_run_tries_them_again(here, mmbench):
    words = yaml.safe_load((here / "twelve.yaml").read_text())
    words["methods"] = ["majority", {"name": "sleeper.Failing", "label": "failing"}]
    (here / "bad.yaml").write_text(yaml.safe_dump(words | {"name": "bad"}))
    out = said(mmbench("work", "bad.yaml", "--workers", "1"), code=1)
    assert "failing / mfeat / mcar30 seed 0: failed: error: RuntimeError: made up" in out
    assert said(mmbench("work", "bad.yaml", "--workers", "1")) == ""
    assert "failing" in said(mmbench("run", "bad.yaml", "--workers", "1"), code=1)


def test_a_worker_whose_time_is_up_takes_nothing(here, mmbench):
    assert said(mmbench("work", "twelve.yaml", "--workers", "1", "--time", "0")) == ""
    assert begun(here) == 0


# --- engines ----------------------------------------------------------------------------------


def order(tmp_path, **changes):
    said = {
        "name": "mmbench-x-123456",
        "command": ("/usr/bin/python3", "-m", "mmbench", "work", "/results/a b"),
        "folder": tmp_path,
        "data_root": tmp_path,
        "logs": Path("/results/a b/runs/.workers"),
        "runs": 1000,
    }
    return Order(**said | changes)


def test_the_text_for_sbatch_is_an_array_of_workers_that_ends_in_exec(tmp_path):
    args = parse_args("partition=gpu,time=240,nodes=4,gpus_per_node=8")
    lines = script(order(tmp_path), args).splitlines()
    assert lines[0] == "#!/bin/bash"
    assert {
        "#SBATCH --array=0-3",
        "#SBATCH --nodes=1",
        "#SBATCH --ntasks=1",
        "#SBATCH --partition=gpu",
        "#SBATCH --time=240",
        "#SBATCH --gpus-per-node=8",
        "#SBATCH --cpus-per-task=8",
        "#SBATCH --requeue",
        "#SBATCH --open-mode=append",
        "#SBATCH --signal=B:USR2@120",
        '#SBATCH --output="/results/a b/runs/.workers"/slurm-%A_%a.log',
    } <= set(lines)
    assert lines[-1] == (
        "exec /usr/bin/python3 -m mmbench work '/results/a b' --workers 8 --time 237"
    )
    few = script(order(tmp_path, runs=9), args)
    assert "--array=0-1\n" in few  # nine runs need no third node of eight slots


def test_a_slot_of_a_job_has_the_devices_that_each_run_asks_for(tmp_path):
    text = script(order(tmp_path, devices=4), parse_args("gpus_per_node=8"))
    assert text.endswith("--workers 2\n")
    assert "--cpus-per-task=8\n" in text
    message = r"a run asks for 4, and a node has 2 \(--executor-args gpus_per_node=a100:2\)"
    with pytest.raises(ValueError, match=message):
        script(order(tmp_path, devices=4), parse_args("gpus_per_node=a100:2"))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("nodes=0", "nodes=0: give a whole number of at least 1"),
        ("time=2", "time=2: give a whole number of at least 6"),
        ("partition=a\nb", "cannot be an option of sbatch"),
        ("comment=$(reboot)", "cannot be an option of sbatch"),
        ("Partition", "takes NAME=VALUE"),
        ("nodes=1,nodes=2", "gives nodes twice"),
    ],
)
def test_an_argument_that_is_wrong_is_one_line(tmp_path, args, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        script(order(tmp_path), parse_args(args))


def test_an_engine_that_is_not_there_is_one_line(here, mmbench):
    with pytest.raises(ValueError, match="no engine 'slrum'; did you mean 'slurm'"):
        engine("slrum")
    out = said(mmbench("run", "twelve.yaml", "--executor", "slrum"), code=2)
    assert "no engine 'slrum'; did you mean 'slurm'?" in out
    out = said(mmbench("run", "twelve.yaml", "--executor-args", "nodes=2"), code=2)
    assert "for another --executor than local" in out
    assert not (here / "results").exists()


@pytest.fixture
def half_a_cluster(tmp_path, monkeypatch):
    """A cluster that takes jobs, and says of none what became of it."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    submitted = tmp_path / "submitted.txt"
    for name, text in (
        ("sbatch", f"cat > /dev/null; echo job >> {submitted}; echo '17;cluster'"),
        ("squeue", "echo slurm_load_jobs error: Unable to contact slurm controller >&2; exit 1"),
    ):
        (bin_folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (bin_folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_folder}{os.pathsep}{os.environ['PATH']}")
    return submitted


def test_no_second_array_is_placed_while_squeue_does_not_answer(half_a_cluster, here):
    sweep = Sweep("twelve.yaml", results=here / "results", data_root=here)
    todo = sweep.todo()
    said = []
    for _ in range(2):
        where, events = sweep.follow(todo, sweep.place("slurm", {}, len(todo)))
        events.close()
        said.append(where)
    assert half_a_cluster.read_text().count("job") == 1
    assert said[0].startswith("job array 17 is queued")
    note = here / "results" / "twelve" / "slurm.json"
    assert said[1] == (
        "squeue does not answer, and job array 17 was placed before: no more workers are, as long "
        f"as {note} is there"
    )
    (half_a_cluster.parent / "bin" / "squeue").write_text("#!/bin/sh\n")  # it is gone, and told so
    sweep.follow(todo, sweep.place("slurm", {}, len(todo)))[1].close()
    note.unlink()
    (half_a_cluster.parent / "bin" / "squeue").write_text("#!/bin/sh\nexit 1\n")
    sweep.follow(todo, sweep.place("slurm", {}, len(todo)))[1].close()
    assert half_a_cluster.read_text().count("job") == 3


PLUGIN = '''
import subprocess
from mmbench.bench.executors.engine import Placement, take_number

started = []


def place(order, args):
    """Workers as plain processes of this machine."""
    args = dict(args)
    count = take_number(args, "count", 1)
    command = [*order.command, "--workers", "1"]

    def start():
        order.logs.mkdir(parents=True, exist_ok=True)
        for _ in range(count):
            with (order.logs / "plain.log").open("a") as log:
                started.append(subprocess.Popen(command, stdout=log, stderr=log))
        return f"{count} processes"

    def alive():
        return sum(one.poll() is None for one in started)

    return Placement(" ".join(command) + "\\n", start, alive, lambda: "they go on")
'''


@pytest.mark.slow
def test_a_plugin_engine_is_one_function_and_an_entry_point(here, monkeypatch, mmbench):
    site = here / "site"
    info = site / "plain_engine-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plain-engine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[mmbench.executors]\nplain = plain_engine:place\n")
    (site / "plain_engine.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(site)
    words = ["run", "twelve.yaml", "--executor", "plain", "--executor-args", "count=2"]
    shown = said(mmbench(*words, "--dry-run"))
    assert f"-m mmbench work {here / 'results' / 'twelve'} --data-root" in shown
    assert not (here / "results").exists()
    out = said(mmbench(*words))
    assert "12 runs (2 processes), results in results/twelve" in out
    assert "12 runs in" in out
    assert begun(here) == 12
    assert [one.wait(timeout=60) for one in sys.modules["plain_engine"].started] == [0, 0]
    log = (here / "results" / "twelve" / "runs" / ".workers" / "plain.log").read_text()
    assert log.count(": done") == 12


@pytest.mark.slow
def test_a_sweep_whose_workers_are_gone_ends_and_says_what_is_left(here, monkeypatch, mmbench):
    site = here / "site"
    info = site / "no_engine-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: no-engine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[mmbench.executors]\nnone = no_engine:place\n")
    (site / "no_engine.py").write_text(
        "from mmbench.bench.executors.engine import Placement\n"
        "def place(order, args):\n"
        "    return Placement('', lambda: 'nowhere', lambda: 0, lambda: '')\n"
    )
    monkeypatch.syspath_prepend(site)
    out = said(mmbench("run", "twelve.yaml", "--executor", "none"), code=1)
    assert "12 of 12 runs are not finished" in out
