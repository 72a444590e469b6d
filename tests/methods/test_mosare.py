import math
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import mosare_reference
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from torch.distributions import Independent, Normal

from datamodules.synthetic import Synthetic
from mmbench.checks.tasks import MODALITIES, all_patterns, make_batch
from mmbench.data.scenario import Scenario
from mmbench.data.task import Modality, Task, with_encoders
from mmbench.methods import mosare
from mmbench.methods.mosare import (
    PROTOTYPES,
    QUEUE,
    ClassMixtures,
    GeneTokens,
    MoSARe,
    balanced,
    released_schedule,
    symmetric_contrast,
)

KINDS = (MODALITIES["vector"], MODALITIES["bag"], MODALITIES["image"], MODALITIES["sequence"])
TASK = with_encoders(Task("single_label", KINDS[:3], ("x", "y", "z")), {"dropout": 0.0})
M, D, C = 3, 8, 6
SMALL = {"dim": D, "components": C, "heads": 2, "dropout": 0.0}


def build(task=TASK, **args):
    torch.manual_seed(0)
    method = MoSARe(task, **(SMALL | args))
    method.prepare([make_batch(task, all_patterns(task), seed=1)])
    return method.eval()


def batch_of(presence=None, task=TASK, seed=0):
    rows = all_patterns(task) if presence is None else torch.as_tensor(presence)
    return make_batch(task, rows, seed=seed)


def gradients(method):
    return {n: p.grad for n, p in method.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("tokens", ["encoder", "genes"])
@pytest.mark.parametrize("active", [1, 3, C])
def test_losses_and_gradients_are_those_of_the_slow_form(monkeypatch, tokens, active):
    monkeypatch.setattr(mosare, "CHUNK", 40)  # genes are read in several chunks
    method, batch = build(vector_tokens=tokens, active_k=active).train(), batch_of()
    method.align()
    twin = deepcopy(method)
    found = method.loss(batch)
    torch.stack(list(found.values())).sum().backward()
    expected = mosare_reference.step(twin, batch)
    fast, slow = gradients(method), gradients(twin)
    assert list(found) == ["task", "auxiliary", "reconstruction", "symmetric", "prototype"]
    for name in found:
        torch.testing.assert_close(found[name], expected[name], atol=1e-4, rtol=1e-4, msg=name)
    assert fast.keys() == slow.keys()
    for name in fast:
        torch.testing.assert_close(fast[name], slow[name], atol=1e-4, rtol=1e-3, msg=name)


def test_official_logits_are_those_of_the_slow_form():
    # held, with copied weights, against the released module itself: 1e-6
    method, batch = build(variant="official"), batch_of()
    *_, h = mosare_reference.forward(method, batch)
    torch.testing.assert_close(method(batch), method.head(h), atol=1e-5, rtol=1e-4)
    plain = build(variant="official")
    for attend in plain.attend:
        attend.official = False  # a norm that the slow form notices
    assert (plain(batch) - method(batch)).abs().max() > 1e-3


def test_all_tokens_pass_in_the_paper_and_one_in_the_release():
    batch = batch_of()
    for variant, passing in (("paper", C), ("official", 1)):
        method, seen = build(variant=variant), []
        method.pick.experts.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args))
        method(batch)
        ((x, _),) = seen
        assert x.shape == (len(batch) * M * passing, D)


def test_a_vector_of_few_features_has_no_token_that_nothing_is_in():
    few = Task("single_label", (Modality("v", "vector", (2,)), *KINDS[1:3]), ("x", "y"))
    method = build(few)
    batch = batch_of(torch.ones(5, M, dtype=torch.bool), few)
    _, local = method.views[0](batch)
    assert local.shape == (5, C, D)
    torch.testing.assert_close(local[:, 2:4], local[:, :2])  # two tokens, in turn
    assert (local[:, 0] - local[:, 1]).abs().amax() > 1e-3


