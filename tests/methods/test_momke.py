from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from mmbench.checks.tasks import all_patterns, make_batch
from mmbench.data.task import Modality, Task, with_encoders
from mmbench.layers.encoders import Encoder
from mmbench.layers.fusion import masked_mean
from mmbench.methods.momke import MoMKE

M = 3
TASK = with_encoders(
    Task(
        "single_label",
        (
            Modality("sound", "sequence", (5, 4)),
            Modality("words", "sequence", (3, 6)),
            Modality("face", "vector", (7,)),
        ),
        ("a", "b", "c"),
    ),
    {"vector": {"layers": 0, "dropout": 0.0}},  # one Linear, as a step of a sequence has
)
SMALL = {"dim": 8, "depth": 2, "heads": 2}


def build(*, task=TASK, **args):
    torch.manual_seed(0)
    return MoMKE(task, **(SMALL | args)).eval()


def batch_of(presence=None, task=TASK):
    return make_batch(task, all_patterns(task) if presence is None else torch.as_tensor(presence))


def linear(layer, e, x):
    return x @ layer.weight[e] + layer.bias[e, 0]


def attend(block, e, x):
    """Attention of expert e, one head and one step at a time."""
    q, k = linear(block.query_key, e, x).chunk(2, dim=1)
    v = linear(block.value, e, x)
    width = x.shape[1] // block.heads
    steps = []
    for s in range(len(x)):
        heads = []
        for h in range(block.heads):
            part = slice(h * width, (h + 1) * width)
            weights = ((k[:, part] @ q[s, part]) / width**0.5).softmax(0)
            heads.append(weights @ v[:, part])
        steps.append(torch.cat(heads))
    return torch.stack(steps)


def ask(method, e, x):
    for block in method.experts.blocks:
        a = attend(block, e, x)
        x = x + a + linear(block.mlp[3], e, F.gelu(linear(block.mlp[0], e, a)))
    return x


def steps_of(method, batch, i, m):
    """Projected valid steps of one sample's modality; a vector is one step."""
    name = TASK.names[m]
    x = batch.inputs[name][i]
    x = x[: batch.lengths[name][i]] if name in batch.lengths else x[None]
    return x @ projection_of(method, m).weight.T + projection_of(method, m).bias


def projection_of(method, m):
    """The Linear of a modality, be it the suite's encoder or not."""
    part = method.project[m]
    return part.out if isinstance(part, Encoder) else part


def with_steps(state):
    """Weights of a vector's encoder under the names that a projection of steps has."""
    return {name.replace(".out.", "."): value for name, value in state.items()}


def by_loops(method, batch):
    """One sample, one modality, one expert at a time; absent ones and padding are never seen."""
    outputs = []
    for i in range(len(batch)):
        has = [m for m in range(M) if batch.presence[i, m]]
        lengths = [int(batch.lengths[n][i]) for n in TASK.names[:2] if batch.lengths[n][i] > 0]
        length = max(lengths, default=1)
        z = torch.zeros(length, M, 8)
        for m in has:
            p = steps_of(method, batch, i, m)
            scores = linear(method.router[3], m, F.gelu(linear(method.router[0], m, p)))
            r = scores.softmax(1)
            h = sum(r[:, e : e + 1] * ask(method, e, p) for e in range(M))
            z[: len(h) if m < 2 else length, m] = h
        z = z.flatten(1)
        hidden = z + F.relu(z @ method.joint.weight.T + method.joint.bias)
        outputs.append(method.head(hidden.mean(0)))
    return torch.stack(outputs)


def test_batched_experts_give_what_the_loops_of_the_text_give():
    method, batch = build(), batch_of()
    with torch.no_grad():
        torch.testing.assert_close(method(batch), by_loops(method, batch), atol=1e-5, rtol=0)


def test_asking_about_present_rows_alone_changes_no_answer():
    method, batch = build(), batch_of()
    with torch.no_grad():
        p, valid = method.steps(batch)
        rows, seen = p.flatten(0, 1), valid.flatten(0, 1)
        answers = method.experts(rows.expand(M, -1, -1, -1), seen.expand(M, -1, -1))
        answers = answers.view(M, *p.shape)
        found = method.experts.all(p, valid)
    torch.testing.assert_close(found[:, valid], answers[:, valid], atol=1e-6, rtol=0)
    assert not found[:, ~valid].any()
    assert not valid.all()


@pytest.mark.parametrize("stage", ["unimodal", "joint"])
def test_nothing_waits_for_an_accelerator(stage):
    # tensors on "meta" have no values: whatever the host would have to read raises
    method, batch = build().train().to("meta"), batch_of().to("meta")
    method.stage = stage
    assert method(batch).shape == (len(batch), 3)
    assert all(term.shape == () for term in method.loss(batch).values())


