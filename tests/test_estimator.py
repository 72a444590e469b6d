"""What rows by scikit-learn share: the table, its gaps and the refit, seen by estimators here."""

import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.tree import DecisionTreeClassifier

from mmbench.checks.tasks import MODALITIES, all_patterns, make_batch
from mmbench.data.batch import Batch, zero_absent
from mmbench.data.task import Modality, Task
from mmbench.estimator import FLOOR, Estimator, imputer
from mmbench.method import Paper

VECTORS = tuple(Modality(m, "vector", (width,)) for m, width in (("a", 2), ("b", 3)))
TASKS = {k: Task(k, VECTORS, ("x", "y")) for k in ("single_label", "multi_label", "regression")}
TASK = TASKS["single_label"]


class Seen(Estimator):
    """A dummy that keeps what it was given."""

    paper = Paper("what an estimator sees")

    def estimator(self, seed, **setting):
        kind = DummyRegressor if self.task.kind == "regression" else DummyClassifier
        return type("Kept", (kind,), {"fit": self.fitted})()

    @staticmethod
    def fitted(estimator, table, target):
        estimator.seen = (table.copy(), target.copy())
        base = type(estimator).__mro__[1]
        return base.fit(estimator, table, target)

    def seen(self):
        [fit] = self._fits.values()
        return [part.seen for part in fit.parts]


class Neighbours(Estimator):
    """Nearest neighbours, whose number is chosen."""

    paper = Paper("nearest neighbours")
    settings = ({"k": 1}, {"k": 15})

    def estimator(self, seed, **setting):
        return KNeighborsClassifier(setting["k"])


class Tree(Estimator):
    """A tree that draws its splits."""

    paper = Paper("a random tree")

    def estimator(self, seed, **setting):
        return DecisionTreeClassifier(splitter="random", random_state=seed)


def samples(n, seed, task=TASK, shift=0.0):
    """Noise around the class, a third of each modality absent."""
    g = torch.Generator().manual_seed(seed)
    presence = torch.rand(n, 2, generator=g) > 0.3
    presence[~presence.any(1), 0] = True
    target = torch.randint(2, (n,), generator=g)
    if task.kind != "single_label":
        target = torch.stack([target, 1 - target], 1).float()
    code = target.float() if target.dim() == 1 else target[:, 0]
    inputs = {
        m.name: zero_absent(torch.randn(n, *m.shape, generator=g) + code[:, None] + shift, there)
        for m, there in zip(VECTORS, presence.unbind(1), strict=True)
    }
    return Batch(task.names, inputs, presence, target, torch.arange(n))


def build(cls, train, task=TASK, **arguments):
    torch.manual_seed(0)
    method = cls(task, **arguments)
    method.prepare([train])
    return method


@pytest.mark.parametrize("impute", ["none", "zero", "mean", "knn", "iterative"])
def test_gaps_are_filled_from_training_samples_alone_and_presence_stands_beside(impute):
    train = samples(60, 0, shift=4.0)
    method = build(Seen, train, impute=impute)
    with torch.no_grad():
        method(samples(5, 1))
    [(table, target)] = method.seen()
    there = np.repeat(train.presence.numpy(), (2, 3), axis=1)
    raw = np.hstack([train.inputs["a"], train.inputs["b"]])
    np.testing.assert_array_equal(table[:, 5:], train.presence.numpy())
    np.testing.assert_allclose(table[:, :5][there], raw[there], rtol=1e-6)
    np.testing.assert_array_equal(target, train.target)
    filled = table[:, :5][~there]
    columns = np.broadcast_to(np.arange(5), there.shape)[~there]
    means = np.array([raw[there[:, j], j].mean() for j in range(5)])
    if impute == "none":
        assert np.isnan(filled).all()
    elif impute == "zero":
        assert not filled.any()
    elif impute == "mean":
        np.testing.assert_allclose(filled, means[columns], rtol=1e-5)
    else:
        gap = np.where(there, raw, np.nan)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wanted = imputer(impute, int(method.seed)).fit(gap).transform(gap)
        np.testing.assert_allclose(filled, wanted[~there], rtol=1e-4)
        assert np.abs(filled - means[columns]).max() > 0.1  # more than a mean


@pytest.mark.parametrize("impute", ["zero", "mean", "knn", "iterative"])
def test_what_fills_a_gap_of_a_test_sample_knows_neither_validation_nor_test(impute):
    train, one = samples(60, 0), samples(8, 1)
    method = build(Neighbours, train, impute=impute)
    alone = method._filled(method.table(one))
    val = samples(40, 2, shift=100.0)
    method.compare_candidates([(val.blind(), val.target)])
    both = method._filled(torch.cat([method.table(one), method.table(samples(40, 3, shift=1e3))]))
    np.testing.assert_allclose(both[:8], alone, rtol=1e-5)


