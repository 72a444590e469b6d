import copy
import math
from dataclasses import replace

import pytest
import torch

from mmbench.checks.tasks import all_patterns, make_batch
from mmbench.data.task import Modality, Task
from mmbench.layers.encoders import PatchTokens
from mmbench.layers.moe import SparseBlock
from mmbench.methods.i2moe import I2MoE, agreement, uniqueness

M, E, D, P = 3, 5, 8, 2
MODALITIES = tuple(Modality(n, "vector", (6,)) for n in "abc")
TASK = Task("single_label", MODALITIES, ("x", "y", "z"))
REGRESSION = Task("regression", MODALITIES, ("x", "y"))
YES = torch.ones(1, M, dtype=torch.bool)


def build(task=TASK, *, apart=True, **args):
    torch.manual_seed(0)
    method = I2MoE(task, **({"dim": D, "tokens": P, "heads": 2, "layers": 2} | args))
    if apart:  # experts begin alike; no test could tell them apart
        with torch.no_grad():
            for stack in method.experts.stacks.values():
                stack += 0.3 * torch.randn_like(stack)
    return method.eval()


def batch_of(presence=None, task=TASK):
    return make_batch(task, all_patterns(task) if presence is None else torch.as_tensor(presence))


class OneExpert(torch.nn.Module):
    """The fusion network, one modality after the other, with the weights of one expert."""

    def __init__(self, method, e, lose_input):
        super().__init__()
        stacks = method.experts.stacks
        self.position, self.head = stacks["position"][e], torch.nn.Linear(M * D, 3)
        self.head.load_state_dict({k: stacks[f"head_{k}"][e] for k in ("weight", "bias")})
        self.blocks = []
        for layer in range(2):
            block = SparseBlock(D, heads=2)
            names = [n for n, _ in block.named_parameters()]
            block.load_state_dict(
                {n: stacks[f"layers_{layer}_{n.replace('.', '_')}"][e] for n in names}
            )
            self.blocks.append(block)
        self.lose_input = lose_input

    def forward(self, e):
        x = torch.cat([e[:, m] + self.position[m] for m in range(M)], dim=1)
        for block in self.blocks:
            a = block.attend(block.norm_attend(x))
            x = a + a if self.lose_input else x + a
            parts = [part + block.mlp(block.norm_mlp(part)) for part in x.split(P, dim=1)]
            x = torch.cat(parts, dim=1)
        return self.head(torch.cat([part.mean(1) for part in x.split(P, dim=1)], dim=1))


@pytest.mark.parametrize("variant", ["paper", "official"])
def test_one_call_gives_what_twenty_calls_one_after_the_other_give(variant):
    method, batch = build(variant=variant), batch_of()
    with torch.no_grad():
        e = method.embed(batch)
        torch.manual_seed(3)
        y = method.passes(e, batch.presence)
        torch.manual_seed(3)
        pairs = [(i, b) for i in range(M) for b in range(len(e)) if batch.presence[b, i]]
        noise = torch.randn(E, len(pairs), P, D)  # fresh for each expert and pass
        for expert in range(E):
            fuse = OneExpert(method, expert, variant == "official")
            torch.testing.assert_close(y[expert, 0], fuse(e), atol=1e-5, rtol=0)
            expected = torch.zeros(M, len(e), 3)
            for pair, (i, b) in enumerate(pairs):
                shown = e[b : b + 1].clone()
                shown[0, i] = noise[expert, pair]
                expected[i, b] = fuse(shown)[0]
            torch.testing.assert_close(y[expert, 1:], expected, atol=1e-5, rtol=0)


