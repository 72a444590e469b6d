"""Published tables are made again: some of their runs, chosen at random."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from mmbench.bench import archive
from mmbench.bench.compare import read_board
from mmbench.bench.home import FILE
from mmbench.bench.published import Check, Table, check_again, stale, why_older
from mmbench.bench.record import find_run, sources_name
from mmbench.bench.run.build import bound_data, bound_method, examine
from mmbench.bench.run.provenance import made_by
from mmbench.bench.run.run import run as run_again
from mmbench.bench.spec import RunSpec, Suite, labels, suites
from mmbench.data.scenario import Scenario
from mmbench.sweep import Sweep


@dataclass
class Verified:
    """What came of a published table.

    Args:
        skipped: Why nothing of it was made again; empty if something was.
        absent: Data set -> why its runs could not be made again here.
        outdated: (data, scenario) -> methods whose rows other sources made.
        checks: What came of the runs.
    """

    skipped: str = ""
    absent: dict[str, str] = field(default_factory=dict)
    outdated: dict[Table, list[str]] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)


def verify(
    folder: Path,
    scratch: Path,
    *,
    sample: int,
    seed: int = 0,
    seconds: float | None = None,
    data_root: Path,
    show: Callable[[Check], None] = lambda check: None,
) -> Verified:
    """Look which tables other sources made, and make some runs again.

    Args:
        folder: With `leaderboard.csv`, and the suite as `suite.json`, in `archive.zip`, or by its
            name; predictions are compared where `runs` or the archive hold them.
        scratch: Where runs are made.
        sample: How many, >= 0; all if there are fewer.
        seed: Decides which.
        seconds: Of training, at most, in the published table, or of the shortest ones where fewer
            than `sample` are as short; None = any.
        data_root: Folder of the user's data.
        show: Called with each run when it was made.

    Returns:
        Nothing but the reason of a table of an older version, of which no run comes out again, or
        where none of the data are here.

    Raises:
        ValueError: If the folder holds no table, or its suite is not known.
    """
    board = read_board(folder)
    if why := why_older(board):
        return Verified(skipped=why)
    archived = folder
    file = folder / archive.FILE
    if file.is_file() and not (folder / "runs").is_dir():
        archived = scratch / "kept"
        archive.unpack(file, archived, scratch=True, only=[])
    suite = next(
        (str(each) for each in (folder, archived) if (each / FILE).is_file()),
        folder.resolve().name if folder.resolve().name in suites() else None,
    )
    if suite is None:
        raise ValueError(
            f"{folder} does not say of which suite it is: there is no {FILE}, no {archive.FILE} "
            "and no built-in suite of its name"
        )
    results = folder.resolve().parent
    sweep, absent = _sweep(suite, results, data_root)
    if sweep is None:
        return Verified(skipped="; ".join(dict.fromkeys(absent.values())))
    settled = [spec for spec in sweep.specs if not sweep.searches.goes_on(spec)]
    specs = _published(board, settled)
    now = {
        row: _sources_now(spec, data_root)
        for row, spec in {(s.data_label, s.scenario_name, s.method_label): s for s in specs}.items()
    }
    here = board[~board["data"].isin(absent)]
    verified = Verified(absent=absent, outdated=stale(here, now))
    if not specs:
        gone = [absent[name] for name in board["data"].unique() if name in absent]
        verified.skipped = "; ".join(dict.fromkeys(gone)) or (
            "no run of its suite is in the table as the suite stands"
        )
    chosen = _chosen(specs, board, sample, seed, seconds)
    if archived != folder:
        archive.unpack(file, archived, scratch=True, only=chosen)
    for spec in chosen:
        run_again(spec, scratch / "runs", data_root)
        made, before = find_run(spec, scratch / "runs"), find_run(spec, archived / "runs")
        verified.checks.append(check_again(made, board, before, spec.select["metric"]))
        show(verified.checks[-1])
    return verified


def _sweep(suite: str, results: Path, data_root: Path) -> tuple[Sweep | None, dict[str, str]]:
    """A suite on the data that are here, if any, and what is said of those that are not."""
    sweep = Sweep(suite, results=results, data_root=data_root)
    try:
        sweep.look()
    except ValueError:
        absent = _absent(sweep.suite, data_root)
        if len(absent) == len(sweep.suite.data):
            return None, absent
        sweep = Sweep(suite, _without(sweep.suite, absent), results=results, data_root=data_root)
        sweep.look()
        return sweep, absent
    return sweep, {}


def _absent(suite: Suite, data_root: Path) -> dict[str, str]:
    """Data sets whose files are not here, and what is said of them."""
    absent = {}
    for entry, label in zip(suite.data, labels(suite.data), strict=True):
        try:
            examine(entry, data_root)
        except ValueError as error:
            absent[label] = str(error)
    return absent


def _without(suite: Suite, absent: dict[str, str]) -> str:
    """A word that leaves data sets out of a suite."""
    left = [
        {"name": entry.name, "args": entry.args, "label": label, "folds": entry.folds}
        for entry, label in zip(suite.data, labels(suite.data), strict=True)
        if label not in absent
    ]
    return f"data={json.dumps(left)}"


def _published(board: pd.DataFrame, specs: list[RunSpec]) -> list[RunSpec]:
    """Runs of the suite that have a row in the table."""
    rows = board[board["n_seeds"] > 0]
    known = set(zip(rows["data"], rows["scenario"], rows["method"], strict=True))
    return [s for s in specs if (s.data_label, s.scenario_name, s.method_label) in known]


def _chosen(
    specs: list[RunSpec], board: pd.DataFrame, sample: int, seed: int, seconds: float | None
) -> list[RunSpec]:
    """Some of the runs at random, of those that were short if that is asked."""
    took = board.groupby(["data", "scenario", "method"])["train_s"].mean()
    spent = np.array([took[s.data_label, s.scenario_name, s.method_label] for s in specs])
    shortest = np.argsort(spent, kind="stable")
    short = shortest if seconds is None else shortest[: max(sample, int((spent <= seconds).sum()))]
    drawn = np.random.default_rng(seed).permutation(np.sort(short))[:sample]
    return [specs[place] for place in sorted(drawn.tolist())]


def _sources_now(spec: RunSpec, data_root: Path) -> str:
    method, _ = bound_method(spec)
    scenario = Scenario.parse(spec.scenario)
    data = bound_data(spec.data, spec.data_args, data_root, spec.fold, scenario)
    made = made_by(method, data)
    return sources_name(made["sources"], made["distributions"])
