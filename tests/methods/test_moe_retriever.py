from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mmbench.checks.tasks import all_patterns, make_batch
from mmbench.data.batch import Batch
from mmbench.data.task import Modality, Task
from mmbench.layers.encoders import PatchTokens
from mmbench.layers.fusion import presence_code
from mmbench.methods import moe_retriever
from mmbench.methods.moe_retriever import MoERetriever

M = 4
TASK = Task("single_label", tuple(Modality(n, "vector", (12,)) for n in "igcb"), ("a", "b", "c"))
SMALL = {"dim": 8, "tokens": 3, "heads": 2, "modality_experts": 3, "shared_experts": 2, "top_k": 2}


def build(*, train=None, **args):
    torch.manual_seed(0)
    method = MoERetriever(TASK, **(SMALL | args))
    method.prepare([make_batch(TASK, all_patterns(TASK) if train is None else train, seed=1)])
    return method.eval()


def asking(seed=2):
    batch = make_batch(TASK, all_patterns(TASK), seed=seed)
    return replace(batch, sample_id=1000 + batch.sample_id)


def loop(method, batch):
    """One sample, one gap, one token at a time, as the paper's Algorithm 1 has it."""
    outputs = []
    mix, bank = method.mix, method.bank
    with torch.no_grad():
        for i in range(len(batch)):
            mc = [m for m in range(M) if batch.presence[i, m]]
            own = {
                m: method.encode.in_order[m](batch.inputs[TASK.names[m]][i : i + 1], None)[0]
                for m in mc
            }
            complete = dict(own)
            for target in sorted(set(range(M)) - set(mc)):
                row, goal = torch.tensor([i]), torch.tensor([target])
                drawn = method.draw(batch, row, goal, presence_code(batch.presence[row]))
                members = drawn.rows[0][drawn.chosen[0]].tolist()
                for j in members:  # Eq. 2, on training rows alone
                    assert bank.presence[j, [*mc, target]].all()
                support = [
                    method.encode.in_order[target](
                        getattr(bank, f"input_{target}")[j : j + 1], None
                    )[0]
                    for j in members
                ]
                x = torch.cat(support + [own[m] for m in mc])  # (S P, D)
                x = x + attention(mix.attend, mix.norm_attend(x))
                x = mix.norm(x)
                y = torch.stack([experts(mix, token, target) for token in x])
                y = y.view(-1, own[mc[0]].shape[0], x.shape[1])
                intra, inter = y[: len(members)].mean(0), y[len(members) :].mean(0)
                complete[target] = 0.5 * intra + 0.5 * inter
            z = torch.cat([complete[m] for m in range(M)])
            x = z + method.position
            for block in method.fusion:
                x = x + attention(block.attend, block.norm_attend(x))
                x = x + block.mlp(block.norm_mlp(x))
            pooled = [part.mean(0) for part in x.split(len(x) // M)]
            outputs.append(method.head(torch.cat(pooled)))
    return torch.stack(outputs)


def attention(layer, x):
    q, k, v = layer.qkv(x).chunk(3, dim=1)
    heads = []
    for h in range(layer.heads):
        part = slice(h * q.shape[1] // layer.heads, (h + 1) * q.shape[1] // layer.heads)
        scores = q[:, part] @ k[:, part].T / (q.shape[1] // layer.heads) ** 0.5
        heads.append(scores.softmax(1) @ v[:, part])
    return layer.out(torch.cat(heads, 1))


def experts(mix, token, target):
    """Eq. 1 and 3 for one token: only the target's own experts and the shared ones."""
    count = mix.own_count
    pool = [(mix.specific[target], e, target * count + e) for e in range(count)]
    pool += [(mix.shared, e, M * count + e) for e in range(len(mix.shared.w1))]
    scores = token @ mix.gate.weight[:, 0, 0]
    r = torch.stack([scores[column] for *_, column in pool]).softmax(0)
    y = torch.zeros_like(token)
    for chosen in r.argsort(descending=True)[: mix.gate.k].tolist():
        bank, e, _ = pool[chosen]
        h = torch.nn.functional.gelu(bank.w1[e] @ token + bank.b1[e])
        y += r[chosen] * (h @ bank.w2[e] + bank.b2[e])
    return y


def test_the_vectorised_method_equals_the_loop_written_from_the_paper():
    method, batch = build(), asking()
    with torch.no_grad():
        torch.testing.assert_close(method(batch), loop(method, batch), atol=1e-4, rtol=1e-4)


def test_the_form_for_accelerators_gives_the_same_outputs(monkeypatch):
    method, batch = build(), asking()
    with torch.no_grad():
        expected = method(batch)
        counts = method.usage.totals.clone(), method.fallbacks.clone()
        method.eval()  # counts afresh
        for module in ("layers.retrieval", "methods.moe_retriever"):
            monkeypatch.setattr(f"mmbench.{module}.candidates", lambda all: torch.arange(len(all)))
        monkeypatch.setattr("mmbench.layers.moe.Experts.sorted", moe_retriever.Experts.dense)
        torch.testing.assert_close(method(batch), expected)
    assert torch.equal(method.usage.totals, counts[0])
    assert torch.equal(method.fallbacks, counts[1])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("args", [{}, {"routers": "modality", "fusion_sparse": True}], ids=str)
def test_nothing_waits_for_an_accelerator(training, args):
    # tensors on "meta" have no values: whatever the host would have to read raises
    method = build(**args).train(training).to("meta")
    batch = asking().to("meta")
    assert method(batch).shape == (len(batch), 3)
    assert all(term.shape == () for term in method.loss(batch).values())


class Counted(TorchDispatchMode):
    """Count how often the host reads a value."""

    def __init__(self):
        super().__init__()
        self.reads = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.reads += "_local_scalar_dense" in str(func)
        return func(*args, **(kwargs or {}))


def test_even_on_the_cpu_no_value_is_read_one_by_one():
    method, reads = build(), []
    for rows in (all_patterns(TASK), all_patterns(TASK, repeat=6)):
        with torch.no_grad(), Counted() as counted:
            method(make_batch(TASK, rows))
        reads.append(counted.reads)
    assert reads[0] == reads[1], "the larger the batch, the more reads"


def test_complete_samples_meet_the_fusion_network_alone():
    method = build()
    batch = make_batch(TASK, torch.ones(6, M, dtype=torch.bool))
    with torch.no_grad():
        torch.testing.assert_close(method(batch), method.fuse(method.encode(batch))[0])


def test_only_the_pools_of_missing_modalities_learn():
    method = build().train()
    presence = torch.ones(8, M, dtype=torch.bool)
    presence[:, 1] = False
    terms = method.loss(make_batch(TASK, presence))
    terms["task"].backward()
    reached = [
        pool.w1.grad is not None and bool(pool.w1.grad.any()) for pool in method.mix.specific
    ]
    assert reached == [False, True, False, False]
    assert method.mix.shared.w1.grad.any()
    assert method.mix.gate.weight.grad.any()
    assert method.mix.attend.qkv.weight.grad.any()


def test_a_supporting_sample_lends_nothing_but_the_target():
    method, batch = build(), asking()
    presence = torch.tensor([[False, True, True, True]] * 5)
    batch = make_batch(TASK, presence)
    with torch.no_grad():
        before = method(batch)
        for m in (1, 2, 3):
            getattr(method.bank, f"input_{m}").normal_()
        assert torch.equal(method(batch), before)
        method.bank.input_0.normal_()
        assert not torch.allclose(method(batch), before)


def test_draws_change_with_the_epoch_in_training_and_never_in_evaluation():
    method, batch = build(train=torch.ones(50, M, dtype=torch.bool)), asking()
    row = torch.arange(len(batch))
    goal, code = torch.zeros_like(row), presence_code(batch.presence)

    def drawn(epoch, training):
        method.epoch = epoch
        return method.train(training).draw(batch, row, goal, code).rows

    assert not torch.equal(drawn(0, True), drawn(1, True))
    assert torch.equal(drawn(1, True), drawn(1, True))
    assert torch.equal(drawn(0, False), drawn(1, False))


def test_without_support_the_own_context_counts_in_full():
    never_first = all_patterns(TASK)
    never_first = never_first[~never_first[:, 0]]
    method = build(train=never_first)
    bare = build(train=never_first, use_intra=False)
    presence = torch.tensor([[False, True, True, False]] * 3)
    presence[:, 3] = True
    batch = make_batch(TASK, presence)
    with torch.no_grad():
        torch.testing.assert_close(method(batch), bare(batch))
    assert method.diagnostics()["fallbacks"].values.tolist() == [[3, 0, 3]]


def test_routing_shares_know_the_patterns_and_the_pools():
    method = build()
    presence = torch.tensor([[False, True, True, True]] * 4 + [[True, True, False, True]] * 4)
    with torch.no_grad():
        method(make_batch(TASK, presence))
    shown = method.diagnostics()
    # own tokens under the sample's own pattern, retrieved ones under that of who lends them
    assert shown["router"].pattern.tolist() == ["i+g+b", "g+c+b", "i+g+c+b"]
    assert shown["router"].expert.tolist() == [
        *(f"{name}_{e}" for name in "igcb" for e in (1, 2, 3)),
        "shared_1",
        "shared_2",
    ]
    lacks_c, lacks_i, whole = shown["router"].share
    assert shown["router"].share.sum(1).tolist() == pytest.approx([1, 1, 1])
    assert lacks_i[3:12].sum() == 0  # pools of the other modalities are closed
    assert lacks_c[[0, 1, 2, 3, 4, 5, 9, 10, 11]].sum() == 0
    assert whole[[3, 4, 5, 9, 10, 11]].sum() == 0  # the only sample to have all three and the gap
    assert whole[:3].any()
    assert whole[6:9].any()
    used = shown["patterns of an expert"].values.sum(0)
    assert used[used > 0].tolist() == pytest.approx([1] * int((used > 0).sum()))
    assert shown["fallbacks"].values.tolist() == [[8, 0, 0]]
    support = shown["support"]
    assert set(support.query.tolist()) <= set(make_batch(TASK, presence).sample_id.tolist())
    assert set(support.neighbour.flatten().tolist()) <= {-1, *method.bank.sample_id.tolist()}
    assert (support.neighbour >= 0).any()
    assert method.eval().diagnostics() == {}  # the next evaluation


def test_warm_up_leaves_gaps_and_the_retriever_out():
    method, batch = build(warm_up=2).train(), asking()
    warm_up, fit = method.stages
    assert (warm_up.epochs, warm_up.select) == (2, "last")  # none of its epochs is selected
    method.begin(warm_up)
    method.loss(batch)["task"].backward()
    assert all(p.grad is None for p in method.mix.parameters())
    with torch.no_grad():
        z = method.eval().encode(batch)
        assert torch.equal(method.complete(z, batch)[0], z)
        method.begin(fit)
        assert not torch.equal(method.complete(z, batch)[0], z)
    assert len(build().stages) == 1


def test_the_official_variant_averages_raw_tokens_and_has_no_router():
    method = build(variant="official", warm_up=0)
    assert method.mix is None
    assert isinstance(method.encode.in_order[0].trunk, PatchTokens)
    presence = torch.tensor([[False, True, True, True]])
    batch = make_batch(TASK, presence)
    with torch.no_grad():
        z = method.encode(batch)
        zero = torch.tensor([0])
        drawn = method.draw(batch, zero, zero, presence_code(presence))
        rows = drawn.rows[drawn.chosen]
        support = method.encode.in_order[0](method.bank.input_0[rows], None)
        expected = 0.5 * support.mean(0) + 0.5 * z[0, 1:].mean(0)
        torch.testing.assert_close(method.complete(z, batch)[0][0, 0], expected)
    assert MoERetriever(TASK, variant="official").warm_up == 5
    assert MoERetriever(TASK).warm_up == 0


@pytest.mark.parametrize(
    "args",
    [
        {"use_intra": False},
        {"use_inter": False},
        {"routing": "mean"},
        {"routers": "context"},
        {"routers": "modality"},
        {"shared_experts": 0},
        {"n_intra": 1},
        {"fusion_layers": 2},
        {"fusion_sparse": True},
    ],
    ids=str,
)
def test_each_ablation_of_table_three_trains(args):
    method, batch = build(**args).train(), asking()
    total = torch.stack(list(method.loss(batch).values())).sum()
    total.backward()
    assert total.isfinite()
    assert method.head.weight.grad.any()
    if args.get("routers"):
        assert method.mix.gate.weight.grad.any(dim=-1).any(dim=-1).any(dim=0).all()


def test_a_gap_cannot_be_filled_from_nothing():
    with pytest.raises(ValueError, match="both false"):
        MoERetriever(TASK, use_intra=False, use_inter=False)


def test_more_experts_a_token_than_its_pool_holds_are_refused():
    with pytest.raises(ValueError, match="4 experts a token, but a pool has 2 \\+ 1"):
        MoERetriever(TASK, modality_experts=2, shared_experts=1, top_k=4)


def test_a_method_that_was_never_prepared_uses_the_own_context():
    torch.manual_seed(0)
    method = MoERetriever(TASK, **SMALL).eval()
    batch: Batch = asking()
    with torch.no_grad():
        assert method(batch).isfinite().all()
