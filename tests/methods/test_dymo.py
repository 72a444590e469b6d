from dataclasses import replace
from math import erf, sqrt

import pytest
import torch
import torch.nn.functional as F

from mmbench.checks.tasks import TASKS, all_patterns, make_batch
from mmbench.data.task import Modality, Task
from mmbench.layers.fusion import presence_code, random_pattern
from mmbench.methods.dymo import DyMo, prototype_scores

TASK = Task("single_label", tuple(Modality(m, "vector", (4,)) for m in "abc"), ("x", "y", "z"))
M, D, P, C = 3, 8, 2, 3


def build(stage=1, **arguments):
    torch.manual_seed(0)
    method = DyMo(TASK, **({"dim": D, "tokens": P, "heads": 2, "dropout": 0.0} | arguments))
    for each in method.stages[: stage + 1]:
        method.begin(each)
    return method.eval()


def batch_of(presence):
    return make_batch(TASK, torch.as_tensor(presence))


@torch.no_grad()
def collected(method):
    """Weights and statistics that tell samples, subsets and classes apart, as after training."""
    torch.manual_seed(2)
    for parameter in method.network.parameters():
        parameter.add_(0.5 * torch.randn_like(parameter))
    centres = F.normalize(torch.randn(2**M - 1, C, D // 2), dim=2) + torch.randn(C, D // 2)
    method.counts.fill_(5.0)
    method.sums.copy_(5 * 0.7 * F.normalize(centres, dim=2))
    return method


@torch.no_grad()
def joint(method, x, there):
    """Logits and z of one sample from its present tokens alone."""
    net = method.network
    parts = [x[m] + net.place[m] for m in range(M) if there[m]]
    cls = net.layers(torch.cat([net.cls[None], *parts])[None])[0, 0]
    z = net.project(cls)
    return net.head(cls), z / z.norm()


def reward_of(method, x, there, u):
    """q(z_u) min(1, p(z_u) / p(z)) - q(z), term by term."""

    def quality(there):
        logits, z = joint(method, x, there)
        scores = []
        for c in range(C):
            means = [
                method.sums[s, c] / method.counts[s, c]
                for s in range(2**M - 1)
                if method.counts[s, c]
            ]
            scores.append(-((z - sum(means) / len(means)) ** 2).sum() / 0.1)
        s, c = sum(2**m for m in range(M) if there[m]) - 1, int(logits.argmax())
        own = method.sums[s, c] / method.counts[s, c]
        sigma = float((1 - own.square().sum()).sqrt())
        normal = float((z - own).norm()) / sigma
        return float(torch.stack(scores).softmax(0).max()), 1 - erf(normal / sqrt(2))

    q, p = quality(there)
    q_u, p_u = quality([t or m == u for m, t in enumerate(there)])
    return q_u * min(1, p_u / p) - q


@torch.no_grad()
def test_predictions_are_those_of_the_greedy_loop_of_the_text():
    method = collected(build())
    batch = make_batch(TASK, all_patterns(TASK, repeat=6), seed=99)
    tokens, outputs, grown = method.network.tokens(batch), [], 0
    for i in range(len(batch)):
        there = batch.presence[i].tolist()
        rebuilt = method.rebuild(tokens[i : i + 1], batch.presence[i : i + 1])[0]
        x = [tokens[i, m] if there[m] else rebuilt[m] for m in range(M)]
        open_ = [m for m in range(M) if not there[m]]
        while open_:
            reward = {u: reward_of(method, x, there, u) for u in open_}
            open_ = [u for u in open_ if reward[u] >= 0]
            best = max(open_, key=reward.get, default=None)
            if best is None or reward[best] <= 0:
                break
            there[best] = True
            grown += 1
            open_.remove(best)
        outputs.append(joint(method, x, there)[0])
    assert 0 < grown < int((~batch.presence).sum())  # some were worth it and some were not
    torch.testing.assert_close(method(batch), torch.stack(outputs), atol=1e-4, rtol=0)


@torch.no_grad()
def test_a_sample_that_has_everything_is_predicted_by_the_network_alone():
    method, batch = collected(build()), batch_of([[True] * M] * 6)
    plain = method.network(method.network.tokens(batch), batch.presence)[0]
    torch.testing.assert_close(method(batch), plain)


@torch.no_grad()
def test_without_any_prototype_nothing_is_taken_in():
    method, batch = build(), batch_of(all_patterns(TASK))
    x = torch.randn(len(batch), M, P, D)
    assert torch.equal(method.admitted(x, batch.presence), batch.presence)
    assert (collected(method).admitted(x, batch.presence) & ~batch.presence).any()


@torch.no_grad()
def test_the_spread_of_a_class_is_its_root_mean_squared_distance():
    torch.manual_seed(0)
    z = F.normalize(torch.randn(50, D // 2), dim=1)
    centre = z.mean(0)
    spread = (z - centre).square().sum(1).mean().sqrt()
    torch.testing.assert_close(spread, (1 - centre.square().sum()).sqrt())


@torch.no_grad()
def test_what_is_seen_is_collected_by_subset_and_class():
    method, batch = build(), batch_of(all_patterns(TASK, repeat=3))
    torch.manual_seed(7)
    method.loss(batch)
    torch.manual_seed(7)
    seen = random_pattern(batch.presence)
    x = method.network.tokens(batch)
    sums, counts = torch.zeros_like(method.sums), torch.zeros_like(method.counts)
    for i in range(len(batch)):
        s, c = int(presence_code(seen[i : i + 1])) - 1, int(batch.target[i])
        sums[s, c] += joint(method, x[i], seen[i])[1]
        counts[s, c] += 1
    torch.testing.assert_close(method.sums, sums, atol=1e-5, rtol=0)
    assert torch.equal(method.counts, counts)


def test_prototypes_are_those_of_the_epoch_before_and_at_first_of_the_batch():
    method, batch = build(stage=0), batch_of([[True] * M] * 9)
    one = batch.hide(torch.tensor([[False, True, True]] * 9))  # the only subset there is
    x = method.network.tokens(one)
    _, z = method.network(x, one.presence)
    means = torch.stack([z[one.target == c].mean(0) for c in range(C)]).detach()
    everyone = torch.ones(C, dtype=torch.bool)

    def expected(prototypes):
        return F.cross_entropy(prototype_scores(z, prototypes, everyone), one.target)

    torch.testing.assert_close(method.network_loss(one)["prototype"], expected(means))
    method.epoch_sum += 1
    method.on_train_epoch_end()
    after = (2 * 3 * means + 1) / 6  # both random subsets are the same one, three samples each
    torch.testing.assert_close(method.prototypes, after)
    assert method.known.all()
    assert not method.epoch_count.any()
    torch.testing.assert_close(method.network_loss(one)["prototype"], expected(after))


def test_scores_are_distances_and_classes_without_a_prototype_are_out():
    z = torch.tensor([[1.0, 0.0]])
    prototypes = torch.tensor([[1.0, 0.0], [0.0, 1.0], [5.0, 5.0]])
    scores = prototype_scores(z, prototypes, torch.tensor([True, True, False]))
    torch.testing.assert_close(scores, torch.tensor([[0.0, -20.0, -torch.inf]]))


def test_hidden_tokens_are_recovered_where_they_are_known():
    method = build()
    truth = batch_of([[True] * M] * 6)
    shown = replace(truth.hide(torch.tensor([[False, True, True]] * 6)), teacher=truth)
    found = method.loss(shown)["recovery"]
    x, seen = method.network.tokens(truth), shown.presence
    rebuilt = method.rebuild(x, seen)
    torch.testing.assert_close(found, F.mse_loss(rebuilt[:, 1:], x[:, 1:]))
    assert method.loss(replace(shown, teacher=None))["recovery"] == 0  # nothing is known
    with torch.no_grad():
        dirty = torch.where(seen[:, :, None, None], x, 1e6)
    assert torch.equal(method.rebuild(dirty, seen), rebuilt)


def test_it_classifies_and_nothing_else():
    assert DyMo.reason_not(TASKS[1]) == "learns single_label, not multi_label"
    assert DyMo.reason_not(TASKS[2]) == "learns single_label, not regression"
    with pytest.raises(ValueError, match="at least 1 subset of a sample, found 0"):
        build(subsets=0)


@pytest.mark.parametrize("stage", [0, 1])
def test_nothing_waits_for_an_accelerator(stage):
    # tensors on "meta" have no values: whatever the host would have to read raises
    method = build(stage=stage).train().to("meta")
    batch = batch_of(all_patterns(TASK)).to("meta")
    assert method(batch).shape == (len(batch), C)
    assert all(term.shape == () for term in method.loss(batch).values())


@torch.no_grad()
def test_it_shows_what_samples_of_each_pattern_took_in():
    method, batch = collected(build()), batch_of(all_patterns(TASK, repeat=4))
    taken = method.admitted(method.filled(batch), batch.presence)
    method.eval()(batch)
    shown = method.diagnostics()["taken in"]
    assert shown.expert.tolist() == ["nothing", "a, rebuilt", "b, rebuilt", "c, rebuilt"]
    row = dict(zip(shown.pattern, shown.share, strict=True))
    assert row["a+b+c"].tolist() == [1, 0, 0, 0]
    lonely = (batch.presence == torch.tensor([True, False, False])).all(1)
    extra = (taken & ~batch.presence)[lonely]
    counts = torch.cat([~extra.any(1, keepdim=True), extra], dim=1).sum(0)
    torch.testing.assert_close(torch.from_numpy(row["a"]), counts / counts.sum())
