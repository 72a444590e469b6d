import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbench.data.samples import Samples

N = 6


def build(**changes):
    """Six samples 10..15 of a vector `a`, tokens `b` and an image `c`; 12 has `b` alone."""
    presence = np.array([[1, 1, 1], [1, 0, 1], [0, 1, 0], [1, 1, 0], [0, 0, 1], [1, 1, 1]], bool)
    parts = {
        "modalities": ("a", "b", "c"),
        "inputs": {
            "a": np.arange(N * 2, dtype=np.float32).reshape(N, 2),
            "b": np.arange(N * 3).reshape(N, 3) % 5,
            "c": np.arange(N * 4, dtype=np.uint8).reshape(N, 1, 2, 2),
        },
        "target": np.arange(N) % 2,
        "sample_id": np.arange(10, 10 + N),
        "presence": presence,
        "lengths": {"b": np.array([3, 0, 1, 2, 0, 3])},
    }
    return Samples(**(parts | changes))


def spoilt(name, row, value):
    inputs = dict(build().inputs)
    inputs[name] = inputs[name].copy()
    inputs[name][row, -1] = value
    return inputs


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_present_entry_that_is_not_finite_is_refused_by_sample(value):
    with pytest.raises(
        ValueError, match=r"^a of sample 13 holds NaN or infinity; mark the entry absent"
    ):
        build(inputs=spoilt("a", 3, value))


def test_an_absent_entry_may_hold_anything():
    assert len(build(inputs=spoilt("a", 2, np.nan))) == N


def test_a_target_that_is_not_finite_is_refused_by_sample():
    target = np.zeros((N, 2))
    target[4, 1] = np.nan
    with pytest.raises(ValueError, match=r"^target of sample 14 holds NaN"):
        build(target=target)


def test_the_first_of_several_offending_samples_is_named():
    target = np.array([0, np.nan, 0, np.nan, 0, 0])
    with pytest.raises(ValueError, match="sample 11 "):
        build(target=target)


def test_a_sample_without_any_modality_is_refused_by_name():
    presence = build().presence.copy()
    presence[2] = False
    with pytest.raises(ValueError, match="sample 12 has no modality at all; drop such rows"):
        build(presence=presence)


def test_an_id_that_occurs_twice_is_refused():
    with pytest.raises(ValueError, match="sample id 11 occurs 2 times"):
        build(sample_id=np.array([10, 11, 12, 11, 14, 15]))


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"target": np.zeros(5, int)}, "'target': 5"),
        ({"inputs": build().inputs | {"a": np.zeros((3, 2))}}, "'a': 3"),
        ({"inputs": build().inputs | {"c": np.zeros((7, 1))}}, "'c': 7"),
    ],
)
def test_sizes_that_differ_are_refused_and_told(changes, found):
    with pytest.raises(ValueError, match=re.escape(f"6 sample ids, but {{{found}}}")):
        build(**changes)


def test_sizes_that_the_signature_ties_together_are_refused_without_shape_checks_too():
    # tests check shapes in signatures, users do not; hence the plain constructor's own check
    whole = build()
    bare = object.__new__(Samples)
    parts = {name: getattr(whole, name) for name in whole.__dataclass_fields__}
    parts["presence"], parts["lengths"] = np.ones((7, 3), bool), {"b": np.ones(2, int)}
    for name, value in parts.items():
        object.__setattr__(bare, name, value)
    with pytest.raises(ValueError, match=r"'presence': 7, 'lengths\[b\]': 2"):
        bare.__post_init__(checked=False)


ROWS = st.one_of(
    st.lists(st.integers(0, N - 1), unique=True).map(lambda rows: np.array(rows, int)),
    st.lists(st.booleans(), min_size=N, max_size=N).map(np.array),
)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(ROWS)
def test_taking_rows_takes_them_from_every_array(rows):
    whole, part = build(), build().take(rows)
    wanted = np.arange(N)[rows]
    assert len(part) == len(wanted)
    assert np.array_equal(part.sample_id, wanted + 10)
    for name in whole.modalities:
        assert np.array_equal(part.inputs[name], whole.inputs[name][wanted])
    assert np.array_equal(part.target, whole.target[wanted])
    assert np.array_equal(part.presence, whole.presence[wanted])
    assert np.array_equal(part.lengths["b"], whole.lengths["b"][wanted])


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (("a",), [10, 11, 13, 15]),
        (("c", "a"), [10, 11, 13, 14, 15]),
        (("b",), [10, 12, 13, 15]),
        (("c", "b", "a"), [10, 11, 12, 13, 14, 15]),
    ],
)
def test_a_restriction_keeps_those_modalities_in_that_order_and_who_has_any(names, ids):
    whole, part = build(), build().only(names)
    rows = np.array(ids) - 10
    assert part.modalities == names
    assert part.sample_id.tolist() == ids
    assert set(part.inputs) == set(names)
    assert set(part.lengths) == set(names) & {"b"}
    for column, name in enumerate(names):
        assert np.array_equal(part.inputs[name], whole.inputs[name][rows])
        assert np.array_equal(part.presence[:, column], whole.presence[rows, "abc".index(name)])
    assert np.array_equal(part.target, whole.target[rows])


def test_the_original_is_left_as_it_was():
    whole = build()
    whole.take(np.array([0])), whole.only(["a"])
    assert whole.modalities == ("a", "b", "c")
    assert len(whole) == N
