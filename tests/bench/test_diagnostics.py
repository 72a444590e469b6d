"""What a method could not know of its queries is put beside what it shows."""

import numpy as np
import pytest
import torch
from arrays import Arrays, samples

from mmbench.bench.run.diagnostics import label_agreement, recovery, with_truth
from mmbench.data.batch import opaque_ids
from mmbench.diagnostics import Matrix, Retrieval
from mmbench.method import Method


def data(kind="single_label", **arguments):
    rng = np.random.default_rng(0)
    made = []
    for k in range(3):
        ids = 1000 * k + rng.permutation(20)  # in no order
        target = rng.integers(0, 2, 20) if kind == "single_label" else rng.random((20, 1))
        part = samples({"x": rng.normal(size=(20, 2))}, target)
        made.append(type(part)(part.modalities, part.inputs, target, ids, part.presence))
    return Arrays(made, kind=kind, **arguments)


def retrieval(made, rows, neighbour):
    opaque = opaque_ids(torch.from_numpy(made.samples("test").sample_id[rows])).numpy()
    score = np.zeros(neighbour.shape, np.float32)
    return Retrieval(query=opaque, neighbour=neighbour, score=score)


def test_queries_get_their_names_and_the_share_of_like_labels():
    made = data()
    test, train = made.samples("test"), made.samples("train")
    queries, near = np.array([5, 2, 9]), np.array([[0, 7], [3, 3], [19, 1]])
    ids = train.sample_id[near]
    ids[2, 1] = -1  # fewer were found
    found = with_truth(retrieval(made, queries, ids), made)
    assert found.query.tolist() == test.sample_id[queries].tolist()
    agree = [[train.target[j] == test.target[i] for j in row] for i, row in zip(queries, near)]  # noqa: B905
    expected = np.array(agree, float)
    expected[2, 1] = np.nan
    np.testing.assert_array_equal(found.label, expected)
    other = Matrix(values=np.ones((1, 2)), row=np.array(["a"]), column=np.array(["b", "c"]))
    assert with_truth(other, made) is other


def test_outcomes_of_a_regression_do_not_agree_or_disagree():
    made = data("regression", outputs=("age",))
    train_id = made.samples("train").sample_id[:2, None]
    assert with_truth(retrieval(made, np.arange(2), train_id), made).label is None


class Constant(Method):
    """Recovers a hidden modality as a constant."""

    def __init__(self, task):
        super().__init__(task)
        self.head = torch.nn.Linear(2, task.num_outputs)

    def forward(self, batch):
        return self.head(batch.inputs["x"])

    def completed(self, batch):
        present = batch.has("x")[:, None]
        return {
            "x": torch.where(present, batch.inputs["x"], torch.full_like(batch.inputs["x"], 7.0))
        }


def test_recovered_embeddings_lie_beside_those_of_the_whole_sample():
    rng = np.random.default_rng(0)
    made = []
    for k in range(3):
        x = rng.normal(size=(40, 2))
        made.append(samples({"x": x, "y": x}, rng.integers(0, 2, 40), first=1000 * k))
    hides = {"mechanism": "mcar", "missing_rate": 0.3}
    scenario = {"train": hides, "test": hides, "regime": "full_access"}
    whole = Arrays(made, scenario=scenario)
    method = Constant(whole.task)
    found = recovery(method, whole, torch.device("cpu"))
    presence = whole.split("train").presence
    assert found.modality.tolist() == ["x"] * int((~presence[:, 0]).sum())
    assert (found.recovered == 7).all()
    hidden = [b.teacher.inputs["x"][~b.has("x")] for b in whole.batches("train")]
    assert torch.equal(torch.from_numpy(found.true), torch.cat(hidden))
    withheld = Arrays(made, scenario={"train": hides, "test": hides})
    assert recovery(method, withheld, torch.device("cpu")) is None


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
