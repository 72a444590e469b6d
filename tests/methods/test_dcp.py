from math import sqrt

import pytest
import torch
import torch.nn.functional as F

from mmbench.checks.tasks import all_patterns, make_batch
from mmbench.data.task import Modality, Task
from mmbench.layers.prompts import fallback, pattern_index
from mmbench.methods.dcp import DCP

TASK = Task("single_label", tuple(Modality(m, "vector", (4,)) for m in "abc"), ("x", "y", "z"))
M, D, R, LAYERS, DEPTH = 3, 8, 2, 2, 3
N = 1 + M * 5  # [CLS], and for each modality [CLS]_m and four parts


def build(**arguments):
    torch.manual_seed(0)
    arguments = {"dim": D, "depth": DEPTH, "rows": R, "layers": LAYERS} | arguments
    method = DCP(TASK, **arguments).eval()
    torch.manual_seed(1)
    with torch.no_grad():  # away from a start where all prompts are nearly alike
        for table in (*method.starts, *method.queries, method.common):
            table.normal_()
    return method


def make(net, x):
    """G of one row, written out."""
    return net[2].weight @ F.gelu(net[0].weight @ x + net[0].bias) + net[2].bias


def norm(layer, x):
    x = (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt()
    return x * layer.weight + layer.bias


def correlated_by_loops(method, start):
    """P_im, row by row, from start (M, R, D)."""
    before, layers = start, []
    for i in range(LAYERS):
        made = torch.zeros(M, R, D)
        for r in range(R):
            joint = norm(method.correlated.norms[i], torch.cat([before[m][r] for m in range(M)]))
            for m in range(M):
                made[m, r] = make(method.correlated.make[i][m], joint)
        layers.append(made)
        before = made
    return layers


def dynamic_by_loops(part, queries, tokens):
    """One head over the tokens that are there, query by query."""
    rows = []
    for query in queries:
        q = part.query(query)
        weights = torch.stack([q @ part.key(token) / sqrt(D) for token in tokens]).softmax(0)
        rows.append(part.out(weights @ part.value(tokens)))
    return torch.stack(rows)


def by_loops(method, batch, starts):
    """One sample at a time, only its own tokens, nothing masked; `starts` says P_(-1)m of it."""
    backbone, out = method.backbone, []
    tokens, keys = backbone.tokens(batch), backbone.keys(batch)
    for row in range(len(batch)):
        p = sum(2**m for m in range(M) if batch.presence[row, m]) - 1
        layers = correlated_by_loops(method, starts(row, p))
        stay = []
        for m, name in enumerate(TASK.names):
            stay += [make(method.project[m], common)[None] for common in method.common[p]]
            own = tokens[name][row][keys[name][row]]
            own = own if len(own) else torch.zeros(1, D)  # absent: tokens that are zero
            stay.append(dynamic_by_loops(method.dynamic[m], method.queries[m][p], own))
        x = torch.cat([*stay, backbone.cls[None]])
        x = torch.cat([x, *(tokens[name][row][keys[name][row]] for name in TASK.names)])[None]
        for i, layer in enumerate(backbone.layers):
            if i < LAYERS:
                x = x if i == 0 else x[:, M * R :]
                x = torch.cat([layers[i].flatten(0, 1)[None], x], dim=1)
            x = layer(x, None, None)
        out.append(method.head(backbone.pooler(backbone.norm(x[:, 3 * M * R])))[0])
    return torch.stack(out)


@torch.no_grad()
def test_outputs_are_those_of_the_text_written_as_loops():
    method, batch = build(), make_batch(TASK, all_patterns(TASK))
    found = by_loops(method, batch, lambda _, p: [table[p] for table in method.starts])
    torch.testing.assert_close(method(batch), found, atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_released_code_starts_from_whether_each_modality_is_there():
    method, batch = build(variant="official"), make_batch(TASK, all_patterns(TASK))

    def starts(row, _):
        there = batch.presence[row].long()
        return [method.starts[m][there[m]] for m in range(M)]

    assert [len(table) for table in method.starts] == [2] * M
    torch.testing.assert_close(method(batch), by_loops(method, batch, starts), atol=1e-5, rtol=0)


def test_the_queries_of_dynamic_prompts_never_learn_in_the_released_code():
    for variant, learns in (("paper", True), ("official", False)):
        method = build(variant=variant)
        method.begin(method.stages[-1])
        assert all(table.requires_grad == learns for table in method.queries)
        assert all(f"queries.{m}" in method.state_dict() for m in range(M))


@torch.no_grad()
def test_correlated_prompts_are_new_at_each_layer_and_the_others_stay():
    method, lengths = build(), []
    for layer in method.backbone.layers:
        layer.register_forward_pre_hook(lambda _, given: lengths.append(given[0].shape[1]))
    method(make_batch(TASK, all_patterns(TASK)))
    assert lengths == [N + 3 * M * R] * DEPTH  # all layers alike: old ones made room


@torch.no_grad()
def test_prompts_of_a_layer_depend_on_those_of_all_modalities_in_the_layer_before():
    method = build()
    before = method.correlated(method.start())
    method.starts[0].add_(torch.randn_like(method.starts[0]))
    after = method.correlated(method.start())
    for layer in range(LAYERS):
        for m in range(M):
            assert (after[layer][m] - before[layer][m]).abs().max() > 1e-4


@torch.no_grad()
def test_only_dynamic_prompts_tell_samples_of_one_pattern_apart():
    method = build()
    batch = make_batch(TASK, torch.ones(2, M, dtype=torch.bool))
    tokens, read = method.backbone.tokens(batch), method.backbone.keys(batch)
    staying = method.staying(tokens, read, pattern_index(batch.presence))
    for made in staying.values():
        assert torch.equal(made[0, :R], made[1, :R])
        assert (made[0, R:] - made[1, R:]).abs().max() > 1e-4


@torch.no_grad()
def test_a_pattern_never_seen_starts_from_the_mean_of_seen_ones_that_contain_it():
    method = build()
    method.prepare([make_batch(TASK, torch.tensor([[True, True, False], [True, True, True]]))])
    start = method.start()[0]
    torch.testing.assert_close(start[0], (method.starts[0][2] + method.starts[0][6]) / 2)  # a
    torch.testing.assert_close(start[3], method.starts[0][6])  # c
    torch.testing.assert_close(start[2], method.starts[0][2])  # a and b, seen
    assert fallback(method.seen)[0].tolist() == [0, 0, 0.5, 0, 0, 0, 0.5]
    shown = method.diagnostics()["seen_in_training"]
    assert shown.column[shown.values[0] > 0].tolist() == ["a+b", "a+b+c"]


def test_the_backbone_stays_as_it_is_but_for_its_pooler():
    method = build().train()
    before = {name: x.clone() for name, x in method.backbone.state_dict().items()}
    learning = [p for p in method.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning)
    sum(method.loss(make_batch(TASK, all_patterns(TASK))).values()).backward()
    optimizer.step()
    now = method.backbone.state_dict()
    moved = {name for name, x in now.items() if not torch.equal(x, before[name])}
    assert moved == {"pooler.0.weight", "pooler.0.bias"}


def test_prompts_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="rows and layers >= 1, found 0 and 2"):
        build(rows=0)
    with pytest.raises(ValueError, match="rows and layers >= 1, found 2 and 0"):
        build(layers=0)
