from dataclasses import replace
from itertools import combinations
from math import log

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbench.checks.tasks import all_patterns, make_batch
from mmbench.data.task import Modality, Task
from mmbench.methods.dr_fuse import DrFuse, alignment, available, merge, ranking

VIEWS = tuple(Modality(m, "vector", (4,)) for m in "abc")
TASK = Task("single_label", VIEWS, ("x", "y", "z"))
LABELS = Task("multi_label", VIEWS, ("x", "y", "z"))
M, D = 3, 8


def build(task=TASK, **arguments):
    torch.manual_seed(0)
    return DrFuse(task, dim=D, **arguments).eval()


def batch_of(presence, task=TASK):
    return make_batch(task, torch.as_tensor(presence))


def mlp(net, index, x):
    return F.gelu(x @ net.w1[index] + net.b1[index, 0]) @ net.w2[index] + net.b2[index, 0]


def by_loops(method, task, batch):
    """One sample and one label at a time, with nothing but the modalities that are there."""
    outputs, attentions, slots = [], [], []
    q_part, v_part, *k_parts = method.attend.weight.split(D)
    q_bias, v_bias, *k_biases = method.attend.bias.split(D)
    for i in range(len(batch)):
        h, d = {}, {}
        for m, name in enumerate(task.names):
            if batch.presence[i, m]:
                z = method.stems.encoders[name](batch.inputs[name][i : i + 1], None)[0]
                h[m], d[m] = method.project(mlp(method.shared, m, z)), mlp(method.distinct, m, z)
        merged = torch.logit(sum(x.sigmoid() for x in h.values()) / len(h), eps=1e-7)
        read = d | {M: merged}
        query = sum(q_part @ x + q_bias for x in read.values()) / len(read)
        output, rows = [], []
        for c in range(3):
            r = c if method.rows > 1 else 0
            scores = [(k_parts[r] @ x + k_biases[r]) @ query / D**0.5 for x in read.values()]
            weights = torch.stack(scores).softmax(0)
            value = sum(
                w * (v_part @ x + v_bias) for w, x in zip(weights, read.values(), strict=True)
            )
            output.append(method.head.weight[c] @ value + method.head.bias[c])
            rows.append(dict(zip(read, weights, strict=True)))
        outputs.append(torch.stack(output))
        attentions.append(rows)
        slots.append(read)
    return torch.stack(outputs), attentions, slots


@pytest.mark.parametrize("task", [TASK, LABELS], ids=["single", "multi"])
def test_outputs_and_attention_are_those_of_the_equations_written_as_loops(task):
    method, batch = build(task), batch_of(all_patterns(task), task)
    wanted, attentions, _ = by_loops(method, task, batch)
    torch.testing.assert_close(method(batch), wanted, atol=1e-5, rtol=0)
    h, d = method.features(batch)
    _, found = method.decide(method.slots(h, d, batch.presence), batch.presence)
    for i, rows in enumerate(attentions):
        for r in range(method.rows):
            for slot in range(M + 1):
                weight = rows[r].get(slot, torch.tensor(0.0))
                torch.testing.assert_close(found[i, r, slot], weight, atol=1e-6, rtol=0)


def test_each_label_has_attention_of_its_own_and_a_single_label_one_for_all():
    assert build(LABELS).attend.out_features == (2 + 3) * D
    assert build(TASK).attend.out_features == 3 * D


def test_an_absent_slot_gets_no_attention():
    method, presence = build(LABELS), all_patterns(LABELS)
    slots = torch.randn(len(presence), M + 1, D)
    slots[:, :M][~presence] = 1e6
    _, attention = method.decide(slots, presence)
    there = available(presence)
    assert attention.masked_select(~there[:, None]).eq(0).all()
    torch.testing.assert_close(attention.sum(-1), torch.ones(len(presence), 3))


@settings(derandomize=True, deadline=None, max_examples=20)
@given(seed=st.integers(0, 99))
def test_the_merged_representation_is_the_mean_in_probability_of_what_is_there(seed):
    g = torch.Generator().manual_seed(seed)
    presence = all_patterns(TASK)
    h = 3 * torch.randn(len(presence), M, D, generator=g)
    found = merge(torch.where(presence[:, :, None], h, torch.nan), presence)
    for row, there, merged in zip(h, presence, found, strict=True):
        torch.testing.assert_close(merged.sigmoid(), row[there].sigmoid().mean(0))


def test_the_merged_representation_is_that_of_the_released_code_for_two():
    # the ratio of sums of exponentials that its logsumexp form stands for
    h = 2 * torch.randn(5, 2, D, generator=torch.Generator().manual_seed(0))
    one, two = h.exp().unbind(1)
    released = ((2 * one * two + one + two) / (2 + one + two)).log()
    torch.testing.assert_close(merge(h, torch.ones(5, 2).bool()), released)


def test_equal_or_single_representations_are_merged_to_themselves_even_far_out():
    h = torch.tensor([[[40.0, -40.0, 0.5]]]).expand(1, 3, 3)
    torch.testing.assert_close(merge(h, torch.ones(1, 3).bool()), h[:, 0])
    torch.testing.assert_close(merge(h, torch.tensor([[False, True, False]])), h[:, 0])


