import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmbench.checks.tasks import all_patterns, make_batch
from mmbench.data.task import Modality, Task
from mmbench.layers.prior import output_prior
from mmbench.methods.snn import SNN, SELUStack

SOUND = Modality("sound", "sequence", (6, 3))
RNA, METHYL = Modality("rna", "vector", (12,)), Modality("methyl", "vector", (7,))
TASK = Task("single_label", (SOUND, RNA, METHYL), ("x", "y", "z"))


def build(task=TASK, **arguments):
    torch.manual_seed(0)
    method = SNN(task, dim=16, **arguments)
    method.prepare([make_batch(task, all_patterns(task), seed=1)])
    return method.eval()


def test_a_stack_of_any_depth_keeps_mean_0_and_variance_1():
    torch.manual_seed(0)
    stack = SELUStack((300, *[512] * 8), 0.2).eval()
    x = torch.randn(512, 300)
    for layer in stack.layers:
        x = layer(x)
        assert abs(x.mean()) < 0.1
        assert x.var().item() == pytest.approx(1, abs=0.15)


def test_dropout_leaves_mean_and_variance_as_they_are():
    torch.manual_seed(0)
    stack = SELUStack((300, *[512] * 4), 0.2).train()
    z = stack(torch.randn(512, 300))
    assert abs(z.mean()) < 0.1
    assert z.var().item() == pytest.approx(1, abs=0.15)
    assert (z != stack.eval()(torch.randn(512, 300))).all()


def test_weights_start_with_variance_1_over_inputs_and_biases_with_0():
    torch.manual_seed(0)
    layers = [part for part in SNN(TASK).modules() if isinstance(part, nn.Linear)]
    for layer in layers:
        assert not layer.bias.any()
    assert [layer.out_features for layer in layers] == [512, 256, 3]
    assert layers[0].weight.var().item() == pytest.approx(1 / 12, rel=0.1)
    assert layers[1].weight.var().item() == pytest.approx(1 / 512, rel=0.05)


def test_outputs_are_those_of_the_layers_written_out():
    method, batch = build(), make_batch(TASK, torch.ones(5, 3, dtype=torch.bool))
    scale, alpha = 1.0507009873554805, 1.6732632423543772
    z = batch.inputs["rna"]
    for layer in method.encode.layers:
        z = z @ layer[0].weight.T + layer[0].bias
        z = scale * torch.where(z > 0, z, alpha * (z.exp() - 1))
    torch.testing.assert_close(method(batch), z @ method.head.weight.T + method.head.bias)


def test_only_its_modality_matters_and_it_is_the_first_vector_or_the_one_named():
    batch = make_batch(TASK, torch.ones(6, 3, dtype=torch.bool))
    for name, arguments in (("rna", {}), ("methyl", {"modality": "methyl"})):
        method = build(**arguments)
        assert method.read.name == name
        others = torch.tensor([n != name for n in TASK.names]).expand(6, 3)
        assert torch.equal(method(batch.hide(others)), method(batch))


@pytest.mark.parametrize("kind", ["single_label", "multi_label", "regression"])
def test_a_sample_without_it_gets_the_training_prior_and_trains_nothing(kind):
    task = Task(kind, (SOUND, RNA), ("x", "y", "z"))
    method, batch = build(task), make_batch(task, torch.tensor([[True, False], [True, True]] * 4))
    seen = make_batch(task, all_patterns(task), seed=1).target
    torch.testing.assert_close(method(batch)[::2], output_prior(task, seen).expand(4, -1))
    rows = method.row_loss(method(batch)[1::2], batch.target[1::2])
    torch.testing.assert_close(method.loss(batch)["task"], rows.mean())
    method.loss(make_batch(task, torch.tensor([[True, False]] * 4)))["task"].backward()
    assert not any(p.grad.any() for p in method.parameters() if p.grad is not None)


def test_parameters_are_those_of_three_linear_layers():
    count = sum(p.numel() for p in SNN(TASK, modality="methyl").parameters())
    assert count == 7 * 512 + 512 + 512 * 256 + 256 + 256 * 3 + 3


def test_it_needs_a_vector():
    task = Task("single_label", (SOUND, Modality("image", "image", (1, 8, 8))), ("x", "y"))
    assert SNN.applies.reason_not(task) == "needs a modality of kind vector"
    assert SNN.applies.reason_not(TASK) is None
    with pytest.raises(ValueError, match="vector is needed, found sound of kind sequence"):
        SNN(TASK, modality="sound")


def test_it_learns_a_rule_that_no_linear_map_can():
    torch.manual_seed(0)
    task = Task("single_label", (Modality("rna", "vector", (2,)), SOUND), ("x", "y"))
    method = SNN(task, dim=32, dropout=0.0, lr=1e-2)
    batch = make_batch(task, torch.ones(200, 2, dtype=torch.bool))
    x = torch.randn(200, 2)
    batch.inputs["rna"] = x
    target = (x[:, 0] * x[:, 1] > 0).long()
    optimiser = method.configure_optimizers()
    for _ in range(150):
        optimiser.zero_grad()
        F.cross_entropy(method(batch), target).backward()
        optimiser.step()
    assert (method.eval()(batch).argmax(1) == target).float().mean() > 0.95
