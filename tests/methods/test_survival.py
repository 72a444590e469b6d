"""Methods that declare survival learn log risks as well as hazards."""

from dataclasses import replace

import pytest
import torch

from mmbench.checks.methods import build
from mmbench.checks.tasks import all_patterns, make_batch, sample_tasks
from mmbench.registry import METHODS

SURVIVAL = [
    name for name in METHODS.names() if "survival" in METHODS.get(name).applies.tasks
]  # fmt: skip


@pytest.mark.parametrize("name", SURVIVAL)
def test_a_log_risk_is_learned_where_events_are_and_nothing_where_there_are_none(name):
    cls = METHODS.get(name)
    (task,) = [one for one in sample_tasks(cls) if one.kind == "survival"]
    task = replace(task, outputs=("log risk",))
    if not cls.applies.trains:
        assert build(cls, task)(make_batch(task, all_patterns(task))).isfinite().all()
        return
    method = build(cls, task).train()
    batch = make_batch(task, all_patterns(task, repeat=4))
    learned = method.loss(batch)
    torch.stack(list(learned.values())).sum().backward()
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)
    assert any(term > 0 for term in learned.values())
    method.begin(method.stages[0])
    nobody = replace(batch, target=batch.target * torch.tensor([1.0, 0.0]))
    silent = {name: term for name, term in method.loss(nobody).items() if term == 0}
    assert silent, "a batch without an event has a task loss"


def test_a_method_that_compares_classes_keeps_its_dash():
    (task,) = [one for one in sample_tasks(METHODS.get("mean_fusion")) if one.kind == "survival"]
    for name in ("neighbour_vote", "logistic", "mce", "redeem"):
        assert "not survival" in METHODS.get(name).reason_not(task)
