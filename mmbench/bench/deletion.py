"""What lies in the folder of a suite's results and may go: listed first, deleted then."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mmbench.bench.record import Run, find_run
from mmbench.bench.result import Result, read_result
from mmbench.bench.spec import RunSpec
from mmbench.sources import hash_of
from mmbench.store import is_claimed, moved_aside, remove, targets_in


@dataclass(frozen=True)
class Deletable:
    """A run that may go.

    Args:
        folder: Where it lies, or lay: it may have been moved aside and wait for its successor.
        title: What it is, for people.
        why: What speaks against it; empty if nothing but the wish to delete.
        size: Bytes of its files.
    """

    folder: Path
    title: str
    why: str
    size: int


def all_runs(runs: Path) -> list[Deletable]:
    """Every run in a folder that nobody is at, of whatever plan."""
    return [_deletable(folder, "") for folder in _folders(runs)]


def failed_runs(runs: Sequence[Run]) -> list[Deletable]:
    """The failed and the damaged ones of some runs."""
    bad = [run for run in runs if run.state in ("failed", "broken")]
    places = [run.folder.with_name(run.spec.folder.name) for run in bad]
    return [
        _deletable(place, f"{run.state}: {run.why}")
        for run, place in zip(bad, places, strict=True)
        if not is_claimed(place)
    ]


def stale_runs(runs: Path, planned: Sequence[RunSpec]) -> list[Deletable]:
    """Runs in a folder that are of no plan, or that other sources made than those of today.

    Args:
        runs: The folder.
        planned: All runs that are not stale for want of a plan.
    """
    by_folder = {runs / spec.folder: spec for spec in planned}
    result = []
    for folder in _folders(runs):
        spec = by_folder.get(folder)
        why = "not in the plan" if spec is None else _changed(find_run(spec, runs))
        if why:
            result.append(_deletable(folder, why))
    return result


def delete(chosen: Sequence[Deletable]) -> None:
    """Delete runs, and the folders that are empty then."""
    for each in chosen:
        remove(each.folder)
        for parent in list(each.folder.parents)[:3]:
            try:
                parent.rmdir()
            except OSError:  # it holds more
                break


def _folders(runs: Path) -> Iterator[Path]:
    for parent in sorted(runs.glob("[!.]*/[!.]*/[!.]*/")):
        for folder in targets_in(parent):
            if (moved_aside(folder) or folder).is_dir() and not is_claimed(folder):
                yield folder


def _changed(run: Run) -> str:
    """Why a finished run is not what would be made today; empty if it is."""
    if run.state != "done":
        return ""
    try:
        made = read_result(run.folder)
    except ValueError:
        return "its record cannot be read"
    return _other_sources(made)


def _other_sources(made: Result) -> str:
    for module, known in made.sources.items():
        if hash_of(module) != known:
            return f"{module} was another"
    for name, known in made.distributions.items():
        try:
            if version(name) != known:
                return f"{name} was version {known}"
        except PackageNotFoundError:
            return f"{name} is not installed"
    return ""


def _deletable(folder: Path, why: str) -> Deletable:
    place = folder
    if not folder.is_dir() and (aside := moved_aside(folder)) is not None:
        place, why = aside, "; ".join(part for part in (why, "moved aside") if part)
    size = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
    try:
        record = json.loads((place / "spec.json").read_text(encoding="utf-8"))
        title = RunSpec.from_json(record).title
    except (OSError, ValueError, TypeError, KeyError):  # damaged, or of another version
        title = "/".join(folder.parts[-4:])
    return Deletable(folder, title, why, size)
