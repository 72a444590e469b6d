import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbench.checks.tasks import all_patterns, make_batch
from mmbench.data.task import Modality, Task
from mmbench.methods.shaspec import ShaSpec, alignment, random_part

TASK = Task("single_label", tuple(Modality(m, "vector", (4,)) for m in "abc"), ("x", "y", "z"))
D = 8


def build(**arguments):
    torch.manual_seed(0)
    return ShaSpec(TASK, dim=D, **arguments).eval()


def batch_of(presence):
    return make_batch(TASK, torch.as_tensor(presence))


def mlp(net, index, x):
    return F.gelu(x @ net.w1[index] + net.b1[index, 0]) @ net.w2[index] + net.b2[index, 0]


def by_loops(method, batch):
    """Eq. 1 to 4, one sample and one modality at a time: outputs, r and s of what is there."""
    outputs, shared, specific = [], [], []
    for i in range(len(batch)):
        r, s = {}, {}
        for m, name in enumerate(TASK.names):
            if batch.presence[i, m]:
                z = method.stems.encoders[name](batch.inputs[name][i : i + 1], None)[0]
                r[m], s[m] = mlp(method.shared, 0, z), mlp(method.specific, m, z)
        fill = sum(r.values()) / len(r)
        f = [
            method.project.weight @ torch.cat([r[m], s[m]]) + method.project.bias + r[m]
            if m in r
            else fill
            for m in range(3)
        ]
        outputs.append(method.head(torch.cat(f)))
        shared.append(r)
        specific.append(s)
    return torch.stack(outputs), shared, specific


def fused(method, batch):
    """What reaches the head, (B, M, D)."""
    seen = []
    handle = method.head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    method(batch)
    handle.remove()
    return seen[0].view(len(batch), 3, D)


def test_outputs_are_those_of_the_equations_written_as_loops():
    method, batch = build(), batch_of(all_patterns(TASK))
    torch.testing.assert_close(method(batch), by_loops(method, batch)[0], atol=1e-5, rtol=0)


def test_a_missing_modality_gets_the_mean_of_the_shared_features_that_are_there():
    method, batch = build(), batch_of(all_patterns(TASK))
    f, (_, shared, _) = fused(method, batch), by_loops(method, batch)
    for i, r in enumerate(shared):
        for m in set(range(3)) - set(r):
            mean = torch.stack(list(r.values())).mean(0)
            torch.testing.assert_close(f[i, m], mean, atol=1e-6, rtol=0)


def test_with_one_modality_left_all_gaps_hold_its_shared_feature():
    method, batch = build(), batch_of([[False, True, False]])
    f, r = fused(method, batch)[0], method.features(batch)[0][0, 1]
    assert torch.equal(f[0], r)
    assert torch.equal(f[2], r)


def test_features_of_a_missing_modality_have_no_path_to_the_output():
    method, presence = build(), all_patterns(TASK)
    r = torch.randn(len(presence), 3, D, requires_grad=True)
    s = torch.randn(len(presence), 3, D, requires_grad=True)
    method.decode(r, s, presence).square().sum().backward()
    for x in (r, s):
        reached = x.grad.abs().sum(-1) > 0
        assert torch.equal(reached, presence)


def test_the_shared_encoder_is_one_for_all_and_the_specific_ones_differ():
    method = build()
    x = torch.randn(5, 1, D).expand(5, 3, D)

    class Stems(torch.nn.Module):
        def forward(self, batch):
            return x

    method.stems = Stems()
    r, s = method.features(batch_of(torch.ones(5, 3, dtype=torch.bool)))
    assert torch.equal(r[:, 0], r[:, 1])
    assert torch.equal(r[:, 0], r[:, 2])
    assert (s[:, 0] - s[:, 1]).abs().max() > 0.01
    count = [sum(p.numel() for p in part.parameters()) for part in (method.shared, method.specific)]
    assert count == [2 * (D * D + D), 3 * 2 * (D * D + D)]


def test_alignment_is_the_mean_distance_of_all_available_pairs():
    r = torch.tensor([[[0.0, 0.0], [1.0, 3.0], [9.0, 9.0]]] * 2)
    one_pair = torch.tensor([[True, True, False]])
    three_pairs = torch.tensor([[True, True, True]])
    assert alignment(r[:1], one_pair).item() == pytest.approx(2.0)  # (1 + 3) / 2
    assert alignment(r[:1], three_pairs).item() == pytest.approx((2 + 9 + 7) / 3)
    both = torch.cat([one_pair, three_pairs])
    assert alignment(r, both).item() == pytest.approx((2 + 2 + 9 + 7) / 4)


