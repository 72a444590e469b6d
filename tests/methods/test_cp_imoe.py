from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from torch import nn
from torch.utils.data import DataLoader

from mmbench.checks.tasks import all_patterns, make_batch
from mmbench.data.embeddings import Embeddings
from mmbench.data.task import Modality, Task, with_encoders
from mmbench.layers.fusion import presence_code
from mmbench.methods.cp_imoe import CPIMoE, pull_together, push_apart

D = 8


def task_of(modalities, kind="single_label", classes=3):
    names = "abcdefgh"[:modalities]
    outputs = tuple("xyzuvw"[:classes])
    return Task(kind, tuple(Modality(m, "vector", (4,)) for m in names), outputs)


TWO, THREE = task_of(2), task_of(3)


def build(task=TWO, stage=None, **arguments):
    torch.manual_seed(0)
    method = CPIMoE(task, **({"dim": D} | arguments))
    if stage is not None:
        method.begin(next(s for s in method.stages if s.name == stage))
    return method.eval()


def batch_of(task, presence=None, seed=0):
    rows = all_patterns(task) if presence is None else torch.tensor(presence)
    return make_batch(task, rows, seed=seed)


def encoded(method, batch, i):
    """Features of one sample by modality; zeros where missing."""
    b = []
    for m, name in enumerate(batch.modalities):
        x = method.encode.encoders[name](batch.inputs[name][i : i + 1], None)[0]
        b.append(x if batch.presence[i, m] else torch.zeros(D))
    return b


def ff(net, x):
    inner = torch.relu(net.layers[0].weight @ x + net.layers[0].bias)
    return net.norm(x + net.layers[3].weight @ inner + net.layers[3].bias)


def interaction(expert, b):
    g = [ff(net, x) for net, x in zip(expert.align, b, strict=True)]
    u = g[0]
    for other in g[1:]:
        u = u * other
    gates = [torch.sigmoid(gate.weight[0] @ u + gate.bias[0]) for gate in expert.gates]
    return sum(gate * x for gate, x in zip(gates, g, strict=True))


def experts_of(method, b):
    specific = [ff(net, x) for net, x in zip(method.specific, b, strict=True)]
    return specific + [interaction(method.interactions[k], b) for k in ("redundant", "synergistic")]


def route_and_decide(method, b, prompt):
    hidden = torch.relu(method.router[0].weight @ prompt + method.router[0].bias)
    w = torch.softmax(method.router[3].weight @ hidden + method.router[3].bias, 0)
    f = sum(weight * answer for weight, answer in zip(w, experts_of(method, b), strict=True))
    return method.head.weight @ ff(method.decide, f) + method.head.bias


def two_modalities_as_released(method, batch):
    """The pair form: prompts 0, 1 or 2 for complete, first missing, second missing."""
    told_of_second, told_of_first = method.generators  # from the first, from the second
    outputs = []
    for i in range(len(batch)):
        b1, b2 = encoded(method, batch, i)
        if batch.presence[i].all():
            status, dynamic = torch.full((D,), 0.0), b1 + b2
        elif batch.presence[i, 1]:
            status, dynamic = torch.full((D,), 1.0), ff(told_of_first, b2)
        else:
            status, dynamic = torch.full((D,), 2.0), ff(told_of_second, b1)
        outputs.append(route_and_decide(method, [b1, b2], torch.cat([dynamic, status])))
    return torch.stack(outputs)


def three_modalities(method, batch):
    """P_d over all pairs of a present and a missing modality; P_s = 2 k / 6 for set k of 0..6."""
    pairs = [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]
    generator = dict(zip(pairs, method.generators, strict=True))
    outputs = []
    for i in range(len(batch)):
        b, there = encoded(method, batch, i), batch.presence[i].tolist()
        told = [ff(generator[a, m], b[a]) for a, m in pairs if there[a] and not there[m]]
        dynamic = sum(told) / len(told) if told else sum(b)
        number = sum(2**m for m in range(3) if not there[m])
        status = torch.full((D,), 2 * number / 6)
        outputs.append(route_and_decide(method, b, torch.cat([dynamic, status])))
    return torch.stack(outputs)


