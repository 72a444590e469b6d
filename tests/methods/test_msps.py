import pytest
import torch

from mmbench.checks.tasks import all_patterns, make_batch
from mmbench.data.task import Modality, Task
from mmbench.methods.msps import MSPs, overlap

TASK = Task("single_label", tuple(Modality(m, "vector", (4,)) for m in "abc"), ("x", "y", "z"))
D = 8


def build(**arguments):
    torch.manual_seed(0)
    method = MSPs(TASK, **({"dim": D, "depth": 3, "length": 4, "layers": 2} | arguments)).eval()
    with torch.no_grad():
        for p in method.prompts.parameters():
            p.normal_(std=0.5)
    return method


def by_loops(method, batch):
    """One sample at a time, nothing masked."""
    backbone, table, out = method.backbone, method.prompts.tables[0], []
    tokens, keys = backbone.tokens(batch), backbone.keys(batch)
    for row in range(len(batch)):
        mine = [table[m] for m in range(3) if batch.presence[row, m]]
        if method.combine == "concat":
            mine = [table[m] * batch.presence[row, m] for m in range(3)]
            prompts = torch.cat(mine, dim=2)  # layers, parts, rows, D
        else:
            prompts = sum(mine) / (len(mine) if method.combine == "mean" else 1)
        real = [tokens[name][row][keys[name][row]] for name in TASK.names]
        x = torch.cat([backbone.cls[None], *real])[None]
        own = 0
        for i, layer in enumerate(backbone.layers):
            prefix = None
            if i < 2 and method.prompts.kind == "input":
                x = torch.cat([prompts[i], x], dim=1)
                own += prompts.shape[2]
            elif i < 2:
                prefix = (prompts[i, :1], prompts[i, 1:])
            x = layer(x, None, prefix)
        out.append(method.head(backbone.pooler(backbone.norm(x[:, own])))[0])
    return torch.stack(out)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["input", "attention"])
@pytest.mark.parametrize("combine", ["sum", "mean", "concat"])
def test_each_sample_gets_the_prompts_of_its_modalities(kind, combine):
    method, batch = build(kind=kind, combine=combine), make_batch(TASK, all_patterns(TASK))
    torch.testing.assert_close(method(batch), by_loops(method, batch), atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_complete_sample_gets_the_sum_of_what_single_modalities_get():
    method = build()
    presence = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]]).bool()
    got = method.combined(method.prompts.tables[0], presence)
    torch.testing.assert_close(got[3], got[:3].sum(0))
    assert torch.equal(got[:3], method.prompts.tables[0])


def test_there_are_as_many_sets_as_modalities():
    with torch.device("meta"):
        method = MSPs(TASK, dim=768, depth=6)
    assert [p.numel() for p in method.prompts.parameters()] == [3 * 6 * 16 * 768]


def test_overlap_is_zero_for_disjoint_rows_and_one_for_equal_prompts():
    eye = torch.eye(3, 5)
    assert overlap(eye).item() == 0
    one = torch.randn(1, 5)
    assert overlap(one.expand(3, 5)).item() == pytest.approx(1)
    assert overlap(torch.cat([one, -3 * one])).item() == pytest.approx(1)
    assert overlap(torch.zeros(2, 4)).item() == 0
    # cosines 1/√2, 0 and 1/√2
    pairs = torch.tensor([[1.0, 0.0], [2.0, 2.0], [0.0, 3.0]])
    assert overlap(pairs).item() == pytest.approx(2 / 3 / 2**0.5)


def test_overlap_knows_no_scale_and_stays_between_zero_and_one():
    torch.manual_seed(0)
    for _ in range(20):
        prompts = 0.02 * torch.randn(4, 7)
        value = overlap(prompts)
        assert 0 < value < 1
        torch.testing.assert_close(overlap(prompts * torch.rand(4, 1).add(0.1)), value)


def test_prompts_start_orthogonal_and_the_penalty_acts_once_they_overlap():
    torch.manual_seed(0)
    method = MSPs(TASK, dim=D, depth=2, orthogonality=0.5)
    batch = make_batch(TASK, all_patterns(TASK))
    terms = method.loss(batch)
    assert list(terms) == ["task", "orthogonality"]
    assert terms["orthogonality"].item() == 0
    terms["orthogonality"].backward()
    [table] = method.prompts.tables
    assert not table.grad.any()
    with torch.no_grad():
        table.normal_(std=0.02)
    penalty = method.loss(batch)["orthogonality"]
    torch.testing.assert_close(penalty, 0.5 * overlap(table.flatten(1)))
    penalty.backward()
    with torch.no_grad():
        table -= 1e-4 * table.grad / table.grad.norm()
    assert method.loss(batch)["orthogonality"] < penalty


def test_only_prompts_pooler_and_head_learn():
    names = {name for name, p in build().named_parameters() if p.requires_grad}
    assert {name.partition(".")[0] for name in names} == {"prompts", "backbone", "head"}
    assert {n for n in names if n.startswith("backbone")} == {
        "backbone.pooler.0.weight",
        "backbone.pooler.0.bias",
    }