def test_alignment_is_zero_without_a_pair_and_with_equal_features():
    r = torch.randn(4, 3, D)
    assert alignment(r, torch.eye(3, dtype=torch.bool)[[0, 1, 2, 0]]).item() == 0
    equal = r[:, :1].expand(-1, 3, -1)
    assert alignment(equal, torch.ones(4, 3, dtype=torch.bool)).item() == 0


@settings(derandomize=True, deadline=None, max_examples=20)
@given(order=st.permutations(range(3)), seed=st.integers(0, 99))
def test_alignment_knows_no_order_of_modalities_and_ignores_missing_ones(order, seed):
    g = torch.Generator().manual_seed(seed)
    presence = all_patterns(TASK)
    r = torch.randn(len(presence), 3, D, generator=g)
    torch.testing.assert_close(alignment(r[:, order], presence[:, order]), alignment(r, presence))
    garbage = torch.where(presence[:, :, None], r, torch.nan)
    assert torch.equal(alignment(garbage, presence), alignment(r, presence))


def test_domain_loss_is_the_cross_entropy_of_available_features_alone():
    method, batch = build(), batch_of(all_patterns(TASK))
    _, _, specific = by_loops(method, batch)
    terms = [-torch.log_softmax(method.which(s_m), 0)[m] for s in specific for m, s_m in s.items()]
    _, s = method.features(batch)
    found = method.domain(s, batch.presence)
    torch.testing.assert_close(found, sum(terms) / len(terms), atol=1e-5, rtol=0)
    garbage = torch.where(batch.presence[:, :, None], s, 1e6)
    assert torch.equal(method.domain(garbage, batch.presence), found)


def test_alignment_trains_no_specific_encoder_and_domain_loss_not_the_shared_one():
    method, batch = build(hide=False), batch_of(torch.ones(6, 3, dtype=torch.bool))
    for term, untouched, touched in (
        ("alignment", method.specific, method.shared),
        ("domain", method.shared, method.specific),
    ):
        method.zero_grad()
        method.loss(batch)[term].backward()
        assert all(p.grad is None or not p.grad.any() for p in untouched.parameters())
        assert all(p.grad.abs().sum() > 0 for p in touched.parameters() if p is not touched.b2)
        assert all(p.grad is None for p in method.head.parameters())
        for stem in method.stems.in_order:
            assert any(p.grad.any() for p in stem.parameters())


def test_the_loss_weighs_its_terms_with_alpha_and_beta():
    batch = batch_of(all_patterns(TASK))
    small, large = (build(alpha=a, beta=b, hide=False) for a, b in ((0.1, 0.02), (1.0, 1.0)))
    found, whole = small.loss(batch), large.loss(batch)
    assert list(found) == ["task", "alignment", "domain"]
    torch.testing.assert_close(found["alignment"], 0.1 * whole["alignment"])
    torch.testing.assert_close(found["domain"], 0.02 * whole["domain"])
    logits = small(batch)
    torch.testing.assert_close(found["task"], F.cross_entropy(logits, batch.target))
    assert build().alpha == 0.1
    assert build().beta == 0.02


def test_as_many_of_a_samples_modalities_are_kept_as_any_other_number_and_any_of_them():
    presence = torch.ones(9000, 3, dtype=torch.bool)
    presence[:3000, 1] = False
    kept = random_part(presence)
    assert not (kept & ~presence).any()
    for rows, n in ((kept[:3000], 2), (kept[3000:], 3)):
        counts = torch.bincount(rows.sum(1), minlength=n + 1)
        assert counts[0] == 0
        torch.testing.assert_close(
            counts[1:] / len(rows), torch.full((n,), 1 / n), atol=0.03, rtol=0
        )
    one = kept[3000:][kept[3000:].sum(1) == 1].float().mean(0)
    torch.testing.assert_close(one, torch.full((3,), 1 / 3), atol=0.05, rtol=0)


def test_training_hides_modalities_from_every_loss_and_evaluation_hides_none(monkeypatch):
    first = torch.tensor([[True, False, False]])
    monkeypatch.setattr("mmbench.methods.shaspec.random_part", lambda presence: presence & first)
    batch = batch_of(torch.ones(6, 3, dtype=torch.bool))
    hiding, open_eyed = build(), build(hide=False)
    found, alone = hiding.loss(batch), open_eyed.loss(batch.hide(~first.expand(6, 3)))
    for name in found:
        torch.testing.assert_close(found[name], alone[name])
    assert found["alignment"] == 0
    assert torch.equal(hiding(batch), open_eyed(batch))