def test_with_two_modalities_outputs_are_those_of_the_released_formulas():
    method, batch = build(), batch_of(TWO)
    with torch.no_grad():
        expected = two_modalities_as_released(method, batch)
        torch.testing.assert_close(method(batch), expected, atol=1e-5, rtol=0)


def test_with_three_modalities_outputs_are_those_of_the_general_form():
    method, batch = build(THREE), batch_of(THREE)
    with torch.no_grad():
        expected = three_modalities(method, batch)
        torch.testing.assert_close(method(batch), expected, atol=1e-5, rtol=0)


def on_meta(encoders=None, **arguments):
    image = tuple(Modality(name, "image", (3, 32, 32)) for name in ("fundus", "oct"))
    task = with_encoders(Task("single_label", image, tuple("abcde")), encoders or {})
    with torch.device("meta"):
        return CPIMoE(task, dim=2048, **arguments)


def learning(method):
    return sum(p.numel() for p in method.parameters() if p.requires_grad)


def test_the_main_stage_trains_as_many_parameters_as_the_paper_says():
    method = on_meta()
    for stage in method.stages:
        method.begin(stage)
    assert method.stage == "main"
    assert learning(method) == 21_013_513  # 21.0 M in Table S2


def test_training_everything_has_as_many_parameters_as_the_paper_says():
    method = on_meta({"image": "resnet50"}, pretrain=False)
    [stage] = method.stages
    method.begin(stage)
    # two ResNet-50 without head, six FF and four gates of experts, and what the main stage trains
    assert learning(method) == 2 * 23_508_032 + 6 * 4_201_472 + 4 * 2_049 + 21_013_513
    assert learning(method) == pytest.approx(93.3e6, rel=1e-3)


def test_router_weights_are_shares():
    method, batch = build(THREE), batch_of(THREE)
    weights = method.route(method.encode(batch), batch.presence)
    assert weights.shape == (len(batch), 5)
    assert (weights > 0).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(len(batch)))


def test_a_complete_sample_never_touches_the_generators_of_the_dynamic_prompt():
    method = build(stage="main").train()
    batch = batch_of(TWO, [[True, True]] * 6)
    method.loss(batch)["task"].backward()
    assert all(p.grad is None or not p.grad.any() for p in method.generators.parameters())
    before = method.eval()(batch)
    nn.init.constant_(method.generators[0].norm.weight, torch.nan)
    nn.init.constant_(method.generators[1].norm.bias, 1e6)
    assert torch.equal(method(batch), before)


@pytest.mark.parametrize(("there", "generator"), [((True, False), 0), ((False, True), 1)])
def test_a_generator_learns_from_samples_that_lack_what_it_tells_of(there, generator):
    method = build(stage="main").train()
    method.loss(batch_of(TWO, [list(there)] * 6))["task"].backward()
    reached = [any(p.grad.any() for p in net.parameters()) for net in method.generators]
    assert reached == [generator == 0, generator == 1]


def test_a_samples_missing_set_does_not_depend_on_its_place_in_the_batch():
    method, batch = build(), batch_of(TWO)
    place = torch.tensor([5, 3, 1, 0, 2, 4])
    b = method.encode(batch)
    moved = method.route(b[place], batch.presence[place])
    torch.testing.assert_close(moved, method.route(b, batch.presence)[place])
    status = method.status_prompt[presence_code(~batch.presence)][:, 0]
    assert status.tolist() == [0, 2, 1, 0, 2, 1]  # complete, second missing, first missing


