import pytest
import torch
import torch.nn.functional as F

from mmbench.checks.tasks import all_patterns, make_batch
from mmbench.data.task import Modality, Task
from mmbench.methods.i2m2 import I2M2

M = 3
MODALITIES = tuple(Modality(n, "vector", (6,)) for n in "abc")
TASKS = {
    kind: Task(kind, MODALITIES, ("x", "y", "z"))
    for kind in ("single_label", "multi_label", "regression")
}
TASK = TASKS["single_label"]
COMPLETE = torch.ones(12, M, dtype=torch.bool)


def build(task=TASK, **args):
    torch.manual_seed(0)
    return I2M2(task, dim=8, **args).eval()


def batch_of(presence=None, task=TASK):
    return make_batch(task, all_patterns(task) if presence is None else torch.as_tensor(presence))


def unimodal(method, batch, m):
    """z_m, from the encoder and the head of one modality."""
    x = method.unimodal.encode.in_order[m](batch.inputs[TASK.names[m]], None)
    first, last = method.unimodal.head[0], method.unimodal.head[3]
    h = F.gelu(x @ first.weight[m] + first.bias[m])
    return h @ last.weight[m] + last.bias[m]


def test_sums_of_logits_predict_as_the_product_of_softmaxes_does():
    method, batch = build(), batch_of(COMPLETE)
    with torch.no_grad():
        parts = [unimodal(method, batch, m) for m in range(M)] + [method.joint(batch)]
        log_p = torch.log_softmax(sum(torch.log_softmax(z, 1) for z in parts), 1)
        output = method(batch)
        torch.testing.assert_close(output.log_softmax(1), log_p, atol=1e-5, rtol=0)
        loss = method.loss(batch)["task"]
        torch.testing.assert_close(loss, F.nll_loss(log_p, batch.target), atol=1e-5, rtol=0)
        assert not torch.allclose(output, log_p, atol=1e-2)


def test_for_labels_it_is_the_product_of_bernoulli_experts():
    task = TASKS["multi_label"]
    method, batch = build(task), batch_of(COMPLETE, task)
    with torch.no_grad():
        z, _ = method.parts(batch)
        yes, no = z.sigmoid().prod(1), (-z).sigmoid().prod(1)
        torch.testing.assert_close(method(batch).sigmoid(), yes / (yes + no), atol=1e-5, rtol=0)


def test_for_regression_it_is_the_mean_of_the_experts_that_are_there():
    task = TASKS["regression"]
    method, batch = build(task), batch_of(task=task)
    with torch.no_grad():
        joint = method.joint(batch)
        for i in range(len(batch)):
            has = [m for m in range(M) if batch.presence[i, m]]
            experts = [unimodal(method, batch, m)[i] for m in has] + [joint[i]]
            mean = torch.stack(experts).mean(0)
            torch.testing.assert_close(method(batch)[i], mean, atol=1e-5, rtol=0)


@pytest.mark.parametrize("variant", ["both", "inter", "intra"])
def test_the_model_of_an_absent_modality_leaves_the_product(variant):
    method, batch = build(variant=variant), batch_of()
    with torch.no_grad():
        output = method(batch)
        for i in range(len(batch)):
            expected = torch.zeros(3)
            if variant != "inter":
                has = [m for m in range(M) if batch.presence[i, m]]
                expected += sum(unimodal(method, batch, m)[i] for m in has)
            if variant != "intra":
                expected += method.joint(batch)[i]
            torch.testing.assert_close(output[i], expected, atol=1e-5, rtol=0)


def test_the_joint_model_may_be_kept_for_complete_samples():
    batch = batch_of()
    with_it, without = build(), build(joint_when_incomplete=False)
    complete = batch.presence.all(1)
    with torch.no_grad():
        assert torch.equal(with_it(batch)[complete], without(batch)[complete])
        difference = with_it(batch) - without(batch)
        torch.testing.assert_close(difference[~complete], with_it.joint(batch)[~complete])
    without.loss(batch_of(all_patterns(TASK)[1:7]))["task"].backward()
    assert all(p.grad is None or not p.grad.any() for p in without.joint.parameters())


def test_pretraining_is_the_loss_of_each_part_where_it_applies():
    method, batch = build(), batch_of()
    first, second = method.stages
    assert (first.name, second.name) == ("parts", "product")
    method.begin(first)
    terms = method.eval().loss(batch)
    assert list(terms) == ["a", "b", "c", "joint"]
    for m, name in enumerate(TASK.names):
        rows = batch.has(name)
        expected = F.cross_entropy(unimodal(method, batch, m)[rows], batch.target[rows])
        torch.testing.assert_close(terms[name], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(terms["joint"], F.cross_entropy(method.joint(batch), batch.target))
    method.begin(second)
    assert list(method.loss(batch)) == ["task"]


def test_in_pretraining_the_parts_learn_apart():
    method, batch = build(), batch_of(COMPLETE)
    method.begin(method.stages[0])
    for name, term in method.loss(batch).items():
        method.zero_grad()
        term.backward(retain_graph=True)
        reached = {
            part: any(p.grad is not None and bool(p.grad.any()) for p in module.parameters())
            for part, module in zip(
                [*TASK.names, "joint"],
                [*method.unimodal.encode.in_order, method.joint],
                strict=True,
            )
        }
        assert [part for part, yes in reached.items() if yes] == [name]


def test_variants_hold_no_more_than_they_use():
    assert build(variant="intra").joint is None
    assert build(variant="inter").unimodal is None
    assert [s.name for s in build(variant="inter").stages] == ["product"]
    assert [s.name for s in build(variant="intra").stages] == ["parts", "product"]
    assert [s.name for s in build(pretrain=False).stages] == ["product"]
    intra = build(variant="intra")
    intra.begin(intra.stages[0])
    assert list(intra.loss(batch_of())) == ["a", "b", "c"]


def test_incomplete_samples_need_some_model():
    with pytest.raises(ValueError, match="without any model"):
        build(variant="inter", joint_when_incomplete=False)


def test_nothing_waits_for_an_accelerator():
    # tensors on "meta" have no values: whatever the host would have to read raises
    method, batch = build().train().to("meta"), batch_of().to("meta")
    assert method(batch).shape == (len(batch), 3)
    for stage in method.stages:
        method.begin(stage)
        assert all(term.shape == () for term in method.loss(batch).values())
