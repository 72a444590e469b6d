"""Workers on a real Slurm cluster of two nodes on this machine: `tests/slurm.py`."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from sleeper import held, shut_gate, sleepers
from sweeps import suite

import mmbench
from mmbench.bench.executors.workers import live

pytestmark = pytest.mark.slow
SRC = str(Path(mmbench.__file__).parents[1])
TESTS = str(Path(__file__).parents[1])


@pytest.fixture
def here(tmp_path, monkeypatch, cluster):
    """A folder with a suite of 40 runs of half a second, and the cluster in the environment."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "marks").mkdir()
    words = suite().model_dump(exclude={"limit", "keep_weights"})
    methods = sleepers(tmp_path / "marks", 40, 0.5)
    (tmp_path / "forty.yaml").write_text(
        yaml.safe_dump(words | {"name": "forty", "methods": methods})
    )
    path = [SRC, TESTS, os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    yield tmp_path
    cluster("scancel", "--me")
    cluster.wait_until(lambda: not cluster("squeue", "-h").strip(), "empty queue")


def start(*words, args="nodes=2,cpus_per_task=8"):
    """Begin `mmbench run` on the cluster, as a user would."""
    command = [sys.executable, "-m", "mmbench", "run", "forty.yaml", "--executor", "slurm"]
    return subprocess.Popen(
        [*command, "--executor-args", args, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # a shell's background job, which this may be, hears no Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def begun(here):
    """How often each run has begun."""
    return {file.stem: len(file.read_text().split("\n")) - 1 for file in here.glob("marks/*.txt")}


def finished(here):
    return len(list(here.glob("results/forty/runs/mfeat/*/*/[!.]*/done")))


def all_once(here):
    """Every run is done, whole, and published once."""
    runs = mmbench.Sweep("forty.yaml").runs(read_up_to=None)
    assert [run.state for run in runs] == ["done"] * 40
    assert finished(here) == 40


def end(process, code=0):
    out, _ = process.communicate(timeout=300)
    assert process.returncode == code, out
    return out


def test_forty_runs_on_two_workers_begin_and_end_once(here, cluster):
    out = end(start("--workers", "1"))
    assert "job array" in out
    assert "40 runs in" in out
    assert "| s39 " in out  # the leaderboard
    all_once(here)
    assert set(begun(here).values()) == {1}
    workers = list(here.glob("results/forty/runs/.workers/slurm-*_[01].log"))
    assert len(workers) == 2
    assert sum(file.read_text().count(": done") for file in workers) == 40


def test_a_worker_that_is_killed_costs_the_run_that_it_was_at(here, cluster):
    gate = shut_gate(here / "marks", 5)  # so that it is at one whenever it is killed
    process = start("--workers", "1")
    cluster.wait_until(lambda: held(here / "marks") == 2, "a run on each worker")
    job = cluster("squeue", "-h", "-r", "-t", "R", "-o", "%A").split()[0]
    cluster("scancel", "--signal=KILL", "--full", job)
    gate.unlink()
    end(process)
    all_once(here)
    assert sum(begun(here).values()) == 41


@pytest.mark.full
def test_a_worker_whose_time_is_nearly_up_is_queued_again_and_comes_back(here, cluster):
    gate = shut_gate(here / "marks", 5)
    process = start("--workers", "1", args="nodes=1,cpus_per_task=8")
    cluster.wait_until(lambda: held(here / "marks") == 1, "run")
    [job] = cluster("squeue", "-h", "-r", "-t", "R", "-o", "%A").split()
    cluster("scancel", "--signal=USR2", "--batch", job)  # as Slurm does before the end
    cluster.wait_until(
        lambda: "Restarts=1" in cluster("scontrol", "show", "job", job), "second start"
    )
    gate.unlink()
    end(process)
    all_once(here)
    [log] = here.glob("results/forty/runs/.workers/slurm-*_0.log")
    assert f"job {job} is queued again" in log.read_text()
    assert sum(begun(here).values()) <= 41


def test_a_job_that_never_starts_is_seen_waiting_and_others_may_do_its_runs(here, cluster):
    cluster("scontrol", "update", "partition=gpu", "State=DOWN")
    try:
        process = start()
        cluster.wait_until(lambda: "PENDING" in cluster("squeue", "-h", "-o", "%T"), "job")
        status = [sys.executable, "-m", "mmbench", "status", "forty.yaml"]
        shown = subprocess.run(status, capture_output=True, text=True, check=True).stdout
        assert "at it: no worker, 2 in the queue of the cluster" in shown
        # a worker that is started by hand takes them all
        work = [sys.executable, "-m", "mmbench", "work", "results/forty", "--workers", "2"]
        subprocess.run(work, check=True, capture_output=True)
        end(process)
    finally:
        cluster("scontrol", "update", "partition=gpu", "State=UP")
    all_once(here)


def test_a_job_of_higher_priority_pre_empts_workers_and_they_come_back(here, cluster):
    gate = shut_gate(here / "marks", 5)  # so that both are at one when they are told
    process = start("--workers", "1")
    cluster.wait_until(lambda: held(here / "marks") == 2, "a run on each worker")
    text = "#!/bin/bash\n#SBATCH -p urgent -N 2 --exclusive\nsleep 5\n"
    urgent = cluster("sbatch", "--parsable", "--output=/dev/null", stdin=text).strip()
    # not waiting any more: it runs, or is over
    cluster.wait_until(lambda: "PD" not in cluster("squeue", "-h", "-j", urgent, "-o", "%t"), "job")
    gate.unlink()
    end(process)
    all_once(here)
    assert sum(begun(here).values()) <= 42
    logs = "".join(f.read_text() for f in here.glob("results/forty/runs/.workers/slurm-*.log"))
    assert "goes on from its checkpoints" in logs  # they were told, and said so


def test_the_submitter_may_be_killed_and_come_back(here, cluster):
    gate = shut_gate(here / "marks", 5)  # not all done before the second command looks
    process = start()
    cluster.wait_until(lambda: held(here / "marks") and finished(here), "runs done and begun")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert live(here / "results" / "forty" / "runs")
    process = start()
    line = process.stdout.readline()
    while "are at it or wait" not in line:  # none was placed beside them
        assert line, "it ended before"
        line = process.stdout.readline()
    gate.unlink()
    end(process)
    all_once(here)
    assert set(begun(here).values()) == {1}


def test_what_the_cluster_refuses_is_said_as_it_says_it(here, cluster):
    process = start(args="partition=nowhere")
    out = end(process, code=2)
    assert "the cluster refuses the job: " in out
    assert "invalid partition specified: nowhere" in out


@pytest.mark.full
def test_ctrl_c_leaves_the_workers_and_says_how_to_end_them(here, cluster):
    gate = shut_gate(here / "marks", 5)  # so that the workers are at it afterwards
    process = start()
    line = process.stdout.readline()
    while ": done" not in line:  # until it follows
        assert line, "it ended before"
        line = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out = end(process, code=130)
    assert "the workers go on; `scancel --me --name=mmbench-forty-" in out
    assert live(here / "results" / "forty" / "runs")
    gate.unlink()


@pytest.mark.full
def test_settings_are_searched_by_workers_of_the_cluster_as_on_one_machine(here, cluster):
    """Each round of a search waits for the scores of the one before, wherever they were made."""
    tune = {"trials": 10, "lengths": [1, 2]}  # more than are drawn before any score is read
    words = suite(methods=["zero_fill"], seeds=2, tune=tune)
    text = yaml.safe_dump(words.model_dump(exclude={"limit", "keep_weights"}) | {"limit": 64})
    (here / "tuned.yaml").write_text(text)
    command = [sys.executable, "-m", "mmbench", "run", "tuned.yaml", "--executor", "slurm"]
    args = ["--executor-args", "nodes=2,cpus_per_task=8", "--workers", "2"]
    done = subprocess.run([*command, *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    sweep = mmbench.Sweep("tuned.yaml")
    assert {run.state for run in sweep.runs(read_up_to=None)} == {"done"}
    assert {spec.tuned for spec in sweep.specs} == {10}
    alone = mmbench.Sweep("tuned.yaml", results="alone")
    alone.run(workers=2)
    searches = [(one.folder / "search.json").read_bytes() for one in (sweep, alone)]
    assert searches[0] == searches[1]
