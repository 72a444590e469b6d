import pytest
import torch

from mmbench.checks.tasks import all_patterns, make_batch
from mmbench.data.task import Modality, Task
from mmbench.methods.modality_dropout import ModalityDropout
from mmbench.methods.zero_fill import ZeroFill

TASK = Task("single_label", tuple(Modality(m, "vector", (2,)) for m in "abc"), ("x", "y"))


def build(**arguments):
    torch.manual_seed(0)
    return ModalityDropout(TASK, **({"dim": 4, "dropout": 0.0} | arguments))


def fused(method, batch):
    """The batch that reaches the network."""
    seen = []
    handle = method.fuse.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    method(batch)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("drop", [0.0, 0.3, 0.6, 1.0])
@pytest.mark.parametrize("size", [2, 3])
def test_present_modalities_are_dropped_at_the_given_rate_but_for_the_last(drop, size):
    n = 20_000
    presence = torch.ones(n, 3, dtype=torch.bool)
    presence[:, size:] = False
    seen = fused(build(drop=drop).train(), make_batch(TASK, presence)).presence
    assert seen.any(1).all()
    assert not (seen & ~presence).any()
    dropped = (~seen[:, :size]).float().mean()
    # with chance drop^size all would go, and one of them is kept
    wanted = drop - drop**size / size
    assert dropped.item() == pytest.approx(wanted, abs=5 * 0.5 / (n * size) ** 0.5)
    each = (~seen[:, :size]).float().mean(0)
    assert (each - wanted).abs().max() < 5 * 0.5 / n**0.5


def test_drops_of_two_modalities_are_independent():
    seen = fused(
        build(drop=0.3), make_batch(TASK, torch.ones(20_000, 3, dtype=torch.bool))
    ).presence
    both = (~seen[:, 0] & ~seen[:, 1]).float().mean().item()
    # 0.3^2, less the share in which all three went and one of these two was kept
    assert both == pytest.approx(0.3**2 - 0.3**3 * 2 / 3, abs=0.011)


def test_a_dropped_modality_is_really_gone():
    seen = fused(build(drop=0.5), make_batch(TASK, torch.ones(50, 3, dtype=torch.bool)))
    assert (~seen.presence).any()
    for m, name in enumerate(TASK.names):
        assert not seen.inputs[name][~seen.presence[:, m]].any()


def test_a_lone_modality_is_never_dropped():
    lone = torch.eye(3, dtype=torch.bool).repeat(50, 1)
    assert torch.equal(fused(build(drop=1.0), make_batch(TASK, lone)).presence, lone)


def test_evaluation_drops_nothing_and_equals_zero_fill_of_the_same_weights():
    method = build(drop=1.0).eval()
    zero_fill = ZeroFill(TASK, dim=4).eval()
    zero_fill.load_state_dict(method.state_dict())
    batch = make_batch(TASK, all_patterns(TASK))
    assert torch.equal(method(batch), zero_fill(batch))


@pytest.mark.parametrize("drop", [-0.1, 1.5, float("nan")])
def test_what_is_no_probability_is_refused(drop):
    with pytest.raises(ValueError, match=f"drop is a probability in 0..1, found {drop}"):
        build(drop=drop)
