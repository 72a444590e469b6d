"""Data sets that break one promise each are caught by the rule of that promise."""

import time
from pathlib import Path

import numpy as np
import pytest

from mmbench.checks.data import DATA_CHECKS, Subject, fingerprints
from mmbench.checks.elsewhere import address, in_another_process
from mmbench.checks.report import check_data
from mmbench.data.samples import Samples
from mmbench.data.scenario import Scenario
from mmbench.data.task import Modality, Task
from mmbench.datamodule import DataModule, Source

NATURAL = {"mechanism": "natural"}
SPEC = {"name": "nothing", "train": NATURAL, "test": NATURAL}
BROKEN = {}


def breaks(check, message):
    """Register a data set with the rule that has to catch it and a part of what it says."""

    def register(cls):
        BROKEN[cls.__name__] = (cls, check, message)
        return cls

    return register


class Sound(DataModule):
    """Keeps every promise; the broken ones differ from it in one thing."""

    source = Source("made up for a test")
    folds = 2

    def describe(self):
        modalities = (Modality("lab", "vector", (4,)), Modality("note", "tokens", (5,), 9))
        return Task("single_label", modalities, ("a", "b"))

    def numbers(self, split):
        """Which of 90 samples; two partitions."""
        place = (np.arange(90) + 30 * self.fold) % 90
        return np.flatnonzero(place // 30 == ("train", "val", "test").index(split))

    def load(self, split):
        rng = np.random.default_rng(0)
        lab = rng.standard_normal((90, 4)) * 3 + 1
        steps = rng.integers(1, 6, 90)
        note = rng.integers(1, 9, (90, 5)) * (np.arange(5) < steps[:, None])
        presence = np.ones((90, 2), bool)
        presence[::7, 0] = False
        rows = self.numbers(split)
        return self.of(rows, lab[rows], note[rows], steps[rows], presence[rows])

    def of(self, rows, lab, note, steps, presence):
        return Samples(
            ("lab", "note"),
            {"lab": lab, "note": note},
            self.target(rows),
            rows.astype(np.int64),
            presence,
            {"note": steps},
        )

    def target(self, rows):
        return rows % 2


@breaks("it_says_where_it_comes_from", "its source has no citation")
class IsOfUnknownOrigin(Sound):
    source = Source(" ")


@breaks("splits_are_what_the_task_says", "train and val share 30 samples")
class ShowsTrainingInValidation(Sound):
    def numbers(self, split):
        return super().numbers("train" if split == "val" else split)


@breaks("values_are_in_range", "a token id of note is 9, but vocab_size is 9")
class HasATokenTooMany(Sound):
    def of(self, rows, lab, note, steps, presence):
        note[0, 0] = 9
        return super().of(rows, lab, note, steps, presence)


@breaks("values_are_in_range", "train: a length of note is 0")
class HasATextWithoutWords(Sound):
    def of(self, rows, lab, note, steps, presence):
        steps[0] = 0
        return super().of(rows, lab, note, steps, presence)


@breaks("batches_hold_nothing_that_is_absent", "train: absent lab is not zero")
class FillsGapsInBatches(Sound):
    def batches(self, split):
        for batch in super().batches(split):
            batch.inputs["lab"][~batch.has("lab")] = 1.0
            yield batch


@breaks("loading_again_gives_the_same", "differs when it is loaded again")
class DrawsAnewEachTime(Sound):
    def target(self, rows):
        return np.random.default_rng().integers(0, 2, len(rows))


@breaks("another_process_loads_the_same", "differs between two processes")
class LabelsByHash(Sound):
    def target(self, rows):
        return np.array([hash(str(row)) % 2 for row in rows])


@breaks("its_content_has_one_name", "its content is called")
class NamesItselfByTheClock(Sound):
    def ingredients(self):
        return super().ingredients() | {"made": {"at": str(time.perf_counter())}}


@breaks("folds_partition_the_same_samples", "has another target in fold 1")
class CountsIdsInEachFold(Sound):
    def of(self, rows, lab, note, steps, presence):
        samples = super().of(rows, lab, note, steps, presence)
        samples.sample_id[:] = (rows + 15 * self.fold) % 90
        return samples

    def target(self, rows):
        return (rows > 40).astype(int)


@breaks("masks_depend_on_the_mask_seed_alone", "masks do not change with the mask seed")
class IgnoresTheMaskSeed(Sound):
    def under(self, scenario, **settings):
        return super().under(Scenario(**vars(scenario) | {"mask_seed": 0}), **settings)


@breaks("what_is_withheld_is_gone", "train: lab changes with what is withheld")
class ScalesByWhatIsWithheld(Sound):
    def batches(self, split):
        whole = np.nan_to_num(self.samples("train").inputs["lab"]).mean()
        for batch in super().batches(split):
            batch.inputs["lab"][batch.has("lab")] += float(whole)
            yield batch


@breaks("what_is_gone_inside_is_gone", "train: lab changes with what is gone inside it")
class CentresByWhatIsGoneInside(Sound):
    def batches(self, split):
        rows = self.split(split).samples
        lab = np.where(rows.presence[:, :1], rows.inputs["lab"], 0.0)
        seen = self.split(split)._stored["lab"].gap
        for batch in super().batches(split):
            if seen is not None:
                batch.inputs["lab"][batch.has("lab")] += float(lab[~seen.observed].mean())
            yield batch


@breaks("training_knows_no_other_split", "train: lab changes with another split")
class ScalesByTheTestSplit(Sound):
    def batches(self, split):
        whole = self.samples("test").inputs["lab"].mean()
        for batch in super().batches(split):
            batch.inputs["lab"][batch.has("lab")] += float(whole)
            yield batch


@breaks("no_sample_is_a_copy_across_splits", "samples are copies, such as 2 of train and 30 of val")
class CopiesASample(Sound):
    def load(self, split):
        samples = super().load(split)
        train = super().load("train")
        if split == "val":
            for name in samples.inputs:
                samples.inputs[name][0] = train.inputs[name][2]
            samples.presence[0] = train.presence[2]
        return samples


@breaks("no_feature_is_the_target", "feature 3 of lab tells the target")
class KeepsTheTargetAmongItsFeatures(Sound):
    def of(self, rows, lab, note, steps, presence):
        lab[:, 3] = 5.0 - self.target(rows)
        return super().of(rows, lab, note, steps, presence)


@breaks("every_output_occurs_in_training", "training never shows b")
class NeverShowsAClass(Sound):
    def target(self, rows):
        return (rows >= 80).astype(int)


def data_of(cls, fold=0):
    return cls(Path(), Scenario.parse(SPEC), fold=fold)


def fingerprints_of(name):
    """Run in a second process, which finds this file by its path."""
    return fingerprints(data_of(globals()[name]))


def subject(cls):
    def elsewhere():
        return in_another_process(
            "mmbench.checks.elsewhere:call", [*address(cls)[:2], "fingerprints_of"], cls.__name__
        )

    return Subject(data_of(cls), lambda fold: data_of(cls, fold), elsewhere)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_data_set_is_caught_by_the_rule_of_that_name(name):
    cls, check, message = BROKEN[name]
    with pytest.raises(AssertionError, match=message):
        DATA_CHECKS[check](subject(cls))


def test_the_data_set_that_they_differ_from_keeps_every_rule():
    report = check_data("sound", subject(Sound))
    assert {one.rule: one.happened for one in report.findings if one.outcome != "passed"} == {}


def test_every_rule_catches_something():
    assert {check for _, check, _ in BROKEN.values()} == set(DATA_CHECKS)


def test_a_data_set_that_does_not_load_breaks_rules_and_ends_nothing():
    class Raises(Sound):
        def load(self, split):
            raise FileNotFoundError("no such file: lab.csv")

    report = check_data("raises", subject(Raises))
    assert {one.rule for one in report.findings} == set(DATA_CHECKS)
    broken = {one.rule: one.happened for one in report.findings if one.outcome == "broken"}
    assert "no such file: lab.csv" in broken["splits_are_what_the_task_says"]
    assert "loading_again_gives_the_same" in broken
    assert report.broken >= 5
