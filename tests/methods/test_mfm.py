from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from mmbench.checks.tasks import all_patterns, make_batch
from mmbench.data.task import Modality, Task
from mmbench.layers.fusion import random_pattern
from mmbench.methods.mfm import MFM, SequenceDecoder, SummaryDecoder, discrepancy

TASK = Task("single_label", tuple(Modality(m, "vector", (4,)) for m in "abc"), ("x", "y", "z"))
D = 8


def build(task=TASK, **arguments):
    torch.manual_seed(0)
    return MFM(task, dim=D, **arguments).eval()


def batch_of(presence, task=TASK):
    return make_batch(task, torch.as_tensor(presence))


def mlp(net, index, x):
    return F.gelu(x @ net.w1[index] + net.b1[index, 0]) @ net.w2[index] + net.b2[index, 0]


def codes_by_loops(method, batch):
    """z_y and z_m of each sample, one modality at a time."""
    found = []
    for i in range(len(batch)):
        h = {
            m: method.encode.encoders[name](batch.inputs[name][i : i + 1], None)[0]
            for m, name in enumerate(TASK.names)
            if batch.presence[i, m]
        }
        shown = torch.cat([h.get(m, torch.zeros(D)) for m in range(3)])
        inferred = method.surrogate(shown).split(D)
        own = [mlp(method.own_code, m, h[m]) if m in h else inferred[1 + m] for m in range(3)]
        found.append(torch.stack([inferred[0], *own]))
    return torch.stack(found)


def test_outputs_are_those_of_the_equations_written_as_loops():
    method, batch = build(), batch_of(all_patterns(TASK))
    z = codes_by_loops(method, batch)
    f_y = mlp(method.factors, 0, z[:, 0])
    torch.testing.assert_close(method(batch), method.head(f_y), atol=1e-5, rtol=0)


def test_a_code_comes_from_its_modality_or_where_that_is_absent_from_the_surrogate():
    method, batch = build(), batch_of(all_patterns(TASK))
    found = method.codes(method.encode(batch), batch.presence)
    torch.testing.assert_close(found, codes_by_loops(method, batch), atol=1e-5, rtol=0)
    complete = batch_of([[True, True, True]])
    less = complete.hide(torch.tensor([[True, False, True]]))
    whole, part = (method.codes(method.encode(b), b.presence)[0] for b in (complete, less))
    assert torch.equal(whole[2], part[2])  # z_b: b is there, whatever else is not
    for other in (0, 1, 3):
        assert (whole[other] - part[other]).abs().max() > 1e-3


def test_what_is_needed_to_generate_alone_has_no_part_in_the_prediction():
    method, batch = build(), batch_of(all_patterns(TASK))
    before = method(batch)
    with torch.no_grad():
        for part in (method.own_code, method.decoders):
            for parameter in part.parameters():
                parameter.normal_()
        for parameter in method.factors.parameters():
            parameter[1:].normal_()
    assert torch.equal(method(batch), before)


def test_each_modality_is_rebuilt_from_the_common_factor_and_its_own():
    method, batch = build(), batch_of(all_patterns(TASK))
    f = torch.randn(len(batch), 4, D)
    wanted = 0.0
    for m, name in enumerate(TASK.names):
        errors = [
            F.mse_loss(method.decoders[m].layers(torch.cat([f[i, 0], f[i, 1 + m]])), x)
            for i, x in enumerate(batch.inputs[name])
            if batch.presence[i, m]
        ]
        wanted += sum(errors) / len(errors)
    torch.testing.assert_close(method.rebuild(batch, f, batch.presence), wanted)
    dirty = make_batch(TASK, batch.presence, garbage=torch.nan)
    torch.testing.assert_close(method.rebuild(dirty, f, batch.presence), wanted)
    assert method.rebuild(batch, f, torch.zeros_like(batch.presence)) == 0


