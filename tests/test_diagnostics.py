"""What a method shows comes back as it was written, and parts that do not fit are refused."""

import jaxtyping
import numpy as np
import pytest
import torch

from mmbench.diagnostics import (
    Matrix,
    Recovery,
    Retrieval,
    RouterUsage,
    read_diagnostics,
    write_diagnostics,
)
from mmbench.layers.usage import UsageMeter
from mmbench.store import write_arrays

NAMES = np.array(["a", "b"])
SHOWN = {
    "router": RouterUsage(pattern=NAMES, expert=NAMES, share=np.eye(2), count=np.array([2.0, 1.0])),
    "retrieval": Retrieval(
        query=np.array([3]), neighbour=np.array([[1, 2]]), score=np.array([[0.5, 0.25]])
    ),
    "recovery": Recovery(modality=NAMES, recovered=np.ones((2, 3)), true=np.zeros((2, 3))),
    "entropy/of all": Matrix(values=np.ones((2, 2)), row=NAMES, column=NAMES),
}


def test_every_type_comes_back_as_it_was_written(tmp_path):
    write_diagnostics(tmp_path / "d.npz", SHOWN)
    found = read_diagnostics(tmp_path / "d.npz")
    assert list(found) == list(SHOWN)
    for name, one in SHOWN.items():
        assert type(found[name]) is type(one)
        for field in one.__slots__:
            np.testing.assert_array_equal(getattr(found[name], field), getattr(one, field))


@pytest.mark.parametrize(
    "arrays",
    [
        {"router_weight": np.eye(2)},
        {"router/RouterUsage/share": np.eye(2)},
        {"router/Unknown/share": np.eye(2)},
        {"x/Matrix/values": np.eye(2), "x/Matrix/row": NAMES, "x/Matrix/column": np.array(["a"])},
    ],
)
def test_anything_else_in_the_file_is_an_error(tmp_path, arrays):
    write_arrays(tmp_path / "d.npz", arrays)
    with pytest.raises(ValueError, match=r"holds no diagnostics|has the shape"):
        read_diagnostics(tmp_path / "d.npz")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Matrix(values=np.ones((2, 3)), row=NAMES, column=NAMES), "values of a Matrix"),
        (
            lambda: RouterUsage(pattern=NAMES, expert=NAMES, share=np.eye(2), count=np.ones(3)),
            "count of a RouterUsage",
        ),
        (
            lambda: Retrieval(
                query=np.array([1, 2]), neighbour=np.zeros((3, 2), int), score=np.zeros((3, 2))
            ),
            "neighbour of a Retrieval",
        ),
        (
            lambda: Recovery(modality=NAMES, recovered=np.ones((3, 2)), true=np.ones((2, 2))),
            "recovered of a Recovery",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(make, words):
    jaxtyping.config.update("jaxtyping_disable", True)  # as outside of tests
    try:
        with pytest.raises(ValueError, match=words):
            make()
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def test_usage_is_the_mean_weight_of_the_tokens_of_each_pattern():
    meter = UsageMeter(2, 3).eval()
    presence = torch.tensor([[True, False], [True, True], [True, False]])
    weight = torch.rand(3, 4, 3, generator=torch.Generator().manual_seed(0))
    weight[1, 2:] = 0  # tokens that ask nobody
    meter(weight.flatten(0, 1), presence)
    usage = meter.diagnostics(("a", "b"), ("x", "y", "z"))["router"]
    assert usage.pattern.tolist() == ["a", "a+b"]
    assert usage.expert.tolist() == ["x", "y", "z"]
    assert usage.count.tolist() == [8, 2]
    for row, rows in zip(usage.share, (weight[[0, 2]], weight[[1]]), strict=True):
        total = rows.sum((0, 1))
        np.testing.assert_allclose(row, total / total.sum(), rtol=1e-6)


def test_usage_is_counted_in_evaluation_alone_and_each_evaluation_afresh():
    meter = UsageMeter(2, 2)
    presence = torch.tensor([[True, False], [True, True]])
    meter.train()(torch.eye(2), presence)
    assert meter.diagnostics(("a", "b"), ("x", "y")) == {}
    meter.eval()(torch.eye(2), presence)
    assert meter.diagnostics(("a", "b"), ("x", "y"))["router"].count.tolist() == [1, 1]
    assert meter.train().eval().diagnostics(("a", "b"), ("x", "y")) == {}
    assert meter.state_dict() == {}
