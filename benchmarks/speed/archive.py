"""How long an archive of many runs takes to be written, and a new method to be compared with it.

    python benchmarks/speed/archive.py [RUNS, 10000]

Seconds of one core, whatever else the machine does (limit 60 for both together). The runs are
folders whose files are links to those of one run that was made.
"""

import sys
import tempfile
import time
from pathlib import Path

from store import fill, made, many

from mmbench import Sweep


def main(runs: int) -> None:
    """Print a line for each half."""
    with tempfile.TemporaryDirectory(dir=".") as name:
        suite = many(runs)
        template = made(suite, Path(name) / "one")
        names = ["late_logistic", *["zero_fill"] * (len(suite["methods"]) - 1)]  # for a verdict
        suite["methods"] = [
            {"name": method, "label": each["label"]}
            for method, each in zip(names, suite["methods"], strict=True)
        ]
        archived = Sweep(suite, results=name)
        fill(archived.specs, archived.runs_folder, template)
        began = time.process_time()
        file, held = Sweep(suite, results=name).archive()
        written_s = time.process_time() - began
        print(f"archive of {held:,} runs written: {written_s:.1f} s, {file.stat().st_size:,} bytes")
        mine = suite | {"methods": [{"name": "zero_fill", "label": "mine"}]}
        new = Sweep(mine, results=Path(name) / "mine")
        fill(new.specs, new.runs_folder, template)
        began = time.process_time()
        with new.against(file) as beside:
            board, _ = new.boards(runs=beside)
            said = new.verdict(runs=beside).sentences
        assert said
        compared_s = time.process_time() - began
        both_s = written_s + compared_s
        print(
            f"compared with {board['method'].nunique() - 1} methods: {compared_s:.1f} s; both "
            f"together {both_s:.1f} s, {both_s * 10_000 / held:.1f} s for 10,000 (limit 60)"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
