"""Every method with experts shows who is asked, every one that retrieves whom it finds, and every
one that recovers what it makes."""

import pytest
import torch
from torch import nn

from mmbench.checks.methods import build
from mmbench.checks.tasks import all_patterns, make_batch
from mmbench.data.task import Modality, Task
from mmbench.diagnostics import Retrieval, RouterUsage
from mmbench.layers.memory import Memory
from mmbench.layers.moe import Experts, NoisyTopKGate
from mmbench.registry import METHODS

TASK = Task(
    "single_label",
    (Modality("a", "vector", (6,)), Modality("b", "vector", (5,)), Modality("c", "vector", (4,))),
    ("x", "y", "z"),
)
RETRIEVES = ("moe_retriever",)  # without a memory that is searched
# of papers whose idea is to put something in the place of what is missing
RECOVERS = (
    "action_mae", "cross_modal_proxy_tokens", "dymo", "if_mmin", "imder", "m3care", "mce", "mfm",
    "mosare", "ragpt", "redeem", "shaspec", "smil", "tfr_net",
)  # fmt: skip


def fitting(name):
    cls = METHODS.get(name)
    if reason := cls.reason_not(TASK):
        pytest.skip(f"{name} {reason}")
    return cls


def evaluated(name):
    """A method after an evaluation of every pattern, and its batch."""
    method = build(fitting(name), TASK)
    batch = make_batch(TASK, all_patterns(TASK).repeat(3, 1))
    with torch.no_grad():
        method.eval()(batch.blind())
    return method, batch


def has_router(method):
    def chooses(part):
        return isinstance(part, Experts | NoisyTopKGate) or type(part).__name__ == "Router"

    named = any(n.split(".")[-1] in ("router", "routers") for n, _ in method.named_modules())
    return named or any(chooses(part) for part in method.modules())


@pytest.mark.parametrize("name", METHODS.names())
def test_a_method_with_experts_shows_who_is_asked_and_one_that_retrieves_whom_it_finds(name):
    method, batch = evaluated(name)
    shown = list(method.diagnostics().values())
    if has_router(method):
        usages = [one for one in shown if isinstance(one, RouterUsage)]
        assert usages
        for usage in usages:
            torch.testing.assert_close(
                torch.from_numpy(usage.share).double().sum(1),
                torch.ones(len(usage.pattern), dtype=torch.double),
                atol=1e-4,
                rtol=0,
            )
            assert len(set(usage.expert)) == len(usage.expert)
    if any(isinstance(part, Memory) for part in method.modules()) or name in RETRIEVES:
        [found] = [one for one in shown if isinstance(one, Retrieval)]
        assert set(found.query.tolist()) <= set(batch.blind().sample_id.tolist())


@pytest.mark.parametrize("name", RECOVERS)
def test_what_a_method_goes_on_with_is_shown_for_every_modality(name):
    method = build(fitting(name), TASK).eval()
    presence = all_patterns(TASK).repeat(3, 1)
    whole = make_batch(TASK, torch.ones_like(presence))
    with torch.no_grad():
        made, true = method.completed(whole.hide(~presence)), method.completed(whole)
    assert list(made) == list(TASK.names)
    for m, modality in enumerate(TASK.names):
        assert made[modality].shape == true[modality].shape
        assert len(made[modality]) == len(presence)
        assert made[modality].isfinite().all()
        gap = ~presence[:, m]
        assert not torch.allclose(made[modality][gap], true[modality][gap])


def test_a_method_without_experts_is_known_as_such():
    assert not has_router(build(METHODS.get("zero_fill"), TASK))
    assert has_router(build(METHODS.get("momke"), TASK))
    assert isinstance(build(METHODS.get("momke"), TASK), nn.Module)
