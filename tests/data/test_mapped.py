"""Samples in mapped files are never copied, and are in all else like those in memory."""

import multiprocessing
import resource
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbench.data import mapped
from mmbench.data.mapped import MappedRows, at_rows, chunks
from mmbench.data.missingness.values import modality_value
from mmbench.data.samples import Samples
from mmbench.data.scale import Moments, _rows
from mmbench.data.scenario import Scenario
from mmbench.data.task import Modality, Task
from mmbench.datamodule import DataModule, Source

N = 12
HALF = {"mechanism": "mcar", "missing_rate": 0.3}
SCENARIO = Scenario.parse({"name": "half", "train": HALF, "val": HALF, "test": HALF})
SPARE = 128 * 2**20  # bytes of memory that may be taken beside the file


class Photos(DataModule):
    """Pictures and volumes that lie in two mapped files, for all three splits."""

    source = Source(citation="none")

    def __init__(self, pictures, volumes, **common):
        super().__init__(Path(), SCENARIO, **common)
        self.files_of = {"photo": pictures, "scan": volumes}

    def describe(self):
        photo, scan = (x.shape[1:] for x in self.files_of.values())
        modalities = (Modality("photo", "image", photo), Modality("scan", "volume", scan))
        return Task("single_label", modalities, ("a", "b"))

    def load(self, split):
        n = len(self.files_of["photo"])
        presence = np.ones((n, 2), bool)
        whole = Samples(("photo", "scan"), self.files_of, np.arange(n) % 2, np.arange(n), presence)
        return whole.take(np.arange(n) % 3 == ("train", "val", "test").index(split))


def file_of(path, x):
    np.save(path, x)
    return np.load(path, mmap_mode="r")


@pytest.fixture
def arrays():
    generator = np.random.default_rng(0)
    return {
        "photo": generator.integers(0, 256, (N, 3, 4, 5), dtype=np.uint8),
        "scan": generator.normal(3, 2, (N, 1, 2, 3, 2)).astype(np.float16),
    }


@pytest.fixture
def files(arrays, tmp_path, monkeypatch):
    """The same arrays, which count as large."""
    monkeypatch.setattr(mapped, "LARGE_BYTES", 0)
    return {name: file_of(tmp_path / f"{name}.npy", x) for name, x in arrays.items()}


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
    np.testing.assert_array_equal(np.vstack([part[k] for k in chunks(part, 1)])[:4], part[0])


def test_parts_of_mapped_samples_refer_to_the_file_and_hold_what_copies_hold(files, arrays):
    def split(x):
        whole = Photos(x["photo"], x["scan"]).load("val")
        return whole.take(np.array([3, 0])).only(["scan"])

    lazy, copy = split(files), split(arrays)
    assert isinstance(lazy.inputs["scan"], MappedRows)
    assert lazy.inputs["scan"].values is files["scan"]
    assert isinstance(copy.inputs["scan"], np.ndarray)
    np.testing.assert_array_equal(lazy.inputs["scan"], copy.inputs["scan"])
    np.testing.assert_array_equal(modality_value(lazy, "scan"), modality_value(copy, "scan"))


def test_batches_from_mapped_files_are_those_from_memory_bit_by_bit(files, arrays):
    lazy, copy = (Photos(x["photo"], x["scan"], batch_size=3, limit=3) for x in (files, arrays))
    for split in ("train", "val", "test"):
        for one, other in zip(lazy.batches(split), copy.batches(split), strict=True):
            for name in ("photo", "scan"):
                assert torch.equal(one.inputs[name], other.inputs[name])
    assert lazy.task == copy.task  # how pixels were scaled, too
    assert lazy.split("train")._stored["photo"].values.data_ptr() == files["photo"].ctypes.data


def test_a_small_mapped_array_is_copied(tmp_path):
    values = file_of(tmp_path / "x.npy", np.arange(6.0))
    assert type(at_rows(values, np.array([1, 2])).base) is not np.memmap
    assert not isinstance(at_rows(values, np.array([1, 2])), MappedRows)


def test_what_is_not_finite_is_named_in_whatever_chunk_it_lies(files, arrays, monkeypatch):
    monkeypatch.setattr(chunks, "__defaults__", (2 * 6 * 2 * 2,))
    arrays["scan"][7, 0, 1, 2, 1] = np.nan
    arrays["scan"][10] = np.inf
    with pytest.raises(ValueError, match="scan of sample 7 holds NaN or infinity"):
        Photos(arrays["photo"], arrays["scan"]).load("train")


def test_checked_samples_are_not_read_again_when_parts_of_them_are_taken(arrays):
    whole = Photos(arrays["photo"], arrays["scan"]).load("val")
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


def through(pictures, volumes):
    """All that is done with a data set before and in an epoch of training."""
    data = Photos(pictures, volumes, batch_size=8, limit=90)
    whole = Photos(pictures, volumes, batch_size=8, modalities=["scan", "photo"])
    for module in (data, whole):
        module.setup()
        modality_value(module.samples("train"), "scan")
        for batch in module.train_dataloader():
            dict(batch.inputs)
        assert module.condition_presence("mcar_0.3").any()


def limited(large_bytes, pictures, volumes):
    """The same with little memory left; a separate process, which may die of it."""
    mapped.LARGE_BYTES = large_bytes
    with Path("/proc/self/status").open() as status:
        [used] = [int(line.split()[1]) * 1024 for line in status if line.startswith("VmData")]
    resource.setrlimit(resource.RLIMIT_DATA, (used + SPARE, used + SPARE))
    through(pictures, volumes)


@pytest.mark.parametrize("large_bytes", [mapped.LARGE_BYTES, 2**40])
def test_memory_stays_flat_while_files_are_read_and_would_not_if_rows_were_copied(
    tmp_path, large_bytes
):
    shapes = {"photo": ((700, 3, 256, 256), np.uint8), "scan": ((700, 1, 64, 64, 32), np.float16)}
    files = [
        np.lib.format.open_memmap(tmp_path / f"{name}.npy", "w+", dtype, shape)
        for name, (shape, dtype) in shapes.items()
    ]  # holes, which take no disk
    assert all(file.nbytes > SPARE for file in files)
    child = multiprocessing.get_context("fork").Process(target=limited, args=(large_bytes, *files))
    child.start()
    child.join()
    assert (child.exitcode == 0) == (large_bytes == mapped.LARGE_BYTES)
