"""Prompt methods keep the contract on backbones with published weights, too, here tiny ones."""

from dataclasses import replace

import pytest
from tiny_models import NAME, PIXELS, save

from mmbench.checks.methods import METHOD_CHECKS
from mmbench.checks.tasks import MODALITIES
from mmbench.data.task import Task
from mmbench.prompting import PromptMethod
from mmbench.registry import METHODS

pytestmark = [pytest.mark.slow, pytest.mark.full]
IMAGE = replace(MODALITIES["image"], pixels=PIXELS)
TEXT = replace(MODALITIES["tokens"], tokenizer=NAME)
TASK = Task("single_label", (IMAGE, TEXT), tuple("abc"))
PROMPTED = [name for name in METHODS.names() if issubclass(METHODS.get(name), PromptMethod)]
# a class inside a test cannot be found by another process
RULES = sorted(name for name, rule in METHOD_CHECKS.items() if rule.scope != "once")


@pytest.fixture(scope="module", params=["vilt", "clip"])
def backbone(request, tmp_path_factory):
    return f"{request.param}:{save(request.param, tmp_path_factory.mktemp(request.param))}"


def on(cls, backbone):
    class OnBackbone(cls):
        own_encoders = "published weights read inputs by the layers that they were trained with"

        def __init__(self, task):
            super().__init__(task, backbone=backbone, lr=5e-3)

    return OnBackbone


def test_all_prompt_methods_are_here():
    assert {"redeem", "ragpt", "maps", "msps"} <= set(PROMPTED)


@pytest.mark.parametrize("name", PROMPTED)
@pytest.mark.parametrize("check", RULES)
def test_a_prompt_method_keeps_the_contract(name, check, backbone):
    METHOD_CHECKS[check](on(METHODS.get(name), backbone), TASK)
