"""Loggers by name: none is needed, each is closed with its run, none is part of the key."""

import json
import sys
from dataclasses import replace
from importlib.util import find_spec

import pytest
from sweeps import NO_DATA, specs

from mmbench.bench.run import loggers as module
from mmbench.bench.run.build import check_arguments
from mmbench.bench.run.run import run
from mmbench.bench.spec import load_suite

ABSENT = [
    name
    for name, packages in module.PACKAGES.items()
    if packages and not any(map(find_spec, packages))
]


def logged(name):
    spec = specs()[1]
    return replace(spec, trainer_args={**spec.trainer_args, "logger": name})


def test_a_logger_is_no_part_of_the_key_since_it_changes_no_number():
    assert logged("tensorboard").key == logged("wandb").key == specs()[1].key


def test_an_unknown_logger_is_one_line():
    suite = {"name": "x", "data": "mfeat", "methods": "majority", "scenarios": "mcar", "seeds": 1}
    with pytest.raises(ValueError, match=r"trainer\.logger: .*'tensorboard', 'wandb' or 'mlflow'"):
        load_suite(suite | {"trainer": {"logger": "tensorbord"}})
    assert load_suite(suite | {"trainer": {"logger": "csv"}}).trainer.logger == "csv"


@pytest.mark.parametrize("name", ABSENT)
def test_a_logger_whose_package_is_missing_is_one_line_before_anything_runs(name):
    with pytest.raises(ValueError, match=f"trainer.logger: {name} needs .* pip install") as error:
        check_arguments(logged(name), NO_DATA)
    assert "\n" not in str(error.value)


def test_the_curve_is_kept_with_and_without_a_logger_asked_for(tmp_path):
    for name in ("csv", None):
        spec = logged(name) if name else specs()[1]
        outcome = run(spec, tmp_path / str(name) / "runs", NO_DATA)
        assert outcome.state == "done", outcome.why
    one, other = (tmp_path / name / "runs" / specs()[1].folder for name in ("csv", "None"))
    assert (one / "metrics.csv").read_text() == (other / "metrics.csv").read_text()
    assert json.loads((one / "spec.json").read_text())["trainer_args"]["logger"] == "csv"
    assert "lightning.pytorch.loggers" in sys.modules  # Lightning's own are used


@pytest.mark.skipif("tensorboard" in ABSENT, reason="no package for TensorBoard is installed")
def test_tensorboard_lies_beside_the_runs_under_the_name_of_the_run(tmp_path):
    spec = logged("tensorboard")
    outcome = run(spec, tmp_path / "suite" / "runs", NO_DATA)
    assert outcome.state == "done", outcome.why
    folder = tmp_path / "suite" / "logs" / "tensorboard" / spec.folder
    assert list(folder.glob("events.out.tfevents.*"))
    assert (tmp_path / "suite" / "runs" / spec.folder / "metrics.csv").is_file()
