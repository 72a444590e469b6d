"""Every registered method keeps the contract, simply by being there."""

import pytest

from mmbench.checks import METHOD_CHECKS, TASKS, sample_tasks
from mmbench.registry import METHODS


@pytest.mark.parametrize("name", METHODS.names())
@pytest.mark.parametrize("check", METHOD_CHECKS)
def test_a_method_keeps_the_contract(name, check):
    cls = METHODS.get(name)
    tasks = sample_tasks(cls)
    if not tasks and name == "tabpfn":
        pytest.skip(f"tabpfn {cls.reason_not(TASKS[0])}")
    assert tasks, "a method that applies to none of the sample tasks is not tested at all"
    for task in tasks:
        METHOD_CHECKS[check](cls, task)
