import numpy as np
import torch
from sklearn.ensemble import HistGradientBoostingClassifier

from mmbench.checks.tasks import make_batch
from mmbench.data.task import Modality, Task
from mmbench.methods.hist_gradient_boosting import HistGradientBoosting

TASK = Task("single_label", tuple(Modality(m, "vector", (2,)) for m in "ab"), ("x", "y"))


def gaps(n, seed):
    """Samples that lack `b` if they are of class 1, and noise in all that is there."""
    batch = make_batch(TASK, torch.ones(n, 2, dtype=torch.bool), seed=seed)
    for x in batch.inputs.values():
        x[:] = torch.randn(n, 2, generator=torch.Generator().manual_seed(seed))
    return batch.hide(torch.stack([torch.zeros(n, dtype=torch.bool), batch.target == 1], 1))


def test_gaps_reach_the_trees_as_gaps():
    method = HistGradientBoosting(TASK)
    method.prepare([gaps(200, 0)])
    assert np.isnan(method._filled(method.features)).any()
    batch = gaps(100, 1)
    assert (method(batch).argmax(1) == batch.target).all()


def test_rounds_are_those_that_validation_chooses():
    method, val = HistGradientBoosting(TASK), gaps(200, 1)
    train = gaps(200, 0)
    train = train.hide(torch.tensor([False, True]).expand(200, 2))  # what is left tells nothing
    val = val.hide(torch.tensor([False, True]).expand(200, 2))
    method.prepare([train])
    method.compare_candidates([(val.blind(), val.target)])
    assert method.settings[method.chosen] == {"rounds": 20}
    table = method._filled(method.features)
    model = HistGradientBoostingClassifier(max_iter=20, early_stopping=False)
    wanted = model.fit(table, train.target).predict_proba(method._filled(method.table(val)))
    np.testing.assert_allclose(method(val).exp(), wanted, rtol=1e-4)
    method.compare_candidates([(train.blind(), train.target)])
    assert method.settings[method.chosen] == {"rounds": 100}