@pytest.mark.parametrize(("variant", "most"), [("paper", 30e6), ("official", 150e6)])
def test_weights_do_not_grow_with_the_square_of_the_features(variant, most):
    genes = Modality("rna", "vector", (20_530,))
    task = Task("single_label", (genes, Modality("v", "vector", (4,))), ("x", "y"))
    with torch.device("meta"):
        method = MoSARe(task, variant=variant, dim=512, components=4)
    assert sum(p.numel() for p in method.views[0].parameters()) < most


def test_only_tokens_that_pass_are_computed():
    method, batch = build(active_k=1), batch_of()
    seen = []
    method.pick.experts.register_forward_pre_hook(lambda _, args: seen.append(args))
    method(batch)
    ((x, gates),) = seen
    assert x.shape == (len(batch) * M, D)
    assert ((gates > 0).sum(1) == 2).all()


@pytest.mark.parametrize("k", [1, 2, 4])
def test_exactly_k_gates_are_not_zero_and_they_sum_to_one(k):
    method = build(top_k=k)
    t = torch.randn(5, M, C, D, generator=torch.Generator().manual_seed(0))
    gates = method.pick.gates(t)
    assert ((gates > 0).sum(-1) == k).all()
    torch.testing.assert_close(gates.sum(-1), torch.ones(5, M, C))


def test_a_present_modality_stays_and_a_missing_one_is_decoded_from_the_sum():
    method, batch = build(), batch_of()
    fused = method.fuse(batch)
    there = batch.presence[None, :, :, None].expand_as(fused.z)
    assert torch.equal(fused.full[there], fused.z[there])
    assert torch.equal(fused.full[~there], fused.decoded[~there])
    assert not fused.z[~there].any()
    torch.testing.assert_close(fused.x, fused.z.sum(2))


def test_without_reconstruction_a_missing_modality_stays_zero():
    method, batch = build(reconstruction=False), batch_of()
    fused = method.fuse(batch)
    assert torch.equal(fused.full, fused.z)
    assert "reconstruction" not in method.loss(batch)


def test_reconstruction_is_learned_where_a_modality_is_there_and_reaches_the_decoders():
    method, batch = build(), batch_of()
    method.loss(batch)["reconstruction"].backward()
    assert all(p.grad.any() for p in method.decode.parameters())
    only_first = batch_of([[True, False, False]] * 4)
    method.zero_grad()
    method.loss(only_first)["reconstruction"].backward()
    for decoder in method.decode:
        assert [bool(w.any()) for w in decoder.w2.grad] == [True, False, False]


@pytest.mark.slow
def test_after_training_what_is_decoded_has_the_norm_and_the_mean_of_what_is_there():
    missing = {"mechanism": "mcar", "missing_rate": 0.3}
    scenario = Scenario.parse({"name": "mcar30", "train": missing, "test": missing})
    data = Synthetic(Path(), scenario, redundant=2, unique=[], synergistic=0, noise=1.0, limit=600)
    data.setup()
    torch.manual_seed(0)
    method = MoSARe(data.task, dim=32, components=2, lr=6e-3)
    method.prepare(data.batches("train"))
    method.train()
    optimiser = method.configure_optimizers()
    for _ in range(24):
        for batch in data.train_dataloader():
            optimiser.zero_grad()
            torch.stack(list(method.loss(batch).values())).sum().backward()
            optimiser.step()
    method.eval()
    with torch.no_grad():
        passes = [(method.fuse(batch), batch) for batch in data.batches("test")]
    for level in range(2):
        for m in range(len(data.task.modalities)):
            there = torch.cat([b.presence[:, m] for _, b in passes])
            z = torch.cat([fused.z[level, :, m] for fused, _ in passes])[there]
            d = torch.cat([fused.decoded[level, :, m] for fused, _ in passes])[there]
            length = z.norm(dim=1).mean()
            assert (d.norm(dim=1).mean() / length).item() == pytest.approx(1, abs=0.15)
            assert (d.mean(0) - z.mean(0)).norm() < 0.2 * length
            assert (d - z).norm() < 0.5 * z.norm()  # sample by sample, too


