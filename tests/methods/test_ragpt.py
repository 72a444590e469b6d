from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmbench.checks.tasks import all_patterns, make_batch
from mmbench.data.batch import Batch
from mmbench.data.task import Modality, Task
from mmbench.layers.retrieved import LabelPrompt
from mmbench.methods.ragpt import RAGPT, ContextPrompter, Generator, Retrieved

D, K, LENGTH = 16, 3, 2
TASK = Task(
    "single_label",
    (
        Modality("words", "tokens", (6,), vocab_size=12),
        Modality("picture", "image", (3, 16, 16)),
        Modality("sound", "sequence", (7, 5)),
    ),
    ("a", "b", "c"),
)
SMALL = {"dim": D, "depth": 2, "neighbours": K, "prompt_length": LENGTH}


def build(task=TASK, *, train=None, **args):
    torch.manual_seed(0)
    method = RAGPT(task, **(SMALL | args))
    method.prepare([training() if train is None else train])
    return method.eval()


def training(task=TASK, n=10):
    return make_batch(task, torch.ones(n, len(task.modalities), dtype=torch.bool), seed=1)


def asking(task=TASK, presence=None):
    batch = make_batch(task, all_patterns(task, 1) if presence is None else presence, seed=2)
    return replace(batch, sample_id=1000 + batch.sample_id)


def hermitian(full):
    """What of a filter acts on real tokens: W_f and the conjugate of W_(N-f), averaged."""
    n = len(full)
    return torch.stack([(full[f] + full[-f % n].conj()) / 2 for f in range(n)])