def test_experts_of_a_missing_modality_say_a_constant():
    method = build()
    batch = batch_of(TWO, [[True, False], [True, False], [False, True], [False, True]])
    said = method.answers(method.encode(batch))
    first, second = said[:, 0], said[:, 1]
    assert torch.equal(second[0], second[1])
    assert torch.equal(first[2], first[3])
    torch.testing.assert_close(second[0], method.specific[1](torch.zeros(1, D))[0])
    assert (said[0, [0, 2, 3]] - said[1, [0, 2, 3]]).abs().amax(1).gt(1e-4).all()


def test_the_redundant_penalty_is_the_distance_and_zero_if_all_are_equal():
    b = torch.tensor([[[3.0, 4.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]]])
    f = torch.tensor([[0.0, 0.0], [1.0, 1.0]], requires_grad=True)
    there = torch.ones(2, 2, dtype=torch.bool)
    assert pull_together(b, f, there).item() == pytest.approx((5 + 0) / 2 + 0)
    equal = pull_together(b[1:], f[1:], there[1:])
    assert equal.item() == 0
    equal.backward()
    assert f.grad.isfinite().all()


def test_the_synergistic_penalty_ends_at_a_distance_of_two():
    f = torch.zeros(1, 2)
    there = torch.ones(1, 2, dtype=torch.bool)
    for near, expected in ((0.0, 2.0), (0.5, 1.5), (2.0, 0.0), (7.0, 0.0)):
        b = torch.tensor([[[near, 0.0], [0.0, 9.0]]])
        assert push_apart(b, f, there).item() == pytest.approx(expected)


def test_penalties_leave_missing_entries_out():
    g = torch.Generator().manual_seed(0)
    b, f = torch.randn(5, 2, D, generator=g) / 9, torch.randn(5, D, generator=g) / 9
    there = torch.tensor([[True, True]] * 3 + [[False, True], [False, False]])
    garbage = torch.where(there[:, :, None], b, 1e6)
    for penalty in (pull_together, push_apart):
        found = penalty(b, f, there)
        assert found > 0
        assert torch.equal(penalty(garbage, f, there), found)
    expected = (b[:3, 0] - f[:3]).norm(dim=1).mean() + (b[:4, 1] - f[:4]).norm(dim=1).mean()
    torch.testing.assert_close(pull_together(b, f, there), expected)


def test_the_stages_train_what_the_paper_trains():
    method = build(THREE)
    assert [stage.name for stage in method.stages] == [
        "specific",
        "redundant",
        "synergistic",
        "main",
    ]
    learns = {}
    for stage in method.stages:
        method.begin(stage)
        names = [name for name, p in method.named_parameters() if p.requires_grad]
        learns[stage.name] = names
        assert {name.split(".")[0] for name in names} == {
            "specific": {"encode", "specific", "specific_heads"},
            "redundant": {"interactions", "interaction_heads"},
            "synergistic": {"interactions", "interaction_heads"},
            "main": {"generators", "router", "decide", "head"},
        }[stage.name]
        if stage.name in method.interactions:
            assert all(name.split(".")[1] == stage.name for name in names)
    every = [name for names in learns.values() for name in names]
    assert sorted(every) == sorted(name for name, _ in method.named_parameters())


@pytest.mark.parametrize("stage", ["specific", "redundant", "synergistic", "main"])
@pytest.mark.parametrize("variant", ["paper", "official"])
def test_each_stage_has_its_loss_and_reaches_all_that_it_trains(stage, variant):
    method = build(THREE, stage, variant=variant).train()
    terms = method.loss(batch_of(THREE))
    assert (
        set(terms)
        == {
            "specific": {"specific"},
            "redundant": {"redundant", "redundant_distance"},
            "synergistic": {"synergistic", "synergistic_distance"},
            "main": {"task"},
        }[stage]
    )
    sum(terms.values()).backward()
    for name, p in method.named_parameters():
        reached = p.grad is not None and bool(p.grad.abs().sum() > 0)
        # far features are not pushed further, so that the weight of this may get a zero
        at_rest = name == "penalties.synergistic" and terms.get("synergistic_distance") == 0
        assert reached == (p.requires_grad and not at_rest), name


