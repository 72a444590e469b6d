"""The same question put to a second process, whose hashes of texts are others."""

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from mmbench.config import JSON

SCRIPT = """
import importlib, json, sys
asked = json.load(sys.stdin)
sys.path[:] = asked["path"]
module, _, function = asked["function"].partition(":")
answer = getattr(importlib.import_module(module), function)(*asked["arguments"])
print("\\n" + json.dumps(answer))
"""


def in_another_process(function: str, *arguments: JSON) -> Any:
    """Call a function in a fresh interpreter with another hash seed.

    Args:
        function: "module:function", which takes and returns what JSON can hold.
        arguments: Its arguments.

    Raises:
        RuntimeError: If it fails there; the last line of what it said.
    """
    other = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps({"path": sys.path, "function": function, "arguments": arguments}),
        env=os.environ | {"PYTHONHASHSEED": other},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError((done.stderr.strip() or "it ended without a word").splitlines()[-1])
    return json.loads(done.stdout.strip().splitlines()[-1])


def address(cls: type) -> list[str]:
    """Module, file and qualified name of a class, by which `by_address` finds it again."""
    file = str(getattr(sys.modules[cls.__module__], "__file__", None) or "")
    # a script is another process's main module no more
    module = Path(file).stem if cls.__module__ == "__main__" else cls.__module__
    return [module, file, cls.__qualname__]


def by_address(module: str, file: str, qualname: str) -> Any:
    """A class by its address; from its file where its module is not on the path."""
    try:
        holder: Any = importlib.import_module(module)
    except ImportError:
        if not Path(file).is_file():
            raise
        spec = importlib.util.spec_from_file_location(module, file)
        assert spec is not None
        assert spec.loader is not None
        holder = sys.modules[module] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(holder)
    for part in qualname.split("."):
        holder = getattr(holder, part)
    return holder


def call(where: list[str], *arguments: JSON) -> JSON:
    """Call a function by its address, in a second process."""
    answer: JSON = by_address(*where)(*arguments)
    return answer
