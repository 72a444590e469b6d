from itertools import pairwise

import pytest
import torch
from jaxtyping import Float
from tiny_models import NAME, PIXELS, save
from torch import Tensor

from mmbench.checks.tasks import all_patterns, make_batch
from mmbench.data.batch import Batch
from mmbench.data.embeddings import is_frozen, is_shared_between_runs
from mmbench.data.task import Modality, Task
from mmbench.layers.fusion import random_drop
from mmbench.method import Paper
from mmbench.prompting import HIDE_RATE, PromptMethod

TASK = Task("single_label", tuple(Modality(m, "vector", (4,)) for m in "abc"), ("x", "y", "z"))


class OneToken(PromptMethod):
    """One learned token before the first layer."""

    paper = Paper("none")

    def __init__(self, task: Task, **arguments: object) -> None:
        super().__init__(task, dim=8, depth=2, **arguments)
        self.prompt = torch.nn.Parameter(torch.zeros(self.backbone.pooled_width))
        self.head = self.make_head()

    def forward(self, batch: Batch) -> Float[Tensor, "batch output"]:
        def insert(layer: int, stream: int) -> Tensor | None:
            return self.prompt.expand(len(batch), 1, -1) if layer == 0 else None

        z = self.backbone.run(self.backbone.tokens(batch), self.backbone.keys(batch), insert)
        return self.head(z)


def build(**arguments):
    torch.manual_seed(0)
    return OneToken(TASK, **arguments).train()


def learning(method):
    return {name for name, p in method.named_parameters() if p.requires_grad}


def prompt_parts():
    pooler = {"backbone.pooler.0.weight", "backbone.pooler.0.bias"}
    return pooler | {"prompt"} | {f"head.{i}.{p}" for i in (0, 1, 3) for p in ("weight", "bias")}


def test_the_backbone_learns_first_and_the_prompts_after_it():
    method = build()
    warm, prompt = method.stages
    assert (warm.name, warm.epochs, warm.select) == ("warm", 20, "best")
    assert learning(method) == prompt_parts()
    method.begin(warm)
    names = {name for name, _ in method.named_parameters()}
    assert learning(method) == {n for n in names if n.startswith(("backbone.", "warm_head."))}
    assert not is_frozen(method.backbone.embedder("a"))
    method.begin(prompt)
    assert learning(method) == prompt_parts()
    assert is_frozen(method.backbone.embedder("a"))
    assert not method.backbone.layers[0].drop.training
    assert method.backbone.pooler.training


def test_each_stage_minimises_and_shows_its_own_prediction():
    method, batch = build(), make_batch(TASK, all_patterns(TASK))
    for stage, other in (("warm", "head"), ("prompt", "warm_head")):
        method.begin({s.name: s for s in method.stages}[stage])
        method.zero_grad()
        sum(method.loss(batch).values()).backward()
        moved = {n for n, p in method.named_parameters() if p.grad is not None and p.grad.any()}
        assert moved == learning(method)
        assert all(p.grad is None for p in getattr(method, other).parameters())
    method.eval()
    assert torch.equal(method.stage_output(batch), method(batch))
    method.begin(method.stages[0])
    method.eval()
    assert torch.equal(method.stage_output(batch), method.warm_head(method.backbone(batch)))


def test_what_is_shared_depends_on_the_backbone_and_on_nothing_else():
    assert build(lr=0.5, weight_decay=0.0).stages[0] == build().stages[0]
    assert set(build().stages[0].shared_across) == {"frozen", "lr", "weight_decay"}
    assert build(warm_epochs=3).stages[0] != build().stages[0]


def test_the_warm_stage_has_the_same_learning_rate_in_all_methods():
    method = build(lr=0.5)

    class Endless:
        estimated_stepping_batches = -1

    method.trainer = Endless()
    method.begin(method.stages[0])
    warm = method.configure_optimizers()
    method.begin(method.stages[1])
    prompt = method.configure_optimizers()
    assert [o.param_groups[0]["lr"] for o in (warm, prompt)] == [1e-3, 0.5]


