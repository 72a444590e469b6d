"""Whether the files of a data set are there, and its splits what its task says."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmbench.data.files import locate
from mmbench.data.samples import SPLITS, Samples, Split
from mmbench.data.task import Task
from mmbench.datamodule import DataModule


@dataclass(frozen=True)
class Health:
    """What was found of a data set; it is whole if nothing is missing and there is no problem.

    Args:
        found: Its files that are there.
        missing: Those that are not, each with the line that says so.
        loaded: Splits that load.
        problems: Everything else that is wrong, a line each.
        unread: Files that are missing and that its arguments do not ask for.
    """

    found: tuple[Path, ...]
    missing: Mapping[Path, str]
    loaded: Mapping[Split, Samples]
    problems: tuple[str, ...]
    unread: tuple[Path, ...] = ()


def examine(data: DataModule) -> Health:
    """Look for the files of a data set, then load every split and compare it with the task.

    Args:
        data: The data set.
    """
    found: list[Path] = []
    missing: dict[Path, str] = {}
    for file in data.files:
        try:
            found.append(locate(data.root, file))
        except ValueError as error:
            missing[data.root / file] = _line(error)
    loaded, problems = _load(data)
    unread: tuple[Path, ...] = ()
    if missing and not problems:  # the load did without them
        unread, missing = tuple(missing), {}
    # what is missing is said once
    problems = [one for one in problems if not any(line in one for line in missing.values())]
    return Health(tuple(found), missing, loaded, tuple(problems), unread)


def _load(data: DataModule) -> tuple[dict[Split, Samples], list[str]]:
    """Splits that load, and what is wrong, one line each."""
    try:
        task = data.task
    except (ValueError, OSError) as error:
        return {}, [_line(error)]
    loaded: dict[Split, Samples] = {}
    failed: dict[str, list[str]] = {}  # message -> splits: one bad file may spoil all three
    for split in SPLITS:
        try:
            loaded[split] = data.samples(split)
        except (ValueError, OSError) as error:
            failed.setdefault(_line(error), []).append(split)
    problems = [f"{', '.join(splits)}: {message}" for message, splits in failed.items()]
    for name, samples in loaded.items():
        problems += [f"{name}: {one}" for one in _broken_promises(task, samples)]
    return loaded, problems + _shared_samples(loaded)


def _broken_promises(task: Task, samples: Samples) -> list[str]:
    """What a split holds that its task does not say."""
    if not len(samples):
        return ["it is empty"]
    if samples.modalities != task.names:
        present, said = ", ".join(samples.modalities), ", ".join(task.names)
        return [f"its modalities are {present}, but the task says {said}"]
    found: list[str] = []
    for modality in task.modalities:
        shape = samples.inputs[modality.name].shape[1:]
        if shape != modality.shape:
            found.append(f"{modality.name} has the shape {shape}, the task says {modality.shape}")
        if modality.has_lengths and modality.name not in samples.lengths:
            found.append(f"{modality.name} is of kind {modality.kind} but has no lengths")
    shape = samples.target.shape[1:]
    if task.kind == "single_label":
        low, high = samples.target.min(), samples.target.max()
        if shape or low < 0 or high >= task.num_outputs:
            found.append(f"its classes are not whole numbers from 0 to {task.num_outputs - 1}")
    elif shape != (expected := (2,) if task.kind == "survival" else (task.num_outputs,)):
        found.append(f"a target has the shape {shape}, the task says {expected}")
    return found


def _shared_samples(loaded: Mapping[Split, Samples]) -> list[str]:
    found, splits = [], list(loaded)
    for i, one in enumerate(splits):
        for other in splits[i + 1 :]:
            both = np.intersect1d(loaded[one].sample_id, loaded[other].sample_id)
            if len(both):
                noun = "sample" if len(both) == 1 else "samples"
                found.append(f"{one} and {other} share {len(both)} {noun}, such as {both[0]}")
    return found


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
