"""Every registered method keeps the contract, simply by being there."""

from typing import Annotated, Literal, get_args, get_origin

import pytest
from pydantic import Field

from mmbench.bench.spec import bind, parameters
from mmbench.bounds import Width
from mmbench.checks.elsewhere import address, in_another_process
from mmbench.checks.methods import METHOD_CHECKS, weights_of
from mmbench.checks.report import tasks_of
from mmbench.checks.rule import try_rule
from mmbench.checks.tasks import TASKS, sample_tasks, title
from mmbench.registry import METHODS

TOGETHER = "another_process_builds_the_same"  # one process for all of them


# what a kind of task or of modality can break; the other rules are tried with one task here, and
# with all of them by `make test-full` and `mmbench check`, which takes too long for all methods
OF_A_KIND = (
    "outputs_have_the_right_shape",
    "loss_is_finite",
    "gradients_reach_every_parameter",
    "absent_is_absent",
)
# rules that only warn, and what is meant where a method breaks one
MEANT = {
    ("moe_retriever", "predictions_do_not_know_the_id"): "draws candidates, keyed by the opaque id",
    ("moe_retriever", "forward_waits_for_no_device"): "cuts ragged contexts by their lengths",
}


def tasks_for(name):
    cls = METHODS.get(name)
    tasks = sample_tasks(cls)
    if not tasks and name == "tabpfn":
        pytest.skip(f"tabpfn {cls.reason_not(TASKS[0])}")
    assert tasks, "a method that applies to none of the sample tasks is not tested at all"
    return tasks


def put_through(name, check, tasks):
    cls = METHODS.get(name)
    finding = try_rule(METHOD_CHECKS[check], [(title(task), (cls, task)) for task in tasks])
    expected = "warning" if (name, check) in MEANT else "passed"
    assert finding.outcome == expected, f"{finding.happened} ({finding.tried})"


@pytest.mark.parametrize("name", METHODS.names())
@pytest.mark.parametrize("check", [name for name in METHOD_CHECKS if name != TOGETHER])
def test_a_method_keeps_the_contract(name, check):
    tasks = tasks_for(name)
    mixed = [task for task in tasks if task in TASKS] or tasks
    put_through(name, check, mixed if check in OF_A_KIND else mixed[:1])


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.parametrize("name", METHODS.names())
@pytest.mark.parametrize("check", [name for name in METHOD_CHECKS if name != TOGETHER])
def test_a_method_keeps_the_contract_on_every_kind_of_task_and_of_modality(name, check):
    tasks = tasks_for(name)
    if check not in OF_A_KIND:
        tasks = [task for task in tasks if task in TASKS] or tasks
    put_through(name, check, tasks_of(METHOD_CHECKS[check], tasks))


@pytest.mark.slow
def test_every_method_is_built_alike_in_another_process():
    classes = {name: METHODS.get(name) for name in METHODS.names()}
    here = {name: weights_of(*address(cls)) for name, cls in classes.items()}
    there = in_another_process(
        "mmbench.checks.methods:weights_of_all", {n: address(c) for n, c in classes.items()}
    )
    assert here == there


def unbounded(annotation: object) -> bool:
    """Whether a number of any size may be passed."""
    if get_origin(annotation) is Annotated:
        limits = {type(one).__name__ for field in annotation.__metadata__ for one in field.metadata}
        return not (limits & {"Ge", "Gt"} and limits & {"Le", "Lt"})
    if get_origin(annotation) is Literal:
        return False
    return annotation in (int, float) or any(map(unbounded, get_args(annotation)))


@pytest.mark.parametrize("name", METHODS.names())
def test_every_number_that_a_constructor_takes_has_bounds_and_a_default_within(name):
    cls = METHODS.get(name)
    for each in parameters(cls):
        assert each.name == "task" or not unbounded(each.annotation), each
    defaults = {p.name: p.default for p in parameters(cls) if p.default not in (p.empty, None)}
    assert bind(cls, defaults, given=("task",)).keys() == defaults.keys()


def test_a_number_without_bounds_is_noticed():
    some = Annotated[int, Field(ge=1)]
    assert all(map(unbounded, (int, float, int | None, list[float], some, some | None)))
    assert not any(map(unbounded, (Width, Width | None, bool, str, Literal[1, 2])))
