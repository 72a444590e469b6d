"""What every data set must keep, as rules that are tried on its own samples.

A data set is taken as its user has it: all rules but one read the same loaded arrays.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mmbench.checks.rule import Rules
from mmbench.data.batch import Batch
from mmbench.data.mapped import chunks
from mmbench.data.samples import SPLITS, PresenceArray, Samples, Split
from mmbench.data.scenario import Scenario
from mmbench.data.stored import observed_by
from mmbench.data.survival import reason_no_outcome, reason_not_comparable
from mmbench.data.task import Task
from mmbench.datamodule import DataModule
from mmbench.health import examine

FEW = 200  # samples a split whose batches are looked at
SHOWN = 3

DATA_CHECKS = Rules()
rule = DATA_CHECKS.rule


@dataclass(frozen=True, slots=True)
class Subject:
    """A data set, and how to have it again.

    Args:
        data: With natural gaps alone, not set up.
        again: Builds it anew from its files, on the partition of this number.
        elsewhere: What `fingerprints` says of it in a second process.
    """

    data: DataModule
    again: Callable[[int], DataModule]
    elsewhere: Callable[[], Mapping[str, str]]

    def under(self, rate: float, *, mask_seed: int = 0, batch_size: int = 64) -> DataModule:
        """The data set with a few samples a split under `mcar`, not set up."""
        few = len(self.data.task.names) > 1 and rate
        gaps = {"mechanism": "natural + mcar", "missing_rate": rate} if few else NATURAL
        spec = {"name": "check", "train": gaps, "test": gaps, "mask_seed": mask_seed}
        return self.data.under(Scenario.parse(spec), batch_size=batch_size, order_seed=0, limit=FEW)


NATURAL = {"mechanism": "natural"}
INSIDE = {  # what hides entries of a kind, and its key
    "vector": ("features", "feature_rate"),
    "sequence": ("segments", "segment_rate"),
    "tokens": ("tokens", "token_rate"),
    "image": ("patches", "patch_rate"),
}


def fingerprints(data: DataModule) -> dict[str, str]:
    """Digest of the samples of each split."""
    return {split: fingerprint(data.samples(split)) for split in SPLITS}


def fingerprint(samples: Samples) -> str:
    """Digest of ids, targets, presence and all that is present."""
    whole = hashlib.sha256()
    for values in (samples.sample_id, samples.target, samples.presence):
        whole.update(np.ascontiguousarray(values).tobytes())
    for column, name in enumerate(samples.modalities):
        rows, x = samples.presence[:, column], samples.inputs[name]
        for part in chunks(x):
            whole.update(np.ascontiguousarray(x[part][rows[part]]).tobytes())
        if name in samples.lengths:
            whole.update(np.ascontiguousarray(samples.lengths[name][rows]).tobytes())
    return whole.hexdigest()[:16]


# --- what it is ------------------------------------------------------------------------------


@rule(
    tried="read its source and docstring",
    mend="fill `source = Source(citation, url, licence)` and write a docstring: format, classes, "
    "origin of the split",
)
def it_says_where_it_comes_from(subject: Subject) -> None:
    """A data set names its source and describes itself."""
    cls = type(subject.data)
    assert getattr(cls, "source", None) is not None, "it has no source"
    assert cls.source.citation.strip(), "its source has no citation"
    assert (cls.__doc__ or "").strip(), "it has no docstring"


@rule(
    tried="loaded every split and compared shapes, classes and ids with the task",
    mend="let `describe` and `load` agree; ids are unique over all splits",
)
def splits_are_what_the_task_says(subject: Subject) -> None:
    """Every split loads, holds what the task says, and shares no sample with another."""
    health = examine(subject.data)
    problems = (*health.missing.values(), *health.problems)
    more = f" (and {len(problems) - SHOWN} more)" if len(problems) > SHOWN else ""
    assert not problems, "; ".join(problems[:SHOWN]) + more


@rule(
    tried="compared targets, token ids and lengths of every split with their ranges",
    mend="labels are 0 or 1, token ids below vocab_size, lengths from 1 to the padded length",
)
def values_are_in_range(subject: Subject) -> None:
    """Targets, token ids and lengths lie in the ranges that the task gives."""
    task = subject.data.task
    for split in SPLITS:
        samples = subject.data.samples(split)
        if task.kind == "multi_label":
            assert np.isin(samples.target, (0, 1)).all(), f"{split}: a label is neither 0 nor 1"
        if task.kind == "survival":
            problem = reason_no_outcome(samples.target) or reason_not_comparable(samples.target)
            assert not problem, f"{split}: {problem}"
        assert np.isfinite(samples.target).all(), f"{split}: a target is not finite"
        for column, modality in enumerate(task.modalities):
            rows = samples.presence[:, column]
            x = samples.inputs[modality.name][rows]
            if modality.kind == "tokens" and len(x):
                low, high = x.min(), x.max()
                assert low >= 0, f"{split}: a token id of {modality.name} is {low}"
                assert high < modality.vocab_size, (
                    f"{split}: a token id of {modality.name} is {high}, but vocab_size is "
                    f"{modality.vocab_size}"
                )
            if modality.has_lengths and len(x):
                steps = samples.lengths[modality.name][rows]
                assert steps.min() >= 1, f"{split}: a length of {modality.name} is {steps.min()}"
                assert steps.max() <= modality.shape[0], (
                    f"{split}: a length of {modality.name} is {steps.max()}, beyond "
                    f"{modality.shape[0]}"
                )


@rule(
    tried="went through batches with natural gaps and with gaps of `mcar`",
    mend="leave loaders and batches to `DataModule`; override `describe` and `load` alone",
)
def batches_hold_nothing_that_is_absent(subject: Subject) -> None:
    """Batches are standardised, finite, and zero where absent or past the end."""
    for rate in (0.0, 0.2):
        data = subject.under(rate)
        for split in SPLITS:
            for batch in data.batches(split):
                _require_clean(batch, data.task, split)


def _require_clean(batch: Batch, task: Task, split: Split) -> None:
    assert batch.presence.any(1).all(), f"{split}: a sample shows no modality"
    for modality in task.modalities:
        x, present = batch.inputs[modality.name], batch.has(modality.name)
        shape = (len(batch), *modality.shape)
        assert x.shape == shape, f"{split}: {modality.name} is {tuple(x.shape)}, not {shape}"
        assert x.isfinite().all(), f"{split}: {modality.name} is not finite"
        assert not x[~present].any(), f"{split}: absent {modality.name} is not zero"
        if modality.has_lengths:
            steps = batch.lengths[modality.name]
            past = torch.arange(x.shape[1]) >= steps[:, None]
            assert not x[past].any(), f"{split}: {modality.name} is not zero past its end"


# --- the same every time ---------------------------------------------------------------------


@rule(
    tried="built it a second time and loaded every split again",
    mend="draw from a generator with a fixed seed; sort what a folder lists",
)
def loading_again_gives_the_same(subject: Subject) -> None:
    """Two loads give the same samples in the same order."""
    first, second = fingerprints(subject.data), fingerprints(subject.again(subject.data.fold))
    differ = [split for split in SPLITS if first[split] != second[split]]
    assert not differ, f"{', '.join(differ)} differs when it is loaded again"


@rule(
    tried="loaded every split in a second process, where hash() of a text is another number",
    mend="take `mmbench.data.splits.stable_hash` in place of hash(); sort sets before they are "
    "gone through",
)
def another_process_loads_the_same(subject: Subject) -> None:
    """Samples do not depend on the process that loads them."""
    ours, theirs = fingerprints(subject.data), subject.elsewhere()
    differ = [split for split in SPLITS if ours[split] != theirs[split]]
    assert not differ, f"{', '.join(differ)} differs between two processes"


@rule(
    tried="asked twice for the hash of what it is made of",
    mend="name all files of the user in `files`; no clock or path in `ingredients`",
)
def its_content_has_one_name(subject: Subject) -> None:
    """The hash of its content, a part of the key of every run, stays the same."""
    one, other = subject.data.content(), subject.again(subject.data.fold).content()
    assert one == other, f"its content is called {one}, then {other}"


@rule(
    tried="loaded another partition and joined it with this one by id",
    mend="give an id to a sample before splits are drawn, from what it is and not from its place",
)
def folds_partition_the_same_samples(subject: Subject) -> None:
    """Every fold has the same samples under the same ids."""
    if subject.data.folds < 2:
        return
    other = 0 if subject.data.fold else 1
    one, two = (_targets(data) for data in (subject.data, subject.again(other)))
    assert one.keys() == two.keys(), (
        f"fold {other} has {len(two.keys() - one.keys())} ids that fold {subject.data.fold} has not"
    )
    wrong = [sample for sample in one if one[sample] != two[sample]]
    assert not wrong, f"sample {wrong[:1]} has another target in fold {other}"


def _targets(data: DataModule) -> dict[int, bytes]:
    return {
        int(sample): target.tobytes()
        for split in SPLITS
        for samples in [data.samples(split)]
        for sample, target in zip(samples.sample_id, samples.target, strict=True)
    }


@rule(
    tried="drew masks for two batch sizes and for two mask seeds",
    mend="leave `setup` and `condition_presence` to `DataModule`",
)
def masks_depend_on_the_mask_seed_alone(subject: Subject) -> None:
    """Masks know the mask seed and the ids, and no batch size."""
    if len(subject.data.task.names) < 2:
        return
    drawn = [
        subject.under(0.3, mask_seed=seed, batch_size=size).split("train").presence
        for seed, size in ((0, 64), (0, 7), (1, 64))
    ]
    assert np.array_equal(drawn[0], drawn[1]), "masks change with the batch size"
    assert not np.array_equal(drawn[0], drawn[2]), "masks do not change with the mask seed"


# --- what must not leak ----------------------------------------------------------------------


@rule(
    tried="put other values, then NaN, into what the scenario and nature withhold",
    mend="leave scales and batches to `DataModule`; fill no gap in `load`",
)
def what_is_withheld_is_gone(subject: Subject) -> None:
    """What is withheld or missing by nature moves no bit of what is shown."""
    clean, dirty = subject.under(0.2), subject.under(0.2)
    clean.setup()
    dirty.loaded = {}
    for split in SPLITS:
        samples = clean.samples(split)
        visible = samples.presence.copy()
        few, presence = clean.split(split).samples.sample_id, clean.split(split).presence
        if split != "test":
            visible[np.isin(samples.sample_id, few)] = presence
        spoilt = _spoilt(samples, samples.presence & ~visible)
        dirty.loaded[split] = _spoilt(spoilt, ~samples.presence, nan=True)
    _require_same(clean, dirty, SPLITS[:2], "what is withheld")


@rule(
    tried="put other values into entries that mechanisms hide inside modalities",
    mend="leave scales and batches to `DataModule`",
)
def what_is_gone_inside_is_gone(subject: Subject) -> None:
    """Entries that are gone inside a modality move no bit of a batch and are zero."""
    kinds = {modality.kind for modality in subject.data.task.modalities}
    inside = {kind: one for kind, one in INSIDE.items() if kind in kinds}
    if not inside:
        return
    keys = {key: 0.4 for _, key in inside.values()}
    gaps = {"mechanism": " + ".join(name for name, _ in inside.values()), **keys}
    scenario = Scenario.parse({"name": "check", "train": gaps, "test": NATURAL})
    clean, dirty = (
        subject.data.under(scenario, batch_size=64, order_seed=0, limit=None) for _ in range(2)
    )
    clean.setup()
    dirty.loaded = {s: _spoilt_inside(clean, s) for s in ("train", "val")}
    dirty.loaded["test"] = clean.samples("test")
    _require_same(clean, dirty, ("train", "val"), "what is gone inside it")
    for batch in clean.batches("train"):
        for name, seen in batch.observed.items():
            x = batch.inputs[name]
            wide = seen[:, None] if x.dim() == 4 else seen[(..., *[None] * (x.dim() - 2))]
            assert not (x * ~wide).any(), f"gone entries of {name} are not zero"


def _spoilt_inside(data: DataModule, split: Split) -> Samples:
    """Other raw values in entries that a scenario hides inside modalities."""
    samples = data.samples(split)
    gaps = data.gaps_inside(split)
    inputs = dict(samples.inputs)
    for name, gap in gaps.items():
        x = np.array(samples.inputs[name])
        seen = observed_by(gap, torch.arange(len(samples)), x.shape).numpy()
        gone = ~(seen[:, None] if x.ndim == 4 else seen[(..., *[None] * (x.ndim - 2))])
        gone = np.broadcast_to(gone, x.shape)
        if np.issubdtype(x.dtype, np.floating):
            x[gone] = 3 * x[gone] + 100
        else:
            x[gone] = 1
        inputs[name] = x
    return replace(samples, inputs=inputs)


@rule(
    tried="put other values into validation and test and went through training batches",
    mend="fit scales and vocabularies on the training split; leave `setup` to `DataModule`",
)
def training_knows_no_other_split(subject: Subject) -> None:
    """Training batches do not depend on what validation and test hold."""
    clean, dirty = subject.under(0.2), subject.under(0.2)
    dirty.loaded = {
        split: samples if split == "train" else _spoilt(samples, samples.presence)
        for split in SPLITS
        for samples in [subject.data.samples(split)]
    }
    _require_same(clean, dirty, ("train",), "another split")


@rule(
    tried="compared what samples of different splits hold",
    mend="split by what belongs together (subject, patient, recording), and drop copies",
    warns=True,
)
def no_sample_is_a_copy_across_splits(subject: Subject) -> None:
    """No sample of one split holds exactly what a sample of another does."""
    homes: dict[bytes, tuple[str, int]] = {}
    copies = []
    for split in SPLITS:
        for sample, content in _contents(subject.data.samples(split)):
            home, first = homes.setdefault(content, (split, sample))
            if home != split:
                copies.append(f"{first} of {home} and {sample} of {split}")
    assert not copies, f"{len(copies)} samples are copies, such as {copies[0]}"


@rule(
    tried="looked for a feature of a vector that tells the target by itself",
    mend="take the column out of the inputs, or say in the docstring why it may be known",
    warns=True,
)
def no_feature_is_the_target(subject: Subject) -> None:
    """No single feature equals the target or is one to one with it."""
    task, samples = subject.data.task, subject.data.samples("train")
    target = samples.target.reshape(len(samples), -1)
    for column, modality in enumerate(task.modalities):
        if modality.kind != "vector":
            continue
        rows = samples.presence[:, column]
        x, y = samples.inputs[modality.name][rows], target[rows]
        for feature in range(x.shape[1]):
            for output in range(y.shape[1]):
                assert not _one_to_one(x[:, feature], y[:, output]), (
                    f"feature {feature} of {modality.name} tells the target"
                )


@rule(
    tried="counted classes and labels of the training split",
    mend="drop outputs that training never shows, or split so that each occurs",
    warns=True,
)
def every_output_occurs_in_training(subject: Subject) -> None:
    """Every class, and both values of every label, occur in training."""
    task, target = subject.data.task, subject.data.samples("train").target
    if task.kind in ("regression", "survival"):
        return
    seen: NDArray[np.bool_]
    if task.kind == "single_label":
        seen = np.bincount(target, minlength=task.num_outputs) > 0
    else:
        seen = np.logical_and(target.any(axis=0), ~target.all(axis=0))
    absent = [name for name, occurs in zip(task.outputs, seen, strict=True) if not occurs]
    assert not absent, f"training never shows {', '.join(absent[:SHOWN])}"


def _spoilt(samples: Samples, entries: PresenceArray, *, nan: bool = False) -> Samples:
    """Other raw values in some entries; NaN where asked for and possible."""
    inputs = {}
    for column, name in enumerate(samples.modalities):
        x, rows = np.array(samples.inputs[name]), entries[:, column]
        if np.issubdtype(x.dtype, np.floating):
            x[rows] = np.nan if nan else 3 * x[rows] + 100
        elif name in samples.lengths:  # token ids
            x[rows] = np.minimum(x[rows], 1)
        else:
            x[rows] = 255 - x[rows]
        inputs[name] = x
    return replace(samples, inputs=inputs)


def _require_same(one: DataModule, other: DataModule, splits: tuple[Split, ...], what: str) -> None:
    for split in splits:
        for a, b in zip(one.batches(split), other.batches(split), strict=True):
            for name in a.modalities:
                same = torch.equal(a.inputs[name], b.inputs[name])
                assert same, f"{split}: {name} changes with {what}"


def _contents(samples: Samples) -> Iterator[tuple[int, bytes]]:
    """Id of each sample, and a digest of all that it has."""
    for row, sample in enumerate(samples.sample_id.tolist()):
        whole = hashlib.sha256(samples.presence[row].tobytes())
        for name, present in zip(samples.modalities, samples.presence[row], strict=True):
            if present:
                whole.update(np.ascontiguousarray(samples.inputs[name][row]).tobytes())
        yield sample, whole.digest()


def _one_to_one(x: NDArray[Any], y: NDArray[Any]) -> bool:
    """Whether each value of one goes with one value of the other, and they are several."""
    values, places = np.unique(x, return_inverse=True)
    classes, labels = np.unique(y, return_inverse=True)
    if len(classes) < 2 or len(values) != len(classes):
        return False
    if len(values) == len(x):  # all differ, as measurements do: a line through them tells
        return bool(abs(np.corrcoef(x.astype(float), y.astype(float))[0, 1]) > 1 - 1e-9)
    return len(np.unique(places.reshape(-1) * len(classes) + labels.reshape(-1))) == len(classes)
