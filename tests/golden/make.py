"""Train the frozen sweep again and write its records and tables; run it by hand, on purpose.

    PYTHONPATH=tests python tests/golden/make.py

A change of a number belongs into results/CHANGES.md: which, by how much, why.
"""

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from sweeps import NO_DATA, specs

from mmbench.bench.leaderboard import leaderboard, render
from mmbench.bench.record import Run
from mmbench.bench.run.run import run

HERE = Path(__file__).parent

if __name__ == "__main__":
    frozen = []
    for spec in specs(seeds=2, limit=200):
        kept = HERE / "runs" / spec.method / str(spec.seed)
        kept.mkdir(parents=True, exist_ok=True)
        trained = replace(spec, trainer_args={**spec.trainer_args, "max_epochs": 8})
        with tempfile.TemporaryDirectory() as folder:
            assert run(trained, Path(folder), NO_DATA).state == "done"
            shutil.copy(Path(folder) / trained.folder / "metrics.json", kept)
        frozen.append(Run(spec, kept, "done"))
    board = leaderboard(frozen)
    (HERE / "leaderboard.csv").write_text(render(board, "csv", metric="accuracy"))
    (HERE / "leaderboard.md").write_text(render(board, "md", metric="accuracy"))