def test_the_learning_rate_rises_for_a_tenth_of_the_steps_then_falls_to_zero():
    method = build(lr=1.0)

    class Hundred:
        estimated_stepping_batches = 100

    method.trainer = Hundred()
    found = method.configure_optimizers()
    rates = []
    for _ in range(101):
        rates.append(found["optimizer"].param_groups[0]["lr"])
        found["optimizer"].step()
        found["lr_scheduler"]["scheduler"].step()
    assert found["lr_scheduler"]["interval"] == "step"
    assert rates[:11] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.0])
    assert rates[55] == pytest.approx(0.5)
    assert rates[100] == 0
    assert all(later < rate for rate, later in pairwise(rates[10:]))


def test_a_backbone_may_be_taken_as_it_comes_or_learn_together_with_the_prompts():
    taken, joint = build(frozen="pretrained_frozen"), build(frozen="joint")
    for method in (taken, joint):
        [stage] = method.stages
        method.begin(stage)
        assert not hasattr(method, "warm_head")
    assert learning(taken) == prompt_parts()
    assert learning(joint) == {name for name, _ in joint.named_parameters()}


def test_hiding_at_random_leaves_every_sample_something():
    torch.manual_seed(0)
    presence = all_patterns(TASK, repeat=2000)
    absent = presence & ~random_drop(presence, HIDE_RATE)
    assert not (absent & ~presence).any()
    assert (presence & ~absent).any(1).all()
    assert not absent[presence.sum(1) == 1].any()
    complete = presence.all(1)
    # three entries: 0.3 each, but the last of 0.3³ samples stays
    expected = (3 * 0.3 - 0.3**3) / 3
    assert absent[complete].float().mean().item() == pytest.approx(expected, abs=0.02)
    torch.testing.assert_close(
        (presence[:20] & ~random_drop(presence[:20], 1.0)).sum(1), presence[:20].sum(1) - 1
    )


@pytest.fixture(scope="module")
def vilt(tmp_path_factory):
    return save("vilt", tmp_path_factory.mktemp("vilt"))


@pytest.mark.parametrize("regime", ["warm_frozen", "pretrained_frozen", "joint"])
def test_runs_share_what_a_backbone_embeds_once_it_rests(regime):
    method = OneToken(TASK, frozen=regime)
    for stage in method.stages:
        assert not is_shared_between_runs(method.backbone.embedder("a"))
        method.begin(stage)
    assert is_shared_between_runs(method.backbone.embedder("a")) == (regime != "joint")
    assert not is_shared_between_runs(method.head)


def test_a_pretrained_backbone_is_not_trained_first_and_stays_as_it_is(vilt):
    text = Modality("t", "tokens", (5,), 99, NAME)
    image = Modality("i", "image", (3, 16, 16), pixels=PIXELS)
    task = Task("single_label", (text, image), ("x", "y", "z"))
    torch.manual_seed(0)
    method = OneToken(task, backbone=f"vilt:{vilt}").train()
    [stage] = method.stages
    assert (stage.name, stage.shared_across) == ("prompt", ())
    method.begin(stage)
    assert learning(method) == prompt_parts()
    assert is_frozen(method.backbone.embedder("t"))
    assert is_shared_between_runs(method.backbone.embedder("t"))
    batch = make_batch(task, all_patterns(task, repeat=4))
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=1e-2)
    before = {k: v.clone() for k, v in method.state_dict().items()}
    first = sum(method.loss(batch).values())
    for _ in range(30):
        optimizer.zero_grad()
        sum(method.loss(batch).values()).backward()
        optimizer.step()
    moved = {k for k, v in method.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == prompt_parts()
    assert sum(method.loss(batch).values()) < 0.7 * first
