import pytest
import torch
import torch.nn.functional as F

from mmbench.checks.tasks import all_patterns, make_batch
from mmbench.data.task import Modality, Task
from mmbench.methods.mmformer import MMFormer

TASK = Task("single_label", tuple(Modality(m, "vector", (6,)) for m in "abc"), ("x", "y"))
P, D = 2, 8
SMALL = {"dim": D, "tokens": P, "heads": 2, "dropout": 0.0}


class Recording(MMFormer):
    """Remembers which modalities the last call fused, and gets positions worth looking at."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        torch.nn.init.normal_(self.position)

    def fuse(self, z, batch):
        self.seen = batch.presence
        return super().fuse(z, batch)


def build(**arguments):
    torch.manual_seed(0)
    return Recording(TASK, **(SMALL | arguments)).eval()


def batch_of(presence):
    return make_batch(TASK, torch.as_tensor(presence))


def one_by_one(method, batch):
    """The classification form, one sample at a time and without any mask."""
    rows = []
    for i in range(len(batch)):
        parts = []
        there = [m for m in range(3) if batch.presence[i, m]]
        for m, name in enumerate(TASK.names):
            if m in there:
                own = method.encode.encoders[name](batch.inputs[name][i : i + 1], None)
                for layer in method.within[m]:
                    own = layer(own + method.position[m])
                parts.append(own)
            elif not method.key_mask:
                parts.append(torch.zeros(1, P, D))  # a zero token still has its position
        shown = there if method.key_mask else list(range(3))
        x = torch.cat(parts, dim=1)
        for layer in method.across:  # positions are added before every layer
            x = layer(x + method.position[shown].flatten(0, 1))
        places = dict(zip(shown, x[0].unflatten(0, (-1, P)), strict=True))
        side_by_side = [places.get(m, torch.zeros(P, D)).flatten() for m in range(3)]
        rows.append(method.head(torch.cat(side_by_side)))
    return torch.stack(rows)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("key_mask", [False, True])
def test_outputs_are_those_of_samples_that_only_hold_the_tokens_that_take_part(key_mask, depth):
    method = build(key_mask=key_mask, depth=depth)
    batch = batch_of(all_patterns(TASK))
    torch.testing.assert_close(method(batch), one_by_one(method, batch), atol=1e-5, rtol=0)


def test_tokens_of_an_absent_modality_are_exactly_zero_before_modalities_meet():
    method, batch = build(), batch_of(all_patterns(TASK))
    kept = method.fuse(method.encode(batch), batch)[0]
    assert torch.equal(kept.abs().sum((2, 3)) > 0, batch.presence)
    assert not kept[~batch.presence].any()


@pytest.mark.parametrize("key_mask", [False, True])
def test_only_without_the_key_mask_does_the_place_of_an_absent_modality_speak(key_mask):
    method, batch = build(key_mask=key_mask), batch_of([[True, False, True], [False, False, True]])
    before = method(batch)
    with torch.no_grad():
        method.position[1] += torch.randn(P, D)
    assert torch.equal(method(batch), before) is key_mask


def test_the_unimodal_loss_is_summed_over_modalities_of_the_mean_of_who_has_it():
    method, batch = build(), batch_of(all_patterns(TASK))
    wanted = 0.0
    for m, name in enumerate(TASK.names):
        losses = []
        for i in range(len(batch)):
            if batch.presence[i, m]:
                z = method.encode.encoders[name](batch.inputs[name][i : i + 1], None)
                losses.append(
                    F.cross_entropy(method.unimodal(z.flatten(1)), batch.target[i : i + 1])
                )
        wanted += sum(losses) / len(losses)
    torch.testing.assert_close(method.loss(batch)["unimodal"], wanted, atol=1e-5, rtol=1e-5)


def test_the_unimodal_loss_reaches_encoders_of_seen_modalities_and_nothing_behind_them():
    method = build()
    method.loss(batch_of([[True, False, True], [True, False, False]]))["unimodal"].backward()

    def reached(part):
        return any(p.grad is not None and bool(p.grad.any()) for p in part.parameters())

    assert [reached(part) for part in method.encode.in_order] == [True, False, True]
    assert not reached(method.within)
    assert not reached(method.across)


def test_a_progressive_head_reads_the_tokens_of_each_step_side_by_side():
    method, batch = build(depth=2), batch_of(torch.ones(5, 3, dtype=torch.bool))
    torch.manual_seed(3)
    terms = method.loss(batch)
    seen = batch.hide(~method.seen)
    steps = method.fuse(method.encode(batch), seen)
    assert [name for name in terms if name.startswith("progressive")] == [
        f"progressive{k}" for k in range(3)
    ]
    for k, step in enumerate(steps):
        flat = torch.cat([step[:, m, p] for m in range(3) for p in range(P)], dim=1)
        wanted = F.cross_entropy(method.progressive[k](flat), batch.target)
        torch.testing.assert_close(terms[f"progressive{k}"], wanted)


def test_auxiliary_heads_can_be_left_out():
    method, batch = build(unimodal=False, progressive=False), batch_of([[True, True, True]])
    assert list(method.loss(batch)) == ["task"]
    assert not [n for n, _ in method.named_parameters() if n.startswith(("unimodal", "progress"))]


def test_training_meets_every_subset_of_what_a_sample_has_equally_often():
    method = build(unimodal=False, progressive=False)
    presence = torch.ones(3500, 3, dtype=torch.bool)
    presence[:700, 2] = False
    method.loss(batch_of(presence))
    seen = method.seen
    assert seen.any(1).all()
    assert not (seen & ~presence).any()
    for rows, subsets in ((seen[:700], 3), (seen[700:], 7)):
        patterns, counts = rows.unique(dim=0, return_counts=True)
        assert len(patterns) == subsets
        share = 1 / subsets  # within five standard errors
        error = (share * (1 - share) / len(rows)) ** 0.5
        assert (counts / len(rows) - share).abs().max() < 5 * error


def test_evaluation_hides_nothing():
    method, batch = build(), batch_of(all_patterns(TASK))
    method(batch)
    assert torch.equal(method.seen, batch.presence)


def test_a_head_tells_the_places_of_tokens_apart():
    method, batch = build(), batch_of([[True, True, True]])
    steps = method.fuse(method.encode(batch), batch)
    swapped = [step.flip(2) for step in steps]
    assert not torch.allclose(method.classify(steps, batch), method.classify(swapped, batch))
