import math
from dataclasses import replace

import pytest
import torch

from mmbench.checks.tasks import TASKS, all_patterns, make_batch
from mmbench.methods.fuse_moe import FuseMoE, FusionMoE, ReleasedMoE, entropy_loss, scores

TASK = TASKS[0]
SIZE = (3, 2, 4)  # M, P, D
ROUTERS = ("joint", "per_modality", "disjoint")


def mix(router="per_modality", gate="laplace", experts=6, top_k=2):
    torch.manual_seed(0)
    return FusionMoE(SIZE, experts, top_k, 5, gate, router, 0.0).eval()


def everyone(batch=7):
    return torch.ones(batch, 3, dtype=torch.bool)


@pytest.mark.parametrize("router", ROUTERS)
@pytest.mark.parametrize("gate", ["laplace", "gaussian", "softmax"])
def test_the_fusion_layer_equals_a_loop_over_samples_routers_and_experts(router, gate):
    layer = mix(router, gate)
    torch.manual_seed(1)
    z = torch.randn(7, *SIZE)
    expected = torch.zeros(7, math.prod(SIZE))
    for i in range(7):
        embeddings = (
            [z[i].flatten()] if router == "joint" else [z[i, m].flatten() for m in range(3)]
        )
        for m, e in enumerate(embeddings):
            distance = (e - layer.weight[m]).square().sum(1).sqrt()
            score = {
                "laplace": -distance,
                "gaussian": -(distance**2),
                "softmax": layer.weight[m] @ e,
            }
            best, chosen = score[gate].topk(2)
            bank = layer.experts[m if router == "disjoint" else 0]
            for g, j in zip(best.softmax(0), chosen, strict=True):
                h = torch.nn.functional.gelu(bank.w1[j] @ e + bank.b1[j])
                expected[i] += g * (h @ bank.w2[j] + bank.b2[j])
    found, _ = layer(z, everyone())
    torch.testing.assert_close(found.flatten(1), expected, atol=1e-5, rtol=1e-4)


def test_a_laplace_gate_does_not_care_where_the_origin_is():
    e, w, shift = torch.randn(1, 5, 4), torch.randn(1, 3, 4), torch.randn(4)
    torch.testing.assert_close(scores(e + shift, w + shift, "laplace"), scores(e, w, "laplace"))
    assert not torch.allclose(scores(e + shift, w + shift, "softmax"), scores(e, w, "softmax"))


def test_experts_have_no_order():
    layer = mix()
    z, order = torch.randn(7, *SIZE), torch.tensor([3, 0, 5, 1, 4, 2])
    before, _ = layer(z, everyone())
    with torch.no_grad():
        layer.weight.copy_(layer.weight[:, order])
        for p in layer.experts[0].parameters():
            p.copy_(p[order])
    torch.testing.assert_close(layer(z, everyone())[0], before)


def test_entropy_is_lowest_for_experts_of_ones_own_and_zero_for_one_mind():
    own = torch.eye(3)[None].expand(5, -1, -1).contiguous()
    torch.testing.assert_close(entropy_loss(own, everyone(5)), torch.tensor(-math.log(3)))
    alike = torch.tensor([0.5, 0.3, 0.2]).expand(5, 3, 3).contiguous()
    torch.testing.assert_close(entropy_loss(alike, everyone(5)), torch.tensor(0.0))


def test_entropy_by_hand_leaves_absent_entries_and_unseen_modalities_out():
    p = torch.tensor([[[0.9, 0.1], [0.5, 0.5]], [[0.1, 0.9], [0.2, 0.8]]])
    presence = torch.tensor([[True, False], [True, True]])

    def h(x):
        return -x * math.log(x) - (1 - x) * math.log(1 - x)

    expected = (h(0.5) + h(0.2)) / 2 - h(0.35)
    torch.testing.assert_close(entropy_loss(p, presence), torch.tensor(expected))
    presence[:, 0] = False  # one modality alone: nothing to tell apart
    torch.testing.assert_close(entropy_loss(p, presence), torch.tensor(0.0))


@pytest.mark.parametrize("router", ROUTERS)
def test_every_kind_of_router_is_saved_and_trained(router):
    torch.manual_seed(0)
    method = FuseMoE(TASK, router=router, experts=12, top_k=2).train()
    assert "layers.0.mix.weight" in method.state_dict()
    terms = method.loss(make_batch(TASK, all_patterns(TASK)))
    torch.stack(list(terms.values())).sum().backward()
    for layer in method.layers:
        assert layer.mix.weight.grad.any()
        assert layer.mix.noise.grad.any()


def test_disjoint_experts_are_told_apart_completely():
    layer = mix("disjoint")
    _, penalty = layer(torch.randn(7, *SIZE), everyone())
    torch.testing.assert_close(penalty, torch.tensor(-math.log(3)))