def test_parameters_are_as_many_as_stated_for_cmu_mosi():
    widths = {"audio": 512, "text": 1024, "video": 1024}
    modalities = tuple(Modality(n, "sequence", (50, f)) for n, f in widths.items())
    method = MoMKE(Task("regression", modalities, ("sentiment",)))
    assert sum(p.numel() for p in method.parameters()) == 5_395_469
    assert method.lr == 1e-4
    assert method.weight_decay == 1e-5


@pytest.mark.parametrize("router", ["soft", "uniform", "own"])
def test_an_absent_modality_contributes_exactly_nothing(router):
    method, batch = build(router=router), batch_of()
    with torch.no_grad():
        p, valid = method.steps(batch)
        h = method.mix(p, valid)
        assert not h[~batch.presence.t()].any()
        assert h[batch.presence.t()].any(-1).any(-1).all()
        garbage = {
            n: torch.where(batch.has(n).view(-1, *[1] * (x.dim() - 1)), x, 1e6)
            for n, x in batch.inputs.items()
        }
        assert torch.equal(method(replace(batch, inputs=garbage)), method(batch))


def test_padding_is_never_read():
    method, batch = build(), batch_of()
    longer = dict(batch.inputs)
    for name in ("sound", "words"):
        x = longer[name]
        padding = torch.arange(x.shape[1]) >= batch.lengths[name][:, None]
        longer[name] = torch.where(padding[:, :, None], 7.0, x)
    with torch.no_grad():
        shown = method(replace(batch, inputs=longer))
        torch.testing.assert_close(shown, method(batch), atol=1e-6, rtol=0)


def test_a_vector_counts_like_a_sequence_that_repeats_it():
    repeated = replace(
        TASK, modalities=(*TASK.modalities[:2], Modality("face", "sequence", (5, 7)))
    )
    presence = all_patterns(TASK)
    presence = presence[presence[:, 0]]  # the longest sequence says how many steps there are
    batch = batch_of(presence)
    x, steps = batch.inputs["face"], batch.lengths["sound"].maximum(batch.lengths["words"])
    as_steps = replace(
        batch,
        inputs={**batch.inputs, "face": x[:, None].repeat(1, 5, 1)},
        lengths={**batch.lengths, "face": torch.where(batch.has("face"), steps, 0)},
    )
    method, other = build(), build(task=repeated)
    other.load_state_dict(with_steps(method.state_dict()))
    with torch.no_grad():
        torch.testing.assert_close(method(batch), other(as_steps), atol=1e-5, rtol=0)


def test_without_sequences_there_is_nothing_to_attend_to():
    voice = replace(TASK.modalities[2], name="voice", shape=(4,))
    task = replace(TASK, modalities=(voice, TASK.modalities[2]))
    steps = replace(TASK, modalities=(Modality("voice", "sequence", (1, 4)), TASK.modalities[2]))
    method, other = build(task=task), build(task=steps)
    missing, unexpected = other.load_state_dict(
        with_steps({k: v for k, v in method.state_dict().items() if "project.1" not in k})
        | {k: v for k, v in method.state_dict().items() if "project.1" in k},
        strict=False,
    )
    assert not unexpected
    assert {name.split(".")[3] for name in missing} == {"query_key"}
    batch = batch_of(task=task)
    as_steps = replace(
        batch,
        inputs={**batch.inputs, "voice": batch.inputs["voice"][:, None]},
        lengths={"voice": batch.has("voice").long()},
    )
    with torch.no_grad():
        torch.testing.assert_close(method(batch), other(as_steps), atol=1e-6, rtol=0)


def test_routing_weights_sum_to_one_and_ablations_fix_them():
    batch = batch_of()
    soft, uniform, own = (build(router=r) for r in ("soft", "uniform", "own"))
    with torch.no_grad():
        p, valid = soft.steps(batch)
        r = soft.route(p)
        torch.testing.assert_close(r.sum(-1), torch.ones(p.shape[:-1]))
        assert r.std() > 0.01
        answers = soft.experts.all(p, valid)
        torch.testing.assert_close(uniform.mix(p, valid), answers.mean(0), atol=1e-6, rtol=0)
        for m in range(M):
            torch.testing.assert_close(own.mix(p, valid)[m], answers[m, m], atol=1e-6, rtol=0)


