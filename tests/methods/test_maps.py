from itertools import product

import pytest
import torch

from mmbench.checks.tasks import TASKS, all_patterns, make_batch
from mmbench.data.task import Modality, Task
from mmbench.layers.prompts import Prompts, fallback, pattern_index, with_dummies
from mmbench.methods.maps import MAPs
from mmbench.methods.msps import MSPs

TASK = Task("single_label", tuple(Modality(m, "vector", (4,)) for m in "abc"), ("x", "y", "z"))
TWO = Task("single_label", TASK.modalities[:2], tuple(f"c{i}" for i in range(23)))
D, N = 8, 1 + 3 * 5  # [CLS], and three modalities of [CLS]_m and four patches


def build(task=TASK, **arguments):
    torch.manual_seed(0)
    arguments = {"dim": D, "depth": 3, "length": 4} | arguments
    return MAPs(task, **arguments).eval()


def shaken(method):
    torch.manual_seed(1)
    with torch.no_grad():
        for p in method.prompts.parameters():
            p.normal_()
    return method


def lengths_of(method, batch):
    """Tokens that each layer is given."""
    seen = []
    hooks = [
        layer.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].shape[1]))
        for layer in method.backbone.layers
    ]
    method(batch)
    for hook in hooks:
        hook.remove()
    return seen


def by_loops(method, batch, kind):
    """One sample at a time: its pattern's prompts, its real tokens, nothing masked."""
    backbone, out = method.backbone, []
    tokens, keys = backbone.tokens(batch), backbone.keys(batch)
    for row in range(len(batch)):
        p = sum(2**m for m in range(3) if batch.presence[row, m]) - 1
        real = [tokens[name][row][keys[name][row]] for name in TASK.names]
        x = torch.cat([backbone.cls[None], *real])[None]
        for i, layer in enumerate(backbone.layers):
            prompts = method.prompts.tables[0][p, i] if i < 2 else None
            if prompts is not None and kind == "input":
                x = torch.cat([prompts, x], dim=1)
                prompts = None
            x = layer(x, None, None if prompts is None else (prompts[:1], prompts[1:]))
        own = 8 if kind == "input" else 0
        out.append(method.head(backbone.pooler(backbone.norm(x[:, own])))[0])
    return torch.stack(out)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["input", "attention"])
def test_each_sample_gets_the_prompts_of_its_pattern(kind):
    method = shaken(build(kind=kind, layers=2))
    batch = make_batch(TASK, all_patterns(TASK))
    torch.testing.assert_close(method(batch), by_loops(method, batch, kind), atol=1e-5, rtol=0)


@torch.no_grad()
def test_input_prompts_lengthen_the_sequence_layer_by_layer():
    batch = make_batch(TASK, all_patterns(TASK))
    assert lengths_of(build(depth=4, layers=2), batch) == [N + 4 * min(i + 1, 2) for i in range(4)]
    assert lengths_of(build(depth=2, layers=6), batch) == [N + 4, N + 8]
    assert lengths_of(build(kind="attention"), batch) == [N, N, N]


def test_patterns_are_numbered_by_their_bits():
    presence = torch.tensor([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1], [1, 1, 1]]).bool()
    assert pattern_index(presence).tolist() == [0, 1, 2, 3, 6]
    assert sorted(pattern_index(all_patterns(TASK, repeat=1)).tolist()) == list(range(7))


@torch.no_grad()
def test_samples_that_differ_in_their_pattern_alone_differ():
    method = shaken(build(dummy="zeros"))
    zero = make_batch(TASK, torch.tensor([[True, True, True], [True, False, True]]))
    for x in zero.inputs.values():
        x.copy_(x[:1].expand_as(x))
    zero.inputs["b"].zero_()  # what a dummy stands for
    tokens, keys = with_dummies(method.backbone, zero, "zeros")
    assert all(torch.equal(x[0], x[1]) for x in keys.values())
    for x in tokens.values():  # a batch of one, as a dummy is made, may round another way
        torch.testing.assert_close(x[0], x[1], atol=1e-6, rtol=0)
    assert (method(zero)[0] - method(zero)[1]).abs().max() > 1e-3


