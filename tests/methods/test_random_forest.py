import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier

from mmbench.checks.tasks import all_patterns, make_batch
from mmbench.data.task import Modality, Task
from mmbench.methods.random_forest import RandomForest

TASK = Task("single_label", tuple(Modality(m, "vector", (2,)) for m in "ab"), ("x", "y"))


def xor(n, seed):
    """Classes that no single feature tells, nor any line."""
    batch = make_batch(TASK, torch.ones(n, 2, dtype=torch.bool), seed=seed)
    for x in batch.inputs.values():
        x[:] = torch.randn(n, 2, generator=torch.Generator().manual_seed(seed + len(x)))
        seed += 100
    batch.target[:] = (batch.inputs["a"][:, 0] * batch.inputs["b"][:, 0] > 0).long()
    return batch


def build(**arguments):
    torch.manual_seed(0)
    method = RandomForest(TASK, **arguments)
    method.prepare([xor(400, 0)])
    return method


def test_it_learns_a_rule_across_modalities_that_no_linear_map_can():
    method, batch = build(), xor(400, 1)
    assert (method(batch).argmax(1) == batch.target).float().mean() > 0.85


def test_it_is_the_mean_of_its_trees():
    method, batch = build(trees=7), xor(20, 1)
    table = method._filled(method.features)
    forest = RandomForestClassifier(7, random_state=int(method.seed))
    forest.fit(table, method.target.numpy())
    rows = method._filled(method.table(batch)).astype(np.float32)
    each = np.mean([tree.predict_proba(rows) for tree in forest.estimators_], axis=0)
    np.testing.assert_allclose(method(batch).exp(), each.clip(1e-4), rtol=1e-5)


def test_another_seed_is_another_forest():
    torch.manual_seed(1)
    other = RandomForest(TASK)
    other.prepare([xor(400, 0)])
    assert not torch.equal(other(xor(50, 1)), build()(xor(50, 1)))


def test_noise_wants_larger_leaves():
    method = build(trees=50)
    noise = make_batch(TASK, all_patterns(TASK, repeat=30), seed=3)
    noise.target[:] = torch.randint(2, (90,), generator=torch.Generator().manual_seed(0))
    method.compare_candidates([(noise.blind(), noise.target)])
    assert method.settings[method.chosen] == {"leaf": 5}


def test_a_forest_has_trees():
    with pytest.raises(ValueError, match="a forest needs trees >= 1, found 0"):
        build(trees=0)
