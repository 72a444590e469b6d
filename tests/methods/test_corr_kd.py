from dataclasses import replace
from math import log

import pytest
import torch
import torch.nn.functional as F

from mmbench.checks.tasks import all_patterns, make_batch
from mmbench.data.task import Modality, Task
from mmbench.layers.fusion import random_pattern
from mmbench.methods.corr_kd import (
    CorrKD,
    binary_kl,
    by_label,
    contrast,
    disentangled,
    prototypes,
)

VIEWS = tuple(Modality(m, "vector", (4,)) for m in "abc")
TASK = Task("single_label", VIEWS, ("x", "y", "z"))
LABELS = Task("multi_label", VIEWS, ("x", "y", "z"))
D = 8
EVERYONE = torch.ones(6, dtype=torch.bool)


def build(stage=1, task=TASK, **arguments):
    torch.manual_seed(0)
    method = CorrKD(task, dim=D, **arguments)
    for each in method.stages[: stage + 1]:
        method.begin(each)
    return method.eval()


def batch_of(presence, task=TASK):
    return make_batch(task, torch.as_tensor(presence))


def joints(seed=0, rows=6):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(rows, D, generator=g), torch.randn(rows, D, generator=g)


def test_outputs_are_those_of_the_students_equations_written_as_loops():
    method, batch = build(), batch_of(all_patterns(TASK))
    outputs = []
    for i in range(len(batch)):
        z = [
            method.student.encode.encoders[name](batch.inputs[name][i : i + 1], None)[0]
            if batch.presence[i, m]
            else torch.zeros(D)
            for m, name in enumerate(TASK.names)
        ]
        outputs.append(method.student.head(method.student.fuse(torch.cat(z))))
    torch.testing.assert_close(method(batch), torch.stack(outputs), atol=1e-5, rtol=0)


def test_contrast_worked_by_hand():
    student = torch.tensor([[2.0, 0.0], [0.0, 5.0]])
    teacher = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    # sample 0 lies on its own and on the other's; sample 1 is √2 away from both
    found = contrast(student, teacher, torch.ones(2).bool(), 1.5)
    wanted = ((0 + 1.5**2) + (2 + (1.5 - 2**0.5) ** 2)) / 2
    assert found.item() == pytest.approx(wanted, abs=1e-5)


def test_contrast_is_the_mean_over_pairs_of_samples_that_take_part():
    student, teacher = joints()
    rows = torch.tensor([1, 1, 0, 1, 0, 1]).bool()
    s, t = student / student.norm(dim=1, keepdim=True), teacher / teacher.norm(dim=1, keepdim=True)
    terms = []
    for i in rows.nonzero()[:, 0]:
        for j in rows.nonzero()[:, 0]:
            if i != j:
                near = (1.2 - (s[i] - t[j]).norm()).clamp(min=0)
                terms.append((s[i] - t[i]).norm() ** 2 + near**2)
    found = contrast(student, teacher, rows, 1.2)
    torch.testing.assert_close(found, sum(terms) / len(terms))
    assert contrast(student, teacher, torch.eye(6)[0].bool(), 1.2) == 0


def test_contrast_finds_a_student_that_takes_one_sample_for_another():
    _, teacher = joints()
    own, swapped = (contrast(s, teacher, EVERYONE, 0.5) for s in (teacher, teacher.roll(1, 0)))
    assert own < 0.1 < 1 < swapped


def test_at_the_teachers_own_representations_gradients_are_finite():
    _, teacher = joints()
    student = teacher.clone().requires_grad_()
    contrast(student, teacher, EVERYONE, 1.0).backward()
    assert student.grad.isfinite().all()


def test_prototypes_compare_cosines_to_the_means_of_classes_that_are_there():
    student, teacher = joints()
    target = torch.tensor([0, 0, 2, 2, 2, 1])
    rows = torch.tensor([1, 1, 1, 1, 1, 0]).bool()  # so nobody of class 1
    terms = []
    for i in range(5):
        for k in (0, 2):
            members = rows & (target == k)
            cosines = [F.cosine_similarity(x[i], x[members].mean(0), 0) for x in (student, teacher)]
            terms.append((cosines[0] - cosines[1]) ** 2)
    found = prototypes(student, teacher, F.one_hot(target, 3).float(), rows)
    torch.testing.assert_close(found, sum(terms) / len(terms))
    assert prototypes(teacher, teacher, F.one_hot(target, 3).float(), rows) == 0
    rotated = teacher @ torch.linalg.qr(torch.randn(D, D)).Q  # correlations are all that counts
    found = prototypes(rotated, teacher, F.one_hot(target, 3).float(), rows)
    assert found.item() == pytest.approx(0, abs=1e-10)


