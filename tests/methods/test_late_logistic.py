import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge

from mmbench.checks.tasks import MODALITIES, all_patterns, make_batch
from mmbench.data.batch import Batch, zero_absent
from mmbench.data.task import Modality, Task
from mmbench.methods.late_logistic import STRENGTHS, LateLogistic, ridge_path

VECTORS = tuple(Modality(m, "vector", (3,)) for m in "abc")
TASK = Task("single_label", VECTORS, ("x", "y", "z"))
LABELS = Task("multi_label", VECTORS, ("x", "y"))
VALUES = Task("regression", VECTORS, ("age", "mass"))
ONE = STRENGTHS.index(1.0)


def noisy(task, n, seed, noise=(1.0, 2.0, 3.0), rate=0.4):
    """Samples in which every modality tells of the target through noise of its own."""
    g = torch.Generator().manual_seed(seed)
    if task.kind == "single_label":
        target = torch.multinomial(torch.tensor([0.7, 0.2, 0.1]), n, True, generator=g)
        code = torch.nn.functional.one_hot(target, 3).float()
    elif task.kind == "multi_label":
        target = (torch.rand(n, 2, generator=g) < torch.tensor([0.8, 0.3])).float()
        code = torch.cat([target, target[:, :1]], 1)
    else:
        target = torch.randn(n, 2, generator=g) + torch.tensor([5.0, 0.0])
        code = torch.cat([target, target[:, :1]], 1)
    presence = torch.rand(n, 3, generator=g) >= rate
    presence[~presence.any(1), 0] = True
    inputs = {
        name: zero_absent(2 * code + noise[m] * torch.randn(n, 3, generator=g), presence[:, m])
        for m, name in enumerate(task.names)
    }
    return Batch(task.names, inputs, presence, target, torch.arange(n))


def fit(task, *batches):
    method = LateLogistic(task)
    method.prepare(batches)
    return method.eval()


def standard(train, name):
    """Features of the samples that have a modality, and what brings others to their scale."""
    x = train.inputs[name][train.has(name)].double().numpy()
    return (x - x.mean(0)) / x.std(0), lambda v: (v.double().numpy() - x.mean(0)) / x.std(0)


def test_probabilities_are_multiplied_with_the_prior_counted_once():
    train, batch = noisy(TASK, 200, 0), noisy(TASK, 40, 1)
    output = fit(TASK, train)(batch).softmax(1).numpy()
    prior = (np.bincount(train.target, minlength=3) + 1) / 203
    experts = {}
    for name in TASK.names:
        z, scale = standard(train, name)
        y = train.target[train.has(name)].numpy()
        own = (np.bincount(y, minlength=3) + 1) / (len(y) + 3)
        model = LogisticRegression(C=1.0, max_iter=1000, tol=1e-8).fit(z, y)
        experts[name] = model.predict_proba(scale(batch.inputs[name])) / own
    for i in range(len(batch)):
        wanted = prior.copy()
        for m, name in enumerate(TASK.names):
            if batch.presence[i, m]:
                wanted *= experts[name][i]
        np.testing.assert_allclose(output[i], wanted / wanted.sum(), atol=2e-3)


def test_the_product_is_the_best_there_is_where_modalities_are_independent_given_the_class():
    noise = (1.0, 2.0, 3.0)
    train, batch = noisy(TASK, 4000, 0), noisy(TASK, 4000, 1)
    log_p = torch.tensor([0.7, 0.2, 0.1]).log().expand(4000, 3).clone()
    for m, name in enumerate(TASK.names):
        distance = torch.cdist(batch.inputs[name], 2 * torch.eye(3)).square()
        log_p -= zero_absent(distance / (2 * noise[m] ** 2), batch.presence[:, m])
    method = fit(TASK, train)
    error = (method(batch).softmax(1) - log_p.softmax(1)).abs().mean()
    assert error < 0.02
    h = torch.stack([e(x) for e, x in zip(method.experts, batch.inputs.values(), strict=True)], 1)
    plain = zero_absent(h.log_softmax(2).flatten(0, 1), batch.presence.flatten()).view_as(h).sum(1)
    assert (plain.softmax(1) - log_p.softmax(1)).abs().mean() > 2 * error


def test_labels_are_multiplied_each_by_itself():
    train, batch = noisy(LABELS, 200, 0), noisy(LABELS, 20, 1)
    output = fit(LABELS, train)(batch).sigmoid().detach().numpy()
    for label in range(2):
        odds = (train.target[:, label].sum() + 1) / (201 - train.target[:, label].sum())
        wanted = np.full(20, float(odds))
        for m, name in enumerate(LABELS.names):
            z, scale = standard(train, name)
            y = train.target[train.has(name), label].numpy()
            own = (y.sum() + 1) / (len(y) + 1 - y.sum())
            p = (
                LogisticRegression(C=1.0, tol=1e-8)
                .fit(z, y)
                .predict_proba(scale(batch.inputs[name]))
            )
            there = batch.presence[:, m].numpy()
            wanted = np.where(there, wanted * p[:, 1] / p[:, 0] / own, wanted)
        np.testing.assert_allclose(output[:, label], wanted / (1 + wanted), atol=2e-3)


