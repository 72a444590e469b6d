from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from mmbench.checks.tasks import TASKS, all_patterns, make_batch
from mmbench.data.task import Modality, Task
from mmbench.layers.fusion import random_pattern
from mmbench.methods.gcnet import GCNet, GraphNetwork, RelationalConv, in_window

MODALITIES = (
    Modality("a", "sequence", (6, 3)),
    Modality("b", "vector", (5,)),
    Modality("c", "sequence", (6, 2)),
)
TASK = Task("single_label", MODALITIES, ("x", "y", "z"))
M, D, P = 3, 8, 5


def build(**arguments):
    torch.manual_seed(0)
    return GCNet(TASK, **({"dim": D, "tokens": P} | arguments)).eval()


def batch_of(presence):
    return make_batch(TASK, torch.as_tensor(presence))


def test_a_node_reads_two_steps_back_itself_and_two_steps_on():
    before, now, after = in_window(5, 2)
    assert before[3].tolist() == [0, 1, 1, 0, 0]
    assert now[3].tolist() == [0, 0, 0, 1, 0]
    assert after[1].tolist() == [0, 0, 1, 1, 0]
    assert before[0].sum() == after[4].sum() == 0
    assert in_window(5, 9).sum(0).eq(1).all()  # a wide window reaches everyone, once


def relational_by_loops(part, x, neighbours):
    """W x_i, and for each relation the mean of W_r x_j, node by node."""
    rows = []
    for i in range(len(x)):
        y = part.root(x[i])
        for r, weight in enumerate(part.weight):
            near = [x[j] @ weight for j in range(len(x)) if neighbours[r, i, j]]
            if near:
                y = y + sum(near) / len(near)
        rows.append(y)
    return torch.stack(rows)


def network_by_loops(part, h, neighbours):
    """One sample, node by node."""
    read = relational_by_loops(part.relational, h, neighbours)
    near = [
        sum(read[j] for r in range(len(neighbours)) for j in range(P) if neighbours[r, i, j])
        for i in range(P)
    ]
    read = torch.stack([part.root(read[i]) + part.near.weight @ near[i] for i in range(P)])
    chain, _ = part.chain(torch.cat([h, read], dim=1)[None])
    chain, rows = chain[0], []
    for i in range(P):
        asked = part.match(chain[i])
        weights = torch.stack([torch.tanh(asked @ chain[j]) for j in range(P)]).softmax(0)
        rows.append(part.out(weights @ chain).relu())
    return torch.stack(rows)


def test_convolutions_give_what_the_loops_of_the_text_give():
    torch.manual_seed(0)
    neighbours = in_window(P, 2)
    conv = RelationalConv(3, D, 3)
    network = GraphNetwork(3, D, 2, dropout=0.0)
    x = torch.randn(4, P, D)
    found, y = conv(x, neighbours), network(x, neighbours)
    for i in range(4):
        torch.testing.assert_close(found[i], relational_by_loops(conv, x[i], neighbours))
        torch.testing.assert_close(y[i], network_by_loops(network, x[i], neighbours))


def test_outputs_are_those_of_both_networks_for_each_sample_alone():
    method, batch = build(), batch_of(all_patterns(TASK))
    near = in_window(P, 2)
    outputs = []
    for i in range(len(batch)):
        x = []
        for m, name in enumerate(TASK.names):
            steps = None if name not in batch.lengths else batch.lengths[name][i : i + 1]
            z = torch.zeros(P, D)
            if batch.presence[i, m]:
                z = method.encode.encoders[name](batch.inputs[name][i : i + 1], steps)[0]
            x.append(z)
        h = method.chain(torch.cat(x, dim=1)[None])[0][0]
        y = network_by_loops(method.temporal, h, near)
        y = y + network_by_loops(method.speaker, h, near.sum(0, keepdim=True))
        outputs.append(method.head(y.mean(0)))
    torch.testing.assert_close(method(batch), torch.stack(outputs), atol=1e-5, rtol=0)


def rebuilding_by_loops(method, truth, seen):
    z = method.encode(truth)
    y = method.complete(torch.where(seen[:, :, None, None], z, 0.0))
    total = 0.0
    for i in range(len(truth)):
        for m in range(M):
            if truth.presence[i, m] and not seen[i, m]:
                rebuilt = method.rebuild(y[i])[:, m * D : (m + 1) * D]
                total = total + F.mse_loss(rebuilt, z[i, m])
    return total / len(truth)


def test_what_is_hidden_and_known_is_rebuilt():
    method = build(reconstruct=2.0)
    batch = batch_of(all_patterns(TASK))
    torch.manual_seed(3)
    found = method.loss(batch)["reconstruction"]
    torch.manual_seed(3)
    seen = random_pattern(batch.presence)
    torch.testing.assert_close(found, 2 * rebuilding_by_loops(method, batch, seen))


def test_under_full_access_what_the_scenario_hid_is_rebuilt_too():
    method = build()
    truth = batch_of([[True] * M] * 8)
    shown = replace(truth.hide(torch.tensor([[False, True, True]] * 8)), teacher=truth)
    found = method.loss(shown)["reconstruction"]
    seen = torch.tensor([[True, False, False]] * 8)  # one modality is all there is to see
    torch.testing.assert_close(found, rebuilding_by_loops(method, truth, seen))
    assert method.loss(replace(shown, teacher=None))["reconstruction"] == 0


def test_rebuilding_does_not_pull_the_encoders_towards_what_is_easy_to_rebuild():
    method = build()
    truth = batch_of([[True] * M] * 4)
    shown = replace(truth.hide(torch.tensor([[False, True, True]] * 4)), teacher=truth)
    method.loss(shown)["reconstruction"].backward()
    for m in (1, 2):  # seen by nobody, and targets alone
        grads = [p.grad for p in method.encode.in_order[m].parameters()]
        assert all(g is None or not g.any() for g in grads)


@torch.no_grad()
def test_it_shows_what_it_rebuilds_beside_what_is_there():
    method, batch = build(), batch_of(all_patterns(TASK))
    z = method.encode(batch)
    y = method.complete(z)
    found = method.completed(batch)
    assert list(found) == ["a", "b", "c"]
    for m, name in enumerate(TASK.names):
        for i in range(len(batch)):
            wanted = z[i, m]
            if not batch.presence[i, m]:
                wanted = method.rebuild(y[i])[:, m * D : (m + 1) * D]
            torch.testing.assert_close(found[name][i], wanted.flatten())


def test_it_needs_something_in_time():
    assert GCNet.applies.reason_not(TASKS[2]) == "needs a modality of kind sequence or tokens"
    assert GCNet.applies.reason_not(TASK) is None
    with pytest.raises(ValueError, match="multiple of 4, found 10"):
        build(dim=10)
    with pytest.raises(ValueError, match="found 1 and 2"):
        build(tokens=1)


def test_nothing_waits_for_an_accelerator():
    # tensors on "meta" have no values: whatever the host would have to read raises
    method, batch = build().train().to("meta"), batch_of(all_patterns(TASK)).to("meta")
    assert method(batch).shape == (len(batch), 3)
    assert all(term.shape == () for term in method.loss(batch).values())