def test_a_prediction_is_the_weighted_sum_of_undisturbed_experts():
    method, batch = build(), batch_of()
    with torch.no_grad():
        e = method.embed(batch)
        means = torch.cat([e[:, m].mean(1) for m in range(M)], dim=1)
        w = (method.reweight(means) / 2.0).softmax(1)
        expected = sum(w[:, k : k + 1] * OneExpert(method, k, False)(e) for k in range(E))
        torch.testing.assert_close(method(batch), expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(method.weights(e).sum(1), torch.ones(len(e)))


def test_evaluation_runs_no_disturbed_pass(monkeypatch):
    method, batch = build(), batch_of()
    rows = []
    method.experts.register_forward_pre_hook(lambda _, args: rows.append(args[0].shape[:2]))
    with torch.no_grad():
        method(batch)
        assert rows == [(E, len(batch))]
        method.loss(batch)
    # on the CPU, a modality is replaced only where it is there
    assert rows[1:] == [(E, len(batch) + int(batch.presence.sum()))]


def test_with_equal_weights_and_no_interaction_loss_it_is_a_mean_of_fusions():
    method, batch = build(interaction=0.0), batch_of()
    with torch.no_grad():
        for parameter in method.reweight[-1].parameters():
            parameter.zero_()
        e = method.embed(batch)
        mean = sum(OneExpert(method, k, False)(e) for k in range(E)) / E
        torch.testing.assert_close(method(batch), mean, atol=1e-5, rtol=0)
        terms = method.loss(batch)
        expected = torch.nn.functional.cross_entropy(mean, batch.target)
        torch.testing.assert_close(terms["task"], expected, atol=1e-5, rtol=0)
        assert [terms[n].item() for n in ("uniqueness", "synergy", "redundancy")] == [0, 0, 0]


def test_experts_begin_alike_and_are_told_apart_by_their_losses():
    method = build(apart=False, dropout=0.0)
    assert all(torch.equal(s, s[:1].expand_as(s)) for s in method.experts.stacks.values())
    method.train()
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
    terms = method.loss(batch_of())
    torch.stack(list(terms.values())).sum().backward()
    optimizer.step()
    weight = method.experts.stacks["layers_0_attend_qkv_weight"]
    for a in range(E):
        assert not any(torch.allclose(weight[a], weight[b]) for b in range(a))


def test_dropout_differs_between_experts_and_stops_in_evaluation():
    method = build(apart=False, dropout=0.5).train()
    e = torch.randn(4, M, P, D)
    y = method.experts(e.expand(E, *e.shape))
    assert not torch.allclose(y[0], y[1])
    method.eval()
    y = method.experts(e.expand(E, *e.shape))
    torch.testing.assert_close(y, y[:1].expand_as(y))
    assert torch.equal(y, method.experts(e.expand(E, *e.shape)))


def outputs(*rows):
    """Passes y_0, ..., y_M of one sample, (1 + M, 1, C)."""
    return torch.tensor(rows)[:, None]


def test_uniqueness_is_the_triplet_loss_worked_by_hand():
    # |y_0 - y_1| = 1, |y_0 - y_2| = 5, |y_0 - y_3| = 0.5
    y = outputs([0.0, 0.0], [1.0, 0.0], [3.0, 4.0], [0.5, 0.0])
    one = [
        (max(0, 5 - 1 + 1) + max(0, 0.5 - 1 + 1)) / 2,  # y_1 is to be the far one
        (max(0, 2 - 10 + 1) + max(0, 1 - 10 + 1)) / 2,  # all outputs twice as far apart
        (max(0, 3 - 1.5 + 1) + max(0, 15 - 1.5 + 1)) / 2,  # and three times
    ]
    found = uniqueness(torch.stack([y, 2 * y, 3 * y]), YES, regression=False)
    assert found.item() == pytest.approx(sum(one), abs=1e-5)
    # regression: differences of mean squares 0.5, 12.5, 0.125
    two = [(12 - 0.375) / 2, (-12 - 12.375) / 2, (0.375 + 12.375) / 2]
    found = uniqueness(y.expand(M, -1, -1, -1), YES, regression=True)
    assert found.item() == pytest.approx(sum(two), abs=1e-5)


def test_agreement_is_the_mean_cosine_worked_by_hand():
    y = outputs([2.0, 0.0], [1.0, 0.0], [0.0, 5.0], [-3.0, 0.0])
    assert agreement(y, YES, regression=False).item() == pytest.approx((1 + 0 - 1) / 3)
    two = YES & torch.tensor([True, True, False])
    assert agreement(y, two, regression=False).item() == pytest.approx((1 + 0) / 2)
    # mean squares 1 / 2, (4 + 25) / 2, 25 / 2
    assert agreement(y, YES, regression=True).item() == pytest.approx((1 + 29 + 25) / 6)


def test_disturbing_an_absent_modality_counts_for_nothing():
    presence = all_patterns(TASK)
    g = torch.Generator().manual_seed(0)
    y = torch.randn(M, 1 + M, len(presence), 3, generator=g, requires_grad=True)
    for regression in (False, True):
        terms = [uniqueness(y, presence, regression=regression)]
        terms += [agreement(part, presence, regression=regression) for part in y]
        [grad] = torch.autograd.grad(torch.stack(terms).sum(), y)
        reached = grad[:, 1:].abs().sum(-1) > 0  # (expert, i, B)
        assert not reached[:, ~presence.t()].any()
        assert reached[:, presence.t()].any()


def test_uniqueness_needs_another_modality_and_is_the_mean_over_pairs():
    y = outputs([0.0, 0.0], [1.0, 0.0], [3.0, 4.0], [0.5, 0.0]).expand(M, -1, -1, -1)
    lonely = torch.eye(M, dtype=torch.bool)
    assert uniqueness(y.expand(-1, -1, M, -1), lonely, regression=False) == 0
    pair = torch.tensor([[True, True, False]])
    found = uniqueness(y, pair, regression=False)
    assert found.item() == pytest.approx(5 + 0, abs=1e-5)  # 5 - 1 + 1 and max(0, 1 - 5 + 1)
    both = uniqueness(y.expand(-1, -1, 2, -1), torch.cat([pair, YES]), regression=False)
    # three pairs of the first expert, 5, 5 and 0.5; of the second none; of the third 1.5, 5.5
    assert both.item() == pytest.approx((5 + 5 + 0.5) / 3 + 0 + (1.5 + 5.5) / 2, abs=1e-5)


@pytest.mark.parametrize(("task", "weight"), [(TASK, 0.5), (REGRESSION, 0.01)])
def test_the_loss_weighs_the_mean_of_all_interaction_losses(task, weight):
    method, batch = build(task), batch_of(task=task)
    torch.manual_seed(1)
    terms = method.loss(batch)
    torch.manual_seed(1)
    y = method.passes(method.embed(batch), batch.presence)
    regression = task.kind == "regression"
    agree = [agreement(part, batch.presence, regression=regression) for part in (y[-2], y[-1])]
    expected = {
        "uniqueness": uniqueness(y[:M], batch.presence, regression=regression),
        "synergy": agree[0],
        "redundancy": agree[1] if regression else 1 - agree[1],
    }
    assert list(terms) == ["task", *expected]
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], weight * value / E)
    if not regression:
        assert -1 <= agree[0] <= 1
        assert 0 <= expected["redundancy"] <= 2


