import math
from statistics import NormalDist

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbench.layers.moe import (
    Experts,
    NoisyTopKGate,
    Routing,
    SparseBlock,
    cv_squared,
    route,
    softmax_top_k_gates,
    top_k_gates,
)

shapes = st.tuples(st.integers(1, 20), st.integers(2, 9), st.integers(0, 1000))
few = settings(derandomize=True, deadline=None, max_examples=30)


@few
@given(shapes, st.data())
def test_gates_name_the_k_best_experts_and_sum_to_one(shape, data):
    tokens, experts, seed = shape
    k = data.draw(st.integers(1, experts))
    logits = torch.randn(tokens, experts, generator=torch.Generator().manual_seed(seed))
    gates = top_k_gates(logits, k)
    torch.testing.assert_close(gates.sum(1), torch.ones(tokens))
    assert ((gates > 0).sum(1) == k).all()
    worst_asked = torch.where(gates > 0, logits, math.inf).amin(1)
    best_ignored = torch.where(gates > 0, -math.inf, logits).amax(1)
    assert (worst_asked >= best_ignored).all()


def test_a_softmax_before_the_choice_keeps_its_values():
    logits = torch.tensor([[math.log(1.0), math.log(2.0), math.log(5.0)]])
    found = softmax_top_k_gates(logits, 2)
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.25, 0.625]]))


@pytest.mark.parametrize("to_gates", [top_k_gates, softmax_top_k_gates])
@pytest.mark.parametrize("k", [0, 4])
def test_an_impossible_number_of_experts_is_refused(to_gates, k):
    with pytest.raises(ValueError, match=f"asked for {k} of 3 experts; take 1 to 3"):
        to_gates(torch.zeros(2, 3), k)


def test_the_coefficient_of_variation_by_hand():
    # mean 2, unbiased variance (1 + 0 + 1) / 2 = 1
    torch.testing.assert_close(cv_squared(torch.tensor([1.0, 2.0, 3.0])), torch.tensor(0.25))
    assert cv_squared(torch.zeros(3)) == 0
    assert cv_squared(torch.tensor([7.0])) == 0


def test_the_load_is_the_chance_to_be_chosen_again():
    clean = torch.tensor([[1.0, 0.4, -0.3]])
    scale = torch.tensor([[0.5, 1.0, 2.0]])
    noise = torch.tensor([[0.2, -0.1, 0.3]])
    found = route(clean, scale, 1, noise=noise)
    noisy = [1.1, 0.3, 0.3]  # expert 0 is chosen; the others have to beat it
    bar = [0.3, 1.1, 1.1]
    chance = [
        NormalDist().cdf((c - b) / s)
        for c, b, s in zip([1.0, 0.4, -0.3], bar, [0.5, 1.0, 2.0], strict=True)
    ]
    torch.testing.assert_close(found.logits, torch.tensor([noisy]))
    torch.testing.assert_close(found.load, torch.tensor([chance]))
    torch.testing.assert_close(found.gates, torch.tensor([[1.0, 0.0, 0.0]]))


def test_the_load_agrees_with_drawing_one_experts_noise_many_times():
    generator = torch.Generator().manual_seed(0)
    clean, scale = torch.randn(1, 5, generator=generator), torch.rand(1, 5, generator=generator)
    noise = torch.randn(1, 5, generator=generator)
    load = route(clean, scale, 2, noise=noise).load
    for expert in range(5):
        again = noise.repeat(20_000, 1)
        again[:, expert] = torch.randn(20_000, generator=generator)
        many = route(clean.expand(20_000, -1), scale.expand(20_000, -1), 2, noise=again)
        share = (many.gates[:, expert] > 0).float().mean()
        assert abs(share - load[0, expert]) < 0.015


def test_without_noise_the_load_counts_who_is_asked():
    gate = NoisyTopKGate(4, 6, 2).eval()
    routing = gate(torch.randn(10, 4, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(routing.load, (routing.gates > 0).float())


def test_balance_by_hand():
    gates = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    load = torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.5, 0.5]])
    # importance (2, 1): variance 0.5 over mean 1.5 squared; load is even
    found = Routing(gates, gates, load).balance()
    torch.testing.assert_close(found, torch.tensor(0.5 / 2.25))


