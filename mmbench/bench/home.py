"""The folder of a suite's results: which suite it holds, and where a table of it may be written."""

from collections.abc import Callable, Sequence
from pathlib import Path

from mmbench.bench.spec import RunSpec, Suite, load_suite
from mmbench.data.digest import digest
from mmbench.data.scenario import load_scenario
from mmbench.store import write_json

FILE = "suite.json"
PART = "part-"  # begins the name of a folder beside it, for a table of fewer runs


def hold(folder: Path, suite: Suite) -> None:
    """Leave the resolved suite for whoever opens the folder, wherever it lies by then."""
    scenarios = [load_scenario(scenario) for scenario in suite.scenarios]
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / FILE, suite.model_copy(update={"scenarios": scenarios}).model_dump())


def board_folder(
    folder: Path, specs: Sequence[RunSpec], plan: Callable[[Suite], Sequence[RunSpec]]
) -> Path:
    """Where tables of some runs go: beside the suite's own if they drop some of its runs.

    Args:
        folder: Of the suite's results.
        specs: The runs of the table.
        plan: Gives the runs of a suite.
    """
    if not (folder / FILE).is_file():
        return folder
    held = {spec.folder for spec in plan(load_suite(str(folder / FILE)))}
    asked = {spec.folder for spec in specs}
    if held <= asked:
        return folder
    return folder / f"{PART}{digest({'runs': sorted(map(str, asked))})[:8]}"