def test_an_absent_modality_is_a_learned_embedding_that_the_weights_see():
    method, batch = build(), batch_of()
    with torch.no_grad():
        e = method.embed(batch)
        there = batch.presence
        assert torch.equal(e[~there], method.missing.expand_as(e)[~there])
        torch.testing.assert_close(e[there], method.encode(batch)[there])
        before = method.weights(e)
        method.missing += 1.0
        changed = (method.weights(method.embed(batch)) - before).abs().amax(1) > 1e-6
        assert torch.equal(changed, ~there.all(1))


def test_a_copy_and_saved_weights_are_whole():
    method, batch = build(), batch_of()
    other = build(apart=False)
    other.load_state_dict(method.state_dict())
    with torch.no_grad():
        assert torch.equal(other(batch), method(batch))
        assert torch.equal(copy.deepcopy(method)(batch), method(batch))


def test_nothing_waits_for_an_accelerator():
    # tensors on "meta" have no values: whatever the host would have to read raises
    method, batch = build().train().to("meta"), batch_of().to("meta")
    assert method(batch).shape == (len(batch), 3)
    assert all(term.shape == () for term in method.loss(batch).values())


def test_the_temperature_flattens_the_weights_and_has_to_be_positive():
    warm, hot = build(temperature=1.0), build(temperature=1e6)
    e = torch.randn(4, M, P, D)
    with torch.no_grad():
        torch.testing.assert_close(hot.weights(e), torch.full((4, E), 1 / E), atol=1e-5, rtol=0)
        assert warm.weights(e).std() > 0.01
    with pytest.raises(ValueError, match="temperature must be above 0"):
        build(temperature=0.0)


def test_a_missing_modality_never_reaches_the_output():
    method, batch = build(), batch_of()
    garbage = {n: torch.where(batch.has(n)[:, None], x, math.nan) for n, x in batch.inputs.items()}
    with torch.no_grad():
        assert torch.equal(method(replace(batch, inputs=garbage)), method(batch))


@pytest.mark.parametrize("variant", ["paper", "official"])
def test_vectors_are_cut_into_patches_in_the_release_alone(variant):
    encode = build(variant=variant).encode
    cut = any(isinstance(part, PatchTokens) for part in encode.modules())
    assert cut == (variant == "official")
