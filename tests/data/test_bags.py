"""Bags in files of their own: alike in every format, safely read, drawn alike everywhere."""

import numpy as np
import pytest
import torch

from mmbench.data.bags import drawn, read_bag

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


def test_of_many_instances_some_are_drawn_in_their_order_alike_for_a_seed():
    many = np.arange(100)[:, None]
    one = drawn(many, 10, 3)[:, 0]
    assert len(set(one)) == 10
    assert (np.diff(one) > 0).all()
    np.testing.assert_array_equal(one, drawn(many, 10, 3)[:, 0])
    assert not np.array_equal(one, drawn(many, 10, 4)[:, 0])
    assert drawn(many, 100, 3) is many