def test_specific_experts_learn_from_samples_that_have_their_modality():
    method = build(stage="specific").train()
    batch = batch_of(TWO, [[True, False]] * 4 + [[True, True]] * 2)
    logits = method.eval().specific_logits(method.encode(batch))
    expected = F.cross_entropy(logits[:, 0], batch.target)
    expected = expected + F.cross_entropy(logits[4:, 1], batch.target[4:])
    torch.testing.assert_close(method.loss(batch)["specific"], expected)


@pytest.mark.parametrize("kind", ["redundant", "synergistic"])
def test_interactions_learn_from_samples_with_two_modalities(kind):
    method = build(stage=kind)
    batch = batch_of(TWO, [[True, True]] * 3 + [[True, False], [False, True]])
    pairs = batch_of(TWO, [[True, True]] * 5)
    found, expected = method.loss(batch), None
    b = method.encode(pairs)[:3]
    f = method.interactions[kind](b)
    expected = F.cross_entropy(method.interaction_heads[kind](f), batch.target[:3])
    torch.testing.assert_close(found[kind], expected)
    distance = (b - f[:, None]).norm(dim=2)
    if kind == "synergistic":
        distance = (2 - distance).relu()
    torch.testing.assert_close(found[f"{kind}_distance"], distance.mean(0).sum())
    half = build(stage=kind, penalty=0.5).loss(batch)
    torch.testing.assert_close(half[f"{kind}_distance"], 0.5 * found[f"{kind}_distance"])


@pytest.mark.parametrize("dim", [64, 128, 512])
def test_the_synergistic_penalty_is_zero_before_and_after_training(dim):
    method = build(THREE, "synergistic", dim=dim).train()
    batch = make_batch(THREE, all_patterns(THREE, repeat=4))
    adam = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=1e-3)
    for _ in range(10):
        terms = method.loss(batch)
        assert terms["synergistic_distance"] == 0
        assert terms["synergistic"] > 0
        adam.zero_grad()
        sum(terms.values()).backward()
        adam.step()
    b = method.eval().encode(batch)
    apart = (b - method.interactions["synergistic"](b)[:, None]).norm(dim=2)
    assert apart[batch.presence].min() > 2


def test_pretraining_and_its_selection_see_what_the_regime_full_access_gives_to_them():
    whole = batch_of(TWO, [[True, True]] * 6)
    absent = torch.tensor([[False, True]] * 5 + [[False, False]])
    hidden = replace(whole.hide(absent), teacher=whole)
    withheld = replace(hidden, teacher=None)
    for stage in ("specific", "redundant", "synergistic"):
        method = build(stage=stage)
        assert method.loss(hidden) == method.loss(whole)
        assert method.loss(hidden) != method.loss(withheld)
        assert torch.equal(method.stage_output(hidden), method.stage_output(whole))
        assert not torch.equal(method.stage_output(hidden), method.stage_output(withheld))
    method = build(stage="main")
    assert method.loss(hidden) == method.loss(withheld)
    assert torch.equal(method.stage_output(hidden), method(withheld))


def test_interactions_are_compared_on_samples_with_two_modalities():
    batch = batch_of(TWO)
    whole = batch_of(TWO, [[True, True]] * len(batch))
    for stage in ("specific", "main"):
        assert build(stage=stage).stage_rows(batch) is None
    for stage in ("redundant", "synergistic"):
        method = build(stage=stage)
        assert method.stage_rows(batch).tolist() == [True, False, False] * 2
        assert method.stage_rows(replace(batch, teacher=whole)).all()


