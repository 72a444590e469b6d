"""Published tables are made again: some of their runs, chosen at random."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from mmbench.bench import archive
from mmbench.bench.home import FILE
from mmbench.bench.published import Check, check_again, read_published, stale
from mmbench.bench.record import find_run, sources_name
from mmbench.bench.run.build import bound_data, bound_method
from mmbench.bench.run.provenance import made_by
from mmbench.bench.run.run import run as run_again
from mmbench.bench.spec import RunSpec, suites
from mmbench.data.scenario import Scenario
from mmbench.sweep import Sweep


def verify(
    folder: Path,
    scratch: Path,
    *,
    sample: int,
    seed: int = 0,
    seconds: float | None = None,
    data_root: Path,
    show: Callable[[Check], None] = lambda check: None,
) -> tuple[dict[tuple[str, str], list[str]], list[Check]]:
    """Look which tables other sources made, and make some runs again.

    Args:
        folder: With `leaderboard.csv`, and the suite as `suite.json`, in `archive.zip`, or by its
            name; predictions are compared where `runs` or the archive hold them.
        scratch: Where runs are made.
        sample: How many, >= 0; all if there are fewer.
        seed: Decides which.
        seconds: Of training, at most, in the published table; None = any.
        data_root: Folder of the user's data.
        show: Called with each run when it was made.

    Returns:
        (data, scenario) -> methods whose rows other sources made; and what came of the runs.

    Raises:
        ValueError: If the folder holds no table, or its suite is not known.
    """
    board = read_published(folder)
    archived = folder
    file = folder / archive.FILE
    if file.is_file() and not (folder / "runs").is_dir():
        archived = scratch / "kept"
        archive.unpack(file, archived)
    suite = next(
        (str(each) for each in (folder, archived) if (each / FILE).is_file()),
        folder.resolve().name if folder.resolve().name in suites() else None,
    )
    if suite is None:
        raise ValueError(
            f"{folder} does not say of which suite it is: there is no {FILE}, no {archive.FILE} "
            "and no built-in suite of its name"
        )
    sweep = Sweep(suite, results=folder.resolve().parent, data_root=data_root)
    sweep.check()
    settled = [spec for spec in sweep.specs if not sweep.searches.goes_on(spec)]
    specs = _published(board, settled, seconds)
    now = {
        row: _sources_now(spec, data_root)
        for row, spec in {(s.data_label, s.scenario_name, s.method_label): s for s in specs}.items()
    }
    outdated = stale(board, now)
    chosen = np.random.default_rng(seed).permutation(len(specs))[:sample]
    checks = []
    for place in sorted(chosen.tolist()):
        spec = specs[place]
        run_again(spec, scratch / "runs", data_root)
        made, before = find_run(spec, scratch / "runs"), find_run(spec, archived / "runs")
        checks.append(check_again(made, board, before, spec.select["metric"]))
        show(checks[-1])
    return outdated, checks


def _published(board: pd.DataFrame, specs: list[RunSpec], seconds: float | None) -> list[RunSpec]:
    """Runs of the suite that have a row in the table."""
    rows = board[board["n_seeds"] > 0]
    if seconds is not None:
        rows = rows[rows["train_s"] <= seconds]
    listed = set(zip(rows["data"], rows["scenario"], rows["method"], strict=True))
    return [s for s in specs if (s.data_label, s.scenario_name, s.method_label) in listed]


def _sources_now(spec: RunSpec, data_root: Path) -> str:
    method, _ = bound_method(spec)
    scenario = Scenario.parse(spec.scenario)
    data = bound_data(spec.data, spec.data_args, data_root, spec.fold, scenario)
    made = made_by(method, data)
    return sources_name(made["sources"], made["distributions"])