@few
@given(shapes, st.sampled_from(["chosen", "all"]))
def test_no_forbidden_expert_is_ever_asked(shape, normalise):
    tokens, experts, seed = shape
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    gate = NoisyTopKGate(3, experts, 2, normalise=normalise)
    allowed = torch.rand(tokens, experts, generator=generator) < 0.5
    allowed[:, :2] = True
    x = torch.randn(tokens, 3, generator=generator)
    routing = gate(x, allowed)
    assert not (routing.gates > 0)[~allowed].any()
    assert ((routing.gates > 0).sum(1) == 2).all()
    routing.balance().backward()
    assert gate.weight.grad.isfinite().all()


def test_each_token_is_scored_by_its_own_router():
    torch.manual_seed(0)
    gate = NoisyTopKGate(4, 5, 2, routers=3).eval()
    x, which = torch.randn(7, 4), torch.tensor([0, 1, 2, 2, 1, 0, 1])
    found = gate(x, router=which).logits
    expected = torch.stack([x[n] @ gate.weight[:, r, 0] for n, r in enumerate(which)])
    torch.testing.assert_close(found, expected)


@few
@given(shapes, st.booleans())
def test_sorted_and_dense_experts_agree_in_outputs_and_gradients(shape, none_asked):
    tokens, count, seed = shape
    torch.manual_seed(seed)
    experts = Experts(count, 4, 6, out=3)
    x = torch.randn(tokens, 4, requires_grad=True)
    gates = top_k_gates(torch.randn(tokens, count), min(2, count))
    gates = torch.where(torch.rand(tokens, 1) < 0.3, 0.0, gates)  # tokens that ask nobody
    gates = (gates * (not none_asked)).requires_grad_()
    results = []
    for execute in (experts.sorted, experts.dense):
        y = execute(x, gates)
        leaves = [x, *experts.parameters()]
        grads = torch.autograd.grad(y.square().sum() + 0 * x.sum(), leaves, allow_unused=True)
        grads = [
            torch.zeros_like(p) if g is None else g for g, p in zip(grads, leaves, strict=True)
        ]
        results.append((y, *grads))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_experts_are_the_gated_sum_of_two_layer_networks():
    torch.manual_seed(0)
    experts, x = Experts(3, 4, 5), torch.randn(6, 4)
    gates = top_k_gates(torch.randn(6, 3), 2)
    expected = torch.zeros(6, 4)
    for n in range(6):
        for e in range(3):
            h = torch.nn.functional.gelu(experts.w1[e] @ x[n] + experts.b1[e])
            expected[n] += gates[n, e] * (h @ experts.w2[e] + experts.b2[e])
    torch.testing.assert_close(experts(x, gates), expected)


def test_the_gates_receive_the_same_gradient_from_both_executions_where_they_are_open():
    torch.manual_seed(0)
    experts, x = Experts(4, 3, 5), torch.randn(8, 3)
    gates = top_k_gates(torch.randn(8, 4), 2).requires_grad_()
    grads = [
        torch.autograd.grad(run(x, gates).square().sum(), gates)[0]
        for run in (experts.sorted, experts.dense)
    ]
    open_gates = gates > 0
    torch.testing.assert_close(grads[0][open_gates], grads[1][open_gates])


def test_the_released_block_loses_its_input():
    torch.manual_seed(0)
    block = SparseBlock(8, heads=2, lose_input=True).eval()
    x = torch.randn(2, 3, 8)
    a = 2 * block.attend(block.norm_attend(x))
    torch.testing.assert_close(block(x)[0], a + block.mlp(block.norm_mlp(a)))


def test_nothing_waits_for_an_accelerator():
    # tensors on "meta" have no values: whatever would have to be read by the host raises
    block = SparseBlock(8, heads=2, experts=5, k=2).to("meta")
    out, routing = block(torch.zeros(2, 3, 8, device="meta"))
    assert out.shape == (2, 3, 8)
    assert routing.balance().shape == ()
