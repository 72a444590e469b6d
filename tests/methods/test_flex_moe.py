from dataclasses import replace

import pytest
import torch

from mmbench.checks.tasks import TASKS, all_patterns, make_batch
from mmbench.data.task import Modality, Task, with_encoders
from mmbench.layers.encoders import PatchTokens
from mmbench.layers.fusion import presence_code
from mmbench.layers.moe import cv_squared
from mmbench.methods.flex_moe import FlexMoE, combination_table, gate_loss

TASK = with_encoders(TASKS[0], {"dropout": 0.0})
SMALL = {"dim": 8, "tokens": 2, "heads": 2, "dropout": 0.0, "general_epochs": 0}


def build(**args):
    torch.manual_seed(0)
    return FlexMoE(TASK, **(SMALL | args))


@pytest.mark.parametrize("modalities", range(2, 8))
def test_zero_is_complete_and_every_combination_has_a_number_of_its_own(modalities):
    table = combination_table(modalities)
    assert table[2**modalities - 1] == 0
    assert sorted(table[1:].tolist()) == list(range(2**modalities - 1))
    sizes = [bin(code).count("1") for code in table[1:].argsort().add(1).tolist()]
    assert sizes == sorted(sizes, reverse=True)


def random_routing(seed=0, batch=6, experts=8):
    g = torch.Generator().manual_seed(seed)
    shape = (batch, 3, 2, experts)
    return [torch.randn(shape, generator=g), *(torch.rand(shape, generator=g) for _ in range(2))]


@pytest.mark.parametrize("variant", ["paper", "official"])
@pytest.mark.parametrize("c", [[0, 3, 1, 0, 6, 3], [0] * 6, [2, 3, 1, 4, 6, 5]], ids=str)
def test_the_gate_loss_equals_a_loop_over_modalities_and_tokens(c, variant):
    noisy, gates, load = random_routing()
    expected = torch.zeros(())
    full = [i for i in range(6) if c[i] == 0]
    partial = [i for i in range(6) if c[i] != 0]
    for m in range(3):
        if partial:
            entropy = [-noisy[i, m, p].log_softmax(0)[c[i]] for i in partial for p in range(2)]
            expected += torch.stack(entropy).mean()
        for amount in (gates, load):
            if full:
                expected += cv_squared(sum(amount[i, m, p] for i in full for p in range(2)))
            if partial:
                others = torch.zeros(8)
                for i in partial:
                    for p in range(2):
                        mine = amount[i, m, p].clone()
                        if variant == "paper":
                            mine[c[i]] = 0
                        others += mine
                expected += cv_squared(others[1:] if variant == "official" else others)
    found = gate_loss(noisy, gates, load, torch.tensor(c), variant)
    torch.testing.assert_close(found, expected)


def test_complete_batches_teach_no_specialist():
    noisy, gates, load = random_routing()
    noisy.requires_grad_()
    gate_loss(noisy, gates, load, torch.zeros(6, dtype=torch.long), "paper").backward()
    assert not noisy.grad.any()


def test_complete_samples_do_not_read_the_bank():
    method = build().eval()
    batch = make_batch(TASK, torch.ones(4, 3, dtype=torch.bool))
    with torch.no_grad():
        before = method(batch)
        method.bank.table.normal_()
        method.bank.base.normal_()
        assert torch.equal(method(batch), before)


@pytest.mark.parametrize("variant", ["paper", "official"])
def test_only_the_gaps_of_combinations_in_the_batch_are_learned(variant):
    method = build(variant=variant).train()
    presence = torch.tensor([[True, False, True], [False, True, False]] * 3)
    method.loss(make_batch(TASK, presence))["task"].backward()
    reached = method.bank.table.grad.flatten(2).any(2)  # (combination, M)
    expected = torch.zeros_like(reached)
    expected[method.combination_of(presence[:2])] = ~presence[:2]
    assert torch.equal(reached, expected)


def test_an_unseen_combination_is_filled_by_the_base():
    bank = build().bank
    c = torch.tensor([1, 4])
    torch.testing.assert_close(bank(c), bank.base.expand(2, -1, -1, -1))


def test_specialisation_sends_each_combination_to_its_expert():
    method = build(gate_loss=5.0, top_k=2).train()
    batch = make_batch(TASK, all_patterns(TASK))
    optimiser = torch.optim.Adam(method.parameters(), lr=0.02)
    for _ in range(60):
        optimiser.zero_grad()
        torch.stack(list(method.loss(batch).values())).sum().backward()
        optimiser.step()
    with torch.no_grad():
        routing = method.eval().predict(batch)[1][0]
    first = routing.logits.argmax(1).view(len(batch), -1)
    c = method.combination_of(batch.presence)
    hit = (first == c[:, None]).float().mean(1)[c > 0]
    assert hit.mean() > 0.9


def test_the_general_stage_learns_from_complete_samples_alone():
    method = build(general_epochs=1).train()
    general, fit = method.stages
    assert (general.epochs, general.select) == (1, "last")
    method.begin(general)
    assert not any(p.requires_grad for p in method.bank.parameters())
    batch = make_batch(TASK, all_patterns(TASK))
    complete = presence_code(batch.presence) == 7

    def losses(batch):
        torch.manual_seed(3)
        return method.loss(batch)

    torch.manual_seed(3)
    rows = method.row_loss(method(batch), batch.target)
    torch.testing.assert_close(losses(batch)["task"], rows[complete].mean())
    x = batch.inputs["vector"].clone()
    x[~complete] *= -3
    changed = replace(batch, inputs={**batch.inputs, "vector": x})
    assert losses(changed) == losses(batch)
    nobody = make_batch(TASK, ~torch.eye(3, dtype=torch.bool))
    assert not any(losses(nobody).values())
    method.begin(fit)
    assert all(p.requires_grad for p in method.parameters())
    assert losses(changed) != losses(batch)
    assert losses(nobody)["task"] > 0
    assert FlexMoE(TASK).stages[0].epochs == 5
    assert len(build(general_epochs=0).stages) == 1


def test_too_few_experts_for_the_combinations_are_refused():
    with pytest.raises(ValueError, match="there are 6 experts; raise experts"):
        build(experts=6)


def test_many_modalities_do_not_apply():
    task = Task("single_label", tuple(Modality(n, "vector", (3,)) for n in "abcdefgh"), ("x", "y"))
    assert FlexMoE.applies.reason_not(task) == "takes at most 7 modalities, found 8"


def test_nothing_waits_for_an_accelerator():
    method = build().to("meta")
    batch = make_batch(TASK, all_patterns(TASK)).to("meta")
    assert all(term.shape == () for term in method.loss(batch).values())


def test_the_official_variant_cuts_vectors_into_patches():
    assert isinstance(build(variant="official").encode.encoders["vector"].trunk, PatchTokens)
    assert not isinstance(build().encode.encoders["vector"].trunk, PatchTokens)
