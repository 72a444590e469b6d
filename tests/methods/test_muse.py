import math

import pytest
import torch

from mmbench.checks.tasks import TASKS, all_patterns, make_batch
from mmbench.methods.muse import (
    MUSE,
    TEMPERATURE,
    BipartiteGraph,
    contrast_labels,
    contrast_views,
    drop_edges,
)

TASK = TASKS[0]
M, B, D = 3, 7, 4


def graph(layers=3):
    torch.manual_seed(0)
    presence = all_patterns(TASK, repeat=1)
    e = torch.where(presence[:, :, None], torch.randn(B, M, D), 0.0)
    return BipartiteGraph(M, D, layers, 0.0).train(), e, presence


def edge_list(net, e, presence):
    """Messages along a list of edges, one by one."""
    edges = [(b, m) for b in range(B) for m in range(M) if presence[b, m]]
    p = [torch.ones(D) for _ in range(B)]
    q = list(net.start)
    to_p = {edge: e[edge] for edge in edges}
    to_q = dict(to_p)
    layers = len(net.message)
    for layer in range(layers):
        message, update = net.message[layer], net.update[layer]
        for_p, for_q = [[] for _ in range(B)], [[] for _ in range(M)]
        for b, m in edges:
            for_p[b].append(message(torch.cat([q[m], to_p[b, m]])).relu())
            for_q[m].append(message(torch.cat([p[b], to_q[b, m]])).relu())

        def mean(parts):
            return torch.stack(parts).mean(0) if parts else torch.zeros(D)

        p, q = (
            [
                update(torch.cat([mean(new), old])).relu()
                for new, old in zip(parts, nodes, strict=True)
            ]
            for parts, nodes in ((for_p, p), (for_q, q))
        )
        if layer < layers - 1:
            for b, m in edges:
                to_p[b, m] = net.edge[layer](torch.cat([q[m], p[b], to_p[b, m]])).relu()
                to_q[b, m] = net.edge[layer](torch.cat([p[b], q[m], to_q[b, m]])).relu()
    return torch.stack(p)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_dense_sums_equal_messages_along_a_list_of_edges(layers):
    net, e, presence = graph(layers)
    torch.testing.assert_close(net(e, presence)[0], edge_list(net, e, presence))


def test_the_order_of_modalities_does_not_matter():
    net, e, presence = graph()
    before, _ = net(e, presence)
    order = torch.tensor([2, 0, 1])
    net.start.data = net.start.data[order]
    torch.testing.assert_close(net(e[:, order], presence[:, order])[0], before)


def test_modality_nodes_are_remembered_from_the_first_batch_and_then_slowly():
    net, e, presence = graph(2)
    _, (q,) = net(e, presence)
    net.remember([q], presence)
    torch.testing.assert_close(net.remembered[0], q)
    nobody = presence.clone()
    nobody[:, 1] = False
    net.remember([q + 1], nobody)
    moved = torch.tensor([0.1, 0.0, 0.1])[:, None].expand_as(q)
    torch.testing.assert_close(net.remembered[0] - q, moved)


def test_evaluation_equals_training_when_what_is_remembered_is_the_batch():
    net, e, presence = graph(2)
    z, states = net(e, presence)
    net.remember(states, presence)
    torch.testing.assert_close(net.eval()(e, presence)[0], z)


def test_edges_are_dropped_from_half_of_the_samples_and_never_the_last():
    torch.manual_seed(0)
    presence = torch.tensor([[True, True, True, False]]).repeat(8000, 1)
    kept = drop_edges(presence)
    assert not (kept & ~presence).any()
    n = kept.sum(1)
    shares = [(n == size).float().mean().item() for size in range(4)]
    assert shares == pytest.approx([0, 0.25, 0.25, 0.5], abs=0.02)
    single = torch.eye(4, dtype=torch.bool)
    assert torch.equal(drop_edges(single), single)


def test_the_contrast_of_views_by_hand():
    u = torch.eye(2)
    # found for certain, but for exp(-1 / 0.07)
    expected = math.log(1 + math.exp(-1 / TEMPERATURE))
    torch.testing.assert_close(contrast_views(u, u), torch.tensor(expected))
    torch.testing.assert_close(
        contrast_views(u, u.flip(0)), torch.tensor(1 / TEMPERATURE + expected)
    )


def test_the_contrast_of_labels_equals_a_loop_over_pairs():
    torch.manual_seed(0)
    u, v = (
        torch.nn.functional.normalize(torch.randn(5, 3, dtype=torch.double), dim=1)
        for _ in range(2)
    )
    y = [0, 1, 0, 2, 1]

    def bce(x, y_):
        chance = torch.sigmoid(x / TEMPERATURE)
        return -torch.log(chance if y_ else 1 - chance)

    total = torch.zeros((), dtype=torch.double)
    for i in range(5):
        for j in range(5):
            same = y[i] == y[j]
            total += 2 * bce(u[i] @ u[j], same) + bce(u[i] @ v[j], same) + bce(v[i] @ u[j], same)
    t = torch.tensor(y)
    found = contrast_labels(u, v, t[:, None] == t[None])
    torch.testing.assert_close(found, total / 25 / 4)


def test_regression_does_not_apply():
    assert "not regression" in MUSE.applies.reason_not(TASKS[2])


@pytest.mark.parametrize("training", [True, False])
def test_nothing_waits_for_an_accelerator(training):
    torch.manual_seed(0)
    method = MUSE(TASK).train(training).to("meta")
    batch = make_batch(TASK, all_patterns(TASK)).to("meta")
    assert method(batch).shape == (len(batch), 3)
    if training:
        assert all(term.shape == () for term in method.loss(batch).values())
