import torch

from mmbench.checks.tasks import all_patterns, make_batch
from mmbench.data.task import Modality, Task
from mmbench.methods.backbone_alone import BackboneAlone
from mmbench.methods.maps import MAPs

TASK = Task("single_label", tuple(Modality(m, "vector", (4,)) for m in "abc"), ("x", "y", "z"))


def build(cls=BackboneAlone, **arguments):
    torch.manual_seed(0)
    return cls(TASK, **{"dim": 8, "depth": 2} | arguments)


def test_it_starts_from_the_backbone_that_the_prompt_methods_share():
    ours, theirs = build(), build(MAPs)
    assert ours.stages[0].shared_across
    assert ours.stages[0] == theirs.stages[0]
    ours.begin(ours.stages[-1])
    learning = {name for name, p in ours.named_parameters() if p.requires_grad}
    assert {name.split(".")[0] for name in learning} == {"backbone", "head"}
    assert {n for n in learning if n.startswith("backbone.")} == {
        "backbone.pooler.0.weight",
        "backbone.pooler.0.bias",
    }


@torch.no_grad()
def test_it_predicts_from_the_tokens_that_are_there_one_sample_at_a_time():
    method, batch = build().eval(), make_batch(TASK, all_patterns(TASK))
    backbone = method.backbone
    tokens, keys = backbone.tokens(batch), backbone.keys(batch)
    for row in range(len(batch)):
        x = torch.cat([backbone.cls[None], *(tokens[n][row][keys[n][row]] for n in "abc")])[None]
        for layer in backbone.layers:
            x = layer(x, None)
        expected = method.head(backbone.pooler(backbone.norm(x[:, 0])))[0]
        torch.testing.assert_close(method(batch)[row], expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_it_is_a_prompt_method_without_its_prompts():
    ours, theirs = build().eval(), build(MAPs).eval()
    ours.head.load_state_dict(theirs.head.state_dict())
    ours.backbone.load_state_dict(theirs.backbone.state_dict())
    batch = make_batch(TASK, all_patterns(TASK))
    torch.testing.assert_close(
        ours(batch),
        theirs.head(
            theirs.backbone.run(theirs.backbone.tokens(batch), theirs.backbone.keys(batch))
        ),
    )
    assert not torch.allclose(ours(batch), theirs(batch), atol=1e-4)
