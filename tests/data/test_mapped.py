"""Samples in mapped files are never copied, and are in all else like those in memory."""

import multiprocessing
import resource
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from photos import Photos, arrays, in_files

from mmbench.data import mapped, scale
from mmbench.data.mapped import MappedRows, at_rows
from mmbench.data.missingness.values import modality_value
from mmbench.data.scale import Moments, _rows

N = 12
SPARE = 128 * 2**20  # bytes of memory that may be taken beside the file


@pytest.fixture
def x():
    return arrays(N)


@pytest.fixture
def files(x, tmp_path, monkeypatch):
    """The same arrays, which count as large."""
    monkeypatch.setattr(mapped, "LARGE_BYTES", 0)
    return in_files(tmp_path, x)


ROWS = st.one_of(
    st.lists(st.integers(-5, 4), max_size=7).map(lambda rows: np.array(rows, int)),
    st.lists(st.booleans(), min_size=5, max_size=5).map(np.array),
    st.integers(-5, 4),
    st.slices(5),
)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(ROWS, st.sampled_from([(), (slice(1, 3),), (1,), (slice(None), 2)]))
def test_rows_of_a_mapped_array_answer_as_a_copy_of_them_does(rows, rest):
    values = np.arange(9 * 4 * 3).reshape(9, 4, 3)
    order = np.array([8, 2, 2, 0, 5])
    part = MappedRows(values, order)
    assert part.shape == (5, 4, 3)
    np.testing.assert_array_equal(part[(rows, *rest)], values[order][(rows, *rest)])
    np.testing.assert_array_equal(part[..., 1], values[order][..., 1])
    np.testing.assert_array_equal(np.array(part), values[order])


def test_parts_of_mapped_samples_refer_to_the_file_and_hold_what_copies_hold(files, x):
    def split(values):
        whole = Photos(values).load("val")
        return whole.take(np.array([3, 0])).only(["scan"])

    lazy, copy = split(files), split(x)
    assert isinstance(lazy.inputs["scan"], MappedRows)
    assert lazy.inputs["scan"].values is files["scan"]
    assert isinstance(copy.inputs["scan"], np.ndarray)
    np.testing.assert_array_equal(lazy.inputs["scan"], copy.inputs["scan"])
    np.testing.assert_array_equal(modality_value(lazy, "scan"), modality_value(copy, "scan"))


def test_batches_from_mapped_files_are_those_from_memory_bit_by_bit(files, x):
    lazy, copy = (Photos(values, batch_size=3, limit=3) for values in (files, x))
    for split in ("train", "val", "test"):
        for one, other in zip(lazy.batches(split), copy.batches(split), strict=True):
            for name in ("photo", "scan"):
                assert torch.equal(one.inputs[name], other.inputs[name])
    assert lazy.task == copy.task  # how pixels were scaled, too
    assert lazy.split("train")._stored["photo"].values.data_ptr() == files["photo"].ctypes.data


@pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux says of a process")
def test_pages_that_were_read_do_not_stay_in_the_process(tmp_path, monkeypatch):
    monkeypatch.setattr(mapped, "HELD_BYTES", 2**20)
    values = in_files(tmp_path, {"x": np.arange(2**22, dtype=np.int64).reshape(-1, 1024)})["x"]
    rows, before = MappedRows(values, np.arange(len(values))), of_files()
    for start in range(0, len(rows), 64):
        part = np.arange(start, start + 64)
        assert (rows.read(part)[:, 0] == 1024 * part).all()
    assert of_files() - before < values.nbytes / 2


def of_files():
    """Bytes of files that lie in this process's memory."""
    return 1024 * int(Path("/proc/self/status").read_text().split("RssFile:")[1].split()[0])


def test_a_small_mapped_array_is_copied(tmp_path):
    values = in_files(tmp_path, {"x": np.arange(6.0)})["x"]
    assert type(at_rows(values, np.array([1, 2])).base) is not np.memmap
    assert not isinstance(at_rows(values, np.array([1, 2])), MappedRows)


def test_what_is_not_finite_is_named_in_whatever_chunk_it_lies(x, monkeypatch):
    monkeypatch.setattr(mapped, "READ_BYTES", 2 * 96 * 2)  # two scans
    x["scan"][7, 0, 1, 2, 1] = np.nan
    x["scan"][10] = np.inf
    with pytest.raises(ValueError, match="scan of sample 7 holds NaN or infinity"):
        Photos(x).load("train")


def test_checked_samples_are_not_read_again_when_parts_of_them_are_taken(x):
    whole = Photos(x).load("val")
    dirty = replace(whole, inputs=whole.inputs | {"scan": whole.inputs["scan"].copy()})
    dirty.inputs["scan"][1] = np.nan  # after the check
    assert len(dirty.take(np.array([0, 1])).only(["photo", "scan"])) == 2


@pytest.mark.parametrize("constant", [False, True])
def test_counts_of_pixels_give_the_moments_of_their_values(constant):
    x = np.random.default_rng(1).integers(0, 256, (50, 3, 4, 4), dtype=np.uint8)
    if constant:
        x[:, 1] = 7
    exact = x.transpose(1, 0, 2, 3).reshape(3, -1).astype(np.float64)
    parts = Moments.of_bytes(iter([x[:20], x[20:]]), 3)
    np.testing.assert_allclose(parts.mean, exact.mean(1), rtol=1e-14)
    np.testing.assert_allclose(parts.std, exact.std(1), rtol=1e-12)
    assert parts.constant.tolist() == [False, constant, False]
    values = Moments.of(_rows(x, np.arange(50), None, True), 3, x.dtype)
    np.testing.assert_allclose(parts.std, values.std, rtol=1e-9)


def through(x):
    """All that is done with a data set before and in an epoch of training."""
    data = Photos(x, batch_size=8, limit=90)
    whole = Photos(x, batch_size=8, modalities=["scan", "photo"])
    for module in (data, whole):
        module.setup()
        modality_value(module.samples("train"), "scan")
        for batch in module.train_dataloader():
            dict(batch.inputs)
        assert module.condition_presence("mcar_0.3").any()


def limited(large_bytes, x):
    """The same with little memory left; a separate process, which may die of it."""
    mapped.LARGE_BYTES, scale.CHUNK_BYTES = large_bytes, 2**22
    with Path("/proc/self/status").open() as status:
        [used] = [int(line.split()[1]) * 1024 for line in status if line.startswith("VmData")]
    resource.setrlimit(resource.RLIMIT_DATA, (used + SPARE, used + SPARE))
    through(x)


@pytest.mark.parametrize("large_bytes", [mapped.LARGE_BYTES, 2**40])
def test_memory_stays_flat_while_files_are_read_and_would_not_if_rows_were_copied(
    tmp_path, large_bytes
):
    shapes = {"photo": ((700, 3, 256, 256), np.uint8), "scan": ((700, 1, 64, 64, 32), np.float16)}
    x = {
        name: np.lib.format.open_memmap(tmp_path / f"{name}.npy", "w+", dtype, shape)
        for name, (shape, dtype) in shapes.items()
    }  # holes, which take no disk
    assert all(values.nbytes > SPARE for values in x.values())
    child = multiprocessing.get_context("fork").Process(target=limited, args=(large_bytes, x))
    child.start()
    child.join()
    assert (child.exitcode == 0) == (large_bytes == mapped.LARGE_BYTES)
