import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge

from mmbench.checks.tasks import all_patterns, make_batch
from mmbench.data.task import Modality, Task
from mmbench.methods.logistic import Logistic

MODALITIES = tuple(Modality(m, "vector", (3,)) for m in "ab")
LABEL = Task("single_label", MODALITIES, ("x", "y", "z"))
VALUE = Task("regression", MODALITIES, ("age",))


def build(task):
    method = Logistic(task)
    train = make_batch(task, all_patterns(task, repeat=20))
    train.inputs["a"][:] *= 10  # not all of one scale
    method.prepare([train])
    return method, train


def standard(method, train, batch):
    """Training and other rows, mean-imputed and scaled as training is."""
    mean = {n: train.inputs[n][train.has(n)].mean(0) for n in "ab"}
    rows = [
        torch.cat(
            [torch.where(b.has(n)[:, None], b.inputs[n], mean[n]) for n in "ab"]
            + [b.presence.float()],
            1,
        ).numpy()
        for b in (train, batch)
    ]
    return [(x - rows[0].mean(0)) / rows[0].std(0) for x in rows]


@pytest.mark.parametrize("k", [0, 4, 7])
def test_it_is_the_regression_on_rows_of_variance_1(k):
    batch = make_batch(LABEL, all_patterns(LABEL), seed=1)
    method, train = build(LABEL)
    method.chosen.fill_(k)
    x, other = standard(method, train, batch)
    wanted = LogisticRegression(C=10.0 ** (k - 4), max_iter=1000).fit(x, train.target)
    found = method(batch).softmax(1).numpy()
    np.testing.assert_allclose(found, wanted.predict_proba(other), atol=2e-3)


def test_a_value_is_predicted_by_ridge_regression():
    batch = make_batch(VALUE, all_patterns(VALUE), seed=1)
    method, train = build(VALUE)
    method.chosen.fill_(5)
    x, other = standard(method, train, batch)
    wanted = Ridge(alpha=0.1).fit(x, train.target[:, 0]).predict(other)
    np.testing.assert_allclose(method(batch)[:, 0].numpy(), wanted, rtol=1e-3, atol=1e-4)