def test_epochs_are_chosen_by_the_logits_of_the_stage():
    batch = batch_of(TWO)
    method = build(stage="specific")
    logits = method.specific_logits(method.encode(batch))
    chosen = method.stage_output(batch)
    torch.testing.assert_close(chosen[0], logits[0].mean(0))
    torch.testing.assert_close(chosen[1], logits[1, 0])
    torch.testing.assert_close(chosen[2], logits[2, 1])
    for kind in ("redundant", "synergistic"):
        method = build(stage=kind)
        chosen = method.stage_output(batch)
        f = method.interactions[kind](method.encode(batch))
        torch.testing.assert_close(chosen, method.interaction_heads[kind](f))
    method = build(stage="main")
    assert torch.equal(method.stage_output(batch), method(batch))


@pytest.mark.parametrize("stage", ["redundant", "main"])
def test_frozen_encoders_see_a_sample_once(stage):
    method, batch, seen = build(stage=stage), batch_of(TWO), []
    plain = method.loss(batch)
    for part in method.encode.in_order:
        part.register_forward_hook(lambda _, args, __: seen.append(len(args[0])))
    embeddings = Embeddings(len(batch))
    method.train()
    for rows in ([0, 1, 2], [3, 4, 5], [5, 0, 3], [1, 2, 4]):
        index = torch.tensor(rows)
        part = batch.take(index)
        method.loss(part.with_embeddings(embeddings, index))
    assert sum(seen) == 2 * len(batch)
    served = method.eval().loss(batch.with_embeddings(embeddings, torch.arange(len(batch))))
    assert sum(seen) == 2 * len(batch)
    for name, term in plain.items():
        torch.testing.assert_close(served[name], term, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("prompt", "width"), [("status_dynamic", 2), ("status", 1), ("dynamic", 1), ("none", 3)]
)
def test_the_router_reads_what_it_is_told_to(prompt, width):
    method, batch = build(THREE, prompt=prompt), batch_of(THREE)
    assert method.router[0].in_features == width * D
    b = method.encode(batch)
    before = method.route(b, batch.presence)
    one_more = batch.presence.roll(1, dims=0)
    sees_status = not torch.equal(method.route(b, one_more), before)
    sees_features = not torch.equal(method.route(b + 0.1, batch.presence), before)
    assert sees_status == (prompt != "none")
    assert sees_features == (prompt != "status")
    assert method(batch).isfinite().all()
    stage = method.stages[-1]
    method.begin(stage)
    method.train().loss(batch)["task"].backward()
    assert all(p.grad is not None for p in method.parameters() if p.requires_grad)


def test_a_learned_status_starts_as_the_constant_one():
    constant, learned = build(), build(status="learned")
    batch = batch_of(TWO)
    assert torch.equal(constant(batch), learned(batch))
    learned.begin(learned.stages[-1])
    learned.loss(batch)["task"].backward()
    assert learned.status_prompt.grad.abs().sum(1).gt(0).all()
    assert "status_prompt" not in constant.state_dict()


@pytest.mark.parametrize("drop", ["a", "b", "redundant", "synergistic"])
@pytest.mark.parametrize("pretrain", [True, False])
def test_a_dropped_expert_has_no_part_in_the_mixture(drop, pretrain):
    whole, method, batch = build(), build(drop=drop, pretrain=pretrain), batch_of(TWO)
    place = ["a", "b", "redundant", "synergistic"].index(drop)
    kept = [e for e in range(4) if e != place]
    b = whole.encode(batch)
    assert torch.equal(method.encode(batch), b)  # everything else starts from the same weights
    assert torch.equal(method.answers(b), whole.answers(b)[:, kept])
    assert method.route(b, batch.presence).shape == (len(batch), 3)
    names = [stage.name for stage in method.stages]
    if pretrain:
        assert names == [stage.name for stage in whole.stages if stage.name != drop]
    else:
        assert names == ["fit"]
        method.begin(method.stages[0])
    many = make_batch(TWO, all_patterns(TWO, repeat=16))
    sum(method.train().loss(many).values()).backward()
    learn = [p for p in method.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.any() for p in learn)


def test_there_is_nothing_to_drop_by_an_unknown_name():
    with pytest.raises(
        ValueError, match=r"no expert 'redundand' to drop.*did you mean 'redundant'"
    ):
        build(drop="redundand")


