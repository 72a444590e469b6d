from dataclasses import replace
from math import log, sqrt

import pytest
import torch
import torch.nn.functional as F

from mmbench.checks.tasks import all_patterns, make_batch
from mmbench.data.task import Modality, Task
from mmbench.methods.imder import IMDer, spread

TASK = Task("single_label", tuple(Modality(m, "vector", (4,)) for m in "abc"), ("x", "y", "z"))
M, D, P, STEPS = 3, 8, 2, 4


def build(stage=1, **arguments):
    torch.manual_seed(0)
    small = {"dim": D, "tokens": P, "heads": 2, "steps": STEPS, "dropout": 0.0}
    method = IMDer(TASK, **(small | arguments))
    for each in method.stages[: stage + 1]:
        method.begin(each)
    return method.eval()


def batch_of(presence):
    return make_batch(TASK, torch.as_tensor(presence))


def test_noise_spreads_as_the_integral_of_its_rate_says():
    """ς(t)² is the integral of σ^2s from 0 to t."""
    for t in (0.01, 0.3, 1.0):
        s = torch.linspace(0, t, 20_001, dtype=torch.float64)
        area = float(torch.trapezoid(25.0 ** (2 * s), s))
        assert float(spread(torch.tensor(t, dtype=torch.float64))) == pytest.approx(sqrt(area))
    assert float(spread(torch.tensor(1.0))) == pytest.approx(sqrt(624 / (2 * log(25))))


def test_each_modality_has_a_score_network_of_its_own():
    torch.manual_seed(1)
    part, x, c = build().score, torch.randn(M, 5, P, D), torch.randn(1, 5, P, D)
    t = torch.rand(5)
    found = part(x, t, c)
    moved = x.clone()
    moved[1] += 1
    apart = (part(moved, t, c) - found).abs().amax((1, 2, 3))
    assert apart[1] > 1e-3
    assert apart[0] == apart[2] == 0
    assert (part(x, t, -c) - found).abs().amax((1, 2, 3)).min() > 1e-4  # all read c
    assert (part(x, t / 2, c) - found).abs().amax((1, 2, 3)).min() > 1e-4


