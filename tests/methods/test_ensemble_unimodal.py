import pytest
import torch
import torch.nn.functional as F

from mmbench.checks.tasks import all_patterns, make_batch
from mmbench.data.task import Modality, Task
from mmbench.methods.ensemble_unimodal import EnsembleUnimodal
from mmbench.methods.unimodal import Unimodal

MODALITIES = tuple(Modality(m, "vector", (4,)) for m in "abc")
TASKS = {k: Task(k, MODALITIES, ("x", "y")) for k in ("single_label", "multi_label", "regression")}
TASK = TASKS["single_label"]


def build(task=TASK):
    torch.manual_seed(0)
    method = EnsembleUnimodal(task, dim=8, dropout=0.0)
    method.prepare([make_batch(task, all_patterns(task), seed=1)])
    return method.eval()


def alone(method, batch, m, i):
    """Output of network m for sample i."""
    name = method.task.names[m]
    z = method.encode.encoders[name](batch.inputs[name][i : i + 1], None)
    return method.heads[m](z)[0]


@pytest.mark.parametrize("kind", TASKS)
def test_it_is_the_mean_log_probability_of_those_that_are_there(kind):
    task = TASKS[kind]
    method, batch = build(task), make_batch(task, all_patterns(task))
    with torch.no_grad():
        output = method(batch)
        for i in range(len(batch)):
            outputs = [alone(method, batch, m, i) for m in range(3) if batch.presence[i, m]]
            if kind == "single_label":
                wanted = sum(F.log_softmax(o, 0) for o in outputs) / len(outputs)
                wanted, found = wanted.softmax(0), output[i].softmax(0)
            elif kind == "multi_label":
                yes = sum(F.logsigmoid(o) for o in outputs) / len(outputs)
                no = sum(F.logsigmoid(-o) for o in outputs) / len(outputs)
                wanted, found = yes.exp() / (yes.exp() + no.exp()), output[i].sigmoid()
            else:
                wanted, found = sum(outputs) / len(outputs), output[i]
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_a_stage_trains_one_network_and_is_scored_by_the_mean_of_those_so_far():
    method, batch = build(), make_batch(TASK, all_patterns(TASK))
    for m, stage in enumerate(method.stages):
        method.begin(stage)
        method.eval()
        rows = batch.presence[:, m]
        own = torch.stack([alone(method, batch, m, i) for i in range(len(batch))])
        for i, output in enumerate(method.stage_output(batch).detach()):
            before = [alone(method, batch, k, i) for k in range(m + 1) if batch.presence[i, k]]
            log_p = [F.log_softmax(o, 0) for o in before] or [method.prior]
            wanted = (sum(log_p) / len(log_p)).softmax(0)
            torch.testing.assert_close(output.softmax(0), wanted, atol=1e-5, rtol=0)
        loss = method.loss(batch)["task"]
        torch.testing.assert_close(loss, F.cross_entropy(own[rows], batch.target[rows]))
        method.zero_grad()
        loss.backward()
        reached = {n for n, p in method.named_parameters() if p.grad is not None and p.grad.any()}
        assert reached == {n for n, _ in method.named_parameters() if stage.covers(n)}


def test_its_networks_are_those_of_the_unimodal_rows():
    method, batch = build(), make_batch(TASK, all_patterns(TASK))
    for m, name in enumerate(TASK.names):
        single = Unimodal(TASK, modality=name, dim=8, dropout=0.0).eval()
        single.encode.load_state_dict(method.encode.in_order[m].state_dict())
        single.head.load_state_dict(method.heads[m].state_dict())
        single.prior.copy_(method.prior)
        assert torch.equal(single(batch), method.alone(batch, m))
