import pytest
import torch
import torch.nn.functional as F

from mmbench.checks.tasks import all_patterns, make_batch
from mmbench.data.task import Modality, Task
from mmbench.methods.late_fusion_transformer import LateFusionTransformer

TASK = Task("single_label", tuple(Modality(m, "vector", (4,)) for m in "abc"), ("x", "y"))
SMALL = {"dim": 8, "depth": 2, "heads": 2, "dropout": 0.0}


def build(**arguments):
    torch.manual_seed(0)
    return LateFusionTransformer(TASK, **SMALL | arguments).eval()


def attend(block, x):
    """Two heads of width 4 over the rows of x, none of them masked."""
    q, k, v = (part.view(len(x), 2, 4).transpose(0, 1) for part in block.qkv(x).chunk(3, 1))
    weights = (q @ k.transpose(1, 2) / 4**0.5).softmax(-1)
    return block.out((weights @ v).transpose(0, 1).flatten(1))


def test_the_class_token_reads_only_the_tokens_that_are_there():
    method, batch = build(), make_batch(TASK, all_patterns(TASK))
    with torch.no_grad():
        output = method(batch)
        for i in range(len(batch)):
            tokens = [method.place[0]]
            for m, name in enumerate(TASK.names):
                if batch.presence[i, m]:
                    z = method.encode.encoders[name](batch.inputs[name][i : i + 1], None)
                    tokens.append(z[0] + method.place[1 + m])
            x = torch.stack(tokens)
            for layer in method.layers.layers:
                x = x + attend(layer.attend, layer.norm_attend(x))
                first, last = layer.mlp[0], layer.mlp[3]
                x = x + last(F.gelu(first(layer.norm_mlp(x))))
            wanted = method.head(method.layers.norm(x)[0])
            torch.testing.assert_close(output[i], wanted, atol=1e-5, rtol=1e-4)


def test_the_same_vector_tells_more_when_it_is_known_whose_it_is():
    method = build()
    batch = make_batch(TASK, torch.tensor([[True, False, False]] * 4))
    other = make_batch(TASK, torch.tensor([[False, True, False]] * 4))
    other.inputs["b"][:] = batch.inputs["a"]
    method.encode.in_order[1].load_state_dict(method.encode.in_order[0].state_dict())
    assert not torch.allclose(method(batch), method(other))
    method.place.data[2] = method.place.data[1]
    torch.testing.assert_close(method(batch), method(other))


def test_training_hides_modalities_and_evaluation_does_not():
    batch = make_batch(TASK, torch.ones(2000, 3, dtype=torch.bool))
    for x in batch.inputs.values():
        x[:] = x[0]
    method = build(drop=0.3).train()
    method.encode.eval()  # whose dropout would tell the samples apart
    with torch.no_grad():
        outputs = method(batch)
        seven = method.eval()(make_like(batch, all_patterns(TASK, repeat=1)))
    distance = torch.cdist(outputs, seven, compute_mode="donot_use_mm_for_euclid_dist")
    assert (distance.min(1).values < 1e-5).all()  # each output is that of a non-empty pattern
    assert set(distance.argmin(1).tolist()) == set(range(7))
    torch.testing.assert_close(method(batch), seven[:1].expand(2000, -1))


def make_like(batch, presence):
    """The first samples of a batch, with less of them shown."""
    first = make_batch(TASK, torch.ones_like(presence))
    for name in TASK.names:
        first.inputs[name][:] = batch.inputs[name][: len(presence)]
    return first.hide(~presence)


@pytest.mark.parametrize("drop", [-0.1, 1.5, float("nan")])
def test_what_is_no_probability_is_refused(drop):
    with pytest.raises(ValueError, match=f"drop is a probability in 0..1, found {drop}"):
        build(drop=drop)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="3 heads cannot share a width of 8"):
        build(heads=3)


def test_nothing_waits_for_an_accelerator():
    method = build().train().to("meta")
    batch = make_batch(TASK, all_patterns(TASK)).to("meta")
    assert method(batch).shape == (len(batch), 2)
