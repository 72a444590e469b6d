from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from mmbench.checks.tasks import all_patterns, make_batch
from mmbench.data.task import Modality, Task
from mmbench.methods.cross_modal_proxy_tokens import CMPT, LowRank

TASK = Task("single_label", tuple(Modality(m, "vector", (4,)) for m in "abc"), ("x", "y", "z"))
M, D, P = 3, 8, 2


def build(stage=1, **arguments):
    torch.manual_seed(0)
    small = {"dim": D, "tokens": P, "heads": 2, "dropout": 0.0}
    method = CMPT(TASK, **(small | arguments))
    for each in method.stages[: stage + 1]:
        method.begin(each)
    return method.eval()


def batch_of(presence):
    return make_batch(TASK, torch.as_tensor(presence))


def read_one(method, x, m):
    """k_m of one sample, and its proxies by the modality that they stand for."""
    tower = method.towers[m]
    start = [tower.cls, *method.proxies[m], *(x + tower.place)]
    z = tower.layers(torch.stack(start)[None])[0]
    others = [n for n in range(M) if n != m]
    return z[0], dict(zip(others, z[1:M], strict=True))


def test_outputs_are_those_of_class_tokens_and_mean_proxies_sample_by_sample():
    method, batch = build(), batch_of(all_patterns(TASK))
    x, outputs = method.encode(batch), []
    for i in range(len(batch)):
        there = [m for m in range(M) if batch.presence[i, m]]
        read = {m: read_one(method, x[i, m], m) for m in there}
        parts = []
        for n in range(M):
            if n in there:
                parts.append(read[n][0])
            else:
                parts.append(sum(read[m][1][n] for m in there) / len(there))
        outputs.append(method.head(torch.cat(parts)))
    torch.testing.assert_close(method(batch), torch.stack(outputs), atol=1e-5, rtol=0)


def test_proxies_are_held_to_the_class_tokens_of_pairs_that_a_sample_has():
    method, batch = build(alignment=2.0), batch_of(all_patterns(TASK))
    x, errors = method.encode(batch), []
    for i in range(len(batch)):
        there = [m for m in range(M) if batch.presence[i, m]]
        read = {m: read_one(method, x[i, m], m) for m in there}
        errors += [F.mse_loss(read[m][1][n], read[n][0]) for m in there for n in there if m != n]
    found = method.loss(batch)["alignment"]
    torch.testing.assert_close(found, 2 * sum(errors) / len(errors))


def test_alignment_moves_proxies_and_not_what_they_stand_for():
    method, batch = build(), batch_of([[True] * M] * 4)
    k, y = method.read(batch)
    moved = torch.autograd.grad(method.apart(k, y, batch), [k, y], allow_unused=True)
    assert moved[0] is None or not moved[0].any()
    assert moved[1].abs().sum() > 0


def test_under_full_access_proxies_learn_from_what_the_scenario_hid():
    method = build()
    truth = batch_of([[True] * M] * 4)
    shown = replace(truth.hide(torch.tensor([[False, True, True]] * 4)), teacher=truth)
    assert method.loss(shown)["alignment"] > 0
    assert method.loss(replace(shown, teacher=None))["alignment"] == 0
    torch.testing.assert_close(
        method.loss(shown)["task"], F.cross_entropy(method(shown), truth.target)
    )


@torch.no_grad()
def test_an_adapter_adds_a_product_of_low_rank():
    torch.manual_seed(0)
    part, weight = LowRank(6, 4, rank=2), torch.randn(6, 4)
    added = part(weight) - weight
    wanted = torch.tensor([[float(u @ v) for v in part.down.T] for u in part.up])
    torch.testing.assert_close(added, wanted)
    assert torch.linalg.matrix_rank(part.up @ part.down) == 2


def test_encoders_learn_alone_and_then_rest_but_for_their_adapters():
    first, second = (
        {n for n, p in build(stage=s).named_parameters() if p.requires_grad} for s in (0, 1)
    )
    assert not first & second
    assert {n.partition(".")[0] for n in first} == {"encode", "towers", "heads"}
    towers = {n.rpartition(".")[2] for n in second if n.startswith("towers.")}
    assert towers == {"up", "down"}  # in queries, keys and values, and in what comes out
    assert second - {n for n in second if n.startswith("towers.")} == {
        "proxies",
        "head.weight",
        "head.bias",
    }
    method = build()
    adapters = [p for n, p in method.named_parameters() if n.endswith((".up", ".down"))]
    assert len(adapters) == M * 2 * 2 * 2  # two layers, two maps, two factors
    assert sum(p.numel() for p in adapters) == M * 2 * (3 * D + D + D + D)


def test_each_encoder_first_learns_from_the_samples_that_have_its_modality():
    method, batch = build(stage=0), batch_of(all_patterns(TASK))
    found = method.loss(batch)["task"]
    wanted = 0.0
    for m in range(M):
        there = batch.presence[:, m]
        wanted = wanted + F.cross_entropy(method.alone(batch)[m, there], batch.target[there])
    torch.testing.assert_close(found, wanted)
    row = batch_of([[False, True, False]])
    assert torch.equal(method.stage_output(row), method.alone(row)[1])


def test_adapters_have_a_rank():
    with pytest.raises(ValueError, match="rank of at least 1, found 0"):
        build(rank=0)


@pytest.mark.parametrize("stage", [0, 1])
def test_nothing_waits_for_an_accelerator(stage):
    # tensors on "meta" have no values: whatever the host would have to read raises
    method = build(stage=stage).train().to("meta")
    batch = batch_of(all_patterns(TASK)).to("meta")
    assert method(batch).shape == (len(batch), 3)
    assert all(term.shape == () for term in method.loss(batch).values())