@torch.no_grad()
def test_prompts_start_as_zeros_with_a_row_of_ones_that_differs_by_pattern():
    for kind, parts, rows in (("input", 1, 8), ("attention", 2, 4)):
        [table] = build(kind=kind, length=8, layers=2).prompts.tables
        assert table.shape == (7, 2, parts, rows, D)
        expected = torch.zeros_like(table)
        for s, layer, part in product(range(7), range(2), range(parts)):
            expected[s, layer, part, s % rows] = 1
        assert torch.equal(table, expected)


@torch.no_grad()
def test_prompts_that_no_token_may_read_leave_the_frozen_backbone():
    method = shaken(build())
    backbone, batch = method.backbone, make_batch(TASK, all_patterns(TASK))
    prompts = method.prompts.tables[0][pattern_index(batch.presence)]
    x, read = backbone.sequence(0, backbone.tokens(batch), backbone.keys(batch))
    for i in range(backbone.depth):
        x = torch.cat([prompts[:, i, 0], x], dim=1)
        read = torch.nn.functional.pad(read, (4, 0), value=False)
        x = backbone.layer(i, 0, x, read)
    torch.testing.assert_close(backbone.pool([x], [read]), backbone(batch), atol=1e-5, rtol=0)


@torch.no_grad()
def test_zero_keys_and_values_draw_attention_to_nothing():
    """Attention of a layer then is Σ exp(s) v / (Σ exp(s) + n)."""
    method = build(kind="attention")
    layer, x = method.backbone.layers[0], torch.randn(1, 5, D)
    nothing = torch.zeros(1, 3, D)
    q, k, v = (z.view(5, 4, 2) for z in layer.attend.qkv(x)[0].chunk(3, dim=1))
    weights = torch.einsum("qhd,khd->hqk", q, k).div(2**0.5).exp()
    read = torch.einsum("hqk,khd->qhd", weights / (weights.sum(2, keepdim=True) + 3), v)
    expected = layer.attend.out(read.reshape(5, D))
    torch.testing.assert_close(layer.attend(x, None, (nothing, nothing))[0], expected)


