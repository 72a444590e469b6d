"""What is doubtful about the data stands in log and record, and no score that is none selects."""

import json

import numpy as np
import pytest
from arrays import Arrays, samples
from sweeps import NO_DATA, specs

from mmbench.bench.run import run as step
from mmbench.bench.run.meters import metered
from mmbench.bench.run.notes import notes
from mmbench.bench.run.selection import require_defined
from mmbench.registry import DATASETS

ABC = ("a", "b", "c")


def data(train, val, test, *, presence=None, **arguments):
    made = []
    for k, target in enumerate((train, val, test)):
        target = np.asarray(target)
        x = {"x": np.zeros((len(target), 1)), "y": np.zeros((len(target), 1))}
        made.append(samples(x, target, first=1000 * k, presence=presence if k == 0 else None))
    return Arrays(made, **{"outputs": ABC} | arguments)


EVEN = [0, 1, 2] * 4


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (data([0, 1] * 6, EVEN, EVEN), "1 of 3 class names occur in val and never in training"),
        (data(EVEN, [1] * 9, EVEN), "all samples of val are of the class 'b'"),
        (data([2] * 9, [2] * 9, [2] * 9), "all samples of train are of the class 'c'"),
        (
            data(range(9), [0, 1], [1, 2], outputs=[str(k) for k in range(9)]),
            "training has 9 classes for 9 samples",
        ),
        (
            data(EVEN, EVEN, EVEN, presence=np.tile([True, False], (12, 1))),
            "training never shows the modality y",
        ),
        (
            data(
                np.ones((4, 2)), np.eye(2), np.eye(2), kind="regression", outputs=("age", "height")
            ),
            "the target age is constant in training",
        ),
        (
            data(
                [[1, 0], [0, 0]], [[0, 1]], [[0, 0]], kind="multi_label", outputs=("drama", "war")
            ),
            "1 of 2 label names occur in val and never in training, such as 'war'",
        ),
    ],
)
def test_doubts_are_said(made, message):
    assert any(message in line for line in notes(made)), notes(made)
    assert all("\n" not in line for line in notes(made))


def test_sound_data_have_no_notes():
    assert notes(data(EVEN, EVEN, EVEN)) == []


class Doubtful(Arrays):
    def __init__(self, root, scenario, fold):
        made = data([0, 1] * 8, EVEN, EVEN).splits
        super().__init__([made[s] for s in ("train", "val", "test")], outputs=ABC, fold=fold)
        self.scenario = scenario

    def notes(self):
        return ("two rows were left out",)


def known(monkeypatch, cls):
    get = DATASETS.get
    monkeypatch.setattr(DATASETS, "get", lambda name: cls if name == "doubtful" else get(name))
    monkeypatch.setattr(DATASETS, "require", lambda name: None)


NATURAL = {"name": "n", "train": {"mechanism": "natural"}, "test": {"mechanism": "natural"}}


def test_notes_are_in_log_and_record(tmp_path, monkeypatch):
    known(monkeypatch, Doubtful)
    [spec] = specs(data=["doubtful"], methods=["majority"], scenarios=[NATURAL])
    outcome = step.run(spec, tmp_path, NO_DATA)
    assert outcome.state == "done", outcome.why
    noted = json.loads((tmp_path / spec.folder / "metrics.json").read_text())["notes"]
    assert noted[0] == "two rows were left out"
    assert "never in training, such as 'c'" in noted[1]
    log = (tmp_path / spec.folder / "log.txt").read_text()
    assert all(line in log for line in noted)


@pytest.mark.parametrize(
    ("made", "metric"),
    [
        (data(EVEN, [1] * 9, EVEN), "auroc"),
        (
            data(np.eye(2), np.ones((3, 1)), np.eye(2), kind="regression", outputs=("age",)),
            "r2",
        ),
        (data(EVEN, np.zeros(0, int), EVEN), "accuracy"),
    ],
)
def test_a_metric_that_validation_cannot_give_is_refused_before_training(made, metric):
    with pytest.raises(ValueError, match=rf"select.metric '{metric}' is no number on the val"):
        require_defined(made, metric)


def test_a_metric_that_validation_can_give_is_not_refused():
    for metric in ("auroc", "macro_f1", "brier", "accuracy"):
        require_defined(data(EVEN, EVEN, EVEN), metric)
    require_defined(data(EVEN, [1] * 9, EVEN), "accuracy")


def test_a_meter_that_fails_costs_a_number_and_no_run(tmp_path, monkeypatch):
    def breaks(*_):
        raise IndexError("no modality")

    monkeypatch.setattr("mmbench.bench.run.cost.flops_by_pattern", breaks)
    [spec] = specs(methods=["majority"])
    outcome = step.run(spec, tmp_path, NO_DATA)
    assert outcome.state == "done", outcome.why
    words = json.loads((tmp_path / spec.folder / "metrics.json").read_text())
    assert words["cost"]["flops_per_sample"] is None
    assert words["cost"]["flops_per_pattern"] is None
    assert words["cost"]["params_total"] is not None
    assert "operations could not be measured" in (tmp_path / spec.folder / "log.txt").read_text()
    assert metered("joules", lambda: 3.0) == 3.0