def test_a_sequence_is_rebuilt_at_its_valid_steps():
    torch.manual_seed(0)
    part, f, x = SequenceDecoder(3, D), torch.randn(4, 2 * D), torch.randn(4, 6, 3)
    lengths = torch.tensor([6, 2, 1, 0])
    x[torch.arange(6) >= lengths[:, None]] = torch.nan
    found = part(f, x, lengths)
    for i, length in enumerate(lengths[:3].tolist()):
        steps, _ = part.gru(f[i].expand(1, length, -1))
        torch.testing.assert_close(found[i], F.mse_loss(part.out(steps[0]), x[i, :length]))
    assert found[3] == 0


def test_a_bag_is_summed_up_by_its_mean_instance():
    part = SummaryDecoder(Modality("slide", "bag", (4, 2)), D)
    x = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [torch.nan] * 2, [torch.nan] * 2]])
    assert part.summary(x, torch.tensor([2])).tolist() == [[2.0, 4.0]]


def test_a_picture_or_volume_is_summed_up_by_means_over_4_cells_a_side():
    part = SummaryDecoder(Modality("image", "image", (2, 8, 4)), D)
    x = torch.randn(1, 2, 8, 4)
    wanted = torch.stack([x[0, :, 2 * i : 2 * i + 2].mean(1) for i in range(4)], 1)
    torch.testing.assert_close(part.summary(x, None), wanted.reshape(1, -1))
    assert part.layers[2].out_features == 2 * 4 * 4
    scan = SummaryDecoder(Modality("scan", "volume", (1, 8, 8, 4)), D)
    x = torch.randn(1, 1, 8, 8, 4)
    assert scan.summary(x, None).shape == (1, 4**3)
    torch.testing.assert_close(scan.summary(x, None)[0, 0], x[0, 0, :2, :2, 0].mean())


def test_a_text_is_summed_up_by_its_words_in_any_order():
    torch.manual_seed(0)
    part = SummaryDecoder(Modality("words", "tokens", (5,), vocab_size=9), D)
    x = torch.tensor([[7, 3, 7, 8, 8], [3, 7, 7, 1, 2]])
    found = part.summary(x, torch.tensor([3, 3]))
    torch.testing.assert_close(found[0], found[1])
    counts = torch.tensor([0.0, 0, 0, 1, 0, 0, 0, 2, 0])
    torch.testing.assert_close(found[0], counts @ part.projection / 3**0.5)
    assert part.summary(x[:1], torch.tensor([0])).eq(0).all()


def discrepancy_by_loops(z, draw):
    def mean_kernel(a, b):
        pairs = [(-((p - q) ** 2).sum() / len(p) ** 2).exp() for p in a for q in b]
        return sum(pairs) / len(pairs)

    return mean_kernel(z, z) + mean_kernel(draw, draw) - 2 * mean_kernel(z, draw)


def test_discrepancy_is_that_of_all_pairs_of_the_codes_that_are_there():
    torch.manual_seed(0)
    z = torch.randn(5, 2, D) + 1
    there = torch.tensor([[True, True], [True, False], [True, True], [True, False], [True, False]])
    garbage = torch.where(there[:, :, None], z, 50.0)
    torch.manual_seed(1)
    found = discrepancy(garbage, there)
    torch.manual_seed(1)
    draw = torch.randn(5, 2, D).transpose(0, 1)
    wanted = sum(discrepancy_by_loops(z[there[:, k], k], draw[k, there[:, k]]) for k in range(2))
    torch.testing.assert_close(found, wanted)


def test_discrepancy_tells_a_gaussian_from_what_is_shifted_or_narrow():
    torch.manual_seed(0)
    there = torch.ones(500, 1, dtype=torch.bool)
    z = torch.randn(500, 1, D)
    gaussian, shifted, narrow = (discrepancy(x, there) for x in (z, z + 1, 0.1 * z))
    assert 0 <= gaussian < 0.002
    assert shifted > 20 * gaussian
    assert narrow > 5 * gaussian
    assert discrepancy(z, ~there) == 0