def test_ablations_of_the_main_stage_share_the_pretraining():
    paper = build().stages
    assert [set(s.shared_across) for s in paper] == [{"prompt", "status", "drop"}] * 3 + [set()]
    for same in ({"prompt": "none"}, {"status": "learned"}, {"drop": "a"}):
        assert build(**same).stages[:3] == paper[:3]
    assert build(drop="redundant").stages[:2] == (paper[0], paper[2])


PICTURES = Task(
    "single_label", (Modality("i", "image", (3, 16, 16)), TWO.modalities[0]), ("x", "y")
)


def test_a_frozen_encoder_sees_each_view_of_a_sample_once():
    method = build(PICTURES, stage="main", views=3)
    batch, seen = batch_of(PICTURES), []
    method.encode.in_order[0].register_forward_hook(lambda *_: seen.append(len(batch)))
    batch = batch.with_embeddings(Embeddings(len(batch)))
    method.train()
    torch.manual_seed(0)
    features = [method.features(batch) for _ in range(40)]
    assert len(seen) == 3
    kinds = torch.unique(torch.stack([f[:, 0].flatten() for f in features]), dim=0)
    assert len(kinds) == 3  # each view looks different, and always the same
    assert all(torch.equal(f[:, 1], features[0][:, 1]) for f in features)  # no image, no views
    plain = method.encode(batch)
    assert any(torch.allclose(f, plain, atol=1e-6) for f in features)  # as it is, it is one of them
    assert torch.equal(method.eval().features(batch), plain)


def test_views_bring_no_weights_and_are_no_matter_of_indifference():
    one, three = build(PICTURES), build(PICTURES, views=3)
    assert one.state_dict().keys() == three.state_dict().keys()
    assert "views" not in one.stages[0].shared_across
    three.begin(three.stages[0])
    three.train()
    sum(three.loss(batch_of(PICTURES)).values()).backward()
    assert all(p.grad is not None for p in three.encode.parameters())
    for task, views in ((PICTURES, 0), (TWO, 2)):
        with pytest.raises(ValueError, match="views of images were asked for"):
            build(task, views=views)


def test_a_frozen_backbone_keeps_its_weights():
    task = Task(
        "single_label", (Modality("i", "image", (3, 32, 32)), TWO.modalities[0]), ("x", "y")
    )
    for freeze in (True, False):
        for pretrain in (True, False):
            frozen = {"image": {"backbone": "resnet18", "frozen": freeze}}
            method = build(with_encoders(task, frozen), pretrain=pretrain)
            method.begin(method.stages[0])
            image, vector = method.encode.in_order
            learn = [p.requires_grad for p in image.trunk.parameters()]
            assert any(learn) != freeze
            assert all(learn) != freeze
            assert all(p.requires_grad for p in image.out.parameters())
            assert all(p.requires_grad for p in vector.parameters())
    wide = build(with_encoders(task, {"image": "resnet18"}), dim=512)
    assert isinstance(wide.encode.in_order[0].out, nn.Identity)


def test_released_weights_of_penalties_can_only_fall():
    method = build(stage="redundant", variant="official")
    terms = method.loss(batch_of(TWO))
    sum(terms.values()).backward()
    torch.testing.assert_close(method.penalties["redundant"].grad, terms["redundant_distance"])
    assert method.penalties["redundant"].item() == 1
    assert not hasattr(build(), "penalties")


def fit(method, stage, epochs):
    method.begin(stage)
    method.train()
    loader = DataLoader([batch_of(TWO)] * 2, batch_size=None)
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(method, loader, loader)


class Watched(nn.Module):
    """Notes mode and learning rate of each training step."""

    def __init__(self, method):
        super().__init__()
        self.inner, self.seen = method.head, []
        self.rate = lambda: method.optimizers().param_groups[0]["lr"]

    def forward(self, x):
        if torch.is_grad_enabled():
            self.seen.append((self.training, self.rate()))
        return self.inner(x)