def test_alignment_is_the_jensen_shannon_divergence_of_bernoulli_distributions():
    p, q = torch.tensor([0.5, 0.9]), torch.tensor([0.1, 0.9])
    h = torch.stack([p, q, torch.tensor([0.2, 0.3])]).logit()[None]

    def kl(a, b):
        return a * log(a / b) + (1 - a) * log((1 - a) / (1 - b))

    wanted = (kl(0.5, 0.3) + kl(0.1, 0.3)) / 2  # the second feature agrees
    found = alignment(h, torch.tensor([[True, True, False]]))
    assert found.item() == pytest.approx(wanted, abs=1e-6)
    all_pairs = [
        alignment(h, torch.tensor([[i in pair for i in range(3)]]))
        for pair in combinations(range(3), 2)
    ]
    found = alignment(h, torch.ones(1, 3).bool())
    torch.testing.assert_close(found, sum(all_pairs) / 3)


def test_alignment_ignores_samples_without_a_pair_and_what_is_absent():
    h = torch.randn(4, 3, D)
    assert alignment(h, torch.eye(3, dtype=torch.bool)[[0, 1, 2, 0]]) == 0
    presence = torch.tensor([[True, True, False]] * 2 + [[False, False, True]] * 2)
    garbage = torch.where(presence[:, :, None], h, torch.nan)
    torch.testing.assert_close(
        alignment(garbage, presence), alignment(h[:2, :2], torch.ones(2, 2).bool())
    )
    saturated = torch.full((2, 3, D), 200.0, requires_grad=True)
    alignment(saturated, torch.ones(2, 3).bool()).backward()
    assert saturated.grad.isfinite().all()


def test_the_worse_of_two_slots_is_charged_for_the_attention_it_gets_above_the_better():
    attention = torch.tensor([[[0.5, 0.2, 0.3]]])  # of d_1, d_2, h*
    both = torch.tensor([[True, True]])
    best_last = torch.tensor([[[3.0, 2.0, 1.0]]])
    # d_1 above d_2 by .3 and above h* by .2; h* is above d_2 already
    assert ranking(attention, best_last, both).item() == pytest.approx((0.3 + 0.2) / 3)
    right = torch.tensor([[[1.0, 3.0, 2.0]]])
    assert ranking(attention, right, both).item() == 0
    assert ranking(attention, best_last, torch.tensor([[True, False]])).item() == 0


def test_the_order_of_attention_is_a_mean_over_what_is_wrong_in_each_pair():
    g = torch.Generator().manual_seed(0)
    presence = all_patterns(LABELS, repeat=3)
    attention = torch.rand(len(presence), 3, M + 1, generator=g)
    error = torch.rand(len(presence), 3, M + 1, generator=g)
    total = 0.0
    for i, j in combinations(range(M + 1), 2):
        wrong = []
        for row, there in enumerate(available(presence)):
            if presence[row].sum() < 2 or not (there[i] and there[j]):
                continue
            for c in range(3):
                better, worse = (i, j) if error[row, c, i] < error[row, c, j] else (j, i)
                excess = attention[row, c, worse] - attention[row, c, better]
                wrong += [excess] if excess > 0 else []
        total += sum(wrong) / len(wrong)
    torch.testing.assert_close(ranking(attention, error, presence), total / 6)


def test_the_loss_weighs_its_terms_and_each_slot_answers_for_itself():
    batch = batch_of(all_patterns(TASK))
    weights = {"auxiliary": 0.5, "alignment": 0.1, "disentangle": 2.0, "ranking": 3.0}
    whole, weighed = build().loss(batch), build(**weights).loss(batch)
    assert list(whole) == ["task", *weights]
    for name, weight in weights.items():
        torch.testing.assert_close(weighed[name], weight * whole[name])
    method = build()
    logits, _, slots = by_loops(method, TASK, batch)
    torch.testing.assert_close(whole["task"], F.cross_entropy(logits, batch.target))
    alone = 0.0
    for s in range(M + 1):
        rows = [
            F.cross_entropy(
                x[s] @ method.alone.weight[s] + method.alone.bias[s, 0], batch.target[i]
            )
            for i, x in enumerate(slots)
            if s in x
        ]
        alone += sum(rows) / len(rows)
    torch.testing.assert_close(whole["auxiliary"], alone, atol=1e-5, rtol=0)
    h, d = method.features(batch)
    cosine = sum(
        F.cosine_similarity(h[there, m], d[there, m]).abs().mean()
        for m, there in enumerate(batch.presence.unbind(1))
    )
    torch.testing.assert_close(whole["disentangle"], cosine)


def test_attention_is_ranked_by_each_labels_own_error_and_trains_no_predictor_of_a_slot():
    method, batch = build(LABELS), batch_of([[True] * 3] * 6, LABELS)
    h, d = method.features(batch)
    alone = method.alone(method.slots(h, d, batch.presence).transpose(0, 1))
    found = method.errors(alone, batch)
    wanted = F.binary_cross_entropy_with_logits(alone[2, 4, 1], batch.target[4, 1])
    torch.testing.assert_close(found[4, 1, 2], wanted)
    method.loss(batch)["ranking"].backward()
    assert method.alone.weight.grad is None
    assert method.attend.weight.grad.any()


def test_it_needs_two_modalities():
    task = replace(TASK, modalities=VIEWS[:1])
    assert DrFuse.applies.reason_not(task) == "needs 2 modalities, found 1"


def test_nothing_waits_for_an_accelerator():
    # tensors on "meta" have no values: whatever the host would have to read raises
    method, batch = build().train().to("meta"), batch_of(all_patterns(TASK)).to("meta")
    assert method(batch).shape == (len(batch), 3)
    assert all(term.shape == () for term in method.loss(batch).values())