def test_the_symmetric_loss_worked_by_hand():
    # two samples, one modality; cosines with the sums: 1, 0 and 0, 1
    z = torch.tensor([[[2.0, 0.0]], [[0.0, 3.0]]])
    x = torch.tensor([[5.0, 0.0], [0.0, 1.0]])
    there = torch.ones(2, 1, dtype=torch.bool)
    assert symmetric_contrast(z, x, there).item() == pytest.approx(0, abs=1e-6)
    # crossed: each sample's own cosine is 0 and the other's 1, so log(1 + e^100) = 100
    assert symmetric_contrast(z, x.flip(0), there).item() == pytest.approx(100, abs=1e-3)
    # all alike: one of two at random
    same = torch.ones(2, 1, 2)
    assert symmetric_contrast(same, torch.ones(2, 2), there).item() == pytest.approx(math.log(2))


def test_absent_modalities_take_no_part_in_the_symmetric_loss():
    g = torch.Generator().manual_seed(0)
    z, x = torch.randn(6, 2, D, generator=g), torch.randn(6, D, generator=g)
    there = torch.ones(6, 2, dtype=torch.bool)
    there[3:, 1] = False
    parts = [mosare_reference.info_nce(z[:, 0], x), mosare_reference.info_nce(z[:3, 1], x[:3])]
    torch.testing.assert_close(symmetric_contrast(z, x, there), sum(parts) / 2)
    nobody = torch.tensor([[True, False]]).expand(6, 2)
    torch.testing.assert_close(symmetric_contrast(z, x, nobody), parts[0] / 2)
    z = z.requires_grad_()
    symmetric_contrast(z, x, there).backward()
    assert not z.grad[3:, 1].any()
    assert z.grad.isfinite().all()


def test_the_prototype_loss_worked_by_hand():
    own = ClassMixtures(2, 2, official=False)
    own.mean.copy_(F.normalize(torch.tensor([[1.0, 0.0]]), dim=1).expand(2, PROTOTYPES, 2))
    own.mean[1] = torch.tensor([0.0, 1.0])
    own.mean[0, 3] = torch.tensor([-1.0, 0.0])  # the nearest of a class counts
    h = torch.tensor([[4.0, 0.0], [-2.0, 0.0], [3.0, 4.0]])
    expected = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.6, 0.8]])
    torch.testing.assert_close(own(h), expected)
    method = build(Task("single_label", TASK.modalities, ("x", "y")))
    loss = method.task_loss(own(h), torch.tensor([0, 0, 1]))
    assert loss.item() == pytest.approx(
        (2 * math.log(1 + math.e**-1) + math.log(1 + math.e**-0.2)) / 3
    )


