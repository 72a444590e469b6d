import torch
import torch.nn.functional as F

from mmbench.checks.tasks import TASKS, all_patterns, make_batch
from mmbench.methods.complete_case import CompleteCase
from mmbench.methods.zero_fill import ZeroFill

TASK = TASKS[2]  # two quantities from a vector and a volume


def build():
    torch.manual_seed(0)
    return CompleteCase(TASK, dim=4).eval()


def test_the_loss_is_that_of_the_complete_samples_as_if_there_were_no_others():
    method, batch = build(), make_batch(TASK, all_patterns(TASK))
    outputs = method(batch)
    losses = [
        F.mse_loss(outputs[i], batch.target[i])
        for i in range(len(batch))
        if batch.presence[i].all()
    ]
    assert len(losses) == 2
    torch.testing.assert_close(method.loss(batch)["task"], sum(losses) / 2)


def test_targets_of_incomplete_samples_teach_nothing():
    method, batch = build(), make_batch(TASK, all_patterns(TASK))
    before = method.loss(batch)["task"]
    batch.target[~batch.presence.all(1)] += 100
    assert torch.equal(method.loss(batch)["task"], before)


def test_without_a_complete_sample_loss_and_gradients_are_zero():
    method = build().train()
    loss = method.loss(make_batch(TASK, torch.tensor([[True, False], [False, True]])))["task"]
    assert loss.item() == 0
    loss.backward()
    assert not any(p.grad.any() for p in method.parameters())


def test_incomplete_samples_are_predicted_as_by_zero_fill_of_the_same_weights():
    method, zero_fill = build(), ZeroFill(TASK, dim=4).eval()
    zero_fill.load_state_dict(method.state_dict())
    batch = make_batch(TASK, all_patterns(TASK))
    assert torch.equal(method(batch), zero_fill(batch))


def test_it_declares_that_it_needs_complete_samples():
    assert CompleteCase.applies.complete_rows
