import pytest
import torch
from sweeps import NO_DATA, specs
from torch.nn.functional import gelu

from mmbench.bench.run.build import build_data, reason_to_skip
from mmbench.checks.tasks import MODALITIES, all_patterns, make_batch
from mmbench.data.task import Task
from mmbench.layers.prior import output_prior
from mmbench.methods.unimodal import Unimodal

TASK = Task("single_label", (MODALITIES["image"], MODALITIES["vector"]), ("x", "y", "z"))


def build(**arguments):
    torch.manual_seed(0)
    method = Unimodal(TASK, dim=8, **arguments)
    method.prepare([make_batch(TASK, all_patterns(TASK), seed=1)])
    return method.eval()


@pytest.mark.parametrize("name", TASK.names)
def test_it_predicts_from_the_named_modality_alone(name):
    method, batch = build(modality=name), make_batch(TASK, torch.ones(6, 2, dtype=torch.bool))
    others = torch.tensor([n != name for n in TASK.names]).expand(6, 2)
    assert torch.equal(method(batch.hide(others)), method(batch))
    z = method.encode(batch.inputs[name])
    hidden = gelu(z @ method.head[0].weight.T + method.head[0].bias)
    wanted = hidden @ method.head[3].weight.T + method.head[3].bias
    torch.testing.assert_close(method(batch), wanted)


def test_without_a_name_it_is_the_first_modality_whatever_its_kind():
    assert build().read.name == TASK.names[0] == "image"


def test_a_sample_without_it_gets_the_training_prior_and_trains_nothing():
    batch = make_batch(TASK, torch.tensor([[True, False]] * 4))
    method = build(modality="vector")
    prior = output_prior(TASK, make_batch(TASK, all_patterns(TASK), seed=1).target)
    torch.testing.assert_close(method(batch), prior.expand(4, -1))
    method.loss(batch)["task"].backward()
    assert not any(p.grad.any() for p in method.parameters() if p.grad is not None)


def test_a_data_set_without_the_modality_is_a_dash_and_says_what_there_is():
    [spec] = specs(methods=["unimodal"])
    reason = reason_to_skip(Unimodal, {"modality": "image"}, build_data(spec, NO_DATA))
    assert reason == "has no modality named 'image'; there are fou, kar"
    assert Unimodal.reason_not(TASK, modality="image") is None
    assert Unimodal.reason_not(TASK) is None