def test_responses_are_split_into_target_and_rest():
    torch.manual_seed(0)
    student, teacher, chosen = torch.randn(4, 3), torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
    found = disentangled(student, teacher, F.one_hot(chosen, 3).bool())
    for i, k in enumerate(chosen.tolist()):
        p, q = ((x[i] / 2).softmax(0).tolist() for x in (teacher, student))
        split = p[k] * log(p[k] / q[k]) + (1 - p[k]) * log((1 - p[k]) / (1 - q[k]))
        rest = [
            p[c] / (1 - p[k]) * log(p[c] / (1 - p[k]) * (1 - q[k]) / q[c])
            for c in range(3)
            if c != k
        ]
        assert found[i].item() == pytest.approx(4 * (split + sum(rest)), abs=1e-5)
    assert disentangled(teacher, teacher, F.one_hot(chosen, 3).bool()).abs().max() < 1e-6


def test_with_two_classes_there_is_no_rest_and_gradients_are_finite():
    student = torch.randn(4, 2, requires_grad=True)
    teacher, target = torch.randn(4, 2), F.one_hot(torch.tensor([0, 1, 1, 0]), 2).bool()
    found = disentangled(student, teacher, target)
    signed = torch.where(target, student, -student).sum(1) / 2
    told = torch.where(target, teacher, -teacher).sum(1) / 2
    torch.testing.assert_close(found, 4 * binary_kl(signed, told))
    found.sum().backward()
    assert student.grad.isfinite().all()


def test_labels_are_matched_one_by_one():
    student, teacher = torch.tensor([[0.0, 2.0]]), torch.tensor([[2.0, 2.0]])
    p = 1 / (1 + torch.tensor(-1.0).exp().item())  # at a temperature of 2
    kl = p * log(p / 0.5) + (1 - p) * log((1 - p) / 0.5)
    assert by_label(student, teacher).item() == pytest.approx(4 * kl / 2, abs=1e-6)


@pytest.mark.parametrize("task", [TASK, LABELS], ids=["single", "multi"])
def test_the_student_learns_from_gaps_and_is_told_about_complete_samples_alone(task):
    weights = {"contrast": 2.0, "prototype": 3.0, "response": 0.5}
    method, batch = build(task=task, **weights), batch_of(all_patterns(task, repeat=6), task)
    torch.manual_seed(4)
    seen = batch.hide(~random_pattern(batch.presence))
    torch.manual_seed(4)
    found = method.loss(batch)
    complete = batch.presence.all(1)
    joint, logits = method.student(seen)
    known_joint, known_logits = method.teacher(batch)
    torch.testing.assert_close(found["task"], method.task_loss(logits, batch.target))
    s, t, target = joint[complete], known_joint[complete], batch.target[complete]
    rows = torch.ones(len(s)).bool()
    member = F.one_hot(target, 3).float() if task is TASK else target
    told = (logits[complete], known_logits[complete])
    response = disentangled(*told, member.bool()) if task is TASK else by_label(*told)
    torch.testing.assert_close(found["contrast"], 2.0 * contrast(s, t, rows, 1.0))
    torch.testing.assert_close(found["prototype"], 3.0 * prototypes(s, t, member, rows))
    torch.testing.assert_close(found["response"], 0.5 * response.mean())


def test_without_a_complete_sample_the_teacher_says_nothing():
    batch = batch_of([[True, True, False], [False, True, True]] * 3)
    assert build(stage=0).loss(batch)["task"] == 0
    found = build().loss(batch)
    assert found["task"] > 0
    assert found["contrast"] == found["prototype"] == found["response"] == 0


def test_under_full_access_the_teacher_sees_what_is_hidden_from_the_student():
    truth = batch_of([[True] * 3] * 6)
    shown = replace(truth.hide(torch.tensor([[True, False, False]] * 6)), teacher=truth)
    first = build(stage=0)
    assert torch.equal(first.loss(shown)["task"], first.loss(truth)["task"])
    second = build()
    assert second.loss(shown)["contrast"] > 0
    assert second.loss(replace(shown, teacher=None))["contrast"] == 0


def test_each_stage_trains_and_predicts_by_its_own_network():
    batch = batch_of(all_patterns(TASK))
    first, second = build(stage=0), build()
    for method, learns in ((first, "teacher"), (second, "student")):
        trained = {n.split(".")[0] for n, p in method.named_parameters() if p.requires_grad}
        assert trained == {learns}
    assert torch.equal(first.stage_output(batch), first.teacher(batch)[1])
    assert torch.equal(second.stage_output(batch), second.student(batch)[1])
    assert not second.train().teacher.training
    assert build(margin=0.1).stages[0] == first.stages[0]
    assert "dropout" not in first.stages[0].shared_across


def test_it_needs_classes_and_two_modalities():
    task = replace(TASK, modalities=VIEWS[:1])
    assert CorrKD.applies.reason_not(task) == "needs 2 modalities, found 1"
    values = Task("regression", VIEWS, ("score",))
    assert "not regression" in CorrKD.applies.reason_not(values)


@pytest.mark.parametrize("stage", [0, 1])
def test_nothing_waits_for_an_accelerator(stage):
    # tensors on "meta" have no values: whatever the host would have to read raises
    method, batch = build(stage=stage), batch_of(all_patterns(TASK)).to("meta")
    method.train().to("meta")
    assert method.stage_output(batch).shape == (len(batch), 3)
    assert all(term.shape == () for term in method.loss(batch).values())
