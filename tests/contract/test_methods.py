"""Every registered method keeps the contract, simply by being there."""

import pytest

from mmbench.checks.elsewhere import address, in_another_process
from mmbench.checks.methods import METHOD_CHECKS, weights_of
from mmbench.checks.report import tasks_of
from mmbench.checks.tasks import TASKS, sample_tasks
from mmbench.registry import METHODS

TOGETHER = "another_process_builds_the_same"  # one process for all of them


@pytest.mark.parametrize("name", METHODS.names())
@pytest.mark.parametrize("check", [name for name in METHOD_CHECKS if name != TOGETHER])
def test_a_method_keeps_the_contract(name, check):
    cls = METHODS.get(name)
    tasks = sample_tasks(cls)
    if not tasks and name == "tabpfn":
        pytest.skip(f"tabpfn {cls.reason_not(TASKS[0])}")
    assert tasks, "a method that applies to none of the sample tasks is not tested at all"
    rule = METHOD_CHECKS[check]
    for task in tasks_of(rule, tasks):
        rule(cls, task)


@pytest.mark.slow
def test_every_method_is_built_alike_in_another_process():
    classes = {name: METHODS.get(name) for name in METHODS.names()}
    here = {name: weights_of(*address(cls)) for name, cls in classes.items()}
    there = in_another_process(
        "mmbench.checks.methods:weights_of_all", {n: address(c) for n, c in classes.items()}
    )
    assert here == there