def test_the_indicator_learns_only_where_something_is_missing():
    method = FuseMoE(TASK).train()
    presence = torch.ones(6, 3, dtype=torch.bool)
    presence[:3, 1] = False
    method.loss(make_batch(TASK, presence))["task"].backward()
    assert method.missing.grad.flatten(1).any(1).tolist() == [False, True, False]


def test_more_experts_than_a_router_reaches_are_refused():
    with pytest.raises(ValueError, match="asked for 4 experts, but a disjoint router has 2"):
        FuseMoE(TASK, router="disjoint", experts=6)


def test_nothing_waits_for_an_accelerator():
    torch.manual_seed(0)
    method = FuseMoE(TASK).to("meta")
    batch = make_batch(TASK, all_patterns(TASK))
    batch = replace(batch.to("meta"), embeddings=None)
    assert all(term.shape == () for term in method.loss(batch).values())


def official(**args):
    torch.manual_seed(0)
    return FuseMoE(TASK, variant="official", **args).eval()


@pytest.mark.parametrize("router", ROUTERS)
def test_the_released_layer_equals_a_loop_over_rows_of_mixed_patients(router):
    torch.manual_seed(0)
    layer = ReleasedMoE(SIZE, 6, 2, 5, "laplace", router, 0.0).eval()
    with torch.no_grad():
        layer.weight.normal_()
        layer.noise.normal_()
    batch, (modalities, tokens, dim) = 7, SIZE
    z = torch.randn(batch, *SIZE)
    # a row is whatever comes next in the order (token, patient, feature)
    flat = [z[:, m].transpose(0, 1).flatten() for m in range(modalities)]
    size = tokens * dim
    noise = layer._noise(torch.zeros(len(layer.weight), batch, layer.reach))
    out = torch.zeros(batch, modalities * size)
    for row in range(batch):
        parts = [x[row * size : (row + 1) * size] for x in flat]
        for m, e in enumerate([torch.cat(parts)] if router == "joint" else parts):
            spread = torch.nn.functional.softplus(e @ layer.noise[m]) + 1e-2
            score = -(e - layer.weight[m]).norm(dim=1) + spread * noise[m, row]
            best, chosen = score.topk(2)
            bank = layer.experts[m if router == "disjoint" else 0]
            mixture = torch.zeros(modalities * size)
            for g, j in zip(best.softmax(0), chosen, strict=True):
                h = torch.nn.functional.gelu(bank.w1[j] @ e + bank.b1[j])
                mixture += g * (h @ bank.w2[j] + bank.b2[j]).log_softmax(0).exp()
            out[row] += mixture.log()
    expected = torch.zeros_like(z)
    for m in range(modalities):
        steps = out[:, m * size : (m + 1) * size].flatten().view(tokens, batch, dim)
        expected[:, m] = steps.transpose(0, 1)
    found, penalty = layer(z, everyone())
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert penalty == 0


def test_predictions_of_the_official_variant_depend_on_the_batch_and_repeat():
    method, batch = official(), make_batch(TASK, all_patterns(TASK))
    alone = replace(
        batch,
        inputs={name: x[:1] for name, x in batch.inputs.items()},
        lengths={name: x[:1] for name, x in batch.lengths.items()},
        presence=batch.presence[:1],
        target=batch.target[:1],
        sample_id=batch.sample_id[:1],
    )
    with torch.no_grad():
        assert torch.equal(method(batch), method(batch))
        assert not torch.allclose(method(batch)[:1], method(alone), atol=1e-4)
        paper = FuseMoE(TASK).eval()
        torch.testing.assert_close(paper(batch)[:1], paper(alone), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("router", ROUTERS)
def test_released_routers_start_at_zero_and_learn_only_if_joint(router):
    method = official(router=router, experts=6, top_k=2).train()
    assert not method.layers[0].mix.weight.any()
    assert ("layers.0.mix.weight" in method.state_dict()) == (router == "joint")
    terms = method.loss(make_batch(TASK, all_patterns(TASK)))
    assert list(terms) == ["task"]
    terms["task"].backward()
    grad = method.layers[0].mix.weight.grad
    assert (grad is not None) == (router == "joint")


def test_the_official_variant_marks_what_is_present_and_leaves_gaps_zero():
    method = official()
    batch = make_batch(TASK, torch.tensor([[True, False, True]] * 4))
    seen = []
    method.layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        method(batch)
        position, scale = method.position, 64**0.5
        z = method.encode(batch)[:, 0] + method.kind[0]
        torch.testing.assert_close(seen[0][:, 0], scale * z + position)
        torch.testing.assert_close(seen[0][:, 1], position.expand(4, -1, -1))
    assert [len(m.mix.experts[0].w1) for m in method.layers] == [3, 3]
    assert method.layers[0].mix.router == "joint"