@pytest.mark.parametrize("n", [1, 2, 7, 8])
def test_half_a_filter_does_what_a_full_complex_one_does(n):
    x, full = torch.randn(2, n, 4), torch.randn(n, 4, dtype=torch.cfloat)
    expected = torch.fft.ifft(full * torch.fft.fft(x, dim=1), dim=1).real
    generator = Generator(n, 4, dropout=0.0)
    assert generator.spectrum.shape == (n // 2 + 1, 4, 2)
    with torch.no_grad():
        generator.spectrum.copy_(torch.view_as_real(hermitian(full)[: n // 2 + 1]))
        torch.testing.assert_close(generator.filter(x), expected, atol=1e-5, rtol=1e-5)


def test_a_filter_starts_as_a_full_complex_normal_one_would():
    torch.manual_seed(0)
    halves = torch.stack(
        [torch.view_as_complex(Generator(8, 200, dropout=0.0).spectrum) for _ in range(20)]
    ).flatten(0, 0)
    full = torch.randn(20, 8, 200, dtype=torch.cfloat)
    expected = torch.stack([hermitian(one)[:5] for one in full])
    for part in ("real", "imag"):
        found, wanted = (getattr(x, part).detach().std((0, 2)) for x in (halves, expected))
        torch.testing.assert_close(found, wanted, atol=0.02, rtol=0)
    assert not halves.imag[:, [0, 4]].any()  # the mean and the fastest frequency are real


@pytest.mark.parametrize("n", [5, 6])
def test_the_filter_is_a_circular_convolution_of_tokens(n):
    generator, x = Generator(n, 4, dropout=0.0), torch.randn(2, n, 4)
    with torch.no_grad():
        kernel = torch.fft.irfft(torch.view_as_complex(generator.spectrum), n=n, dim=0)
        expected = torch.zeros_like(x)
        for here in range(n):
            for there in range(n):
                expected[:, here] += kernel[(here - there) % n] * x[:, there]
        torch.testing.assert_close(generator.filter(x), expected, atol=1e-5, rtol=1e-5)


def test_without_filter_and_projection_the_normalised_mean_is_left():
    generator, x = Generator(6, 8, dropout=0.2), torch.randn(3, 6, 8)
    with torch.no_grad():
        generator.spectrum.zero_()
        generator.out.weight.copy_(torch.eye(8))
        generator.out.bias.zero_()
        torch.testing.assert_close(generator(x), F.layer_norm(x, (8,)))


def naive_prompt(prompter, m, own, keys, b):
    """Every product of the equation, for one sample."""
    own, keys = prompter.enter[m](own), prompter.enter[m](keys)
    scores = prompter.q(own) @ prompter.k(keys).T / keys.shape[1] ** 0.5
    rows = scores.softmax(1) @ prompter.v(keys)
    return prompter.leave[m](F.adaptive_avg_pool1d(rows.T, b).T)


@pytest.mark.parametrize(("own_tokens", "b"), [(7, 2), (5, 6), (1, 3)])
def test_the_pooled_form_of_the_prompter_is_the_naive_one(own_tokens, b):
    torch.manual_seed(0)
    prompter = ContextPrompter([8, 12], b)
    own, tokens = torch.randn(4, own_tokens, 12), torch.randn(4, K, 6, 12)
    read = torch.arange(own_tokens) < torch.tensor([1, 2, 3, own_tokens])[:, None]
    lent_read = torch.arange(6) < torch.randint(1, 7, (4, K, 1))
    retrieved = Retrieved(torch.zeros(4, K, dtype=torch.long), tokens, lent_read)
    with torch.no_grad():
        found = prompter(1, own, read, retrieved)
        for i in range(4):
            keys = torch.cat([tokens[i, k][lent_read[i, k]] for k in range(K)])
            expected = naive_prompt(prompter, 1, own[i][read[i]], keys, b)
            torch.testing.assert_close(found[i], expected, atol=1e-5, rtol=0)


def test_prompts_depend_on_the_samples_own_tokens():
    torch.manual_seed(0)
    prompter, retrieved = ContextPrompter([8], 2), torch.randn(1, K, 6, 8)
    retrieved = Retrieved(
        torch.zeros(1, K).long(), retrieved, torch.ones(1, K, 6, dtype=torch.bool)
    )
    everything = torch.ones(1, 5, dtype=torch.bool)
    one, other = (prompter(0, torch.randn(1, 5, 8), everything, retrieved) for _ in range(2))
    assert (one - other).abs().max() > 1e-3


def nearest(method, batch, i, m):
    """K rows of the bank, best first, by sums of cosines over what modality m is looked up by."""
    memory, names = method.memory, TASK.names
    by = [m] if batch.presence[i, m] else [n for n in range(3) if batch.presence[i, n]]
    scores = torch.zeros(len(memory), dtype=torch.float64)
    everything = memory.everything()
    for n in by:
        one = batch.inputs[names[n]][i : i + 1]
        steps = batch.lengths[names[n]][i : i + 1] if names[n] in batch.lengths else None
        part = memory.features[n]
        q = part.scaled(part.raw(one, steps))[0]
        for j in range(len(memory)):
            other = everything.inputs[names[n]][j : j + 1]
            steps = everything.lengths.get(names[n])
            k = part.scaled(part.raw(other, None if steps is None else steps[j : j + 1]))[0]
            scores[j] += q.double() @ k.double()
    scores[memory.sample_id == batch.sample_id[i]] = -torch.inf
    return sorted(range(len(memory)), key=lambda j: (-scores[j].item(), j))[:K]


def insert_at(before):
    return lambda layer, stream: before if layer == 1 else None


def by_hand(method, batch):
    """One sample at a time, nothing pooled early, filters in full, as the paper has it."""
    backbone, everything = method.backbone, method.memory.everything()
    stored, valid = backbone.tokens(everything), backbone.keys(everything)
    own, own_read = backbone.tokens(batch), backbone.keys(batch)
    if method.attend_padding:
        valid = {name: torch.ones_like(there) for name, there in valid.items()}
    outputs = []
    for i in range(len(batch)):
        tokens, read, prompts = {}, {}, []
        for m, name in enumerate(TASK.names):
            rows = nearest(method, batch, i, m)
            keys = torch.cat([stored[name][j][valid[name][j]] for j in rows])
            t, r = own[name][i], own_read[name][i]
            if not batch.presence[i, m]:
                part = method.generators[m]
                mean = torch.zeros_like(t)
                for at in range(len(t)):
                    there = [stored[name][j, at] for j in rows if valid[name][j, at]]
                    mean[at] = sum(there) / len(there) if there else 0
                half = torch.view_as_complex(part.spectrum)
                full = [
                    half[f] if f < len(half) else half[-f % len(t)].conj() for f in range(len(t))
                ]
                filtered = torch.fft.ifft(torch.stack(full) * torch.fft.fft(mean, dim=0), dim=0)
                t = part.out(part.norm(mean + filtered.real))
                r = valid[name][rows].any(0)
            tokens[name], read[name] = t[None], r[None]
            asks = t if method.attend_padding else t[r]
            prompts.append(naive_prompt(method.prompter, m, asks, keys, LENGTH))
            if name == "picture":
                label = method.label.labels[method.memory.target[rows]].mean(0)
        before = torch.cat([label[None], *prompts])[None]
        z = backbone.run(tokens, read, insert_at(before), at=0)
        outputs.append(method.label.head(torch.cat([z[0], label])) @ method.label.labels.T)
    return torch.stack(outputs)


@pytest.mark.parametrize("variant", ["paper", "official"])
def test_the_batched_method_equals_the_loop_over_samples(variant):
    method, batch = build(variant=variant), asking()
    assert method.attend_padding == (variant == "official")
    with torch.no_grad():
        expected = by_hand(method, batch)
        torch.testing.assert_close(method(batch), expected, atol=1e-4, rtol=1e-4)


def test_a_modality_is_looked_up_by_itself_if_it_is_there_else_by_the_others():
    method, batch = build(), asking()
    retrieved = method.retrieve(batch)
    for i in range(len(batch)):
        for m, name in enumerate(TASK.names):
            assert retrieved[name].rows[i].tolist() == nearest(method, batch, i, m)
    complete = batch.presence.all(1).nonzero()[0, 0]
    rows = [tuple(retrieved[name].rows[complete].tolist()) for name in TASK.names]
    assert len(set(rows)) > 1, "the modalities of a complete sample share their neighbours"


def test_neighbours_and_their_labels_are_of_other_training_samples():
    train = training()
    method = build(train=train)
    retrieved = method.retrieve(train)
    for part in retrieved.values():
        found = method.memory.sample_id[part.rows]
        assert torch.isin(found, train.sample_id).all()
        assert not (found == train.sample_id[:, None]).any()
    with torch.no_grad():
        before = method(train)
        assert torch.equal(method(replace(train, target=train.target.flip(0))), before)
        method.memory.target.copy_((method.memory.target + 1) % 3)
        assert not torch.allclose(method(train), before)


def test_complete_samples_leave_the_generators_alone():
    method = build().train()
    method.loss(asking(presence=torch.ones(4, 3, dtype=torch.bool)))["task"].backward()
    assert all(p.grad is None for p in method.generators.parameters())
    lacks = torch.ones(4, 3, dtype=torch.bool)
    lacks[:, 1] = False
    method.loss(asking(presence=lacks))["task"].backward()
    reached = [part.spectrum.grad is not None for part in method.generators]
    assert reached == [False, True, False]


def test_what_the_device_form_computes_for_nothing_changes_nothing(monkeypatch):
    method, batch = build(), asking()
    everyone = torch.arange(len(batch))
    with torch.no_grad():
        expected = method(batch)
        monkeypatch.setattr("mmbench.methods.ragpt.queries", lambda presence: [everyone] * 3)
        torch.testing.assert_close(method(batch), expected)


def test_nothing_waits_for_an_accelerator():
    # tensors on "meta" have no values: whatever the host would have to read raises
    method = build().train().to("meta")
    batch = asking().to("meta")
    assert method(batch).shape == (len(batch), 3)
    assert all(term.shape == () for term in method.loss(batch).values())


def reals(module, *, besides=()):
    return sum(p.numel() for p in module.parameters()) - sum(p.numel() for p in besides)


@pytest.mark.parametrize(
    ("classes", "text", "image", "both"),
    [
        (2, 6_696_960, 6_723_072, 7_511_808),
        (23, 6_713_088, 6_739_200, 7_527_936),
        (101, 6_772_992, 6_799_104, 7_587_840),
    ],
)
def test_the_released_parameter_counts_at_vilts_sizes(classes, text, image, both):
    dim, tokens = 768, (128, 145)
    parts = [Generator(n, dim, dropout=0.2) for n in tokens]
    each = list(zip(parts, tokens, strict=True))
    # theirs: a full complex filter, two reals an entry, and a bias of K that cancels
    full = [reals(part, besides=[part.spectrum]) + 2 * n * dim for part, n in each]
    pooler = nn.Linear(dim, dim)
    rest = reals(pooler) + reals(ContextPrompter([dim, dim], 6)) + dim
    rest += reals(LabelPrompt(classes, [dim], dim))
    assert rest + full[0] == text
    assert rest + full[1] == image
    assert rest + sum(full) == both
    for part, n in each:
        assert part.spectrum.numel() == 2 * (n // 2 + 1) * dim


def test_prompts_that_fit_nowhere_are_refused():
    with pytest.raises(ValueError, match="layer 2; the backbone has the layers 0 to 1"):
        RAGPT(TASK, dim=D, depth=2, insert_at=2)
    with pytest.raises(ValueError, match="prompt_length must be at least 1, found 0"):
        RAGPT(TASK, dim=D, depth=2, prompt_length=0)


def test_too_few_complete_training_samples_are_refused():
    presence = torch.ones(4, 3, dtype=torch.bool)
    presence[1:, 0] = False
    with pytest.raises(ValueError, match="at least 2, but there are 1; show more"):
        RAGPT(TASK, **SMALL).prepare([make_batch(TASK, presence)])


def test_only_pooler_prompts_and_head_learn():
    method: RAGPT = build()
    batch: Batch = asking()
    learns = {name.split(".")[0] for name, p in method.named_parameters() if p.requires_grad}
    assert learns == {"backbone", "generators", "prompter", "label"}
    inside = {n.split(".")[1] for n, p in method.backbone.named_parameters("b") if p.requires_grad}
    assert inside == {"pooler"}
    method.train().loss(batch)["task"].backward()
    assert method.backbone.pooler[0].weight.grad.any()
