from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from mmbench.checks.tasks import all_patterns, make_batch
from mmbench.data.task import Modality, Task
from mmbench.layers.fusion import random_pattern
from mmbench.methods.smil import SMIL, Centres, Perturbation, nearest_to_centres

VIEWS = tuple(Modality(m, "vector", (4,)) for m in "abc")
TASK = Task("single_label", VIEWS, ("x", "y", "z"))
M, D, H, K = 3, 8, 6, 4


def build(task=TASK, **arguments):
    torch.manual_seed(0)
    method = SMIL(task, **({"dim": D, "hidden": H, "centres": K} | arguments))
    method.prepare([make_batch(task, all_patterns(task, repeat=4), seed=s) for s in (1, 2)])
    return method.eval()


def batch_of(presence):
    return make_batch(TASK, torch.as_tensor(presence))


def run(method, batch, *, noisy=False):
    return method.network(batch, method.centres.batch(), method.guide, noisy=noisy)


def softplus(x):
    return (1 + x.exp()).log()


def by_loops(method, batch):
    """Outputs, x and h of one sample and one missing modality at a time."""
    net, guide = method.network, method.guide
    z = [
        net.encode.encoders[name](method.centres.get_buffer(f"input{m}"), None)
        for m, name in enumerate(TASK.names)
    ]
    outputs, fused, hidden = [], [], []
    for i in range(len(batch)):
        f = [
            net.encode.encoders[name](batch.inputs[name][i : i + 1], None)[0]
            if batch.presence[i, m]
            else torch.zeros(D)
            for m, name in enumerate(TASK.names)
        ]
        read, filled = torch.cat(f), list(f)
        for m in range(M):
            if not batch.presence[i, m]:
                a = softplus(read @ guide.weigh.weight[m] + guide.weigh.bias[m, 0])
                filled[m] = sum(a[k] * z[m][k] for k in range(K)) / a.sum()
        x = torch.cat(filled)
        gaps = not batch.presence[i].all()
        if gaps:
            x = x + softplus(guide.fused.mean(read))
        h = net.fuse(x).clamp(min=0)
        if gaps:
            h = h + softplus(guide.hidden.mean(x))
        outputs.append(net.head(h))
        fused.append(x)
        hidden.append(h)
    return torch.stack(outputs), torch.stack(fused), torch.stack(hidden)


def test_outputs_are_those_of_the_equations_written_as_loops():
    method, batch = build(), batch_of(all_patterns(TASK))
    wanted = by_loops(method, batch)
    for found, one in zip(run(method, batch), wanted, strict=True):
        torch.testing.assert_close(found, one, atol=1e-5, rtol=0)
    torch.testing.assert_close(method(batch), wanted[0], atol=1e-5, rtol=0)


def test_what_is_imputed_lies_within_the_hull_of_the_centres():
    method = build()
    f, z = torch.randn(5, M, D), torch.randn(K, M, D)
    found = method.guide.impute(f, z)
    assert (found <= z.amax(0) + 1e-5).all()
    assert (found >= z.amin(0) - 1e-5).all()
    assert found.std(0).amin() > 0  # each sample weighs them by itself
    same = z[:1].expand(K, M, D)
    torch.testing.assert_close(method.guide.impute(f, same), same[:1].expand(5, M, D))


def test_a_complete_sample_meets_neither_centres_nor_perturbations():
    method, batch = build(), batch_of([[True] * M] * 4)
    before = run(method, batch, noisy=True)
    with torch.no_grad():
        for parameter in method.guide.parameters():
            parameter.normal_()
        method.centres.input0.normal_()
    assert all(map(torch.equal, before, run(method, batch, noisy=True)))


