from dataclasses import replace
from math import sqrt

import pytest
import torch
import torch.nn.functional as F

from mmbench.checks.tasks import all_patterns, make_batch
from mmbench.data.task import Modality, Task
from mmbench.layers.fusion import random_pattern
from mmbench.layers.moments import central_moment_discrepancy
from mmbench.layers.pooling import adaptive_mean
from mmbench.methods.tfr_net import Extractor, Generator, TFRNet, reconstruction

MODALITIES = (
    Modality("a", "vector", (4,)),
    Modality("b", "sequence", (6, 3)),
    Modality("c", "vector", (5,)),
)
TASK = Task("single_label", MODALITIES, ("x", "y", "z"))
M, D, P = 3, 4, 2
SMALL = {"dim": D, "tokens": P, "heads": 2, "depth": 2, "hidden": 5}


def build(task=TASK, **arguments):
    torch.manual_seed(0)
    return TFRNet(task, **(SMALL | arguments)).eval()


def batch_of(presence, task=TASK):
    return make_batch(task, torch.as_tensor(presence))


def linear(layer, e, x):
    return x @ layer.weight[e] + layer.bias[e, 0]


def norm(x):
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()


def layer_by_loops(block, e, x, source):
    """One transformer layer of pair e for one sample, step by step and head by head."""
    q = linear(block.query, e, norm(x))
    k, v = linear(block.key_value, e, norm(source)).split(D, dim=1)
    width = D // block.heads
    rows = []
    for s in range(len(x)):
        heads = []
        for i in range(block.heads):
            part = slice(i * width, (i + 1) * width)
            weights = (k[:, part] @ q[s, part] / sqrt(width)).softmax(0)
            heads.append(weights @ v[:, part])
        rows.append(torch.cat(heads))
    x = x + linear(block.out, e, torch.stack(rows))
    return x + linear(block.mlp[3], e, linear(block.mlp[0], e, norm(x)).relu())


def extracted_by_loops(extract, x):
    """h_m of one sample, x (M, P, D)."""
    h = []
    for m in range(M):
        parts = []
        for n in range(M):
            read = x[m]
            for block in extract.blocks:
                read = layer_by_loops(block, m * M + n, read, read if m == n else x[n])
            parts.append(norm(read))
        h.append(torch.cat(parts, dim=1))
    return torch.stack(h)


def test_batched_transformers_give_what_the_loops_of_the_text_give():
    torch.manual_seed(0)
    extract = Extractor(M, D, depth=2, heads=2, dropout=0.0)
    x = torch.randn(5, M, P, D)
    found = extract(x)
    wanted = torch.stack([extracted_by_loops(extract, row) for row in x], dim=1)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_outputs_are_those_of_the_gates_of_each_modality_side_by_side():
    method, batch = build(), batch_of(all_patterns(TASK))
    outputs = []
    for i in range(len(batch)):
        x = []
        for m, name in enumerate(TASK.names):
            steps = None if name not in batch.lengths else batch.lengths[name][i : i + 1]
            z = torch.zeros(P, D)
            if batch.presence[i, m]:
                z = method.encode.encoders[name](batch.inputs[name][i : i + 1], steps)[0]
            x.append(z + method.position[m])
        parts = []
        for gate, h in zip(method.gates, extracted_by_loops(method.extract, x), strict=True):
            context, _ = gate.gru(h)
            opened = F.pad(context, (0, 0, 1, 1)).unfold(0, 3, 1)  # (P, 2 H, 3)
            g = ((opened * gate.gate.weight[0]).sum((1, 2)) + gate.gate.bias).sigmoid()
            y = gate.out(torch.cat([h, context.tanh() * g[:, None]], dim=1)).tanh()
            parts.append(y.max(0).values)
        outputs.append(method.head(torch.cat(parts)))
    torch.testing.assert_close(method(batch), torch.stack(outputs), atol=1e-5, rtol=0)


def test_steps_of_an_absent_modality_carry_what_the_others_say():
    method = build()
    one = batch_of([[True, False, True]] * 2)
    other = replace(one, inputs=dict(one.inputs, a=one.inputs["a"] + 1))
    h, moved = method.extracted(one), method.extracted(other)
    apart = (h[1] - moved[1]).abs().amax((0, 1)).view(M, D).amax(1)
    assert apart[0] > 1e-3  # b read a
    assert apart[1:].eq(0).all()  # b read itself, and c


def test_the_generator_attends_over_the_features_of_a_sample():
    torch.manual_seed(0)
    part = Generator(MODALITIES[1], M * D, P, depth=2, official=False)
    h = torch.randn(4, P, M * D)
    found = part(h)
    for i in range(4):
        rows = part.attend(h[i].T[None])[0].T
        torch.testing.assert_close(found[i], part.out(rows), atol=1e-5, rtol=0)
    vector = Generator(MODALITIES[0], M * D, P, depth=2, official=False)
    rows = vector.out(vector.attend(h.transpose(1, 2)).transpose(1, 2))
    torch.testing.assert_close(vector(h), rows.mean(1, keepdim=True))


def test_the_released_generator_lets_samples_of_a_batch_read_each_other():
    batch = batch_of([[True] * M] * 4)
    for variant, alike in (("paper", True), ("official", False)):
        method = build(variant=variant)
        h = method.extracted(batch)
        whole, alone = method.generators[0](h[0])[:1], method.generators[0](h[0, :1])
        assert torch.allclose(whole, alone, atol=1e-6) == alike
    paper, official = build(), build(variant="official")
    assert torch.equal(paper(batch), official(batch))