def test_ridge_and_its_left_out_residuals_are_those_of_as_many_fits():
    train = noisy(VALUES, 25, 0, rate=0.0)
    z, _ = standard(train, "b")
    y = train.target.double().numpy()
    weight, bias, says = ridge_path(torch.from_numpy(z), torch.from_numpy(y))
    left_out, left_out_mean = [], []
    for i in range(25):
        rest = np.arange(25) != i
        model = Ridge(alpha=1.0).fit(z[rest] - z[rest].mean(0), y[rest])
        # the intercept of the fit without i; the penalty does not touch it
        left_out.append(y[i] - model.predict((z[i] - z[rest].mean(0))[None])[0])
        left_out_mean.append(y[i] - y[rest].mean(0))
    ratio = np.square(left_out_mean).mean(0) / np.square(left_out).mean(0)
    np.testing.assert_allclose(says[ONE].numpy(), np.maximum(ratio - 1, 0), rtol=1e-6)
    np.testing.assert_allclose(weight[ONE].numpy(), Ridge(alpha=1.0).fit(z, y).coef_.T, rtol=1e-6)
    np.testing.assert_allclose(bias[ONE].numpy(), y.mean(0))


def test_values_are_averaged_by_precision_as_gaussians_multiply():
    train, batch = noisy(VALUES, 300, 0), noisy(VALUES, 20, 1)
    method = fit(VALUES, train)
    output = method(batch)
    for i in range(20):
        precision, total = torch.ones(2), method.prior.clone()
        for m, name in enumerate(VALUES.names):
            if batch.presence[i, m]:
                own = 1 + method.says[m]
                precision += own - 1
                total += own * method.experts[m](batch.inputs[name][i]) - method.priors[m]
        torch.testing.assert_close(output[i], total / precision)
    assert (method.says[0] > method.says[1]).all()  # less noise, more precise
    assert (method.says[1] > method.says[2]).all()
    alone = torch.stack([method.experts[m](batch.inputs[n]) for m, n in enumerate("abc")], 1)
    complete = noisy(VALUES, 2000, 2, rate=0.0)
    error = (method(complete) - complete.target).square().mean()
    for m, name in enumerate("abc"):
        assert error < (method.experts[m](complete.inputs[name]) - complete.target).square().mean()
    assert alone.isfinite().all()


def test_values_that_a_modality_does_not_tell_are_left_to_the_prior():
    train = noisy(VALUES, 60, 0)
    for x in train.inputs.values():
        x[:] = zero_absent(torch.randn(60, 3, generator=torch.Generator().manual_seed(1)), x.any(1))
    method = fit(VALUES, train)
    silent = method.says == 0
    assert silent.any()
    for m in range(3):
        assert not method.experts[m].weight[silent[m]].any()


@pytest.mark.parametrize("task", [TASK, LABELS, VALUES])
def test_each_modality_gets_the_strength_of_its_lowest_validation_loss(task):
    # one modality is noise: alone, it wants all regularisation there is
    train, val = (noisy(task, 60, s, noise=(0.3, 2.0, 200.0)) for s in (0, 1))
    method = LateLogistic(task)
    method.prepare([train])
    paths = list(method._paths)
    method.compare_candidates([(val.blind(), val.target)])
    chosen = []
    for m, (name, (weight, bias, says)) in enumerate(zip(task.names, paths, strict=True)):
        there = val.has(name)
        losses = [
            method.task_loss(val.inputs[name][there] @ w + b, val.target[there])
            for w, b in zip(weight, bias, strict=True)
        ]
        k = int(torch.stack(losses).argmin())
        chosen.append(k)
        torch.testing.assert_close(method.experts[m].weight, weight[k].T)
        torch.testing.assert_close(method.experts[m].bias, bias[k])
        torch.testing.assert_close(method.says[m], says[k])
    assert len(set(chosen)) > 1
    assert method.candidates(val.blind()) is None  # decided once


def test_other_validation_samples_choose_otherwise_and_training_alone_chooses_nothing():
    train = noisy(TASK, 60, 0)
    alike = noisy(TASK, 60, 1)
    wrong = noisy(TASK, 60, 1)
    wrong.target[:] = (wrong.target + 1) % 3
    first = fit(TASK, train)
    weights = []
    for val in (alike, wrong):
        method = LateLogistic(TASK)
        method.prepare([train])
        torch.testing.assert_close(method.experts[0].weight, first.experts[0].weight)
        method.compare_candidates([(val.blind(), val.target)])
        weights.append(method.experts[0].weight.clone())
    assert weights[1].norm() < weights[0].norm() / 3  # whoever is wrong had better be vague


def test_a_class_that_a_modality_never_met_is_decided_by_the_others():
    train = noisy(TASK, 200, 0, noise=(0.5, 0.5, 0.5), rate=0.0)
    hidden = torch.zeros(200, 3, dtype=torch.bool)
    hidden[:, 1] = train.target == 2
    method = fit(TASK, train.hide(hidden))
    assert method.says[1].tolist() == [1, 1, 0]
    batch = noisy(TASK, 200, 1, noise=(0.5, 0.5, 0.5), rate=0.0)
    assert (method(batch).argmax(1) == batch.target).float().mean() > 0.9
    assert method(batch).isfinite().all()


def test_a_modality_that_training_never_shows_changes_nothing():
    train = noisy(TASK, 100, 0, rate=0.0)
    gone = torch.tensor([False, False, True])
    method = fit(TASK, train.hide(gone.expand(100, 3)))
    batch = noisy(TASK, 20, 1, rate=0.0)
    torch.testing.assert_close(method(batch), method(batch.hide(gone.expand(20, 3))))


def test_other_kinds_are_read_without_training():
    task = Task("single_label", tuple(MODALITIES.values()), tuple("ab"))
    train = make_batch(task, all_patterns(task, repeat=1))
    method = fit(task, train)
    method.compare_candidates([(train.blind(), train.target)])
    assert (method(train).argmax(1) == train.target).float().mean() > 0.9
    assert not [p for p in method.parameters() if p.requires_grad]
