"""Bags in files of their own: alike in every format, safely read, drawn alike everywhere."""

import numpy as np
import pytest
import torch

from mmbench.data.bags import Bags, read_bag

BAG = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float16)


class Program:
    """Runs something when it is unpickled."""

    def __reduce__(self):
        return (print, ("it has run",))


def test_tensors_and_arrays_read_alike_in_the_type_of_the_file(tmp_path):
    torch.save(torch.from_numpy(BAG), tmp_path / "a.pt")
    torch.save(BAG, tmp_path / "b.pt")  # a numpy array, as some of the authors' files are
    torch.save(torch.from_numpy(BAG)[None], tmp_path / "c.pt")
    np.save(tmp_path / "d.npy", BAG)
    for name in ("a.pt", "b.pt", "c.pt", "d.npy"):
        found = read_bag(tmp_path / name)
        assert found.dtype == np.float16
        np.testing.assert_array_equal(found, BAG)
    torch.save(torch.from_numpy(BAG[0]), tmp_path / "e.pt")
    np.testing.assert_array_equal(read_bag(tmp_path / "e.pt"), BAG[:1])


def test_hdf5_reads_the_data_set_features_of_its_own(tmp_path):
    h5py = pytest.importorskip("h5py", reason="HDF5 is read by the extra h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["features"] = BAG
        file["coords"] = np.zeros((5, 2), int)
    np.testing.assert_array_equal(read_bag(tmp_path / "a.h5"), BAG)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["features"] = h5py.ExternalLink("a.h5", "features")
    with pytest.raises(ValueError, match=r"b.h5 .* not features of its own"):
        read_bag(tmp_path / "b.h5")


def test_a_program_in_a_file_is_refused_and_does_not_run(tmp_path, capsys):
    torch.save([torch.zeros(2), Program()], tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a.pt is no readable file of one tensor"):
        read_bag(tmp_path / "a.pt")
    assert "it has run" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ({"x": torch.zeros(2, 3)}, "it holds a dict"),
        (torch.zeros(2, 3, 4), r"\(2, 3, 4\) of float32"),
        (torch.zeros(0, 3), r"\(0, 3\) of float32"),
        (torch.tensor([[1.0, 2.0], [1.0, float("nan")]]), "instance 1 holds NaN or infinity"),
        (torch.zeros(2, 3, dtype=torch.complex64), "complex64"),
    ],
)
def test_what_is_no_bag_is_refused_in_a_line_that_names_it(tmp_path, content, why):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=f"a.pt.*{why}"):
        read_bag(tmp_path / "a.pt")


def bags(*counts, most=10):
    """Instance k of sample s is [s, k]."""
    values = [[s, k] for s, n in enumerate(counts) for k in range(n)]
    key = 7 * np.arange(len(counts))
    return Bags(np.array(values, np.float16), np.array(counts), key, most=most)


def test_of_many_instances_some_are_drawn_in_their_order_alike_for_sample_and_view():
    data = bags(100, 3, 0, 60)
    views = np.array([1, 1, 1, 1])
    one = data.read(np.arange(4), views)
    assert one.dtype == np.float16
    assert one.shape == data.shape == (4, 10, 2)
    for row, count in ((0, 100), (3, 60)):
        places = one[row, :, 1]
        assert (one[row, :, 0] == row).all()
        assert (np.diff(places) > 0).all()
        assert places.max() < count
    assert one[1].tolist() == [[1, 0], [1, 1], [1, 2], *[[0, 0]] * 7]
    assert not one[2].any()
    assert data.length.tolist() == [10, 3, 1, 10]
    # neither the batch nor the order in it decides
    np.testing.assert_array_equal(data.read(np.array([3, 0]), views[:2]), one[[3, 0]])
    np.testing.assert_array_equal(
        data.take(np.array([3, 1])).read(np.array([0]), views[:1])[0], one[3]
    )
    other = data.read(np.arange(4), 2 * views)
    assert (other[[0, 3]] != one[[0, 3]]).any(axis=(1, 2)).all()
    np.testing.assert_array_equal(other[[1, 2]], one[[1, 2]])
    fixed = data[np.arange(4)]
    np.testing.assert_array_equal(fixed, data[np.arange(4)])
    np.testing.assert_array_equal(fixed[:, 2:, 0], data[:, 2:, 0])
    np.testing.assert_array_equal(fixed[3, :4], data[3, :4])


def test_each_instance_is_drawn_as_often_as_any_other():
    """Over 2,000 views each of 20 instances is among the 5 about 500 times (deviation 19)."""
    data = bags(20, most=5)
    draws = data.read(np.zeros(2000, int), np.arange(2000))
    seen = np.bincount(draws[..., 1].astype(int).ravel(), minlength=20)
    assert abs(seen - 500).max() < 5 * 19