def test_only_prompts_pooler_and_head_learn():
    method = build().train()
    names = {name for name, p in method.named_parameters() if p.requires_grad}
    assert {name.rpartition(".")[0] for name in names} == {
        "prompts.tables",
        "backbone.pooler.0",
        "head.0",
        "head.1",
        "head.3",
    }
    before = {k: v.clone() for k, v in method.backbone.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad])
    sum(method.loss(make_batch(TASK, all_patterns(TASK))).values()).backward()
    optimizer.step()
    moved = {k for k, v in method.backbone.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {"pooler.0.weight", "pooler.0.bias"}


@pytest.mark.parametrize("kind", ["input", "attention"])
def test_parameters_are_as_many_as_published_at_the_sizes_of_vilt(kind):
    with torch.device("meta"):
        method = MAPs(TWO, kind=kind, dim=768, depth=6)
    learns = {n: p.numel() for n, p in method.named_parameters() if p.requires_grad}
    prompts = sum(count for name, count in learns.items() if name.startswith("prompts."))
    assert prompts == 221_184
    assert sum(learns.values()) - prompts == 1_810_199


def test_a_pattern_never_seen_uses_the_mean_of_seen_ones_that_contain_it():
    seen = torch.tensor([0, 0, 1, 0, 1, 0, 1]).bool()  # a+b, a+c, a+b+c
    use = fallback(seen)
    assert torch.equal(use[seen], torch.eye(7)[seen])
    third = 1 / 3
    expected = {
        0: [0, 0, third, 0, third, 0, third],  # a: all three contain it
        1: [0, 0, 0.5, 0, 0, 0, 0.5],  # b
        3: [0, 0, 0, 0, 0.5, 0, 0.5],  # c
        5: [0, 0, 0, 0, 0, 0, 1],  # b+c
    }
    for pattern, weights in expected.items():
        torch.testing.assert_close(use[pattern], torch.tensor(weights, dtype=torch.float32))
    lonely = fallback(torch.tensor([1, 1, 0]).bool())
    torch.testing.assert_close(lonely[2], torch.tensor([0.5, 0.5, 0]))  # nothing contains a+b


@torch.no_grad()
def test_what_was_seen_is_learned_from_the_training_split_and_told():
    method = shaken(build())
    complete = make_batch(TASK, torch.ones(4, 3, dtype=torch.bool))
    method.prepare([complete, make_batch(TASK, torch.tensor([[False, True, True]]))])
    assert method.diagnostics()["seen_in_training"].values.tolist() == [[0] * 5 + [1] * 2]
    alone = make_batch(TASK, torch.tensor([[True, False, False]]))  # a: a+b+c alone contains it
    before = method(alone)
    method.prompts.tables[0][:6].normal_()
    assert torch.equal(method(alone), before)
    method.prompts.tables[0][6].normal_()
    assert (method(alone) - before).abs().max() > 1e-3


@torch.no_grad()
def test_dummies_are_white_images_empty_texts_and_zero_features():
    task = TASKS[0]
    method = build(task)
    presence = torch.tensor([[True, False, False], [False, True, True], [True, True, True]])
    batch = make_batch(task, presence)
    masked, shown = (with_dummies(method.backbone, batch, d) for d in ("masked", "ones"))
    for name in task.names:
        there = batch.has(name)
        assert torch.equal(masked[0][name], method.backbone.tokens(batch)[name])
        assert not masked[1][name][~there].any()
        assert torch.equal(shown[0][name][there], masked[0][name][there])
        assert torch.equal(shown[1][name][there], masked[1][name][there])
        tokens, real = method.backbone.blank(name, 1.0 if name == "image" else 0.0)
        assert torch.equal(shown[0][name][~there][0], tokens)
        assert torch.equal(shown[1][name][~there][0], real)
    zeros = with_dummies(method.backbone, batch, "zeros")
    assert torch.equal(zeros[0]["image"][0], method.backbone.blank("image")[0])


@torch.no_grad()
def test_in_table_1_empty_texts_are_read_and_nothing_else_that_is_absent():
    task = TASKS[0]
    assert task.names == ("vector", "words", "image")
    method = build(task, dummy="table1")
    batch = make_batch(task, torch.tensor([[True, False, False], [False, True, True]]))
    tokens, keys = with_dummies(method.backbone, batch, "table1")
    blank, real = method.backbone.blank("words")
    assert torch.equal(tokens["words"][0], blank)
    assert torch.equal(keys["words"][0], real)
    assert real.any()
    assert not keys["image"][0].any()
    assert not keys["vector"][1].any()
    plain = method.backbone.keys(batch)
    assert torch.equal(keys["words"][1], plain["words"][1])
    assert not torch.allclose(method(batch)[0], build(task)(batch)[0], atol=1e-5)
    torch.testing.assert_close(method(batch)[1], build(task)(batch)[1])


def test_the_released_code_reads_dummies_and_the_paper_variant_does_not():
    assert build().dummy == "masked"
    assert build(variant="official").dummy == "ones"
    assert MSPs(TASK, dim=D, depth=2, variant="official").dummy == "table1"
    assert build(variant="official", dummy="zeros").dummy == "zeros"


def test_prompts_that_cannot_be_are_refused():
    backbone = build().backbone
    for length, layers, kind, words in (
        (5, 6, "attention", "5 is odd, take 6"),
        (0, 6, "input", "found 0 and 6"),
        (4, 0, "input", "found 4 and 0"),
    ):
        with pytest.raises(ValueError, match=words):
            Prompts(backbone, 3, length=length, layers=layers, kind=kind)
