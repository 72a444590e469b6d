from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from mmbench.checks.tasks import all_patterns, make_batch
from mmbench.data.task import Modality, Task
from mmbench.layers.moments import central_moment_discrepancy
from mmbench.methods.if_mmin import IFMMIN

TASK = Task("single_label", tuple(Modality(m, "vector", (4,)) for m in "abc"), ("x", "y", "z"))
M, D, BLOCKS = 3, 8, 3


def build(stage=1, **arguments):
    torch.manual_seed(0)
    method = IFMMIN(TASK, dim=D, blocks=BLOCKS, **arguments)
    for each in method.stages[: stage + 1]:
        method.begin(each)
    return method.eval()


def stirred(method):
    """The student away from the teacher, as after some training."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in method.student.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return method


def batch_of(presence):
    return make_batch(TASK, torch.as_tensor(presence))


def embed(network, batch, i):
    """f_m and s_m of one sample, one modality at a time."""
    f, s = [], []
    for m, name in enumerate(TASK.names):
        z = torch.zeros(D)
        if batch.presence[i, m]:
            z = network.encode.encoders[name](batch.inputs[name][i : i + 1], None)[0]
        f.append(z)
        s.append(network.shared(z))
    return f, s


def cascade(method, f, s, *, official):
    """Rebuilt embeddings and codes of one sample, block by block."""
    x, s, codes = torch.cat(f), torch.cat(s), []
    net = method.imagine
    for i in range(BLOCKS):
        if official:
            codes.append(net.encoders[i](torch.cat(f) + (i + 1) * s))
        else:
            codes.append(net.encoders[i](x + s))
            x = x + net.decoders[i](codes[-1])
    if official:
        x = torch.cat(f) + BLOCKS * s + net.decoders[0](codes[-1])
    return net.transition(x).view(M, D), torch.cat(codes)


@pytest.mark.parametrize("variant", ["paper", "official"])
def test_outputs_are_those_of_the_equations_written_as_loops(variant):
    method, batch = stirred(build(variant=variant)), batch_of(all_patterns(TASK))
    outputs = []
    for i in range(len(batch)):
        f, s = embed(method.student, batch, i)
        outputs.append(method.head(cascade(method, f, s, official=variant == "official")[1]))
    torch.testing.assert_close(method(batch), torch.stack(outputs), atol=1e-5, rtol=0)


def losses_by_loops(method, seen, truth):
    imagined, invariant = [], []
    for i in range(len(seen)):
        f, s = embed(method.student, seen, i)
        known_f, known_s = embed(method.teacher, truth, i)
        rebuilt, _ = cascade(method, f, s, official=False)
        for m in range(M):
            if not truth.presence[i, m]:
                continue
            target = torch.zeros(D) if seen.presence[i, m] else known_f[m]
            imagined.append(F.mse_loss(rebuilt[m], target))
            invariant.append(F.mse_loss(s[m], known_s[m]))
    return sum(imagined) / len(imagined), sum(invariant) / len(invariant)


def test_the_student_imagines_what_it_does_not_see_where_that_is_known():
    method = stirred(build(imagination=2.0, invariance=3.0))
    truth = batch_of([[True, True, True], [True, True, False], [False, True, True]] * 3)
    hidden = torch.tensor([[False, True, False], [True, False, False], [False] * 3] * 3)
    seen = truth.hide(hidden)
    found = method.student_loss(seen, truth)
    imagined, invariant = losses_by_loops(method, seen, truth)
    torch.testing.assert_close(found["imagination"], 2.0 * imagined)
    torch.testing.assert_close(found["invariance"], 3.0 * invariant)
    torch.testing.assert_close(found["task"], F.cross_entropy(method(seen), seen.target))


def test_what_training_may_not_see_has_no_part_in_any_loss():
    method = stirred(build())
    truth = batch_of([[True, True, False]] * 6)
    seen = truth.hide(torch.tensor([[True, False, False]] * 6))
    found = method.student_loss(seen, truth)
    dirty = replace(truth, inputs=dict(truth.inputs, c=torch.full((6, 4), torch.nan)))
    for name, term in method.student_loss(seen, dirty).items():
        assert torch.equal(term, found[name])


def test_with_the_teachers_weights_and_nothing_missing_invariant_features_agree():
    method, complete = build(), batch_of([[True] * 3] * 6)
    assert method.student_loss(complete, complete)["invariance"] == 0
    less = complete.hide(torch.tensor([[True, False, False]] * 6))
    assert method.student_loss(less, complete)["invariance"] > 0


def test_the_student_starts_from_the_teacher_and_leaves_it_alone():
    method = build(stage=0)
    with torch.no_grad():
        for parameter in method.teacher.parameters():
            parameter.add_(1.0)
    method.begin(method.stages[1])
    for a, b in zip(method.student.parameters(), method.teacher.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a.requires_grad
        assert not b.requires_grad
    before = [p.clone() for p in method.teacher.parameters()]
    optimiser = method.train().configure_optimizers()
    sum(method.loss(batch_of([[True] * 3] * 6)).values()).backward()
    optimiser.step()
    assert all(map(torch.equal, before, method.teacher.parameters()))


def test_the_teacher_learns_from_complete_samples_alone():
    method, rows = build(stage=0), [[True, True, True], [True, False, True]]
    both, complete = batch_of(rows * 4), batch_of([[True] * 3] * 8)
    found = method.loss(both)
    s, output = method.teach(complete)
    wanted = F.cross_entropy(output[::2], complete.target[::2])
    torch.testing.assert_close(found["task"], wanted)
    rows = torch.ones(4, dtype=torch.bool)
    a, b, c = s[::2].unbind(1)
    apart = [central_moment_discrepancy(p, q, rows, rows) for p, q in ((a, b), (a, c), (b, c))]
    torch.testing.assert_close(found["discrepancy"], sum(apart) / 3)
    nobody = method.loss(batch_of([[True, False, True]] * 4))
    assert nobody["task"] == nobody["discrepancy"] == 0


def test_under_full_access_the_hidden_truth_teaches():
    method = build(stage=0)
    truth = batch_of([[True] * 3] * 6)
    shown = replace(truth.hide(torch.tensor([[True, False, False]] * 6)), teacher=truth)
    for name, term in method.loss(truth).items():
        torch.testing.assert_close(method.loss(shown)[name], term)
    method = stirred(build(dropout=0.0))
    torch.manual_seed(2)
    told = method.loss(shown)["imagination"]
    torch.manual_seed(2)
    alone = method.loss(replace(shown, teacher=None))["imagination"]
    assert (told - alone).abs() > 1e-3


def test_the_teacher_predicts_in_the_first_stage_and_the_student_in_the_second():
    batch = batch_of(all_patterns(TASK))
    first, second = build(stage=0), stirred(build())
    assert torch.equal(first.stage_output(batch), first.teach(batch)[1])
    assert torch.equal(second.stage_output(batch), second(batch))


def test_variants_share_the_teacher_and_start_it_alike():
    paper, official = build(), build(variant="official")
    assert paper.stages[0] == official.stages[0]
    for name, value in paper.state_dict().items():
        if paper.stages[0].covers(name):
            assert torch.equal(value, official.state_dict()[name])
    assert len(official.imagine.decoders) == 1  # of the others, nothing would be left
    assert "dropout" not in paper.stages[0].shared_across


@pytest.mark.slow
def test_a_missing_embedding_is_imagined_better_than_by_its_mean():
    torch.manual_seed(0)
    task = replace(TASK, modalities=TASK.modalities[:2])
    method = IFMMIN(task, dim=16, dropout=0.0, lr=5e-3, invariance=0.0)
    latent = torch.randn(300, 4)
    batch = make_batch(task, torch.ones(300, 2, dtype=torch.bool))
    batch = replace(batch, inputs={n: latent @ torch.randn(4, 4) for n in "ab"})
    batch = replace(batch, target=(latent[:, 0] > 0).long())
    for stage in method.stages:
        method.begin(stage)
        optimiser = method.train().configure_optimizers()
        for _ in range(250):
            optimiser.zero_grad()
            sum(method.loss(batch).values()).backward()
            optimiser.step()
    method.eval()
    seen = batch.hide(torch.tensor([[False, True]] * 300))
    f, s = method.student(seen)
    rebuilt = method.imagine(f.flatten(1), s.flatten(1))[0].view(300, 2, 16)[:, 1]
    known = method.teacher(batch)[0][:, 1]
    assert F.mse_loss(rebuilt, known) < 0.6 * known.var(0, correction=0).mean()


def test_parameters_are_those_of_the_stated_parts():
    encoder = 4 * 2 * D + 2 * D + 2 * 2 * D + 2 * D * D + D  # Linear, LayerNorm, Linear
    width, hidden = M * D, D * D + D
    embedding = M * encoder + 2 * hidden
    to_code = width * 2 * D + 2 * D + 2 * D * D + D + D * D // 2 + D // 2
    from_code = D * D // 2 + D + 2 * D * D + 2 * D + 2 * D * width + width
    ends = hidden + 3 * D + 3
    teacher = embedding + 2 * width * D + D + ends
    student = embedding + BLOCKS * (to_code + from_code) + 2 * (width * width + width)
    head = BLOCKS * D // 2 * D + D + ends
    assert sum(p.numel() for p in build().parameters()) == teacher + student + head


def test_it_needs_two_modalities():
    task = replace(TASK, modalities=TASK.modalities[:1])
    assert IFMMIN.applies.reason_not(task) == "needs 2 modalities, found 1"


@pytest.mark.parametrize("stage", [0, 1])
def test_nothing_waits_for_an_accelerator(stage):
    # tensors on "meta" have no values: whatever the host would have to read raises
    method, batch = build(stage=stage), batch_of(all_patterns(TASK)).to("meta")
    method.train().to("meta")
    assert method.stage_output(batch).shape == (len(batch), 3)
    assert all(term.shape == () for term in method.loss(batch).values())
