import pytest
import torch

from mmbench.checks.tasks import MODALITIES, all_patterns, make_batch
from mmbench.data.batch import Batch
from mmbench.data.task import Task
from mmbench.methods.majority import Majority

VECTOR = (MODALITIES["vector"],)


def batch_with(target):
    n = len(target)
    return Batch(
        modalities=("vector",),
        inputs={"vector": torch.randn(n, 10)},
        presence=torch.ones(n, 1, dtype=torch.bool),
        target=target,
        sample_id=torch.arange(n),
    )


def test_classes_are_predicted_by_their_smoothed_frequencies_over_all_batches():
    method = Majority(Task("single_label", VECTOR, tuple("abc")))
    method.prepare([batch_with(torch.tensor([0, 0])), batch_with(torch.tensor([1]))])
    probability = method(batch_with(torch.tensor([2, 2]))).softmax(1)
    wanted = torch.tensor([3 / 6, 2 / 6, 1 / 6])  # counts 2, 1, 0 and one more each
    torch.testing.assert_close(probability, wanted.expand(2, 3))


def test_labels_are_predicted_by_their_smoothed_frequencies():
    method = Majority(Task("multi_label", VECTOR, tuple("ab")))
    method.prepare([batch_with(torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 0.0]]))])
    probability = method(batch_with(torch.zeros(1, 2))).sigmoid()
    torch.testing.assert_close(probability, torch.tensor([[4 / 5, 2 / 5]]))


def test_a_quantity_is_predicted_by_its_mean():
    method = Majority(Task("regression", VECTOR, ("age",)))
    method.prepare([batch_with(torch.tensor([[1.0], [2.0]])), batch_with(torch.tensor([[6.0]]))])
    assert method(batch_with(torch.zeros(1, 1))).item() == pytest.approx(3.0)


def test_what_goes_in_does_not_matter():
    task = Task("single_label", tuple(MODALITIES.values()), tuple("ab"))
    method = Majority(task)
    presence = all_patterns(task, repeat=1)
    method.prepare([make_batch(task, presence[:9])])
    output = method(make_batch(task, presence))
    assert output.shape == (63, 2)
    assert (output == output[0]).all()
    assert output[0, 0] > output[0, 1]  # five of nine
    assert not list(method.parameters())
