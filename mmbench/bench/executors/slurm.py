"""Workers on a Slurm cluster: one job array, one task a node, a slot a GPU inside it.

By a plain `sbatch` text that ends in `exec`, so that the signals of the cluster reach the worker
itself: on SIGUSR2, shortly before its time is up, it asks to be queued again; on SIGTERM it gives
its runs back and ends. States are read from `squeue`, never from `sacct`, which many clusters lack.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from mmbench.bench.executors.engine import Order, Placement, take_number
from mmbench.store import write_json

NOTE = "slurm.json"  # in a suite's folder: the array that was placed last
NOTICE_S = 120  # before the end of its time, a worker is told
MARGIN_MIN = 3  # before the end of its time, a worker takes nothing more
ANSWER_S = 10.0  # a cluster that does not answer in this time is taken as one that does not answer
PLAIN = re.compile(r"[\w.:=@/+%\[\]*&|!-]+")  # in a value: nothing that ends a line or a word


def place(order: Order, args: Mapping[str, str]) -> Placement:
    """Place an array of workers.

    Args:
        order: The worker.
        args: `nodes` (tasks of the array, default 1), `workers` (runs at a time on each; default
            as many as `gpus_per_node` are enough for, else 1) or in its place `per_gpu`, as
            `--per-gpu`, and `time` (minutes a worker has before it queues again). All others are
            options of `sbatch`, such as `partition=gpu` or `gpus_per_node=8`; what the cluster
            refuses, it says itself.

    Raises:
        ValueError: If a value cannot stand in the text, or a node has too few GPUs for a run.
    """
    text = script(order, args)

    note = order.folder / NOTE

    def start() -> str:
        if shutil.which("sbatch") is None:
            raise ValueError("there is no sbatch here; submit from a node of the Slurm cluster")
        order.logs.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            ["sbatch", "--parsable"], input=text, capture_output=True, text=True, check=False
        )
        if done.returncode:
            said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
            raise ValueError(f"the cluster refuses the job: {said}")
        job = done.stdout.strip().partition(";")[0]
        write_json(note, {"job": job, "name": order.name})
        return f"job array {job} is queued; what its workers print lies in {order.logs}"

    def alive() -> int | None:
        known = jobs(order.name)
        return None if known is None else sum(known.values())

    def leave() -> str:
        return f"the workers go on; `scancel --me --name={order.name}` ends them"

    def placed() -> str:
        return _placed(note)

    return Placement(text, start, alive, leave, placed)


def _placed(note: Path) -> str:
    """What is known of an array that was placed before; empty if none was."""
    try:
        job = json.loads(note.read_text(encoding="utf-8"))["job"]
    except FileNotFoundError:
        return ""
    except (ValueError, KeyError, TypeError):
        job = "of unknown number"
    return (
        f"squeue does not answer, and job array {job} was placed before: no more workers are, as "
        f"long as {note} is there"
    )


def script(order: Order, args: Mapping[str, str]) -> str:
    """The text for `sbatch`.

    Raises:
        ValueError: As `place`.
    """
    options = {name.replace("-", "_"): value for name, value in args.items()}
    for name, value in options.items():
        if not (re.fullmatch(r"[a-z_]+", name) and PLAIN.fullmatch(value)):
            raise ValueError(f"--executor-args {name}={value!r} cannot be an option of sbatch")
    nodes = take_number(options, "nodes", 1)
    gpus = options.get("gpus_per_node", "1").rpartition(":")[2]  # a type may stand before it
    count = int(gpus) if gpus.isdecimal() else 1
    if "gpus_per_node" in options and count < order.devices:
        raise ValueError(
            f"trainer.devices: a run asks for {order.devices}, and a node has {count} "
            f"(--executor-args gpus_per_node={options['gpus_per_node']})"
        )
    workers = take_number(options, "workers", max(1, count // order.devices))
    nodes = min(nodes, max(1, -(-order.runs // workers)))
    if "per_gpu" in options:  # then the worker counts its slots where it runs
        command = [*order.command, "--per-gpu", options.pop("per_gpu")]
    else:
        command = [*order.command, "--workers", str(workers)]
    if "time" in options:
        minutes = take_number(options, "time", 0, least=2 * MARGIN_MIN)
        options["time"] = str(minutes)
        command += ["--time", str(minutes - MARGIN_MIN)]
    if not options.keys() & {"cpus_per_task", "cpus_per_gpu", "exclusive"}:
        options["cpus_per_task"] = str(workers * order.devices)
    lines = [
        "#!/bin/bash",
        f"#SBATCH --job-name={order.name}",
        f"#SBATCH --array=0-{nodes - 1}",
        "#SBATCH --nodes=1",
        "#SBATCH --ntasks=1",
        *(f"#SBATCH --{name.replace('_', '-')}={value}" for name, value in options.items()),
        "#SBATCH --requeue",
        "#SBATCH --open-mode=append",
        f"#SBATCH --signal=B:USR2@{NOTICE_S}",
        f"#SBATCH --output={_plain(str(order.logs))}/slurm-%A_%a.log",
        f"exec {shlex.join(command)}",
    ]
    return "\n".join(lines) + "\n"


def _plain(path: str) -> str:
    """A path in a line that sbatch reads.

    Raises:
        ValueError: If sbatch would take it for something else.
    """
    if "\n" in path or '"' in path:
        raise ValueError(f"sbatch cannot write to {path!r}; choose another folder with --results")
    return '"' + path.replace("%", "%%") + '"' if " " in path else path.replace("%", "%%")


def jobs(name: str) -> dict[str, int] | None:
    """How many of the user's array tasks of a name are in each state; None without an answer."""
    if shutil.which("squeue") is None:
        return None
    command = ["squeue", "--me", "--array", "--noheader", f"--name={name}", "--format=%T"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=ANSWER_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode:
        return None
    states = done.stdout.split()
    return {state: states.count(state) for state in sorted(set(states))}


def requeue() -> str:
    """Ask that this job is queued again, where it is one of Slurm.

    Returns:
        One line that says what came of it.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return "no Slurm job, so nobody starts this worker again"
    done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
    if done.returncode:
        return f"job {job} is not queued again: {' '.join(done.stderr.split())}"
    return f"job {job} is queued again"