def test_centres_are_training_samples_in_the_middle_of_clusters():
    g = torch.Generator().manual_seed(0)
    middle = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    x = (middle[:, None] + 0.1 * torch.randn(3, 20, 2, generator=g)).flatten(0, 1)
    chosen = nearest_to_centres(x, 3)
    assert sorted((chosen // 20).tolist()) == [0, 1, 2]
    for row in chosen:
        own = x[row // 20 * 20 : row // 20 * 20 + 20]
        apart = (own - own.mean(0)).norm(dim=1)
        assert apart.argmin() == row % 20
    assert torch.equal(chosen, nearest_to_centres(x, 3))


def test_few_samples_occur_more_than_once():
    x = torch.tensor([[0.0], [1.0]])
    assert set(nearest_to_centres(x, 5).tolist()) == {0, 1}


def test_centres_come_from_samples_that_have_the_modality():
    presence = torch.tensor([[True, False, True]] * 8)
    batch = make_batch(TASK, presence, garbage=torch.nan)
    centres = Centres(TASK, K)
    centres.fill([batch])
    rows = {tuple(row) for row in batch.inputs["a"].tolist()}
    assert {tuple(row) for row in centres.input0.tolist()} <= rows
    assert len(centres.input0.unique(dim=0)) == K
    assert centres.input1.eq(0).all()  # nobody has it


def test_centres_of_sequences_and_texts_keep_their_lengths():
    kinds = (Modality("s", "sequence", (5, 3)), Modality("w", "tokens", (6,), vocab_size=9))
    task = Task("single_label", kinds, ("x", "y"))
    batch = make_batch(task, torch.ones(12, 2, dtype=torch.bool))
    centres = Centres(task, K)
    centres.fill([batch])
    made = centres.batch()
    for name in "sw":
        pairs = zip(made.inputs[name], made.lengths[name], strict=True)
        for x, steps in pairs:
            same = (batch.inputs[name] == x).flatten(1).all(1)
            assert steps in batch.lengths[name][same]
    assert made.inputs["w"].dtype == torch.long


def test_the_teachers_samples_give_centres_under_full_access():
    truth = batch_of([[True] * M] * 8)
    shown = replace(truth.hide(torch.tensor([[False, True, False]] * 8)), teacher=truth)
    method = SMIL(TASK, dim=D, hidden=H, centres=K)
    method.prepare([shown])
    assert method.centres.input1.any(1).all()


def test_noise_has_the_learned_deviation_and_never_more_than_one():
    torch.manual_seed(0)
    part = Perturbation(2, 3, learned=True)
    x = torch.zeros(40_000, 2)
    with torch.no_grad():
        part.mean.bias.fill_(30.0)  # where softplus is the identity
        part.log_variance.bias.copy_(torch.log(torch.tensor([0.25, 0.01, 9.0])))
        found = part(x, noisy=True)
        torch.testing.assert_close(
            found.std(0), torch.tensor([0.5, 0.1, 1.0]), atol=0.01, rtol=0.02
        )
        assert part(x, noisy=False).std(0).eq(0).all()
        released = Perturbation(2, 3, learned=False)
        released.mean.bias.fill_(30.0)
        assert released(x, noisy=True).std(0).sub(1).abs().max() < 0.02
    assert build(variant="official").guide.fused.log_variance is None


def loss_by_steps(method, batch, seed):
    """The loss of the text, with the stepped network as a network of its own."""
    torch.manual_seed(seed)
    seen, less = (batch.hide(~random_pattern(batch.presence)) for _ in range(2))
    inner = F.cross_entropy(run(method, seen, noisy=True)[0], seen.target)
    stepped = build()
    stepped.load_state_dict(method.state_dict())
    slopes = torch.autograd.grad(inner, list(method.network.parameters()))
    with torch.no_grad():
        for parameter, slope in zip(stepped.network.parameters(), slopes, strict=True):
            parameter.sub_(method.inner_lr * slope)
    output, x, h = run(stepped, less)
    _, known_x, known_h = run(stepped, batch)
    outer = F.cross_entropy(output, less.target)
    return {
        "inner": inner,
        "outer": outer,
        "fused": method.consistency * (x - known_x).square().mean(),
        "hidden": method.consistency * (h - known_h).square().mean(),
    }


def test_the_outer_loss_is_that_of_the_network_after_one_step():
    method, batch = build(inner_lr=0.1), batch_of(all_patterns(TASK, repeat=4))
    wanted = loss_by_steps(method, batch, seed=5)
    torch.manual_seed(5)
    found = method.loss(batch)
    assert list(found) == list(wanted)
    for name, term in found.items():
        torch.testing.assert_close(term, wanted[name], atol=1e-6, rtol=1e-4)
    still = build(inner_lr=0.0)
    torch.manual_seed(5)
    assert (still.loss(batch)["outer"] - found["outer"]).abs() > 1e-3


def test_the_gradient_is_that_at_the_stepped_network_or_goes_through_the_step():
    batch = batch_of(all_patterns(TASK, repeat=4))
    slopes = {}
    for second_order in (False, True):
        method = build(inner_lr=0.1, second_order=second_order)
        torch.manual_seed(5)
        terms = method.loss(batch)
        weights = list(method.network.parameters())
        slopes[second_order] = torch.autograd.grad(terms["outer"], weights)
    method = build(inner_lr=0.1)
    torch.manual_seed(5)
    seen, less = (batch.hide(~random_pattern(batch.presence)) for _ in range(2))
    stepped = method.step(F.cross_entropy(run(method, seen, noisy=True)[0], seen.target))
    led = (method.centres.batch(), method.guide)
    outer = F.cross_entropy(functional_call(method.network, stepped, (less, *led))[0], less.target)
    wanted = torch.autograd.grad(outer, list(stepped.values()))
    for found, one in zip(slopes[False], wanted, strict=True):
        torch.testing.assert_close(found, one)
    apart = [(a - b).abs().max() for a, b in zip(*slopes.values(), strict=True)]
    assert max(apart) > 1e-4


def test_a_step_lowers_the_inner_loss_and_leaves_the_weights_alone():
    method, batch = build(inner_lr=0.05), batch_of(all_patterns(TASK, repeat=4))
    before = {n: p.clone() for n, p in method.network.named_parameters()}
    led = (method.centres.batch(), method.guide)
    inner = F.cross_entropy(method.network(batch, *led)[0], batch.target)
    stepped = method.step(inner)
    after = F.cross_entropy(
        functional_call(method.network, stepped, (batch, *led))[0], batch.target
    )
    assert after < inner - 1e-3
    assert all(torch.equal(p, before[n]) for n, p in method.network.named_parameters())


def test_under_full_access_features_are_held_to_the_hidden_truth():
    truth = batch_of([[True] * M] * 8)
    shown = replace(truth.hide(torch.tensor([[False, True, False]] * 8)), teacher=truth)
    method = build(inner_lr=0.0, consistency=1.0)
    torch.manual_seed(5)
    found = method.loss(shown)["fused"]
    torch.manual_seed(5)
    _, less = (shown.hide(~random_pattern(shown.presence)) for _ in range(2))
    wanted = F.mse_loss(run(method, less)[1], run(method, truth)[1])
    torch.testing.assert_close(found, wanted)


def test_there_has_to_be_a_centre_and_a_second_modality():
    with pytest.raises(ValueError, match="at least 1 centre, found 0"):
        SMIL(TASK, centres=0)
    task = replace(TASK, modalities=VIEWS[:1])
    assert SMIL.applies.reason_not(task) == "needs 2 modalities, found 1"


def test_nothing_waits_for_an_accelerator():
    # tensors on "meta" have no values: whatever the host would have to read raises
    method, batch = build().train().to("meta"), batch_of(all_patterns(TASK)).to("meta")
    assert method(batch).shape == (len(batch), 3)
    assert all(term.shape == () for term in method.loss(batch).values())
