import numpy as np
import pytest

from mmbench.bench.run.diagnostics import label_agreement


def test_labels_in_common_count_where_there_are_several():
    rng = np.random.default_rng(0)
    target, theirs = rng.integers(0, 2, (6, 4)), rng.integers(0, 2, (6, 3, 4))
    target[0] = theirs[0, 0] = 0  # nothing to disagree about
    agree = label_agreement(target, theirs)
    for i in range(6):
        for k in range(3):
            a, b = (set(row.nonzero()[0].tolist()) for row in (target[i], theirs[i, k]))
            assert agree[i, k] == pytest.approx(len(a & b) / len(a | b) if a | b else 1.0)


def test_a_class_agrees_with_itself_alone():
    theirs = np.array([[0, 1], [2, 2]])
    assert label_agreement(np.array([1, 2]), theirs).tolist() == [[0, 1], [1, 1]]
