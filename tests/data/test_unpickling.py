"""Pickles are data or they are refused; nothing in them runs."""

import io
import os
import pickle
import pickletools
from collections import Counter, OrderedDict

import numpy as np
import pytest

from mmbench.data.unpickling import RefusedError, read_pickle

VALUES = {
    "floats": np.linspace(0, 1, 7, dtype=np.float32).reshape(7, 1),
    "whole": np.arange(6).reshape(2, 3).T,  # in the order of Fortran
    "texts": np.array(["a", "bc"]),
    "bytes": np.array([b"a", b"bc"]),
    "objects": np.array(["a", None, 3], dtype=object),
    "scalars": [np.float64(2.5), np.int32(3), True, None, 1j, 2**70, "ü", b"\xff"],
    "nested": OrderedDict(a=({1, 2}, frozenset([3]))),
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_builtins_and_strings_are_read_in_every_protocol(tmp_path, protocol):
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(VALUES, protocol=protocol))
    found = read_pickle(path)
    assert found.keys() == VALUES.keys()
    for name, value in VALUES.items():
        if isinstance(value, np.ndarray):
            assert found[name].dtype == value.dtype
            assert found[name].tolist() == value.tolist()
        else:
            assert found[name] == value


def test_arrays_of_the_numpy_before_this_one_are_read(tmp_path):
    old = pickle.dumps(VALUES["floats"], protocol=2).replace(b"numpy._core", b"numpy.core")
    assert b"numpy.core.multiarray" in old
    (tmp_path / "x.pkl").write_bytes(old)
    assert np.array_equal(read_pickle(tmp_path / "x.pkl"), VALUES["floats"])


class Runs:
    """Leaves a mark when it is unpickled."""

    def __init__(self, call, *args):
        self.call, self.args = call, args

    def __reduce__(self):
        return self.call, self.args


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (lambda mark: Runs(os.system, f"touch {mark}"), "posix.system"),
        (lambda mark: Runs(eval, f"open({str(mark)!r}, 'w')"), "builtins.eval"),
        (lambda mark: Runs(open, str(mark), "w"), "_?io.open"),
        (lambda mark: {"train": [Runs(exec, f"open({str(mark)!r}, 'w')")]}, "builtins.exec"),
        (lambda mark: Runs(getattr, np, "load"), "builtins.getattr"),
        (lambda _: Counter("ab"), "collections.Counter"),
        (lambda _: np.load, "numpy.*load"),
        (lambda _: range(10**12), "builtins.range"),
    ],
)  # fmt: skip
def test_anything_else_is_refused_by_name_and_does_not_run(tmp_path, value, name):
    mark, path = tmp_path / "mark", tmp_path / "x.pkl"
    if name == "builtins.getattr":
        path.write_bytes(b"cbuiltins\ngetattr\n.")
    else:
        path.write_bytes(pickle.dumps(value(mark)))
    with pytest.raises(RefusedError, match=rf"x\.pkl holds {name}, which is neither a numpy array"):
        read_pickle(path)
    assert not mark.exists()


def test_codecs_are_not_for_anything_but_bytes(tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(b"c_codecs\nencode\n(Vx\nVrot13\ntR.")
    pickletools.dis(path.read_bytes(), out=io.StringIO())  # it is well formed
    with pytest.raises(RefusedError, match=r"codecs\.encode by 'rot13'"):
        read_pickle(path)


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps(VALUES)[:-40]])
def test_a_damaged_pickle_is_one_line(tmp_path, content):
    (tmp_path / "x.pkl").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.pkl is no readable pickle of arrays") as caught:
        read_pickle(tmp_path / "x.pkl")
    assert "\n" not in str(caught.value)
