from dataclasses import replace
from itertools import permutations

import pytest
import torch
import torch.nn.functional as F

from mmbench.checks.tasks import TASKS, all_patterns, make_batch
from mmbench.data.task import Modality, Task
from mmbench.methods.mce import MCE, released_weights, shapley_weights

TASK = Task("single_label", tuple(Modality(m, "vector", (4,)) for m in "abc"), ("x", "y", "z"))
LABELS = replace(TASK, kind="multi_label")
M, D = 3, 8


def build(task=TASK, stage=1, **arguments):
    torch.manual_seed(0)
    method = MCE(task, dim=D, heads=2, dropout=0.0, **arguments)
    for each in method.stages[: stage + 1]:
        method.begin(each)
    return method.eval()


def batch_of(presence, task=TASK):
    return make_batch(task, torch.as_tensor(presence))


def shapley(value, m, modalities):
    """Mean of what m adds over all orders in which the modalities may come."""
    total = 0.0
    for order in permutations(range(modalities)):
        before = frozenset(order[: order.index(m)])
        total += value.get(before | {m}, 0.0) - value.get(before, 0.0)
    return total / len(list(permutations(range(modalities))))


def test_a_shapley_value_is_the_mean_over_all_orders_of_what_a_modality_adds():
    method = build()
    torch.manual_seed(1)
    value = torch.rand(2**M - 1)
    as_sets = {
        frozenset(s.nonzero().flatten().tolist()): float(v)
        for s, v in zip(method.subsets, value, strict=True)
    }
    found = shapley_weights(method.subsets) @ value
    wanted = torch.tensor([shapley(as_sets, m, M) for m in range(M)])
    torch.testing.assert_close(found, wanted)
    # what all give is shared out
    torch.testing.assert_close(found.sum(), value[method.subsets.all(1)][0])


def test_the_released_values_are_those_worked_by_hand():
    """Two modalities, v(a) = 3, v(b) = 1, v(ab) = 5: a gets 3/2 + (5 - 3)/2, b 1/2 + (5 - 1)/2."""
    subsets = torch.tensor([[False, True], [True, False], [True, True]])
    value = torch.tensor([1.0, 3.0, 5.0])
    assert (released_weights(subsets) @ value).tolist() == [2.5, 2.5]
    assert (shapley_weights(subsets) @ value).tolist() == [3.5, 1.5]


def terms_by_loops(method, batch, weights):
    """One sample and one subset at a time."""
    h = method.complete(method.encode(batch))
    right = {tuple(s.tolist()): 0.0 for s in method.subsets}
    could, subset, completion, rows = [0.0] * M, 0.0, [0.0] * M, [[] for _ in range(M)]
    for i in range(len(batch)):
        there, target = batch.presence[i], batch.target[i]
        own = int(there.sum())
        for s in method.subsets:
            if (s & ~there).any():
                continue
            features = h[i]
            if not torch.equal(s, there):
                features = method.inter((h[i] * s[:, None] + method.place)[None])[0]
            output = method.head(features.flatten())
            right[tuple(s.tolist())] += float(output.argmax() == target)
            if not torch.equal(s, there):
                subset += F.cross_entropy(output, target) / (2**own - 1)
                for m in range(M):
                    if there[m] and not s[m]:
                        completion[m] += (features[m] - h[i, m]).abs().mean() / (2**own - 1)
        for m, name in enumerate(TASK.names):
            if there[m]:
                x = method.unimodal.encode.encoders[name](batch.inputs[name][i : i + 1], None)
                every = method.unimodal.heads(x.expand(M, 1, -1))[m, 0]
                could[m] += float(every.argmax() == target)
                alone = method.alone(h[i].unsqueeze(1))[m]
                rows[m].append(F.cross_entropy(alone, target[None]))
    value = torch.tensor([right[tuple(s.tolist())] for s in method.subsets])
    given, n = weights @ value, batch.presence.sum(0)
    factor = [float(method.rarity[m]) * max(could[m] - float(given[m]), 0) / n[m] for m in range(M)]
    return {
        "subset": subset / len(batch),
        "completion": sum(f * c for f, c in zip(factor, completion, strict=True)) / len(batch),
        "separate": sum(f * sum(r) / len(r) for f, r in zip(factor, rows, strict=True)) / M,
    }, factor


