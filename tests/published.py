"""What is committed under results/, which `mmbench run` writes over with this machine's numbers."""

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]


def published(path: str) -> str:
    """Text of a file under results/ as git's index has it; in a tree without git, as it lies."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        return (ROOT / "results" / path).read_text(encoding="utf-8")
    # a checkout of another user is read here, nothing of it is run
    git = ["git", "-C", str(ROOT), "-c", "safe.directory=*"]
    command = [*git, "show", f":results/{path}"]
    return subprocess.run(command, capture_output=True, check=True, encoding="utf-8").stdout
