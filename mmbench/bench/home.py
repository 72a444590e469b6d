"""The folder of a suite's results: which suite it holds, and where a table of it may be written."""

from collections.abc import Callable, Sequence
from pathlib import Path

from mmbench.bench.spec import RunSpec, Suite, Tune, load_suite
from mmbench.config import JSON
from mmbench.data.digest import digest
from mmbench.data.scenario import load_scenario
from mmbench.store import write_json

FILE = "suite.json"
PART = "part-"  # begins the name of a folder beside it, for a table of fewer runs


def hold(folder: Path, suite: Suite) -> None:
    """Leave the resolved suite for whoever opens the folder, wherever it lies by then."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / FILE, resolved(suite))


def resolved(suite: Suite) -> dict[str, JSON]:
    """A suite as a mapping, its scenarios written out."""
    scenarios = [load_scenario(scenario) for scenario in suite.scenarios]
    return suite.model_copy(update={"scenarios": scenarios}).model_dump()


def board_folder(
    folder: Path,
    specs: Sequence[RunSpec],
    plan: Callable[[Suite], Sequence[RunSpec]],
    tune: Tune | None = None,
) -> Path:
    """Where tables of some runs go: beside the suite's own if they drop some of its runs.

    Args:
        folder: Of the suite's results.
        specs: The runs of the table, with the settings of the suite.
        plan: Gives the runs of a suite.
        tune: How settings are searched.
    """
    if not (folder / FILE).is_file():
        return folder
    suite = load_suite(str(folder / FILE))
    held = {spec.folder for spec in plan(suite)}
    folders = {spec.folder for spec in specs}
    if held <= folders and suite.tune == tune:
        return folder
    of: dict[str, JSON] = {"runs": sorted(map(str, folders))}
    if tune is not None:
        of["tune"] = tune.model_dump()
    return folder / f"{PART}{digest(of)[:8]}"