@pytest.mark.filterwarnings("ignore")  # of Lightning, about workers and sizes of a toy loader
def test_released_training_has_dropout_in_the_first_epoch_alone_and_a_cosine_schedule():
    modes, cosine = [True, True] + [False] * 4, [0.1, 0.1, 0.075, 0.075, 0.025, 0.025]
    for variant, expected in (("paper", ([True] * 6, [0.1] * 6)), ("official", (modes, cosine))):
        method = build(variant=variant, lr=0.1)
        method.head = watched = Watched(method)
        fit(method, method.stages[-1], epochs=3)
        training, rates = zip(*watched.seen, strict=True)
        assert list(training) == expected[0]
        assert rates == pytest.approx(expected[1])  # (1 + cos(π e / 3)) / 2


@pytest.mark.filterwarnings("ignore")
def test_each_stage_moves_what_it_trains_and_nothing_else():
    method = build()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    for stage in method.stages:
        fit(method, stage, epochs=1)
        after = method.state_dict()
        moved = {name for name in after if not torch.equal(before[name], after[name])}
        assert moved == {name for name in after if stage.covers(name)}
        before = {name: value.clone() for name, value in after.items()}


def test_router_weights_are_kept_by_missing_set():
    method, batch = build(), batch_of(TWO, [[True, True]] * 3 + [[False, True]] * 2)
    assert method.diagnostics() == {}
    with torch.no_grad():
        method(batch)
        method(batch)
        w = method.route(method.encode(batch), batch.presence).double()
    kept = method.diagnostics()
    router, found = kept["router"], torch.from_numpy(kept["entropy"].values)
    assert router.pattern.tolist() == ["a+b", "b"]
    assert router.expert.tolist() == ["a", "b", "redundant", "synergistic"]
    assert router.count.tolist() == [6, 4]
    assert kept["entropy"].row.tolist() == ["a+b", "b", "all"]
    means = torch.stack([w[:3].mean(0), w[3:].mean(0)])
    torch.testing.assert_close(torch.from_numpy(router.share), means)
    entropy = -(w * w.log()).sum(1) / torch.tensor(4.0).log()
    expected = torch.stack([entropy[:3].mean(), entropy[3:].mean(), entropy.mean()])
    torch.testing.assert_close(found[:, 1], expected)
    mean = w.mean(0)
    whole = -(mean * mean.log()).sum() / torch.tensor(4.0).log()
    assert found[2, 0].item() == pytest.approx(whole.item())
    assert method.eval().diagnostics() == {}  # another evaluation counts afresh


def test_the_two_entropies_tell_collapse_from_choice():
    batch = batch_of(TWO, [[True, False], [False, True]])

    def entropies(first, second):
        method = build()
        method.route = lambda b, presence: torch.tensor([first, second])
        with torch.no_grad():
            method(batch)
        return method.diagnostics()["entropy"].values[-1].tolist()

    one, other = [1.0, 0, 0, 0], [0, 1.0, 0, 0]
    assert entropies(one, one) == pytest.approx([0, 0])  # collapsed
    assert entropies(one, other) == pytest.approx([0.5, 0])  # a choice
    assert entropies([0.25] * 4, [0.25] * 4) == pytest.approx([1, 1])  # no choice


def test_training_is_not_counted():
    method = build(variant="official").train()
    method(batch_of(TWO))
    method.eval()(batch_of(TWO))  # released training goes on in this mode
    assert method.diagnostics() == {}


@pytest.mark.parametrize("kind", ["multi_label", "regression"])
def test_other_tasks_have_their_losses_in_every_stage(kind):
    task = task_of(2, kind)
    for stage in ("specific", "redundant", "synergistic", "main"):
        terms = build(task, stage).loss(batch_of(task))
        assert all(term.isfinite() and term > 0 for name, term in terms.items() if name == stage)