@pytest.mark.parametrize("variant", ["paper", "official"])
def test_losses_are_those_of_the_text_written_as_loops(variant):
    method = build(variant=variant)
    presence = torch.cat([all_patterns(TASK, repeat=4), torch.ones(8, M, dtype=torch.bool)])
    batch = batch_of(presence)
    method.prepare([batch])
    make = shapley_weights if variant == "paper" else released_weights
    wanted, factor = terms_by_loops(method, batch, make(method.subsets))
    assert max(factor) > 0
    found = method.loss(batch)
    for name, term in wanted.items():
        torch.testing.assert_close(found[name], term, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found["task"], F.cross_entropy(method(batch), batch.target))


def test_a_modality_that_half_of_the_samples_have_weighs_twice():
    method = build()
    rows = torch.ones(8, M, dtype=torch.bool)
    rows[4:, 1] = False
    method.prepare([batch_of(rows[:5]), batch_of(rows[5:])])
    assert method.rarity.tolist() == [1, 2, 1]
    shown = method.diagnostics()["rarity"]
    assert shown.values.tolist() == [[1, 2, 1]]
    assert shown.column.tolist() == ["a", "b", "c"]
    rows[:, 1] = False
    method.prepare([batch_of(rows)])
    assert method.rarity[1] == 1  # nobody has it: nothing to weigh


def test_a_modality_that_gives_what_it_could_is_left_alone():
    method, batch = build(), batch_of([[True] * M] * 12)
    never = torch.zeros(2**M - 1, 12, 3)
    never[..., 0] = 1.0
    right = F.one_hot(batch.target, 3).float()
    alone = method.correct(method.unimodal(batch), batch).sum(1)
    # all subsets are always right: each modality gives a third of all, 4 of 12
    found = method.gap(right.expand(2**M - 1, -1, -1), right, batch)
    torch.testing.assert_close(found, (alone - 4).relu() / 12)
    # everybody always says class 0, which a third of the samples have
    found = method.gap(never, never[0], batch)
    torch.testing.assert_close(found, (alone - 4 / 3).relu() / 12)


def test_labels_count_as_parts_of_a_sample():
    method = build(LABELS)
    batch = replace(
        batch_of([[True] * M] * 2, LABELS), target=torch.tensor([[1.0, 0, 1], [0, 0, 0]])
    )
    logits = torch.tensor([[2.0, -1, -1], [1, 1, 1]])
    assert method.correct(logits, batch).tolist() == pytest.approx([2 / 3, 0])


def test_the_networks_of_single_modalities_learn_first_and_rest_then():
    batch = batch_of(all_patterns(TASK))
    method = build(stage=0)
    found = method.loss(batch)["task"]
    wanted = 0.0
    for m in range(M):
        there = batch.presence[:, m]
        wanted = wanted + F.cross_entropy(method.unimodal(batch)[m, there], batch.target[there])
    torch.testing.assert_close(found, wanted)
    names = {n.partition(".")[0] for n, p in build(stage=1).named_parameters() if p.requires_grad}
    assert names == {"encode", "place", "inter", "head", "alone"}


def test_regression_and_seven_modalities_do_not_apply():
    assert MCE.reason_not(TASKS[2]).startswith("learns single_label, multi_label")
    many = replace(TASK, modalities=tuple(Modality(m, "vector", (4,)) for m in "abcdefg"))
    assert MCE.reason_not(many) == "takes at most 6 modalities, found 7"


def test_nothing_waits_for_an_accelerator():
    # tensors on "meta" have no values: whatever the host would have to read raises
    method, batch = build().train().to("meta"), batch_of(all_patterns(TASK)).to("meta")
    assert method(batch).shape == (len(batch), 3)
    assert all(term.shape == () for term in method.loss(batch).values())
