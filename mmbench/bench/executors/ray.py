"""Workers on a Ray cluster: one actor a slot, each of which starts one worker and waits for it.

An actor that dies is started again, wherever there is room; what it was at goes on from its
checkpoints. No run is a task of Ray's: the workers share the runs among themselves. On a Slurm
cluster use the engine `slurm` instead.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmbench.bench.executors.engine import Order, Placement, take_number
from mmbench.registry import suggest

KNOWN = ("address", "workers", "num_gpus", "num_cpus")
PASSED_ON = ("PYTHONPATH", "MMBENCH_CACHE")  # of the environment, where they are set
# a worker ends with the actor that started it: on Linux the kernel sends it SIGTERM (prctl 1) then
WITH_PARENT = (
    "import ctypes, os, sys\n"
    f"if sys.platform == 'linux': ctypes.CDLL(None).prctl(1, {int(signal.SIGTERM)})\n"
    "os.execv(sys.argv[1], sys.argv[1:])"
)


def place(order: Order, args: Mapping[str, str]) -> Placement:
    """Place one actor a slot.

    Args:
        order: The worker.
        args: `address` (default `auto`), `num_gpus` and `num_cpus` of a slot (fractions are
            allowed; by default one GPU for each device of a run, where the cluster has any, and
            as many CPUs) and `workers`, the
            number of slots (default: as many as the cluster has room for).

    Raises:
        ValueError: If an argument is unknown or no number, or Ray is not installed.
    """
    options = dict(args)
    for name in options:
        if name not in KNOWN:
            raise ValueError(
                f"--executor-args {name}: ray does not know it{suggest(name, KNOWN)}; "
                f"known: {', '.join(KNOWN)}"
            )
    workers = take_number(options, "workers", 0, least=0)
    cpus = _share(options, "num_cpus", float(order.devices))
    gpus = _share(options, "num_gpus", None)
    address = options.get("address", "auto")
    try:
        import ray
    except ImportError as error:
        raise ValueError("Ray is not installed: pip install 'mmbench[ray]'") from error

    actors: list[Any] = []
    answers: list[Any] = []

    def start() -> str:
        variables = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        try:
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level="ERROR",
                runtime_env={"env_vars": variables},
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            said = " ".join(str(error).split())
            raise ValueError(f"no Ray cluster at {address!r}: {said}") from error
        room = ray.cluster_resources()
        each = {
            "CPU": cpus,
            "GPU": (order.devices if room.get("GPU") else 0.0) if gpus is None else gpus,
        }
        slots = min(int(room.get(name, 0.0) / need) for name, need in each.items() if need)
        count = min(workers or slots, order.runs)
        if not slots:
            raise ValueError(f"the Ray cluster has no room for a slot of {each}; it has {room}")
        order.logs.mkdir(parents=True, exist_ok=True)
        actor = ray.remote(_Slot).options(
            num_gpus=each["GPU"], num_cpus=cpus, max_restarts=-1, max_task_retries=-1
        )
        for number in range(count):
            actors.append(actor.remote())
            log = str(order.logs / f"ray-{os.getpid()}-{number}.log")
            answers.append(actors[-1].work.remote([*order.command, "--workers", "1"], log))
        return f"{count} actors; what their workers print lies in {order.logs}"

    def alive() -> int:
        if not answers:
            return 0
        _, waiting = ray.wait(answers, num_returns=len(answers), timeout=0)
        return len(waiting)

    def leave() -> str:
        for actor in actors:
            ray.kill(actor)
        return "The workers ended, too; the same command continues."

    text = (
        f"one actor a slot at {address}, "
        f"{workers or 'as many slots as the cluster has room for'}, num_cpus={cpus:g}, "
        f"num_gpus={f'{order.devices} if there are any' if gpus is None else f'{gpus:g}'}; each "
        "starts\n"
        f"{' '.join(order.command)} --workers 1\n"
    )
    return Placement(text, start, alive, leave)


class _Slot:
    """Starts a worker where Ray gave it a slot, with the GPUs that Ray gave it."""

    def work(self, command: list[str], log: str) -> int:
        """Run a worker to its end; returns its exit code."""
        with Path(log).open("a", encoding="utf-8") as output:
            boot = [sys.executable, "-c", WITH_PARENT, *command]
            return subprocess.run(
                boot, stdout=output, stderr=subprocess.STDOUT, check=False
            ).returncode


def _share(args: dict[str, str], name: str, default: float | None) -> Any:
    text = args.pop(name, None)
    if text is None:
        return default
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1e6:
        raise ValueError(f"--executor-args {name}={text}: give a number, 0 or more")
    return share