def test_the_loss_weighs_its_terms_and_asks_the_surrogate_for_what_it_does_not_see():
    batch = batch_of(all_patterns(TASK, repeat=8))
    losses = []
    for reconstruct, weight in ((0.1, 2.0), (1.0, 1.0)):
        method = build(reconstruct=reconstruct, discrepancy=weight)
        torch.manual_seed(3)
        losses.append(method.loss(batch))
    small, large = losses
    assert list(small) == ["task", "reconstruction", "surrogate", "discrepancy"]
    torch.testing.assert_close(small["task"], large["task"])
    torch.testing.assert_close(small["discrepancy"], 2 * large["discrepancy"])
    for name in ("reconstruction", "surrogate"):
        torch.testing.assert_close(small[name], 0.1 * large[name])
        assert large[name] > 0.1
    method = build(reconstruct=1.0)
    torch.manual_seed(3)
    visible = random_pattern(batch.presence)
    torch.manual_seed(3)
    found = method.loss(batch)
    f = method.factors(method.codes(method.encode(batch.hide(~visible)), visible))
    wanted = method.rebuild(batch, f, batch.presence & ~visible)
    torch.testing.assert_close(found["surrogate"], wanted)
    single = build().loss(batch_of(torch.eye(3, dtype=torch.bool)))
    assert single["surrogate"] == 0  # a sample's last modality is never hidden
    assert single["reconstruction"] > 0


@pytest.mark.parametrize("presence", [[True, True, True], [True, False, True]])
def test_every_sample_is_predicted_as_it_is_and_from_a_part_of_it(presence):
    method, batch = build(), batch_of([presence] * 4)
    seen = []
    handle = method.head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    torch.manual_seed(0)
    loss = method.loss(batch)["task"]
    method(batch)
    handle.remove()
    assert len(seen[0]) == 8
    torch.testing.assert_close(seen[0][:4], seen[1])
    twice = torch.cat([batch.target, batch.target])
    torch.testing.assert_close(loss, F.cross_entropy(method.head(seen[0]), twice))


@pytest.mark.slow
def test_a_missing_modality_is_rebuilt_far_better_than_by_its_mean():
    torch.manual_seed(0)
    method = MFM(TASK, dim=16, reconstruct=1.0, discrepancy=1.0, dropout=0.0, lr=5e-3).train()
    latent = torch.randn(300, 3)
    views = {name: F.normalize(latent @ torch.randn(3, 4), dim=0) * 300**0.5 for name in "abc"}
    batch = make_batch(TASK, torch.ones(300, 3, dtype=torch.bool))
    batch = replace(batch, inputs=views, target=(latent[:, 0] > 0).long())
    train, test = (
        replace(
            batch,
            inputs={name: x[rows] for name, x in views.items()},
            presence=batch.presence[rows],
            target=batch.target[rows],
            sample_id=batch.sample_id[rows],
        )
        for rows in (slice(0, 200), slice(200, 300))
    )
    optimiser = method.configure_optimizers()
    for _ in range(150):
        optimiser.zero_grad()
        sum(method.loss(train).values()).backward()
        optimiser.step()
    method.eval()
    absent = torch.tensor([[True, False, False]]).expand(100, 3)
    shown = test.hide(absent)
    f = method.factors(method.codes(method.encode(shown), shown.presence))
    assert method.rebuild(test, f, absent) < 0.2  # the mean leaves 1
    assert (method(shown).argmax(1) == test.target).float().mean() > 0.85


def test_parameters_are_those_of_the_stated_parts():
    count = sum(p.numel() for p in MFM(TASK, dim=D).parameters())
    encoder = 4 * 2 * D + 2 * D + 2 * 2 * D + 2 * D * D + D  # Linear, LayerNorm, Linear
    hidden = D * D + D
    surrogate = 3 * D * D + D + D * 4 * D + 4 * D
    decoder = (2 * D) ** 2 + 2 * D + 2 * D * 4 + 4
    head = hidden + D * 3 + 3
    assert count == 3 * encoder + 3 * 2 * hidden + surrogate + 4 * 2 * hidden + 3 * decoder + head


def test_it_needs_two_modalities():
    task = replace(TASK, modalities=TASK.modalities[:1])
    assert MFM.applies.reason_not(task) == "needs 2 modalities, found 1"
