"""What is committed under results/, which `mmbench run` writes over with this machine's numbers."""

import os
import shutil
import subprocess
from pathlib import Path

import pandas as pd

from mmbench.bench.compare import read_board

ROOT = Path(__file__).parents[1]


def published(path: str) -> str:
    """Text of a file under results/ as git's index has it; in a tree without git, as it lies."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        return (ROOT / "results" / path).read_text(encoding="utf-8")
    # a checkout of another user is read here, nothing of it is run
    git = ["git", "-C", str(ROOT), "-c", "safe.directory=*"]
    # in a hook of git these name another repository
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run([*git, "show", f":results/{path}"], capture_output=True, env=plain)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def published_board(suite: str, scratch: Path) -> pd.DataFrame:
    """The leaderboard of a published suite; `scratch` is a folder for a copy of it."""
    copy = scratch / "published.csv"
    copy.write_text(published(f"{suite}/leaderboard.csv"), encoding="utf-8")
    return read_board(copy)
