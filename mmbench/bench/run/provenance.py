"""What made a run: versions, commit and machine."""

import os
import platform
import subprocess
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


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
        "processor": platform.machine(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
    }


def _commit() -> str:
    """Version, and the commit if this is a checkout; `+` = with uncommitted changes."""
    release = version("mmbench")
    here = Path(__file__).parents[3]
    if not (here / ".git").exists():
        return release

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True)
        return done.stdout.strip()

    changed = "+" if git("status", "--porcelain", "--untracked-files=no") else ""
    return f"{release}-{git('rev-parse', '--short=10', 'HEAD')}{changed}"
