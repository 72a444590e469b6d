"""Runs that several processes train together: one record, the score of one device."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from sweeps import NO_DATA, specs, suite
from torch.utils.data import BatchSampler

import mmbench
from mmbench import Sweep
from mmbench.bench.executors import local
from mmbench.bench.executors.queue import Queue
from mmbench.bench.record import find_run, read_predictions
from mmbench.bench.result import read_result
from mmbench.datamodule import _Shared

SRC = Path(mmbench.__file__).parents[1]
PLAIN = {  # without dropout, of which each process draws its own
    "methods": [{"name": "zero_fill", "args": {"dim": 8, "dropout": 0.0}}],
    "encoders": {"dropout": 0.0},
}
TOGETHER = {"devices": 2, "strategy": "ddp"}


def trainer(**more):
    return {"max_epochs": 3, "batch_size": 32, "accelerator": "cpu", **more}


def test_every_sample_of_a_batch_is_with_one_of_the_processes():
    batches = BatchSampler([5, 3, 8, 1, 2, 7, 4, 6, 9], 4, drop_last=False)
    parts = [list(_Shared(batches, rank, 2)) for rank in range(2)]
    assert parts == [[[5, 8], [2, 4], [9]], [[3, 1], [7, 6], [9]]]
    assert len(_Shared(batches, 0, 2)) == 3


@pytest.mark.slow
def test_two_processes_leave_one_record_and_the_score_of_one(tmp_path):
    """By this machine's engine, and by `mmbench work`: each batch shared out, none added."""
    words = suite(**PLAIN, trainer=trainer(**TOGETHER)).model_dump(exclude_none=True)
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(words | {"name": "two"}))
    [one] = specs(**PLAIN, trainer=trainer())
    outcomes = [
        event.outcome.state
        for event in local.execute(Queue([one], tmp_path / "one"), NO_DATA, workers=1)
        if event.outcome is not None
    ]
    worker = subprocess.run(
        [sys.executable, "-m", "mmbench", "work", "two.yaml", "--workers", "1"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(SRC), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert worker.stdout.count(": done") == 1, worker.stdout + worker.stderr
    assert outcomes == ["done"]
    [run] = Sweep(tmp_path / "two.yaml", results=tmp_path / "results").runs(read_up_to=None)
    assert run.state == "done", run.why
    assert [path.name for path in run.folder.parent.iterdir()] == [run.folder.name]
    assert (run.folder / "log.txt").read_text().count("distributed_backend=gloo") == 1
    alone, together = find_run(one, tmp_path / "one"), run
    for condition, result in read_result(alone.folder).conditions.items():
        logits = [read_predictions(each, condition)["logits"] for each in (alone, together)]
        np.testing.assert_allclose(*logits, atol=1e-4)
        for metric, value in read_result(together.folder).conditions[condition].scores.items():
            assert value == pytest.approx(result.scores[metric], abs=1e-3, nan_ok=True)


HALF = """
import os, signal
from mmbench.methods.zero_fill import ZeroFill


class Half(ZeroFill):
    '''A method of which the second process fails or dies in its first step.'''

    def __init__(self, task, *, how: str = "raise"):
        super().__init__(task, dim=8)
        self.how = how

    def loss(self, batch):
        if os.environ.get("LOCAL_RANK") == "1":
            if self.how == "raise":
                raise RuntimeError("made up")
            os.kill(os.getpid(), signal.SIGKILL)
        return super().loss(batch)
"""


@pytest.mark.slow
@pytest.mark.full
def test_a_process_that_fails_or_dies_ends_the_others_and_says_why(tmp_path, monkeypatch):
    (tmp_path / "half_of_two.py").write_text(HALF)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    methods = [
        {"name": "half_of_two.Half", "args": {"how": how}, "label": how} for how in ("raise", "die")
    ]
    planned = specs(methods=methods, trainer=trainer(**TOGETHER))
    began = time.monotonic()
    ends = [
        (event.spec.method_label, event.outcome.why, event.again)
        for event in local.execute(Queue(planned, tmp_path / "runs"), NO_DATA, workers=1)
        if event.outcome is not None
    ]
    why = f"killed: by signal {int(signal.SIGKILL)} (SIGKILL)"
    assert ends == [
        ("raise", "error: RuntimeError: made up", False),
        ("die", why, True),
        ("die", why, False),
    ]
    assert time.monotonic() - began < 900  # nobody waits for the one that is gone, half an hour
