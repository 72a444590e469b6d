from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbench.checks.tasks import all_patterns, make_batch
from mmbench.data.task import Modality, Task
from mmbench.layers.prior import output_prior
from mmbench.methods.abmil import ABMIL, BagMean

RNA, SOUND = Modality("rna", "vector", (7,)), Modality("sound", "sequence", (6, 4))
SLIDE = Modality("slide", "bag", (9, 5))
TASK = Task("single_label", (RNA, SOUND, SLIDE), ("x", "y", "z"))


def build(task=TASK, **arguments):
    torch.manual_seed(0)
    method = ABMIL(task, dim=16, **arguments)
    method.prepare([make_batch(task, all_patterns(task), seed=1)])
    return method.eval()


def complete(n):
    return make_batch(TASK, torch.ones(n, 3, dtype=torch.bool))


def one_by_one(method, x, lengths):
    """Eq. 7 and 9 and the head, bag by bag, without padding."""
    pool, outputs = method.encode.pool, []
    for bag, length in zip(x, lengths.tolist(), strict=True):
        h = torch.relu(method.encode.instance[0](bag[:length]))
        score = []
        for h_k in h:
            gate = torch.sigmoid(pool.gate.weight @ h_k + pool.gate.bias)
            score.append(pool.score.weight[0] @ (torch.tanh(pool.signal(h_k)) * gate))
        a = torch.stack(score).exp() / torch.stack(score).exp().sum()
        z = sum(a_k * h_k for a_k, h_k in zip(a, h, strict=True))
        outputs.append(method.head(z))
    return torch.stack(outputs)


def test_a_batch_of_bags_of_all_sizes_gives_what_bags_one_by_one_give():
    method, batch = build(), complete(18)
    assert set(batch.lengths["slide"].tolist()) == set(range(1, 10))
    wanted = one_by_one(method, batch.inputs["slide"], batch.lengths["slide"])
    torch.testing.assert_close(method(batch), wanted, atol=1e-5, rtol=0)


@settings(derandomize=True, deadline=None, max_examples=20)
@given(order=st.permutations(range(9)), seed=st.integers(0, 99))
def test_the_order_of_instances_changes_nothing(order, seed):
    method = build()
    x = torch.randn(4, 9, 5, generator=torch.Generator().manual_seed(seed))
    lengths = torch.full((4,), 9)
    torch.testing.assert_close(method.encode(x[:, order], lengths), method.encode(x, lengths))


def test_more_padding_and_what_it_holds_change_nothing():
    method, batch = build(), complete(9)
    x, lengths = batch.inputs["slide"], batch.lengths["slide"]
    wider = torch.cat([x, torch.zeros(9, 30, 5)], 1)
    wider[torch.arange(39) >= lengths[:, None]] = torch.nan
    torch.testing.assert_close(method.encode(wider, lengths), method.encode(x, lengths))


def test_attention_sums_to_1_however_many_instances_there_are():
    torch.manual_seed(0)
    pool = BagMean(5, 8, 0.0)
    x = torch.randn(1, 1, 5).expand(9, 9, 5)  # all alike: their mean is each of them, if so
    z = pool(x, torch.arange(1, 10))
    torch.testing.assert_close(z, pool.instance(x[:, 0]), atol=1e-6, rtol=0)


def test_only_its_modality_matters_and_a_bag_goes_before_a_sequence():
    batch = complete(6)
    for name, arguments in (("slide", {}), ("sound", {"modality": "sound"})):
        method = build(**arguments)
        assert method.read.name == name
        others = torch.tensor([n != name for n in TASK.names]).expand(6, 3)
        assert torch.equal(method(batch.hide(others)), method(batch))
    assert ABMIL(Task("single_label", (RNA, SOUND), ("x", "y"))).read.name == "sound"


@pytest.mark.parametrize("kind", ["single_label", "multi_label", "regression"])
def test_a_sample_without_it_gets_the_training_prior_and_trains_nothing(kind):
    task = Task(kind, (RNA, SLIDE), ("x", "y", "z"))
    method, batch = build(task), make_batch(task, torch.tensor([[True, False], [True, True]] * 4))
    seen = make_batch(task, all_patterns(task), seed=1).target
    torch.testing.assert_close(method(batch)[::2], output_prior(task, seen).expand(4, -1))
    rows = method.row_loss(method(batch)[1::2], batch.target[1::2])
    torch.testing.assert_close(method.loss(batch)["task"], rows.mean())
    method.loss(make_batch(task, torch.tensor([[True, False]] * 4)))["task"].backward()
    assert not any(p.grad.any() for p in method.parameters() if p.grad is not None)


def test_parameters_are_those_of_the_stated_layers():
    count = sum(p.numel() for p in ABMIL(TASK).parameters())
    instance, head = 5 * 512 + 512, 512 * 256 + 256 + 256 * 3 + 3
    gates = 2 * (512 * 256 + 256) + 256
    assert count == instance + gates + head


def test_it_needs_a_bag_or_a_sequence():
    task = Task("single_label", (RNA, Modality("image", "image", (1, 8, 8))), ("x", "y"))
    assert ABMIL.applies.reason_not(task) == "needs a modality of kind bag or sequence"
    assert ABMIL.applies.reason_not(TASK) is None
    with pytest.raises(ValueError, match="bag or sequence is needed, found rna of kind vector"):
        ABMIL(TASK, modality="rna")


def test_it_finds_the_one_instance_that_tells_the_class():
    """The task of the paper's Section 4.1: a bag is positive if some instance is."""
    torch.manual_seed(0)
    task = Task("single_label", (SLIDE, RNA), ("no", "yes"))
    method = ABMIL(task, dim=16, dropout=0.0, lr=1e-2)
    batch = make_batch(task, torch.ones(200, 2, dtype=torch.bool))
    x = torch.randn(200, 9, 5)
    target = torch.arange(200) % 2
    place = torch.arange(200) % batch.lengths["slide"]
    x[torch.arange(200), place, 0] += 6.0 * target
    batch = replace(batch, inputs=batch.inputs | {"slide": x}, target=target)
    optimiser = method.configure_optimizers()
    for _ in range(60):
        optimiser.zero_grad()
        method.loss(batch)["task"].backward()
        optimiser.step()
    assert (method.eval()(batch).argmax(1) == target).float().mean() > 0.95
    alone = torch.zeros(1, 9, 5)
    alone[0, 4, 0] = 6.0
    h = method.encode.instance(alone)
    score = method.encode.pool.score(
        torch.tanh(method.encode.pool.signal(h)) * torch.sigmoid(method.encode.pool.gate(h))
    )
    assert score[0, :, 0].argmax() == 4
