"""What a reader of a table should know of the data behind it."""

import logging

import numpy as np

from mmbench.data.samples import SPLITS
from mmbench.datamodule import DataModule


def notes(data: DataModule) -> list[str]:
    """Doubtful things about the data of a run, a line each; they go into log and record."""
    lines = [*data.notes(), *_about_targets(data), *_about_modalities(data)]
    for line in lines:
        logging.getLogger(__name__).warning("%s", line)
    return lines


def _about_targets(data: DataModule) -> list[str]:
    task = data.task
    if task.kind == "survival":
        return [
            f"no event occurs in {split}, so that it has no scores"
            for split in ("val", "test")
            if not data.raw_target(split)[:, 1].any()
        ]
    if task.kind == "regression":
        target = data.raw_target("train")
        constant = [bool((column == column[0]).all()) for column in target.T]
        return [
            f"the target {name} is constant in training"
            for name, same in zip(task.outputs, constant, strict=True)
            if same
        ]
    seen = {split: _counts(data.raw_target(split), task.num_outputs) for split in SPLITS}
    word = "class" if task.kind == "single_label" else "label"
    lines = []
    for split in ("val", "test"):
        unseen = [task.outputs[k] for k in np.flatnonzero((seen[split] > 0) & (seen["train"] == 0))]
        if unseen:
            lines.append(
                f"{len(unseen)} of {task.num_outputs} {word} names occur in {split} and never in "
                f"training, such as {unseen[0]!r}: no method can learn them"
            )
    if task.kind == "multi_label":
        return lines
    for split in SPLITS:
        only = np.flatnonzero(seen[split])
        if len(only) == 1:
            lines.append(f"all samples of {split} are of the class {task.outputs[only[0]]!r}")
    classes, n = int((seen["train"] > 0).sum()), len(data.raw_target("train"))
    if classes > 1 and classes * 2 > n:
        lines.append(
            f"training has {classes} classes for {n} samples; is the target a number to predict?"
        )
    return lines


def _counts(target: np.ndarray, outputs: int) -> np.ndarray:
    return np.bincount(target, minlength=outputs) if target.ndim == 1 else target.sum(axis=0)


def _about_modalities(data: DataModule) -> list[str]:
    visible = np.asarray(data.split("train").presence.any(axis=0))
    return [
        f"training never shows the modality {name}"
        for name, once in zip(data.task.names, visible.tolist(), strict=True)
        if not once
    ]