def test_class_densities_are_torchs_and_the_posterior_of_classes_sums_to_one():
    torch.manual_seed(0)
    own = ClassMixtures(3, D, official=False)
    own.variance.uniform_(0.05, 1.0)
    h = torch.randn(7, D)
    unit = F.normalize(h, dim=1)
    expected = Independent(Normal(own.mean, own.variance.sqrt()), 1).log_prob(unit[:, None, None])
    torch.testing.assert_close(own.log_density(h), expected, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(own.posterior(h).sum(1), torch.ones(7))
    density = expected.exp().sum(2)
    torch.testing.assert_close(
        own.posterior(h), density / density.sum(1, keepdim=True), atol=1e-4, rtol=1e-3
    )


def test_sinkhorn_gives_each_member_one_unit_among_the_prototypes_of_its_class():
    density = torch.randn(30, 2, 3, generator=torch.Generator().manual_seed(0))
    member = torch.zeros(30, 2, dtype=torch.bool)
    member[:18, 0] = True
    member[18:, 1] = True
    q = balanced(density, member)
    torch.testing.assert_close(q.sum(2), member.float())
    # as written for one class alone
    own = density[:18, 0]
    share = (own / own.abs().max() / 0.05).exp()
    for _ in range(3):
        share = share / share.sum(0)
        share = share / share.sum(1, keepdim=True)
    torch.testing.assert_close(q[:18, 0], share)


def remembered(official, batches):
    """Prototypes moved as the text says, one sample at a time."""
    torch.manual_seed(3)
    own = ClassMixtures(2, D, official=official)
    mean, variance = own.mean.clone(), own.variance.clone()
    start = [
        [own.queue[(c * PROTOTYPES + p) * QUEUE :][:QUEUE] for p in range(PROTOTYPES)]
        for c in range(2)
    ]
    queues = [[list(part) if official else [] for part in row] for row in start]
    for h, target in batches:
        unit = F.normalize(h, dim=1)
        density = Independent(Normal(mean, variance.sqrt()), 1).log_prob(unit[:, None, None])
        shares = balanced(density, F.one_hot(target, 2).bool())
        predicted = density.amax(2).argmax(1)
        slots = {}
        for i, c in enumerate(target.tolist()):
            if official and predicted[i] != c:
                continue
            p = int(shares[i, c].argmax())
            slots.setdefault((c, p), []).append(unit[i])
        for c in set(target.tolist()):
            for p in range(PROTOTYPES):
                new = slots.get((c, p), [])
                fresh = not queues[c][p]
                queues[c][p] = (queues[c][p] + new)[-QUEUE:]
                if not queues[c][p]:
                    continue
                kept = torch.stack(queues[c][p])
                centre = F.normalize(kept.sum(0), dim=0)
                momentum = 0.999 if official else 0.9
                old = centre if fresh else mean[c, p]
                mean[c, p] = F.normalize(momentum * old + (1 - momentum) * centre, dim=0)
                variance[c, p] = ((kept - centre) ** 2).mean(0) + 0.01
        own.update(h, F.one_hot(target, 2).bool())
    return own, mean, variance


@pytest.mark.parametrize("official", [False, True])
def test_prototypes_move_as_they_do_sample_by_sample(official):
    g = torch.Generator().manual_seed(1)
    batches = []
    for _ in range(4):
        target = torch.randint(2, (24,), generator=g)
        batches.append((torch.randn(24, D, generator=g) + 2 * target[:, None], target))
    own, mean, variance = remembered(official, batches)
    torch.testing.assert_close(own.mean, mean, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(own.variance, variance, atol=1e-4, rtol=1e-4)


def test_a_class_that_a_batch_lacks_stays_where_it_is():
    own = ClassMixtures(2, D, official=False)
    before = own.mean.clone()
    own.update(torch.randn(9, D), F.one_hot(torch.zeros(9, dtype=torch.long), 2).bool())
    assert torch.equal(own.mean[1], before[1])
    assert not torch.equal(own.mean[0], before[0])


def test_prototypes_learn_in_training_alone():
    method, batch = build(), batch_of()
    before = method.prototypes.mean.clone()
    method.loss(batch)
    assert torch.equal(method.prototypes.mean, before)
    method.train().loss(batch)
    assert not torch.equal(method.prototypes.mean, before)


def test_a_permuted_bag_changes_nothing():
    method = build()
    batch = batch_of(torch.ones(5, M, dtype=torch.bool))
    name = "patches"
    g = torch.Generator().manual_seed(0)
    x = batch.inputs[name].clone()
    for i, length in enumerate(batch.lengths[name].tolist()):
        x[i, :length] = x[i, torch.randperm(length, generator=g)]
    assert not torch.equal(x, batch.inputs[name])
    moved = replace(batch, inputs={**batch.inputs, name: x})
    torch.testing.assert_close(method(moved), method(batch), atol=1e-5, rtol=1e-5)


def test_bags_of_different_sizes_are_exact_in_any_batch():
    method = build()
    batch = batch_of(torch.ones(5, M, dtype=torch.bool))
    together = method(batch)
    for i, length in enumerate(batch.lengths["patches"].tolist()):
        alone = replace(
            batch,
            inputs={n: x[i : i + 1] for n, x in batch.inputs.items()},
            presence=batch.presence[i : i + 1],
            target=batch.target[i : i + 1],
            sample_id=batch.sample_id[i : i + 1],
            lengths={n: x[i : i + 1] for n, x in batch.lengths.items()},
        )
        alone.inputs["patches"] = alone.inputs["patches"][:, :length]  # no padding at all
        torch.testing.assert_close(method(alone)[0], together[i], atol=1e-5, rtol=1e-5)


def test_gene_tokens_do_not_depend_on_the_chunks(monkeypatch):
    torch.manual_seed(0)
    net, x = GeneTokens(32, 3, 0.0), torch.randn(4, 23)
    with torch.no_grad():
        net.score.mul_(30)  # so that the largest score differs from chunk to chunk
    whole = net(x)
    monkeypatch.setattr(mosare, "CHUNK", 12)
    torch.testing.assert_close(net(x), whole, atol=1e-5, rtol=1e-5)


def test_gene_tokens_know_no_order_of_genes_and_the_encoder_does():
    for tokens, blind in (("genes", True), ("encoder", False)):
        method = build(vector_tokens=tokens)
        x = batch_of().inputs["vector"]
        local = method.views[0].local
        same = torch.allclose(local(x, None), local(x.flip(1), None), atol=1e-5)
        assert same == blind


@pytest.mark.parametrize("components", [4, 64])
def test_any_number_of_components(components):
    method = build(components=components)
    batch = batch_of()
    assert method(batch).isfinite().all()
    assert method.views[1].mixture.mean.shape[0] == components


def test_ablations_leave_out_what_they_say():
    def terms(**args):
        method = build(**args)
        method.align()
        return set(method.loss(batch_of()))

    everything = {"task", "auxiliary", "reconstruction", "symmetric", "prototype"}
    assert terms() == everything
    assert terms(lambda_sym=0.0) == everything - {"symmetric"}
    assert terms(lambda_mcl=0.0) == everything - {"prototype"}
    assert terms(reconstruction=False) == everything - {"reconstruction"}
    method = build(experts=0)
    assert not [n for n, _ in method.named_parameters() if "experts" in n or "pick" in n]
    assert method(batch_of()).isfinite().all()


@pytest.mark.parametrize("kind", ["multi_label", "regression"])
def test_other_tasks_have_prototypes_of_labels_or_none(kind):
    task = with_encoders(Task(kind, KINDS[2:], ("x", "y")), {"dropout": 0.0})
    method = build(task).train()
    method.align()
    batch = batch_of(task=task)
    found = method.loss(batch)
    assert ("prototype" in found) == (kind == "multi_label")
    assert all(term.isfinite() for term in found.values())


def test_a_token_is_chosen_by_a_score_that_learns_only_in_the_paper():
    batch = batch_of()
    for variant in ("paper", "official"):
        method = build(variant=variant, active_k=1)
        method.loss(batch)["task"].backward()
        learns = method.pick.score.grad is not None and bool(method.pick.score.grad.any())
        assert learns == (variant == "paper")


class Twice(torch.utils.data.IterableDataset):
    def __init__(self, batch):
        self.batch = batch

    def __iter__(self):
        return iter([self.batch] * 2)


def fit(method, batch, epochs):
    """Two steps an epoch."""
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(method, torch.utils.data.DataLoader(Twice(batch), batch_size=None))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("variant", ["paper", "official"])
def test_contrast_begins_after_half_of_a_short_run(variant):
    method, batch = build(variant=variant, lr=1e-3), batch_of()
    epochs = []
    original = method.training_step

    def spy(batch, batch_idx):
        epochs.append(method.goals)
        return original(batch, batch_idx)

    method.training_step = spy
    before = method.head.weight.clone()
    fit(method, batch, epochs=4)
    everything = ("supervised", "symmetric", "prototype")
    assert epochs == [("supervised",)] * 4 + [everything] * 4
    assert not torch.equal(method.head.weight, before)


@pytest.mark.parametrize(("run", "first"), [(100, 10), (20, 10), (19, 9), (5, 2), (1, 0)])
def test_the_warm_up_is_ten_epochs_or_half_of_a_short_run(run, first):
    method = build()

    class Clock:
        max_epochs = run
        current_epoch = 0

    method._trainer = clock = Clock()
    began = []
    for clock.current_epoch in range(run):
        method.on_train_epoch_start()
        began.append("symmetric" in method.goals)
    assert began.index(True) == first if first < run else not any(began)


def test_the_released_step_is_three_steps_that_each_look_anew():
    method, batch = build(variant="official", lr=1e-2).train(), batch_of()
    method.align()
    optimiser = method.configure_optimizers()
    found = []
    for goal in ("supervised", "symmetric", "prototype"):
        method.goals = (goal,)
        terms = method.loss(batch)
        found.append(set(terms))
        optimiser.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        optimiser.step()
    assert found == [{"task", "auxiliary", "reconstruction"}, {"symmetric"}, {"prototype"}]


def test_official_contrast_has_rows_of_zeros_and_its_prototype_target_is_a_guess():
    method, batch = build(variant="official"), batch_of()
    method.align()
    found = method.loss(batch)
    fused = method.fuse(batch)
    everyone = torch.ones_like(batch.presence)
    expected = sum(
        symmetric_contrast(z, x, everyone) for z, x in zip(fused.z, fused.x, strict=True)
    )
    torch.testing.assert_close(found["symmetric"], 0.5 * expected)
    guess = method.prototypes.posterior(fused.h).argmax(1)
    assert not torch.equal(guess, batch.target)
    loss = F.cross_entropy(method.prototypes(fused.h), guess)
    torch.testing.assert_close(found["prototype"], 0.5 * loss)


def test_the_released_schedule():
    assert released_schedule(0.0, 100, 1e-4) == pytest.approx(1e-5)
    assert released_schedule(5.0, 100, 1e-4) == pytest.approx(1.0)
    assert released_schedule(52.5, 100, 1e-4) == pytest.approx(0.5, abs=1e-3)
    assert released_schedule(100.0, 100, 1e-4) == pytest.approx(1e-4)
    assert released_schedule(1.0, 2, 1e-4) == pytest.approx(1.0)


def test_parameters_of_the_attention_blocks_are_those_of_the_released_code():
    # GA: four D x D layers with biases, D - 2D - D, two norms; six blocks. Without the key's bias
    # in the softmax, where it cancels.
    task = Task("single_label", tuple(Modality(m, "vector", (4,)) for m in "abc"), ("x", "y"))
    method = MoSARe(task, dim=16)
    block = 4 * (16 * 16 + 16) + (16 * 32 + 32) + (32 * 16 + 16) + 4 * 16
    count = [sum(p.numel() for p in part.parameters()) for part in method.attend]
    assert count == [6 * block, 6 * (block - 16)]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"components": 0}, "components must be at least 1, found 0"),
        ({"active_k": 0}, "active_k must be at least 1, found 0"),
        ({"top_k": 6}, "asked for 6 of 5 experts"),
        ({"heads": 3}, "3 heads cannot share a width of 8"),
    ],
)
def test_what_cannot_be_built_is_refused(args, message):
    with pytest.raises(ValueError, match=message):
        build(**args)


def test_nothing_waits_for_an_accelerator():
    # tensors on "meta" have no values: whatever the host would have to read raises
    for variant in ("paper", "official"):
        method = build(variant=variant).train().to("meta")
        method.align()
        batch = batch_of().to("meta")
        assert method(batch).shape == (len(batch), 3)
        assert all(term.shape == () for term in method.loss(batch).values())