@torch.no_grad()
@pytest.mark.parametrize("variant", ["paper", "official"])
def test_features_are_drawn_backwards_one_sample_and_one_step_at_a_time(variant):
    method = build(variant=variant)
    torch.manual_seed(1)
    c, noise = torch.randn(1, 5, P, D), torch.randn(STEPS + 1, M + 1, 5, P, D)
    found = method.drawn(c, noise)
    length = (1 - 0.001) / (STEPS - 1)
    for i in range(5):
        x = noise[0, :M, i] * sqrt((25**2 - 1) / (2 * log(25)))
        for k in range(STEPS):
            t = 1 - k * length
            given = c[:, i]
            if variant == "official":
                given = given + noise[k + 1, M, i] * sqrt((25 ** (2 * t) - 1) / (2 * log(25)))
            told = method.score(x[:, None], torch.tensor([t]), given[None])[:, 0]
            mean = x + 25 ** (2 * t) * told * length
            x = mean + sqrt(length) * 25**t * noise[k + 1, :M, i]
        torch.testing.assert_close(found[:, i], mean, atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_the_true_score_draws_the_true_distribution():
    """Features N(3, 0.5²) in all entries, whose score under noise is known."""
    method = build(steps=200)

    class Known(torch.nn.Module):
        def forward(self, x, t, c):
            return -(x - 3) / (0.25 + spread(t) ** 2)[:, None, None]

    method.score = Known()
    torch.manual_seed(0)
    c, noise = torch.zeros(1, 400, P, D), torch.randn(201, M + 1, 400, P, D)
    drawn = method.drawn(c, noise)
    assert float(drawn.mean()) == pytest.approx(3, abs=0.1)
    assert float(drawn.std()) == pytest.approx(0.5, abs=0.1)


def test_what_is_present_is_read_as_it_is_and_the_rest_is_drawn_and_refined():
    method, batch = build(), batch_of(all_patterns(TASK))
    x = method.tokens(batch)
    c = method.conditions(x)
    drawn = method.drawn(c, method.fixed)
    filled = method.filled(x, drawn, batch.presence)
    refined = method.refine(drawn)
    for i in range(len(batch)):
        for m in range(M):
            wanted = x[m, i] if batch.presence[i, m] else refined[m, i]
            assert torch.equal(filled[m, i], wanted)
    torch.testing.assert_close(method(batch), method.recognise(filled))


def test_refining_weighs_channels_by_their_mean_over_tokens():
    torch.manual_seed(0)
    part, x = build().refine, torch.randn(M, 5, P, D)
    found = part(x)

    def linear(layer, m, h):
        return h @ layer.weight[m] + layer.bias[m, 0]

    for m in range(M):
        for i in range(5):
            first = h = linear(part.enter, m, x[m, i])
            for body, channels in zip(part.body, part.channels, strict=True):
                y = linear(body[2], m, linear(body[0], m, h).relu())
                gate = linear(channels[2], m, linear(channels[0], m, y.mean(0)).relu()).sigmoid()
                h = h + y * gate
            torch.testing.assert_close(found[m, i], linear(part.leave, m, first + h))


@pytest.mark.parametrize("variant", ["paper", "official"])
def test_scores_are_learned_by_telling_the_noise(variant):
    method, batch = build(variant=variant), batch_of([[True] * M] * 6)
    x = method.tokens(batch)
    c = method.conditions(x)
    torch.manual_seed(3)
    found = method.denoising(x, c)
    torch.manual_seed(3)
    t = 1e-5 + (1 - 1e-5) * torch.rand(6)
    eps = torch.randn_like(x)
    for i in range(6):
        width = sqrt((25 ** (2 * float(t[i])) - 1) / (2 * log(25)))
        given = c[:, i : i + 1].expand(M, -1, -1, -1)
        if variant == "official":
            given = given + eps[:, i : i + 1] * width
        told = method.score(x[:, i : i + 1] + eps[:, i : i + 1] * width, t[i : i + 1], given)
        wanted = (told[:, 0] * width + eps[:, i]).square().sum((1, 2))
        torch.testing.assert_close(found[:, i], wanted, atol=1e-3, rtol=1e-3)


def test_only_what_is_hidden_and_known_is_learned_from():
    method = build()
    truth = batch_of([[True] * M] * 6)
    shown = replace(truth.hide(torch.tensor([[False, True, True]] * 6)), teacher=truth)
    found = method.loss(shown)
    assert found["score"] > 0
    assert found["refine"] > 0
    blind = method.loss(replace(shown, teacher=None))  # one modality, nothing else is known
    assert blind["score"] == blind["refine"] == 0


def test_evaluation_uses_one_noise_for_all_and_training_draws_its_own():
    method = build()
    one = batch_of([[True, False, False]] * 2)
    twins = replace(one, inputs={n: x[:1].expand_as(x).clone() for n, x in one.inputs.items()})
    outputs = method(twins)
    torch.testing.assert_close(outputs[0], outputs[1])
    assert torch.equal(outputs, method(twins))
    first, second = method.loss(one)["task"], method.loss(one)["task"]
    assert first != second


def test_the_first_stage_is_the_same_for_both_variants_and_leaves_the_encoders_at_rest():
    assert build().stages[0] == build(variant="official").stages[0]
    names = {n.partition(".")[0] for n, p in build().named_parameters() if p.requires_grad}
    assert names == {"recognise", "score", "condition", "refine"}
    method, batch = build(stage=0), batch_of(all_patterns(TASK))
    x = method.tokens(batch)
    assert x[~batch.presence.T].eq(0).all()
    torch.testing.assert_close(
        method.loss(batch)["task"], F.cross_entropy(method.recognise(x), batch.target)
    )


def test_features_are_drawn_in_two_steps_at_least():
    with pytest.raises(ValueError, match="at least 2 steps, found 1"):
        build(steps=1)


@pytest.mark.parametrize("variant", ["paper", "official"])
def test_nothing_waits_for_an_accelerator(variant):
    # tensors on "meta" have no values: whatever the host would have to read raises
    method = build(variant=variant).train().to("meta")
    batch = batch_of(all_patterns(TASK)).to("meta")
    assert method(batch).shape == (len(batch), 3)
    assert all(term.shape == () for term in method.loss(batch).values())