def test_a_sequence_is_rebuilt_in_windows_of_its_valid_steps_and_a_vector_as_it_is():
    method, batch = build(), batch_of([[True] * M] * 6)
    x, lengths = batch.inputs["b"], batch.lengths["b"]
    found = method.generators[1].target(x, lengths)
    assert torch.equal(found, adaptive_mean(x, lengths, P))
    assert torch.equal(
        method.generators[0].target(batch.inputs["a"], None), batch.inputs["a"][:, None]
    )


def test_reconstruction_sees_nothing_but_what_is_hidden():
    torch.manual_seed(0)
    rebuilt, target = torch.randn(6, 2, 3), torch.randn(6, 2, 3)
    hidden = torch.tensor([1, 0, 1, 1, 0, 0]).bool()
    found = reconstruction(rebuilt, target, hidden)
    a, b = rebuilt[hidden].view(-1, 3), target[hidden].view(-1, 3)
    rows = torch.ones(6).bool()
    wanted = F.smooth_l1_loss(a, b)
    wanted = wanted + 5 * central_moment_discrepancy(a, b, rows, rows, order=3) / 18
    torch.testing.assert_close(found, wanted)
    other = torch.where(hidden[:, None, None], rebuilt, 1e3)
    torch.testing.assert_close(reconstruction(other, target, hidden), wanted)
    assert reconstruction(rebuilt, target, torch.zeros(6).bool()) == 0
    assert reconstruction(target, target, hidden) == 0


def test_the_loss_predicts_from_a_subset_and_rebuilds_the_rest():
    method, batch = build(reconstruct=2.0), batch_of(all_patterns(TASK, repeat=4))
    torch.manual_seed(3)
    seen = batch.hide(~random_pattern(batch.presence))
    torch.manual_seed(3)
    found = method.loss(batch)
    torch.testing.assert_close(found["task"], F.cross_entropy(method(seen), batch.target))
    hidden, h = batch.presence & ~seen.presence, method.extracted(seen)
    wanted = sum(
        reconstruction(
            generate(h[m]),
            generate.target(batch.inputs[name], batch.lengths.get(name)),
            hidden[:, m],
        )
        for m, (name, generate) in enumerate(zip(TASK.names, method.generators, strict=True))
    )
    torch.testing.assert_close(found["reconstruction"], 2.0 * wanted)
    single = method.loss(batch_of(torch.eye(M, dtype=torch.bool)))
    assert single["reconstruction"] == 0  # a sample's last modality is never hidden


def test_what_the_scenario_hides_is_rebuilt_under_full_access_and_never_shown():
    truth = batch_of([[True, True, False], [True] * M] * 4)
    shown = replace(truth.hide(torch.tensor([[False, True, True]] * 8)), teacher=truth)
    method = build()
    found = method.loss(shown)  # only a is left, so nothing more can be hidden
    torch.testing.assert_close(found["task"], F.cross_entropy(method(shown), shown.target))
    h = method.extracted(shown)
    wanted = 0.0
    for m, name in ((1, "b"), (2, "c")):
        generate = method.generators[m]
        target = generate.target(truth.inputs[name], truth.lengths.get(name))
        wanted += reconstruction(generate(h[m]), target, truth.has(name))
    torch.testing.assert_close(found["reconstruction"], wanted)


@pytest.mark.slow
def test_a_missing_modality_is_rebuilt_far_better_than_by_its_mean():
    torch.manual_seed(0)
    views = (Modality("a", "vector", (4,)), Modality("b", "vector", (4,)))
    task = Task("single_label", views, ("x", "y", "z"))
    method = TFRNet(task, dim=8, tokens=4, heads=2, depth=1, lr=5e-3, dropout=0.0).train()
    latent = torch.randn(300, 4)
    batch = make_batch(task, torch.ones(300, 2, dtype=torch.bool))
    inputs = {n: F.normalize(latent @ torch.randn(4, 4), dim=0) * sqrt(300) for n in "ab"}
    batch = replace(batch, inputs=inputs, target=(latent[:, 0] > 0).long())
    optimiser = method.configure_optimizers()
    for _ in range(200):
        optimiser.zero_grad()
        sum(method.loss(batch).values()).backward()
        optimiser.step()
    method.eval()
    seen = batch.hide(torch.tensor([[False, True]] * 300))
    rebuilt = method.generators[1](method.extracted(seen)[1])[:, 0]
    assert F.mse_loss(rebuilt, inputs["b"]) < 0.3  # the mean leaves 1
    assert (method(seen).argmax(1) == batch.target).float().mean() > 0.9


def test_heads_have_to_share_the_width():
    with pytest.raises(ValueError, match="3 heads cannot share a width of 4"):
        build(heads=3)


def test_it_needs_two_modalities():
    task = replace(TASK, modalities=MODALITIES[:1])
    assert TFRNet.applies.reason_not(task) == "needs 2 modalities, found 1"


def test_nothing_waits_for_an_accelerator():
    # tensors on "meta" have no values: whatever the host would have to read raises
    method, batch = build().train().to("meta"), batch_of(all_patterns(TASK)).to("meta")
    assert method(batch).shape == (len(batch), 3)
    assert all(term.shape == () for term in method.loss(batch).values())
