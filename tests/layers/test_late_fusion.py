import pytest
import torch
import torch.nn.functional as F

from mmbench.checks.tasks import TASKS, all_patterns, make_batch
from mmbench.layers.late_fusion import LateFusion, StackedMLP


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.kind)
def test_late_fusion_is_a_head_on_embeddings_side_by_side(task):
    torch.manual_seed(0)
    net = LateFusion(task, 6, 0.0).eval()
    batch = make_batch(task, all_patterns(task))
    first, _, _, last = net.head
    wanted = []
    for i in range(len(batch)):
        parts = []
        for m, name in enumerate(task.names):
            steps = batch.lengths[name][i : i + 1] if name in batch.lengths else None
            z = net.encode.encoders[name](batch.inputs[name][i : i + 1], steps)[0]
            parts.append(z * batch.presence[i, m])
        hidden = F.gelu(first.weight @ torch.cat(parts) + first.bias)
        wanted.append(last.weight @ hidden + last.bias)
    torch.testing.assert_close(net(batch), torch.stack(wanted), atol=1e-5, rtol=1e-5)


def test_late_fusion_gives_an_absent_modality_no_gradient():
    task = TASKS[2]
    net = LateFusion(task, 6, 0.0).eval()
    net(make_batch(task, torch.tensor([[False, True]] * 3))).sum().backward()
    absent, present = ([p.grad for p in part.parameters()] for part in net.encode.encoders.values())
    assert not any(grad is not None and grad.any() for grad in absent)
    assert any(grad.any() for grad in present)
    assert not net.head[0].weight.grad[:, :6].any()


def test_a_stacked_mlp_applies_network_m_to_column_m():
    torch.manual_seed(0)
    net = StackedMLP(3, 4, 5)
    for bias in (net.b1, net.b2):
        torch.nn.init.normal_(bias)  # they start at zero
    x = torch.randn(7, 3, 4)
    out = net(x)
    assert out.shape == (7, 3, 4)
    for i in range(7):
        for m in range(3):
            hidden = F.gelu(x[i, m] @ net.w1[m] + net.b1[m, 0])
            wanted = hidden @ net.w2[m] + net.b2[m, 0]
            torch.testing.assert_close(out[i, m], wanted, atol=1e-6, rtol=1e-5)


def test_a_stacked_mlp_starts_as_wide_as_linear_layers_and_no_two_alike():
    torch.manual_seed(0)
    net = StackedMLP(3, 16, 64)
    for weight, bound in ((net.w1, 16**-0.5), (net.w2, 64**-0.5)):
        assert weight.abs().max() <= bound
        assert weight.abs().max() > 0.95 * bound
        assert weight.mean().abs() < 0.1 * bound
        assert not torch.equal(weight[0], weight[1])


def test_networks_of_a_stacked_mlp_share_nothing():
    net = StackedMLP(3, 4, 5)
    net(torch.randn(7, 3, 4))[:, 1].square().sum().backward()
    for p in net.parameters():
        assert [bool(p.grad[m].any()) for m in range(3)] == [False, True, False]
