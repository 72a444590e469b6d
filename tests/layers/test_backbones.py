import pytest
import torch

from mmbench.checks.tasks import TASKS, all_patterns, make_batch
from mmbench.data.task import Modality, Task
from mmbench.layers.attention import PreNormBlock
from mmbench.layers.backbones import SmallBackbone
from mmbench.layers.encoders import MAX_TOKENS
from mmbench.layers.named_backbone import backbone

D = 16


def build(task, **arguments):
    torch.manual_seed(0)
    return SmallBackbone(task, dim=D, depth=3, **arguments).eval()


@pytest.fixture(params=TASKS, ids=lambda task: task.kind)
def task(request):
    return request.param


@torch.no_grad()
def test_the_backbone_is_its_layers_over_cls_and_the_tokens_that_are_there(task):
    """One sample at a time, absent and padded tokens left out instead of masked."""
    model = build(task)
    batch = make_batch(task, all_patterns(task))
    out, tokens, keys = model(batch), model.tokens(batch), model.keys(batch)
    for row in range(len(batch)):
        real = [tokens[name][row][keys[name][row]] for name in task.names]
        x = torch.cat([model.cls[None], *real])[None]
        for layer in model.layers:
            x = layer(x)
        alone = model.pooler(model.norm(x[0, 0]))
        torch.testing.assert_close(out[row], alone, atol=1e-5, rtol=0)


@torch.no_grad()
def test_tokens_are_cls_and_parts_and_keys_say_which_are_real():
    [multi] = [task for task in TASKS if task.kind == "multi_label"]
    batch = make_batch(multi, torch.tensor([[True, True], [False, True], [True, False]]))
    model = build(multi)
    keys, tokens = model.keys(batch), model.tokens(batch)
    assert {name: x.shape[1] for name, x in tokens.items()} == model.counts
    assert model.counts == {"sound": 1 + 7, "patches": 1 + 8}
    assert batch.lengths["sound"].tolist() == [1, 0, 3]
    assert keys["sound"].sum(1).tolist() == [1 + 1, 0, 1 + 3]
    assert keys["patches"].sum(1).tolist() == [9, 9, 0]
    assert not tokens["sound"][1].any()


@torch.no_grad()
def test_a_long_text_is_averaged_down_and_a_short_one_kept():
    modality = Modality("words", "tokens", (80,), vocab_size=50)
    task = Task("regression", (modality, Modality("age", "vector", (1,))), ("y",))
    model, batch = build(task), make_batch(task, torch.ones(80, 2, dtype=torch.bool))
    embedder, ids = model.embedder("words"), batch.inputs["words"]
    ids.copy_(torch.randint(1, 50, ids.shape) * (ids > 0))
    tokens, keys = model.tokens(batch)["words"], model.keys(batch)["words"]
    words = embedder.cut.project(ids)
    for row, length in ((4, 5), (31, 32)):
        assert keys[row].sum() == 1 + length
        expected = embedder.norm(words[row, :length]) + embedder.position[:length]
        torch.testing.assert_close(tokens[row, 1 : 1 + length], expected)
    pooled = torch.nn.functional.adaptive_avg_pool1d(words[69, :70].T[None], MAX_TOKENS)[0].T
    expected = embedder.norm(pooled) + embedder.position
    torch.testing.assert_close(tokens[69, 1:], expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_inserted_tokens_stand_first_and_stay():
    task = TASKS[0]
    model = build(task)
    batch = make_batch(task, all_patterns(task))
    own = 1 + sum(model.counts.values())
    extra = torch.randn(len(batch), 2, D)
    inputs = []
    hooks = [
        layer.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments))
        for layer in model.layers
    ]
    tokens, keys = model.tokens(batch), model.keys(batch)
    out = model.run(tokens, keys, lambda i, stream: extra if i < 2 else None)
    for hook in hooks:
        hook.remove()
    assert [x.shape[1] for x, _, _ in inputs] == [own + 2, own + 4, own + 4]
    assert torch.equal(inputs[1][0][:, :2], extra)
    x, read, _ = inputs[2]
    assert read[:, :4].all()
    last = model.layers[2](x, read)
    torch.testing.assert_close(out, model.pooler(model.norm(last[:, 4])))  # [CLS] has moved
    first = model.run(tokens, keys, lambda i, stream: extra if i < 2 else None, at=0)
    torch.testing.assert_close(first, model.pooler(model.norm(last[:, 0])))


@torch.no_grad()
def test_keys_and_values_from_outside_are_read_like_those_of_a_token():
    torch.manual_seed(0)
    block = PreNormBlock(D, heads=4).eval()
    x, more = torch.randn(3, 5, D), torch.randn(3, 2, D)
    there = torch.tensor([[1, 1, 0, 1, 1], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]]).bool()
    _, k, v = block.attend.qkv(block.norm_attend(more)).chunk(3, dim=2)
    read = torch.nn.functional.pad(there, (2, 0), value=True)
    inserted = block(torch.cat([more, x], 1), read)[:, 2:]
    torch.testing.assert_close(block(x, there, (k, v))[there], inserted[there])
    assert (block(x, there) - inserted).abs().max() > 0.01


@torch.no_grad()
def test_blank_inputs_are_those_of_constants():
    task = TASKS[0]
    model = build(task)
    batch = make_batch(task, torch.ones(1, 3, dtype=torch.bool))
    batch.inputs["image"].fill_(1.0)
    batch.inputs["vector"].zero_()
    white, zero, empty = model.blank("image", 1.0), model.blank("vector"), model.blank("words")
    torch.testing.assert_close(white[0], model.tokens(batch)["image"][0])
    torch.testing.assert_close(zero[0], model.tokens(batch)["vector"][0])
    assert white[1].all()
    assert zero[1].all()
    assert empty[1].tolist() == [True] + [False] * 6  # [CLS] alone


def test_a_single_number_is_told_from_another():
    task = Task("regression", tuple(Modality(m, "vector", (1,)) for m in "ab"), ("y",))
    embed = build(task).embedder("a")
    assert (embed(torch.tensor([[1.0]]), None) - embed(torch.tensor([[2.0]]), None)).any()


def test_a_backbone_that_does_not_exist_is_refused():
    for text in ("tiny", "small:/folder", "vilt"):
        with pytest.raises(ValueError, match=f"no backbone '{text}'; take small"):
            backbone(text, TASKS[0])
