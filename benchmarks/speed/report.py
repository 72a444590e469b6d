"""How large the page of 5,000 runs is, how long it takes to write, and how soon a browser shows it.

    python benchmarks/speed/report.py [FOLDER]

The runs of `leaderboard.py` beside this file, each with a training curve of 30 epochs. With a
FOLDER the page is left there. Where a program `chromium` is on the path, milliseconds from the
start of navigation to DOMContentLoaded and to load are those of the median of three fresh starts.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from leaderboard import write

from mmbench.bench.leaderboard import leaderboard, robustness
from mmbench.bench.record import Run, read_records
from mmbench.bench.report import write_report

CURVE = "epoch,step,train/task,val/accuracy\n" + "".join(
    f"{epoch},{10 * epoch},{1 / (1 + epoch):.5f},{epoch / 30:.5f}\n" for epoch in range(30)
)
ENVIRONMENT = {"python": "3.11", "torch": "2.11", "machine": "one", "runs_on_gpu": 1}
ASK = """<script>addEventListener("load", () => setTimeout(() => {
  const n = performance.getEntriesByType("navigation")[0];
  document.documentElement.dataset.times = JSON.stringify(
    [n.domContentLoadedEventEnd, n.loadEventEnd, document.querySelectorAll("*").length]);
}, 0));</script></head>"""


def page_of(runs: Sequence[Run], folder: Path) -> Path:
    """Write the page and say how long that took."""
    for run in runs:
        (run.folder / "metrics.csv").write_text(CURVE)
        (run.folder / "env.json").write_text(json.dumps(ENVIRONMENT))
    records = read_records(runs)
    board, robust = leaderboard(runs, records=records), robustness(runs, records=records)
    began = time.process_time()
    page = write_report("large", runs, board, folder, metric="macro_f1", robust=robust)
    took_s = time.process_time() - began
    print(f"{len(runs):,} runs: {page.stat().st_size / 1e6:.1f} MB, written in {took_s:.1f} s")
    return page


def opened(page: Path) -> list[float]:
    """Milliseconds to DOMContentLoaded and to load, and elements, in a browser that just began."""
    with tempfile.TemporaryDirectory() as name:
        asking = Path(name) / "page.html"
        # the page's policy would refuse the question as it refuses any other script
        text = re.sub("<meta http-equiv[^>]*>", "", page.read_text(encoding="utf-8"))
        asking.write_text(text.replace("</head>", ASK, 1), encoding="utf-8")
        done = subprocess.run(
            [
                "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
                f"--user-data-dir={name}/profile", "--timeout=60000", asking.as_uri(),
            ],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
    answer = re.search('data-times="([^"]*)"', done.stdout)
    assert answer, done.stderr[-500:]
    times: list[float] = json.loads(answer[1])
    return times


def main() -> None:
    """Print a line for each question."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(name)
        page = page_of(write(Path(name)), folder)
        if shutil.which("chromium") is None:
            print("no browser on the path")
            return
        each = [opened(page) for _ in range(3)]
        ready, load, elements = (median(one) for one in zip(*each, strict=True))
        print(f"{elements:,.0f} elements; DOMContentLoaded {ready:.0f} ms, load {load:.0f} ms")


if __name__ == "__main__":
    main()
