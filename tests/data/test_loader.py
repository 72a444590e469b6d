"""Batches that a thread reads, or that are gathered on a device, are those that anybody reads."""

import threading

import numpy as np
import pytest
import torch
from arrays import fit
from photos import Photos, arrays, in_files
from torch import nn

from mmbench import datamodule
from mmbench.bench.run.selection import KeepBest
from mmbench.data import loader, mapped
from mmbench.data.loader import DEPTH
from mmbench.data.stored import Stored
from mmbench.datamodule import Fitting
from mmbench.methods.zero_fill import ZeroFill

N = 66
CPU = torch.device("cpu")


@pytest.fixture
def x():
    return arrays(N)


@pytest.fixture
def files(x, tmp_path, monkeypatch):
    monkeypatch.setattr(mapped, "LARGE_BYTES", 0)
    return in_files(tmp_path, x)


@pytest.fixture
def near(monkeypatch):
    """An accelerator of much memory: the CPU itself."""
    monkeypatch.setattr(datamodule, "free_bytes", lambda device: 2**40)


def threads():
    return [one for one in threading.enumerate() if one.name.startswith("mmbench-ahead")]


def same(one, other):
    pairs = [(one.presence, other.presence), (one.inputs["photo"], other.inputs["photo"])]
    pairs += [(one.inputs["scan"], other.inputs["scan"]), (one.sample_id, other.sample_id)]
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("regime", ["withheld", "full_access"])
@pytest.mark.parametrize("batch_size", [5, 11])  # 22 samples: the last batch is small, or not
def test_a_thread_reads_the_same_batches_in_the_same_order(x, files, regime, batch_size):
    orders = [torch.Generator().manual_seed(3) for _ in range(2)]
    data = [
        Photos(values, batch_size=batch_size, scenario={"regime": regime}) for values in (files, x)
    ]
    loaders = [one.train_dataloader(order) for one, order in zip(data, orders, strict=True)]
    assert [set(one.names) for one in loaders] == [{"photo", "scan"}, set()]
    for _ in range(3):
        for a, b in zip(*loaders, strict=True):
            assert same(a, b)
            assert torch.equal(a.target, b.target)
            assert regime == "withheld" or same(a.teacher, b.teacher)
        assert torch.equal(orders[0].get_state(), orders[1].get_state())
    for a, b in zip(*(one.val_dataloader() for one in data), strict=True):
        assert same(a, b)
    assert threads() == []


def test_what_lies_in_memory_is_read_by_no_thread(x):
    for batch in Photos(x, batch_size=5).train_dataloader():
        batch.inputs["photo"]
        assert threads() == []


def test_what_nobody_asks_for_is_not_read_ahead_for_long(files, monkeypatch):
    data, read = Photos(files, batch_size=1), []
    data.setup()
    whole = Stored.raw

    def raw(self, rows, view=None):
        read.append(self.values.dim())
        return whole(self, rows, view)

    monkeypatch.setattr(Stored, "raw", raw)
    one = data.train_dataloader()
    for _ in range(2):
        for batch in one:
            batch.inputs["photo"]
    assert read.count(4) == 2 * 22
    assert 1 <= read.count(5) <= DEPTH + 2  # scans, before it was clear that nobody wants them


class UnreadableError(RuntimeError):
    pass


def failing(data, monkeypatch, at):
    calls = []
    whole = Stored.raw

    def raw(self, rows, view=None):
        calls.append(threading.current_thread().name)
        if len(calls) > at:
            raise UnreadableError("cannot be read")
        return whole(self, rows, view)

    monkeypatch.setattr(Stored, "raw", raw)
    return calls


def test_an_error_while_reading_reaches_the_training_as_what_it_is(files, monkeypatch):
    data = Photos(files, batch_size=2)
    data.setup()
    calls = failing(data, monkeypatch, at=9)
    with pytest.raises(UnreadableError, match="cannot be read"):
        fit(ZeroFill(data.task, dim=8), data, KeepBest(data, "accuracy", "last", None), 2)
    assert any(name.startswith("mmbench-ahead") for name in calls)
    assert threads() == []


def test_a_training_that_fails_leaves_no_thread(files, monkeypatch):
    data = Photos(files, batch_size=1)
    method = ZeroFill(data.task, dim=8)

    def loss(batch):
        assert threads()
        raise UnreadableError("no loss")

    monkeypatch.setattr(method, "loss", loss)
    with pytest.raises(UnreadableError, match="no loss"):
        fit(method, data, KeepBest(data, "accuracy", "last", None), 2)
    assert threads() == []


# --- on a device ------------------------------------------------------------------------------


@pytest.mark.parametrize("regime", ["withheld", "full_access"])
def test_a_split_that_fits_is_gathered_where_it_lies_with_the_same_bits(x, near, regime):
    settings = {"batch_size": 5, "scenario": {"regime": regime}}
    data, plain = Photos(x, **settings), Photos(x, **settings)
    fitting = Fitting(data, CPU)
    pairs = [(fitting.train_dataloader, plain.train_dataloader)]
    pairs += [(fitting.val_dataloader, plain.val_dataloader)]
    wanted = [[(batch, dict(batch.inputs)) for batch in elsewhere()] for _, elsewhere in pairs]
    resident = [on_device() for on_device, _ in pairs]
    for split in ("train", "val"):  # the copy is on the device now: nobody reads the host again
        for values in data.split(split)._stored.values():
            values.values.fill_(0)
    for loaded, batches in zip(resident, wanted, strict=True):
        for a, (b, _) in zip(loaded, batches, strict=True):
            assert same(a, b)
    assert data._resident["train", CPU]._stored["photo"].values.dtype == torch.uint8
    assert fitting.train_dataloader().dataset is data._resident["train", CPU]  # copied once


def test_batches_on_a_device_are_made_of_nothing_that_lies_elsewhere(x):
    meta = torch.device("meta")
    split = Photos(x, scenario={"regime": "full_access"}).split("train").on(meta)
    batch = split[[3, 1, 2]]
    for one in (batch, batch.teacher):
        tensors = [one.presence, one.target, one.sample_id, *dict(one.inputs).values()]
        assert {tensor.device for tensor in tensors} == {meta}
    assert batch.inputs["photo"].shape == (3, 3, 8, 10)
    assert batch.to("meta").inputs["photo"] is not None


def test_a_split_that_does_not_fit_stays_where_it_is(x, monkeypatch):
    data = Photos(x, batch_size=5)
    size = data.split("train").nbytes
    assert size == 22 * (3 * 8 * 10 + 2 * 4 * 6 * 4)
    for free, stays in ((size / loader.SHARE - 1, True), (size / loader.SHARE, False)):
        monkeypatch.setattr(datamodule, "free_bytes", lambda device, free=free: free)
        assert (data._near("train", CPU) is data.split("train")) == stays
    assert loader.free_bytes(CPU) == 0


def test_a_training_on_a_device_of_its_own_ends_with_the_same_weights(x, near):
    ends = []
    for device in (None, CPU):
        data = Photos(x, batch_size=5)
        torch.manual_seed(0)
        method = ZeroFill(data.task, dim=8)
        keep = KeepBest(data, "accuracy", "last", None)
        fit(method, data, keep, 2, device=device)
        ends.append(nn.utils.parameters_to_vector(method.parameters()).detach())
        assert bool(data._resident) == (device is CPU)
    assert torch.equal(*ends)
    assert np.isfinite(ends[0].numpy()).all()
