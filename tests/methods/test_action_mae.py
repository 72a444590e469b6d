from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from mmbench.checks.tasks import all_patterns, make_batch
from mmbench.data.task import Modality, Task
from mmbench.layers.fusion import random_subset
from mmbench.methods.action_mae import ActionMAE, reconstruction

VIEWS = tuple(Modality(m, "vector", (4,)) for m in "abc")
TASK = Task("single_label", VIEWS, ("x", "y", "z"))
M, D, K = 3, 8, 2


def build(task=TASK, **arguments):
    torch.manual_seed(0)
    return ActionMAE(task, **({"dim": D, "heads": 2, "memory": K} | arguments)).eval()


def batch_of(presence, task=TASK):
    return make_batch(task, torch.as_tensor(presence))


def rebuilt_by_loops(method, v, there):
    """One sample; what is missing is cut out of the encoder's input, as in the text."""
    kept = [m for m in range(M) if there[m]]
    tokens = torch.stack([*method.memory, *(v[m] + method.position[m] for m in kept)])
    encoded = method.encoder(tokens[None])[0]
    places = [method.mask] * M
    for m, token in zip(kept, encoded[K:], strict=True):
        places[m] = token
    placed = [token + method.position[m] for m, token in enumerate(places)]
    return method.rebuilt(method.decoder(torch.stack([*encoded[:K], *placed])[None])[0, K:])


def test_rebuilt_tokens_are_those_of_the_text_written_as_loops():
    method, batch = build(), batch_of(all_patterns(TASK))
    v = method.encode(batch)
    wanted = [rebuilt_by_loops(method, *row) for row in zip(v, batch.presence, strict=True)]
    found = method.rebuild(v, batch.presence)
    torch.testing.assert_close(found, torch.stack(wanted), atol=1e-5, rtol=0)
    outputs = [
        sum(x[m] @ method.head.weight[m] + method.head.bias[m, 0] for m in range(M)) for x in wanted
    ]
    torch.testing.assert_close(method(batch), torch.stack(outputs), atol=1e-5, rtol=0)


def test_a_token_that_is_hidden_has_no_path_to_what_is_rebuilt():
    method, presence = build(), all_patterns(TASK)
    v = torch.randn(len(presence), M, D, requires_grad=True)
    method.rebuild(v, presence).square().sum().backward()
    assert torch.equal(v.grad.abs().sum(-1) > 0, presence)


def test_a_token_keeps_its_place_whatever_else_is_missing():
    method = build()
    v = torch.randn(1, M, D)
    only = method.rebuild(v, torch.tensor([[False, False, True]]))
    moved = method.rebuild(v[:, [2, 1, 0]], torch.tensor([[True, False, False]]))
    assert (only - moved[:, [2, 1, 0]]).abs().max() > 1e-4  # places differ ...
    with torch.no_grad():
        method.position.zero_()
    only = method.rebuild(v, torch.tensor([[False, False, True]]))
    moved = method.rebuild(v[:, [2, 1, 0]], torch.tensor([[True, False, False]]))
    torch.testing.assert_close(only, moved[:, [2, 1, 0]], atol=1e-5, rtol=0)  # ... by nothing else


def released_by_loops(method, v, there, *, training):
    """What the released code reads as modalities, one sample."""
    kept = [m for m in range(M) if there[m]]
    tokens = torch.stack([*method.memory, *(v[m] + method.position[m] for m in kept)])
    encoded = method.encoder(tokens[None])[0]
    if len(kept) == M:
        return encoded[:M]  # memory, and the first modality
    places = [method.mask] * M
    for place, token in zip(kept if training else range(M), encoded[K:], strict=False):
        places[place] = token
    placed = [token + method.position[m] for m, token in enumerate(places)]
    return method.rebuilt(method.decoder(torch.stack([*encoded[:K], *placed])[None])[0, K:])


@pytest.mark.parametrize("training", [False, True])
def test_the_official_variant_misplaces_tokens_in_evaluation_alone(training):
    method, batch = build(variant="official"), batch_of(all_patterns(TASK))
    v = method.encode(batch).detach()
    found = method.train(training).rebuild(v, batch.presence)
    for row, there, tokens in zip(v, batch.presence, found, strict=True):
        wanted = released_by_loops(method, row, there, training=training)
        torch.testing.assert_close(tokens, wanted, atol=1e-5, rtol=0)


def test_variants_agree_where_what_is_missing_comes_last():
    batch = batch_of([[True, True, False], [True, False, False], [False, True, False]])
    same = (build()(batch) - build(variant="official")(batch)).abs().amax(1) < 1e-6
    assert same.tolist() == [True, True, False]


