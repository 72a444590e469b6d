import math

import pytest
import torch

from mmbench.checks.tasks import TASKS, all_patterns, make_batch
from mmbench.methods.m3care import GraphConvolution, M3Care, Similarity, kernel, squared_distance

TASK = TASKS[0]
M, B, D = 3, 6, 4


def setting(seed=0):
    torch.manual_seed(seed)
    a = torch.rand(M, B) < 0.6
    a[0] |= ~a.any(0)
    h = torch.where(a[:, :, None], torch.randn(M, B, D), 0.0)
    return h, a


def build(**args):
    torch.manual_seed(0)
    method = M3Care(TASK, **({"dim": 8, "dropout": 0.0} | args))
    method.prepare([make_batch(TASK, all_patterns(TASK, repeat=3), seed=1)])
    return method.eval()


def test_similarity_equals_a_loop_over_pairs_and_modalities():
    h, a = setting()
    alike = Similarity(M, D, threshold=-1.0).train()
    x = alike.features(h, a)
    bandwidth = alike.measure(x, a)
    found = alike(x, a, x, a, bandwidth)

    views = []
    for view in range(2 * M):
        m = view % M
        raw = alike.transform[m](h[m]).relu() if view < M else h[m]
        rows = raw[a[m]]
        mean, variance = rows.mean(0), rows.var(0, unbiased=False)
        views.append((raw - mean) / (variance + 1e-5).sqrt())

    def k(view, i, j):
        m = view % M
        there = [r for r in range(B) if a[m, r]]
        squares = [
            (views[view][r] - views[view][s]).square().sum() for r in there for s in there if r != s
        ]
        b = sum(squares) / len(squares) / 2
        d = (views[view][i] - views[view][j]).square().sum()
        return sum(torch.exp(-d / (q * b)) for q in (1, 2, 4)) / 3

    e = alike.plain.sigmoid().flatten()
    least = 1 / (1 + math.exp(1.0))
    for i in range(B):
        for j in range(B):
            both = [m for m in range(M) if a[m, i] and a[m, j]]
            parts = [((1 - e[m]) * k(m, i, j) + e[m]) * k(M + m, i, j) for m in both]
            s = sum(parts) / len(both) if both else torch.tensor(0.0)
            expected = s if s > least else torch.tensor(0.0)
            torch.testing.assert_close(found[i, j], expected, atol=1e-4, rtol=1e-4)


def test_a_kernel_by_hand():
    found = kernel(torch.tensor([[[2.0]]]), torch.tensor([4.0]))
    expected = (math.exp(-1) + math.exp(-0.5) + math.exp(-0.25)) / 3
    torch.testing.assert_close(found, torch.tensor([[[expected]]]))


def test_distances_are_those_of_a_loop():
    x, y = torch.randn(2, 5, 3), torch.randn(2, 4, 3)
    torch.testing.assert_close(squared_distance(x, y), torch.cdist(x, y).square())


def test_convolution_equals_a_loop_over_edges():
    h, a = setting()
    layer = GraphConvolution(M, D, released=False)
    s = torch.rand(B, B)
    found = layer(h, s, a)
    for m in range(M):
        x = h[m]
        for w, b in zip(layer.w[:, m], layer.b[:, m], strict=True):
            new = []
            for i in range(B):
                readable = [j for j in range(B) if a[m, j]]
                total = sum(s[i, j] * (x[j] @ w) for j in readable)
                new.append((total / sum(s[i, j] for j in readable) + b[0]).relu())
            x = torch.stack(new)
        torch.testing.assert_close(found[m], x)


def test_the_released_neighbours_fill_every_gap_with_one_vector_and_ours_do_not():
    h, a = setting()
    a[1] = torch.tensor([True, True, False, False, True, False])
    s = torch.rand(B, B)
    gaps = ~a[1]
    released = GraphConvolution(M, D, released=True)
    g = released(h, s, a)[1, gaps]
    torch.testing.assert_close(g, released.b[1, 1].relu().expand_as(g))
    ours = GraphConvolution(M, D, released=False)
    ours.b.data.abs_()
    filled = ours(h, s, a)[1, gaps]
    assert not torch.allclose(filled[0], filled[1])


@pytest.mark.parametrize("released", [True, False])
def test_anchors_stand_for_the_batch(released):
    # a sample among anchors is convolved as it would be within the set of itself and them
    h, a = setting()
    layer = GraphConvolution(M, D, released=released)
    s = torch.rand(B, B)
    s[range(B), range(B)] = 1.0
    s[1:, 0] = 0.0  # nobody reads the sample but itself
    expected = layer(h, s, a)[:, :1]
    found = layer.from_anchors(h[:, :1], a[:, :1], s[:1, 1:], h[:, 1:], a[:, 1:], s[1:, 1:])
    torch.testing.assert_close(found, expected)


def test_a_gap_is_filled_from_anchors_that_have_the_modality_alone():
    method = build(threshold=-3.0)
    batch = make_batch(TASK, torch.tensor([[False, True, True]] * 3))
    lacking = ~method.memory.presence[:, 0]
    with torch.no_grad():
        z = method.encode(batch).transpose(0, 1)
        before = method.graph(z, batch.presence.t())[0]
        for m in range(3):  # those that lack it may change in all they have
            x = getattr(method.memory, f"input_{m}")
            x[lacking] = x[lacking].flip(0) if m == 1 else 0.0
        assert torch.equal(method.graph(z, batch.presence.t())[0], before)
        method.memory.input_0.zero_()
        assert not torch.allclose(method.graph(z, batch.presence.t())[0], before)


def test_kernel_weight_and_threshold_learn_where_samples_are_alike():
    method = build(threshold=-3.0).train()
    method.loss(make_batch(TASK, all_patterns(TASK)))["task"].backward()
    assert method.alike.threshold.grad.any()
    assert method.alike.plain.grad.all()


def test_the_stabiliser_is_nothing_if_the_kernels_see_the_embeddings_themselves():
    method = build(stabiliser=1.0).train()
    method.alike.learn = lambda h: h
    assert method.loss(make_batch(TASK, all_patterns(TASK)))["stabiliser"] == 0


@pytest.mark.parametrize("training", [True, False])
def test_nothing_waits_for_an_accelerator(training):
    method = build().train(training).to("meta")
    batch = make_batch(TASK, all_patterns(TASK)).to("meta")
    assert all(term.shape == () for term in method.loss(batch).values())


def test_the_batch_may_be_a_single_sample_even_in_training():
    method = build().train()
    terms = method.loss(make_batch(TASK, torch.tensor([[True, False, True]])))
    assert all(term.isfinite() for term in terms.values())


def test_fusion_layers_have_the_released_dropout_and_encoders_the_suites():
    method = M3Care(TASK, dim=8, dropout=0.5)
    for _, block in method.fuse:
        assert block.drop.p == 0.5
        assert [block.attend.drop.p, block.mlp[2].p] == [0.1, 0.1]
    rates = {p.p for p in method.encode.modules() if isinstance(p, torch.nn.Dropout)}
    assert rates == {0.1}
