"""What may be drawn of a method is what its constructor takes, and lies around what it has."""

import pytest

from mmbench.bench.spec import bind, parameters
from mmbench.checks.tasks import sample_tasks
from mmbench.registry import METHODS
from mmbench.search import COMMON


def searched(cls):
    """What is drawn of the class, with the defaults of its constructor."""
    defaults = {each.name: each.default for each in parameters(cls)}
    declared = {**COMMON, **cls.search}
    return {name: (draw, defaults[name]) for name, draw in declared.items() if name in defaults}


def trained():
    return [name for name in METHODS.names() if METHODS.get(name).applies.trains]


@pytest.mark.parametrize("name", trained())
def test_a_search_binds_to_the_constructor_and_holds_its_defaults(name):
    cls = METHODS.get(name)
    known = {each.name for each in parameters(cls)}
    assert set(cls.search) <= known, "its own few are arguments that it has"
    space = searched(cls)
    assert {"lr", "weight_decay"} <= set(space), "every trained method has these to draw"
    for argument, (draw, default) in space.items():
        assert draw.holds(default), f"{argument}={default!r} lies outside of {draw}"
    for share in (0.0, 0.5, 1.0):
        drawn = {argument: draw.at(share) for argument, (draw, _) in space.items()}
        assert bind(cls, drawn, given=("task",)) == drawn, "no value is converted"


@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.parametrize("name", trained())
def test_a_method_can_be_built_with_either_end_of_all_that_is_drawn(name, share):
    cls = METHODS.get(name)
    task = sample_tasks(cls)[0]
    cls(task, **{argument: draw.at(share) for argument, (draw, _) in searched(cls).items()})


def test_what_is_common_is_had_by_some_method():
    assert set(COMMON) <= {each for name in trained() for each in searched(METHODS.get(name))}
