"""What made a run: sources, versions and machine."""

import os
import platform
import re
import shutil
import subprocess
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from mmbench.bench.result import Provenance
from mmbench.datamodule import DataModule
from mmbench.method import Method
from mmbench.sources import distributions, sources

GIT_S = 10.0  # after which git is not waited for
HERE = "mmbench.bench.run"
STEPS = tuple(
    f"{HERE}.{step}" for step in ("training", "schedule", "selection", "evaluation", "threads")
)


def provenance(method: type[Method], data: DataModule, device: torch.device) -> Provenance:
    """What made a run.

    Args:
        method: Class of the method.
        data: Its data.
        device: Where it was trained.
    """
    return Provenance(code=environment()["code"], machine=_machine(device), **made_by(method, data))


def made_by(method: type, data: DataModule) -> dict[str, dict[str, str]]:
    """`sources` and `distributions` of a run, by which its numbers and weights are known."""
    # mechanisms are found by name, so no import leads to them
    mechanisms = data.scenario.classes()
    modules = (one.__module__ for one in (method, type(data), *mechanisms))
    return {
        "sources": sources(method, type(data), *mechanisms, *STEPS),
        "distributions": distributions(*modules),
    }


@lru_cache(maxsize=1)
def environment() -> dict[str, Any]:
    """Versions, commit and machine; nothing that names a user or a path."""
    packages = ("mmbench", "torch", "torchvision", "lightning", "numpy", "transformers")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "code": _commit(),
        "versions": {name: version(name) for name in packages},
        "python": platform.python_version(),
        "system": platform.system(),
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cpus": os.cpu_count(),
        "gpu": gpu,
        "driver": None if gpu is None else _driver(),
    }


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    here = environment()
    return f"{here['processor']}, {here['instructions']}"


def _processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Model of the processor; its kind alone where the system does not say more."""
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _driver(file: Path = Path("/sys/module/nvidia/version")) -> str | None:
    return file.read_text(encoding="utf-8").strip() if file.is_file() else None


def _commit() -> str:
    """Version, and the commit where git knows one; `+` = with uncommitted changes."""
    release = version("mmbench")
    here = Path(__file__).parents[3]
    if not (here / ".git").exists() or shutil.which("git") is None:
        return release

    # in a hook of git these name another repository
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*words: str) -> str:
        command = ["git", "-C", str(here), *words]
        try:
            done = subprocess.run(command, capture_output=True, env=plain, timeout=GIT_S)
        except (OSError, subprocess.TimeoutExpired):  # no program, or a file system that hangs
            return ""
        return done.stdout.decode("ascii", "replace").strip() if done.returncode == 0 else ""

    head = git("rev-parse", "--short=10", "HEAD")
    if not re.fullmatch(r"[0-9a-f]{10,}", head):  # a checkout of somebody else, for instance
        return release
    return f"{release}-{head}{'+' if git('status', '--porcelain', '-uno') else ''}"
