"""Who loses the claim on an entry of the cache stops at the next step and takes the other's."""

import math
import os
import signal
import threading
import time

import numpy as np
import pytest
import torch
from filelock import SoftFileLease
from torch import nn
from waiting import leases_of, wait_until_lost

from mmbench import store
from mmbench.data import features, parsed
from mmbench.data.embeddings import share_between_runs, stored_embeddings
from mmbench.data.features import frozen_features
from mmbench.layers import mixture
from mmbench.layers.mixture import DiagonalMixture

STEPS = 6


@pytest.fixture
def steps(monkeypatch, tmp_path):
    """Called once a step, which is noted; at the second, somebody else takes the claim over.

    The other finds it silent, as a contender does, publishes nothing while this process is at
    work, and dies a second after this one knows: a step before that was made without a claim.
    """
    monkeypatch.setattr(store, "LEASE_S", 1.0)
    monkeypatch.setattr(store, "HEARTBEAT_S", 0.05)
    leases = leases_of(monkeypatch)
    monkeypatch.setenv("MMBENCH_CACHE", str(tmp_path / "cache"))
    noted, others = [], []

    def step():
        noted.append(time.monotonic())
        if len(noted) != 2:
            return
        [file] = (tmp_path / "cache").glob(".*.claim")
        file.unlink()
        others.append(Other(file))
        wait_until_lost(leases)
        others[0].ended.start()

    step.noted, step.others = noted, others
    yield step
    assert others, "nothing was taken over"
    for other in others:
        other.end()


class Other:
    """Another process that holds a claim and makes nothing."""

    def __init__(self, file):
        ready, write = os.pipe()
        self.process = os.fork()
        if self.process == 0:
            lease = SoftFileLease(file, lease_duration=1.0, heartbeat_interval=0.05)
            lease.acquire(timeout=60)
            os.write(write, b"x")
            signal.pause()
        os.read(ready, 1)
        self.ended = threading.Timer(1.0, self.end)
        self.moment = math.inf  # of its death

    def end(self):
        self.ended.cancel()
        if self.process:
            self.moment = time.monotonic()
            os.kill(self.process, signal.SIGKILL)
            os.waitpid(self.process, 0)
            self.process = 0


class Encoder(nn.Module):
    def __init__(self, step=lambda: None):
        super().__init__()
        self.linear = nn.Linear(2, 2).requires_grad_(False)
        self._step = step
        nn.init.eye_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.eval()
        share_between_runs(self)

    def forward(self, x, lengths):
        self._step()
        return self.linear(x)


def embeddings(step, monkeypatch, tmp_path):
    x = torch.arange(4.0 * STEPS).view(2 * STEPS, 2)
    made = stored_embeddings(Encoder(step), lambda: [(part, None) for part in x.split(2)], len(x))
    np.testing.assert_array_equal(made, x)


def picture_features(step, monkeypatch, tmp_path):
    def as_is(net, part):
        step()
        return part[:, :1].float().expand(-1, features.IMAGE_WIDTH, -1, -1)

    monkeypatch.setattr(features, "installed", lambda: {"encoder": "1"})
    monkeypatch.setattr(features, "image_network", lambda: None)
    monkeypatch.setattr(features, "image_map", as_is)
    x = np.zeros((STEPS * features.BATCH, 3, 1, 1), np.uint8) + np.uint8(7)
    made = frozen_features("abc", pictures={"image": x})["image"]
    np.testing.assert_array_equal(made, np.full((len(x), features.IMAGE_WIDTH), 7.0))


def fitted_mixture(step, monkeypatch, tmp_path):
    density = mixture._log_density

    def slow(*arguments):
        step()
        return density(*arguments)

    rows = torch.randn(12 * STEPS, 2, generator=torch.Generator().manual_seed(0))
    alone = DiagonalMixture(2, 2)
    alone.fit([rows])
    monkeypatch.setattr(mixture, "WORTH_KEEPING", 0)
    monkeypatch.setattr(mixture, "CHUNK_ROWS", len(rows) // STEPS)
    monkeypatch.setattr(mixture, "_log_density", slow)
    model = DiagonalMixture(2, 2)
    model.fit([rows])
    torch.testing.assert_close(model.mean, alone.mean)


def parsed_files(step, monkeypatch, tmp_path):
    def read(room):
        x = room("x", (STEPS,), np.int64)
        for row in range(STEPS):
            room.held.require()
            step()
            x[row] = row
        return {"x": x}

    monkeypatch.setattr(parsed, "SMALL_BYTES", 0)
    file = tmp_path / "file"
    file.write_bytes(b"content")
    made = parsed.parsed([file], {"what": "test"}, read, code="mmbench.data.arrays")
    np.testing.assert_array_equal(made["x"], np.arange(STEPS))


@pytest.mark.parametrize(
    "build", [embeddings, picture_features, fitted_mixture, parsed_files], ids=lambda f: f.__name__
)
def test_a_build_whose_claim_is_taken_over_stops_at_the_next_step_and_waits(
    build, steps, monkeypatch, tmp_path, caplog
):
    build(steps, monkeypatch, tmp_path)
    [other] = steps.others
    before = [moment for moment in steps.noted if moment < other.moment]
    assert len(before) == 2, "it went on without a claim"
    assert len(steps.noted) >= 2 + STEPS, "the other died, and it was made again from the start"
    assert "another process took it over" in caplog.text
