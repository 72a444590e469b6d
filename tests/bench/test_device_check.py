"""The script that compares methods on a GPU: it runs without one, too, to try the script itself."""

import importlib.util
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "device" / "check.py"


@pytest.fixture(scope="module")
def check():
    spec = importlib.util.spec_from_file_location("device_check", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["device_check"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["device_check"]


def test_without_a_gpu_it_says_so_in_one_line(check, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert check.main([]) == 2
    assert capsys.readouterr().err == "no GPU is here; --device cpu tries the script itself\n"


@pytest.mark.slow
@pytest.mark.full
def test_the_processor_agrees_with_itself(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    words = ["--device", "cpu", "--runs", "2", "zero_fill"]
    script = [sys.executable, SCRIPT, *words]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [row] = [line for line in done.stdout.splitlines() if "`zero_fill`" in line]
    assert row.startswith("| `zero_fill` | 0.0000 | 0.")


@pytest.mark.slow
@pytest.mark.full
def test_a_tolerance_that_nothing_keeps_is_seen(check, monkeypatch):
    monkeypatch.setitem(check.TOLERANCE, "bf16-mixed", 0.0)
    row = check.compare("zero_fill", device="cpu", until=math.inf)
    assert row.why == "no: more than 0.0 in bf16-mixed"


def test_no_method_begins_after_the_time_is_up(check):
    assert check.compare("zero_fill", device="cpu", until=0.0).why == "no: no time was left"


def test_what_a_device_draws_is_what_the_processor_draws(check):
    """On a device without numbers, since there may be no other: shapes and the state after."""
    torch.manual_seed(3)
    expected = torch.empty(4).uniform_(), torch.rand(2, 3), torch.randperm(5)
    state = torch.get_rng_state()
    torch.manual_seed(3)
    with check.DrawnHere():
        found = torch.empty(4).uniform_(), torch.rand(2, 3), torch.randperm(5)
    assert all(map(torch.equal, found, expected))
    assert torch.equal(torch.get_rng_state(), state)