def test_reconstruction_is_the_error_of_hidden_tokens_against_standardised_ones():
    torch.manual_seed(0)
    v_hat, v = torch.randn(4, M, D), 3 * torch.randn(4, M, D) + 5
    hidden = torch.tensor([[True, False, False], [True, False, True]] * 2)
    terms = [
        F.mse_loss(v_hat[i, m], (v[i, m] - v[i, m].mean()) / v[i, m].std())
        for i in range(4)
        for m in range(M)
        if hidden[i, m]
    ]
    torch.testing.assert_close(reconstruction(v_hat, v, hidden), sum(terms) / 6)
    assert reconstruction(v_hat, v, torch.zeros_like(hidden)) == 0
    standard = (v - v.mean(2, keepdim=True)) / v.std(2, keepdim=True)
    assert reconstruction(standard, v, hidden) < 1e-6
    assert reconstruction(standard.roll(1, 1), v, hidden) > 0.5


def test_the_loss_predicts_from_a_subset_and_rebuilds_the_rest():
    method, batch = build(reconstruct=2.0), batch_of(all_patterns(TASK, repeat=4))
    torch.manual_seed(3)
    n_keep = torch.randint(1, M + 1, (1,)).expand(len(batch))
    seen = random_subset(batch.presence, n_keep)
    torch.manual_seed(3)
    found = method.loss(batch)
    less = method(batch.hide(~seen))
    smoothed = -less.log_softmax(1)
    chosen = smoothed.gather(1, batch.target[:, None])[:, 0]
    wanted = (0.9 * chosen + 0.1 * smoothed.mean(1)).mean()
    torch.testing.assert_close(found["task"], wanted)
    v = method.encode(batch)
    wanted = reconstruction(method.rebuild(v, seen), v, batch.presence & ~seen)
    torch.testing.assert_close(found["reconstruction"], 2.0 * wanted)


def test_one_number_of_tokens_is_kept_in_a_batch_and_every_number_occurs():
    method, batch = build(smoothing=0.0), batch_of([[True] * M] * 16)
    seen = []
    method.rebuild = lambda v, presence: seen.append(presence) or v
    for _ in range(40):
        method.loss(batch)
    counts = [presence.sum(1).unique().tolist() for presence in seen]
    assert all(len(count) == 1 for count in counts)
    assert {count[0] for count in counts} == {1, 2, 3}
    assert any(presence.unique(dim=0).shape[0] == 3 for presence in seen)  # samples differ


def test_what_the_scenario_hides_is_rebuilt_under_full_access_and_never_shown():
    method, truth = build(), batch_of([[True] * M] * 8)
    shown = replace(truth.hide(torch.tensor([[False, False, True]] * 8)), teacher=truth)
    asked = []
    method.rebuild = lambda v, presence: asked.append(presence) or v.flip(0)
    told, alone = method.loss(shown), method.loss(replace(shown, teacher=None))
    assert told["reconstruction"] > 0
    assert not asked[0][:, 2].any()
    torch.manual_seed(0)
    method.loss(shown)
    withheld = make_batch(TASK, shown.presence, garbage=torch.nan)
    assert all(term.isfinite() for term in method.loss(withheld).values())
    assert alone["task"].isfinite()


@pytest.mark.slow
def test_a_missing_token_is_rebuilt_far_better_than_by_its_mean():
    torch.manual_seed(0)
    task = replace(TASK, modalities=VIEWS[:2])
    method = ActionMAE(task, dim=16, heads=2, lr=2e-3).train()
    latent = torch.randn(300, 4)
    batch = make_batch(task, torch.ones(300, 2, dtype=torch.bool))
    batch = replace(batch, inputs={n: latent @ torch.randn(4, 4) for n in "ab"})
    batch = replace(batch, target=(latent[:, 0] > 0).long())
    optimiser = method.configure_optimizers()
    for _ in range(200):
        optimiser.zero_grad()
        sum(method.loss(batch).values()).backward()
        optimiser.step()
    method.eval()
    hidden = torch.tensor([[False, True]] * 300)
    v = method.encode(batch)
    found = reconstruction(method.rebuild(v, ~hidden), v, hidden)
    constant = reconstruction(v.mean(0).expand_as(v), v, hidden)
    assert found < 0.3 * constant
    accuracy = (method(batch.hide(hidden)).argmax(1) == batch.target).float().mean()
    assert accuracy > 0.9


def test_parameters_are_those_of_the_stated_parts():
    encoder = 4 * 2 * D + 2 * D + 2 * 2 * D + 2 * D * D + D  # Linear, LayerNorm, Linear
    hidden = D * D + D
    layer = 3 * D * D + hidden + 8 * D * D + 5 * D + 2 * 2 * D
    stack = 2 * layer + 2 * D
    own = (M + K + 1) * D + hidden + M * (3 * D + 3)
    assert sum(p.numel() for p in build().parameters()) == M * encoder + 2 * stack + own


def test_there_has_to_be_memory_and_a_second_modality():
    with pytest.raises(ValueError, match="at least 1 memory token, found 0"):
        build(memory=0)
    task = replace(TASK, modalities=VIEWS[:1])
    assert ActionMAE.applies.reason_not(task) == "needs 2 modalities, found 1"


def test_nothing_waits_for_an_accelerator():
    # tensors on "meta" have no values: whatever the host would have to read raises
    method, batch = build().train().to("meta"), batch_of(all_patterns(TASK)).to("meta")
    assert method(batch).shape == (len(batch), 3)
    assert all(term.shape == () for term in method.loss(batch).values())