def test_a_modality_that_training_never_shows_is_zeros():
    train = samples(60, 0)
    train = train.hide(torch.tensor([False, True]).expand(60, 2))
    for impute in ("none", "zero", "mean", "knn", "iterative"):
        method = build(Neighbours, train, impute=impute)
        assert not method._filled(method.features)[:, 2:5].any()
        assert not method._filled(method.table(samples(30, 1)))[:, 2:5].any()


def test_the_setting_is_that_of_the_lowest_validation_loss():
    # a copy of training: the nearest neighbour is the sample itself; noise wants many neighbours
    train = samples(60, 0)
    method = build(Neighbours, train)
    method.compare_candidates([(train.blind(), train.target)])
    assert method.chosen == 0
    noise = samples(60, 5)
    method = build(Neighbours, train)
    method.compare_candidates([(noise.blind(), noise.target)])
    assert method.chosen == 1
    losses = [method.task_loss(method._ask([k], noise)[:, 0], noise.target).item() for k in (0, 1)]
    assert losses[1] < losses[0]
    assert torch.equal(method(noise), method._ask([1], noise)[:, 0])


def test_without_validation_the_first_setting_stands():
    method = build(Neighbours, samples(60, 0))
    method.compare_candidates([])
    assert method.chosen == 0


def test_classes_get_the_log_of_their_probability_and_a_floor():
    train = samples(80, 0)
    method = build(Neighbours, train, impute="zero")
    method.chosen.fill_(1)
    batch = samples(30, 1)
    wanted = KNeighborsClassifier(15).fit(method._filled(method.features), train.target)
    p = wanted.predict_proba(method._filled(method.table(batch)))
    np.testing.assert_allclose(method(batch).exp().numpy(), p.clip(FLOOR), rtol=1e-5)
    method.chosen.fill_(0)
    assert method(batch).exp().min().item() == pytest.approx(FLOOR)


def test_a_class_that_training_lacks_gets_the_floor():
    task = Task("single_label", VECTORS, ("x", "never", "y"))
    train = samples(60, 0)
    train.target[:] = train.target * 2
    output = build(Neighbours, train, task)(samples(20, 1))
    assert output.shape == (20, 3)
    assert (output[:, 1].exp() - FLOOR).abs().max() < 1e-7
    assert (output[:, 2] > output[:, 0]).any()


def test_labels_and_quantities_have_an_estimator_each():
    for kind in ("multi_label", "regression"):
        train = samples(60, 0, TASKS[kind])
        method = build(Seen, train, TASKS[kind])
        output = method(samples(9, 1))
        seen = method.seen()
        assert len(seen) == 2
        for column, (_, target) in enumerate(seen):
            np.testing.assert_array_equal(target, train.target[:, column])
        if kind == "regression":
            np.testing.assert_allclose(output, train.target.mean(0).expand(9, 2), rtol=1e-5)


def test_log_odds_of_a_label_are_those_of_its_classifier():
    class Linear(Estimator):
        paper = Paper("linear")

        def estimator(self, seed, **setting):
            return LogisticRegression()

    train, batch = samples(60, 0, TASKS["multi_label"]), samples(20, 1, TASKS["multi_label"])
    method = build(Linear, train, TASKS["multi_label"])
    table = method._filled(method.features)
    for label in range(2):
        model = LogisticRegression().fit(table, train.target[:, label])
        wanted = model.decision_function(method._filled(method.table(batch)))
        np.testing.assert_allclose(method(batch)[:, label], wanted, rtol=1e-4, atol=1e-5)


def test_a_label_that_all_training_samples_have_gets_the_prior():
    train = samples(60, 0, TASKS["multi_label"])
    train.target[:, 1] = 1.0
    output = build(Tree, train, TASKS["multi_label"])(samples(20, 1, TASKS["multi_label"]))
    torch.testing.assert_close(output[:, 1].sigmoid(), torch.full((20,), 61 / 62))


def test_saved_tensors_are_all_that_a_refit_needs():
    train, batch = samples(200, 0), samples(50, 1)
    method = build(Tree, train)
    torch.manual_seed(7)
    fresh = Tree(TASK)
    assert fresh.seed != method.seed
    fresh.load_state_dict(load(save(method.state_dict())))
    assert torch.equal(fresh(batch), method(batch))
    torch.manual_seed(7)
    other = Tree(TASK)
    other.prepare([train])
    assert not torch.equal(other(batch), method(batch))


def test_what_was_fitted_before_weights_are_loaded_is_forgotten():
    batch = samples(50, 1)
    method, other = build(Tree, samples(200, 0)), build(Tree, samples(100, 3))
    before = other(batch)
    other.load_state_dict(method.state_dict())
    assert torch.equal(other(batch), method(batch))
    assert not torch.equal(other(batch), before)


def test_other_kinds_of_modalities_are_read_without_training():
    task = Task("single_label", tuple(MODALITIES.values()), tuple("ab"))
    train = make_batch(task, all_patterns(task, repeat=1))
    method = build(Neighbours, train, task)
    assert method.features.shape == (63, sum(method.widths) + 6)
    assert (method(train).argmax(1) == train.target).float().mean() > 0.9
    assert not [p for p in method.parameters() if p.requires_grad]
