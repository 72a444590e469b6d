"""What a method could not know of its queries is put beside what it shows."""

import numpy as np
import pytest
import torch
from arrays import Arrays, samples

from mmbench.bench.run.diagnostics import label_agreement, with_truth
from mmbench.data.batch import opaque_ids


def data(kind="single_label", **arguments):
    rng = np.random.default_rng(0)
    made = []
    for k in range(3):
        ids = 1000 * k + rng.permutation(20)  # in no order
        target = rng.integers(0, 2, 20) if kind == "single_label" else rng.random((20, 1))
        part = samples({"x": rng.normal(size=(20, 2))}, target)
        made.append(type(part)(part.modalities, part.inputs, target, ids, part.presence))
    return Arrays(made, kind=kind, **arguments)


def test_queries_get_their_names_and_the_share_of_like_labels():
    made = data()
    test, train = made.samples("test"), made.samples("train")
    queries, lent = np.array([5, 2, 9]), np.array([[0, 7], [3, 3], [19, 1]])
    opaque = opaque_ids(torch.from_numpy(test.sample_id[queries])).numpy()
    shown = {"retrieved_query_id": opaque, "retrieved_train_id": train.sample_id[lent]}
    found = with_truth(shown | {"other": np.ones(2)}, made)
    assert found["retrieved_query_id"].tolist() == test.sample_id[queries].tolist()
    agree = [[train.target[j] == test.target[i] for j in row] for i, row in zip(queries, lent)]  # noqa: B905
    assert found["retrieved_label_agreement"].tolist() == np.array(agree, float).tolist()
    assert found["other"].tolist() == [1, 1]
    assert "retrieved_label_agreement" not in with_truth({"other": np.ones(2)}, made)


def test_outcomes_of_a_regression_do_not_agree_or_disagree():
    made = data("regression", outputs=("age",))
    opaque = opaque_ids(torch.from_numpy(made.samples("test").sample_id[:2])).numpy()
    train_id = made.samples("train").sample_id[:2, None]
    found = with_truth({"retrieved_query_id": opaque, "retrieved_train_id": train_id}, made)
    assert set(found) == {"retrieved_query_id", "retrieved_train_id"}


@pytest.mark.parametrize(
    ("target", "theirs", "share"),
    [
        ([1, 1, 0], [1, 0, 0], 1 / 2),
        ([1, 1, 0], [1, 1, 0], 1),
        ([0, 0, 0], [0, 0, 0], 1),
        ([1, 0, 0], [0, 1, 1], 0),
    ],
)
def test_labels_in_common_count_where_there_are_several(target, theirs, share):
    found = label_agreement(np.array([target]), np.array([[theirs]]))
    assert found.shape == (1, 1)
    assert found.item() == pytest.approx(share)