def test_in_the_first_stage_an_expert_learns_from_its_own_modality_alone():
    method, batch = build().train(), batch_of([[True, True, True]] * 6)
    method.stage = "unimodal"
    terms = method.loss(batch)
    assert list(terms) == list(TASK.names)
    for m, term in enumerate(terms.values()):
        method.zero_grad()
        term.backward(retain_graph=True)
        for block in method.experts.blocks:
            reached = block.mlp[0].weight.grad.flatten(1).any(1).tolist()
            assert reached == [e == m for e in range(M)]
    method.zero_grad()
    method.stage = "joint"
    method.loss(batch_of([[False, True, False]] * 6))["task"].backward()
    assert method.experts.blocks[0].mlp[0].weight.grad.flatten(1).any(1).all()


def test_the_first_stage_is_the_task_loss_of_each_modality_where_it_is_there():
    method, batch = build(), batch_of()
    method.stage = "unimodal"
    with torch.no_grad():
        losses, outputs = method.loss(batch), method.stage_output(batch)
        for m, name in enumerate(TASK.names):
            terms = []
            for i in batch.has(name).nonzero()[:, 0].tolist():
                h = ask(method, m, steps_of(method, batch, i, m)).mean(0)
                logits = linear(method.unimodal, m, h)
                terms.append(-logits.log_softmax(0)[batch.target[i]])
                if batch.presence[i].sum() == 1:
                    torch.testing.assert_close(outputs[i], logits, atol=1e-5, rtol=0)
            torch.testing.assert_close(losses[name], sum(terms) / len(terms), atol=1e-5, rtol=0)


def test_the_first_stage_sees_what_the_regime_full_access_gives_to_it():
    whole = batch_of([[True, True, True]] * 6)
    hidden = replace(whole.hide(torch.tensor([[True, False, True]] * 6)), teacher=whole)
    method = build()
    with torch.no_grad():
        method.stage = "unimodal"
        assert method.loss(hidden) == method.loss(whole)
        assert torch.equal(method.stage_output(hidden), method.stage_output(whole))
        method.stage = "joint"
        assert torch.equal(method.stage_output(hidden), method(replace(hidden, teacher=None)))


def test_the_unified_regime_alone_hides_modalities_and_only_in_joint_training():
    batch = batch_of([[True, True, True]] * 64)
    unified = build(dropout=0.0).train()
    per_condition = build(dropout=0.0, regime="per_condition").train()
    with torch.no_grad():
        complete = per_condition(batch)
        assert torch.equal(complete, per_condition(batch))
        shown = unified(batch)
        assert not torch.equal(shown, unified(batch))
        kept = (shown - complete).abs().amax(1) < 1e-5
        assert 0 < kept.sum() < 32  # one in seven keeps all it has
        assert torch.equal(unified.eval()(batch), complete)
        unified.train().stage = "unimodal"
        assert unified.loss(batch) == unified.loss(batch)


def test_stages_train_what_they_say():
    method = build(freeze_experts=True)
    first, second = method.stages
    assert (first.name, second.name) == ("unimodal", "joint")
    learns = {}
    for stage in (first, second):
        method.begin(stage)
        method.train()
        learns[stage.name] = {
            n.split(".")[0] for n, p in method.named_parameters() if p.requires_grad
        }
    assert learns["unimodal"] == {"project", "experts", "unimodal"}
    assert learns["joint"] == {"project", "router", "joint", "head"}
    assert not method.experts.training
    assert "experts" in build().stages[1].trains
    assert "router" not in build(router="uniform").stages[1].trains
    assert [stage.name for stage in build(stage1=False).stages] == ["joint"]


def test_routers_and_regimes_share_the_first_stage_and_start_it_alike():
    plain = build()
    for args in ({"router": "own"}, {"regime": "per_condition"}, {"freeze_experts": True}):
        other = build(**args)
        assert other.stages[0] == plain.stages[0]
        for name, value in plain.state_dict().items():
            if plain.stages[0].covers(name):
                assert torch.equal(value, other.state_dict()[name])


def test_experts_that_never_learned_cannot_be_frozen():
    with pytest.raises(ValueError, match="freeze_experts=true with stage1=false"):
        build(freeze_experts=True, stage1=False)


def test_heads_have_to_share_the_width():
    with pytest.raises(ValueError, match="3 heads cannot share a width of 8"):
        build(heads=3)


def test_the_mean_of_unimodal_predictions_leaves_absent_ones_out():
    method, batch = build(), batch_of()
    method.stage = "unimodal"
    with torch.no_grad():
        alone = method.alone(batch)
        expected = [alone[batch.presence[i], i].mean(0) for i in range(len(batch))]
        torch.testing.assert_close(method.stage_output(batch), torch.stack(expected))
        assert torch.equal(
            method.stage_output(batch), masked_mean(alone.transpose(0, 1), batch.presence)
        )
