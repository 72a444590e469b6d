import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mmbench.checks.tasks import TASKS, all_patterns, make_batch
from mmbench.data.missingness.incomplete import Incomplete
from mmbench.data.samples import Samples
from mmbench.data.scenario import Scenario
from mmbench.data.stored import Stored
from mmbench.data.task import Modality, Task
from mmbench.datamodule import DataModule, Source
from mmbench.layers import memory, raw
from mmbench.layers.memory import Memory, empty_index, fill_index, nearest, nearest_by_index
from mmbench.method import ROW_TASKS
from mmbench.methods.redeem import Redeem

K = 5
TASK = Task(
    "single_label", (Modality("a", "vector", (6,)), Modality("b", "vector", (4,))), ("x", "y")
)
few = settings(derandomize=True, deadline=None, max_examples=40)


def filled(task=TASK, presence=None, seed=1, k=K):
    bank = Memory(task, k)
    presence = torch.ones(40, len(task.modalities)).bool() if presence is None else presence
    train = make_batch(task, presence, seed=seed)
    bank.fill([train])
    return bank.eval(), train


def strangers(task=TASK, repeat=4, seed=2, garbage=None):
    batch = make_batch(task, all_patterns(task, repeat), seed=seed, garbage=garbage)
    return replace(batch, sample_id=1000 + batch.sample_id)


def by_hand(query, keys, k, own):
    scores = (query.double() @ keys.double().T).tolist()
    order = []
    for i, row in enumerate(scores):
        others = [j for j in range(len(row)) if j != own[i]]
        order.append(sorted(others, key=lambda j, row=row: (-row[j], j))[:k])
    return order


@few
@given(
    st.integers(0, 300), st.integers(1, 5), st.integers(1, 9), st.integers(1, 6), st.integers(0, 99)
)
def test_the_nearest_come_in_the_order_of_score_and_row(rows, queries, k, most, seed):
    g = torch.Generator().manual_seed(seed)
    # few values, so that scores tie, within blocks of rows and between them
    keys = torch.randint(-most, most + 1, (rows, 3), generator=g).float()
    query = torch.randint(-1, 2, (queries, 3), generator=g).float()
    own = torch.randint(-1, max(rows, 1), (queries,), generator=g)
    own = own if rows else torch.full_like(own, -1)
    found, scores = nearest(query, keys, k, own)
    there = scores > -math.inf
    for i, expected in enumerate(by_hand(query, keys, k, own.tolist())):
        assert found[i][there[i]].tolist() == expected
        exact = query[i] @ keys[expected].T if expected else torch.zeros(0)
        assert torch.equal(scores[i][there[i]], exact)


def test_chunks_of_queries_change_nothing(monkeypatch):
    g = torch.Generator().manual_seed(0)
    query, keys = torch.randn(30, 8, generator=g), torch.randn(200, 8, generator=g)
    own = torch.arange(30)
    whole = nearest(query, keys, 3, own)
    monkeypatch.setattr(memory, "SCORES", 1000)
    for a, b in zip(whole, nearest(query, keys, 3, own), strict=True):
        assert torch.allclose(a, b)
    assert whole[0].tolist() == by_hand(query, keys, 3, own.tolist())


@pytest.mark.parametrize("k", [0, 65])
def test_an_impossible_number_of_neighbours_is_refused(k):
    with pytest.raises(ValueError, match=f"1 to 64, found {k}"):
        Memory(TASK, k)
    with pytest.raises(ValueError, match=f"1 to 64, found {k}"):
        nearest(torch.zeros(1, 2), torch.zeros(3, 2), k)


def test_the_score_is_the_sum_of_cosines_over_what_the_query_has():
    bank, train = filled()
    ask = strangers()
    found = bank.search(ask)
    unit = {}
    for name in TASK.names:
        x = train.inputs[name].double()
        mean, std = x.mean(0), x.std(0, correction=0)
        z = (ask.inputs[name].double() - mean) / std
        unit[name] = (
            nn.functional.normalize(z, dim=1),
            nn.functional.normalize((x - mean) / std, dim=1),
        )
    for i in range(len(ask)):
        score = torch.zeros(40).double()
        for m, name in enumerate(TASK.names):
            if ask.presence[i, m]:
                query, keys = unit[name]
                score += keys @ query[i]
        # cosines are kept to a thousandth; more than that apart, the order is theirs
        chosen = score[train_row(bank, found.rows[i])]
        best = score.sort(descending=True).values[:K]
        assert torch.allclose(chosen, best, atol=3e-3)
        assert len(set(found.rows[i].tolist())) == K
    assert found.valid.all()


def train_row(bank, rows):
    return bank.sample_id[rows]  # ids of the training batch are its positions


@pytest.mark.parametrize("task", TASKS, ids=lambda t: t.kind)
def test_scores_are_the_same_to_the_last_bit_in_any_precision(task):
    bank, _ = filled(task)
    query = bank.look(strangers(task))
    low = query @ bank.keys.T
    assert torch.equal(low.double(), query.double() @ bank.keys.double().T)
    lengths = query[:, : len(bank.features[0].mean)].norm(dim=1)
    there = strangers(task).presence[:, 0]
    assert torch.allclose(lengths[there], torch.ones(int(there.sum())), atol=5e-3)
    assert not lengths[~there].any()


@pytest.mark.parametrize("task", TASKS, ids=lambda t: t.kind)
def test_neighbours_depend_on_no_other_sample_and_on_nothing_absent(task):
    bank, _ = filled(task)
    ask = strangers(task)
    rows = bank.neighbours(ask).rows
    dirty = bank.neighbours(strangers(task, garbage=float("nan"))).rows
    assert torch.equal(rows, dirty)
    for i in range(len(ask)):
        alone = ask.take(torch.tensor([i]))
        assert torch.equal(bank.neighbours(alone).rows[0], rows[i])


def test_equal_samples_are_found_in_the_order_of_their_rows():
    train = make_batch(TASK, torch.ones(30, 2).bool(), seed=1)
    same = {name: x[:10].repeat(3, 1) for name, x in train.inputs.items()}
    bank = Memory(TASK, 3).eval()
    bank.fill([replace(train, inputs=same)])
    ask = train.take(torch.arange(10))
    rows = bank.search(replace(ask, sample_id=1000 + ask.sample_id)).rows
    for i in range(10):
        triple = [bank.row_of(torch.tensor([i + 10 * j])).item() for j in range(3)]
        assert rows[i].tolist() == sorted(triple)


def test_only_complete_samples_are_kept_and_none_finds_itself():
    presence = all_patterns(TASK, 8)
    bank, train = filled(presence=presence)
    complete = train.sample_id[presence.all(1)]
    assert sorted(bank.sample_id.tolist()) == complete.tolist()
    assert torch.equal(bank.target, train.target[bank.sample_id])
    found = bank.search(train)
    assert set(bank.sample_id[found.rows].flatten().tolist()) <= set(complete.tolist())
    assert not (bank.sample_id[found.rows] == train.sample_id[:, None]).any()


def test_with_full_access_the_teacher_is_kept():
    teacher = make_batch(TASK, torch.ones(12, 2).bool(), seed=1)
    absent = torch.zeros(12, 2).bool()
    absent[:8, 0] = True
    train = replace(teacher.hide(absent), teacher=teacher)
    bank = Memory(TASK, K)
    bank.fill([train])
    assert len(bank) == 12
    row = bank.row_of(torch.tensor([3]))
    assert torch.equal(bank.everything().inputs["a"][row], teacher.inputs["a"][3:4])
    # what is looked for is the sample as the scenario shows it
    hidden = bank.train().neighbours(train).rows
    assert torch.equal(hidden, bank.search(replace(train, teacher=None)).rows)


def test_training_samples_are_looked_up_only_as_they_were_seen():
    bank, train = filled(presence=all_patterns(TASK, 8))
    bank.train()
    assert torch.equal(bank.neighbours(train).rows, bank.search(train).rows)
    bank.train_rows.fill_(0)
    assert not bank.neighbours(train).rows.any()  # looked up
    more = train.hide(torch.tensor([[True, False]]) & train.presence.all(1, keepdim=True))
    assert torch.equal(bank.neighbours(more).rows, bank.search(more).rows)
    assert bank.neighbours(more).rows.any()
    assert bank.eval().neighbours(train).rows.any()


def test_a_short_list_begins_again():
    bank, _ = filled(presence=torch.ones(3, 2).bool())
    own = bank.search(make_batch(TASK, torch.ones(3, 2).bool(), seed=1).take(torch.arange(1)))
    assert own.valid.tolist() == [[True, True, False, False, False]]
    first, second = own.rows[0, :2].tolist()
    assert own.rows.tolist() == [[first, second, first, second, first]]
    lonely, train = filled(presence=torch.ones(1, 2).bool())
    assert not lonely.search(train).valid.any()


def test_random_rows_are_distinct_and_never_the_query():
    bank, train = filled()
    found = bank.sample(train, train.sample_id)
    assert all(len(set(rows)) == K for rows in found.rows.tolist())
    assert not (bank.sample_id[found.rows] == train.sample_id[:, None]).any()
    assert torch.equal(found.rows, bank.sample(train, train.sample_id).rows)
    assert not torch.equal(found.rows, bank.sample(train, train.sample_id + 1).rows)


class Embed(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 3)
        self.runs = 0

    def forward(self, x, lengths):
        self.runs += 1
        return self.linear(x.unflatten(1, (3, 2)))


def test_tokens_of_a_frozen_embedder_are_computed_once_and_follow_its_weights():
    bank, _ = filled()
    embed = Embed().requires_grad_(False)
    rows = torch.tensor([[3, 1], [7, 7]])
    expected = embed(bank.everything().inputs["a"], None)[rows]
    for _ in range(3):
        assert torch.allclose(bank.tokens("a", rows, embed), expected)
    assert embed.runs == 2  # here, and there once
    with torch.no_grad():
        embed.linear.weight.mul_(2)
    changed = embed(bank.everything().inputs["a"], None)[rows]
    assert torch.allclose(bank.tokens("a", rows, embed), changed)


def test_too_many_tokens_are_embedded_when_they_are_needed(monkeypatch):
    monkeypatch.setattr(memory, "TABLE_BYTES", 10)
    bank, _ = filled()
    embed = Embed().requires_grad_(False)
    rows = torch.tensor([[3, 1]])
    expected = embed(bank.everything().inputs["a"], None)[rows]
    assert torch.allclose(bank.tokens("a", rows, embed), expected)


def test_an_embedder_that_learns_gets_its_gradient():
    bank, _ = filled()
    embed = Embed()
    bank.tokens("a", torch.tensor([[3, 1]]), embed).sum().backward()
    assert embed.linear.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("task", [t for t in TASKS if t.kind in ROW_TASKS], ids=lambda t: t.kind)
def test_saved_weights_are_the_whole_memory(task):
    bank, _ = filled(task)
    fresh = Memory(task, K).eval()
    fresh.load_state_dict(bank.state_dict())
    ask = strangers(task)
    assert torch.equal(fresh.neighbours(ask).rows, bank.neighbours(ask).rows)
    assert torch.equal(fresh.target, bank.target)


def test_words_beyond_the_columns_share_them():
    modality = Modality("words", "tokens", (6,), vocab_size=50_000)
    feature = memory.Feature(modality, 11)
    x = torch.tensor([[7, 7, 49_999, 3, 0, 0], [7, 3, 7, 49_999, 5, 5]])
    counts = feature.raw(x, torch.tensor([4, 4]))
    assert counts.shape == (2, raw.BAG)
    assert counts.sum(1).tolist() == [4, 4]
    assert torch.equal(counts[0], counts[1])  # order and padding do not count


def searched(query, keys, k, own=None, description="Flat"):
    index = empty_index(keys.shape[1], description)
    fill_index(index, keys)
    return nearest_by_index(query, index, k, own)


@pytest.mark.parametrize("k", [1, 7, 64])
def test_an_exact_index_finds_the_same(k):
    g = torch.Generator().manual_seed(0)
    query, keys = torch.randn(50, 16, generator=g), torch.randn(3000, 16, generator=g)
    for own in (None, torch.arange(50) * 3 - 3):
        rows, scores = searched(query, keys, k, own)
        want_rows, want_scores = nearest(query, keys, k, own)
        assert torch.equal(rows, want_rows)
        torch.testing.assert_close(scores, want_scores, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("rows", [3, 5, 400])
def test_an_index_decides_ties_by_the_row(rows):
    g = torch.Generator().manual_seed(1)
    keys = torch.randint(-1, 2, (rows, 3), generator=g).float()  # 27 different ones at most
    query = torch.randint(-1, 2, (40, 3), generator=g).float()
    own = torch.arange(40).clamp_max(rows - 1)
    got, want = searched(query, keys, 5, own), nearest(query, keys, 5, own)
    assert torch.equal(got[1], want[1])
    real = want[1] > -torch.inf
    assert torch.equal(got[0][real], want[0][real])


@pytest.mark.parametrize("description", ["Flat", "HNSW16"])
def test_a_memory_searches_by_an_index(description):
    torch.manual_seed(0)
    task = TASKS[0]
    batches = [make_batch(task, all_patterns(task, 20), seed=s) for s in range(3)]
    batches = [replace(b, sample_id=b.sample_id + 1000 * i) for i, b in enumerate(batches)]
    exact, by_index = Memory(task, K), Memory(task, K, index=description)
    for bank in (exact, by_index):
        bank.fill(batches)
    ask = strangers(task)
    found, want = by_index.eval().neighbours(ask).rows, exact.eval().neighbours(ask).rows
    if description == "Flat":
        assert torch.equal(found, want)
    else:  # approximate
        assert (found == want).float().mean() > 0.8


def test_an_index_that_cannot_be_is_refused_in_one_line(monkeypatch):
    with pytest.raises(ValueError, match="faiss knows no index 'Flatt'"):
        Memory(TASKS[0], K, index="Flatt")
    index = empty_index(4, "IVF64,Flat")
    with pytest.raises(ValueError, match="has 10 samples, which is too few"):
        fill_index(index, torch.randn(10, 4))
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ValueError, match="needs the package faiss-cpu"):
        Memory(TASKS[0], K, index="Flat")


def pictures(n=40, seed=0):
    g = np.random.default_rng(seed)
    return g.integers(0, 256, (n, 3, 8, 8), dtype=np.uint8)


class Pictures(DataModule):
    """8-bit images and vectors, complete; classes follow the order."""

    source = Source(citation="made up")

    def describe(self):
        image, age = Modality("image", "image", (3, 8, 8)), Modality("age", "vector", (2,))
        return Task("single_label", (image, age), ("x", "y"))

    def load(self, split):
        n, start = (40, 0) if split == "train" else (10, 100 if split == "val" else 200)
        age = np.random.default_rng(start).normal(size=(n, 2)).astype(np.float32)
        return Samples(
            modalities=("image", "age"),
            inputs={"image": pictures(n, start), "age": age},
            target=np.arange(n) % 2,
            sample_id=np.arange(start, start + n),
            presence=np.ones((n, 2), bool),
        )


def module(regime="full_access", **settings):
    hide = Incomplete(incomplete_rate=0.5, missing="any")
    scenario = Scenario(name="half", train=hide, val=hide, test=(hide,), regime=regime)
    data = Pictures(Path(), scenario, batch_size=16, **settings)
    data.setup()
    return data


class Patches(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(192, 6)

    def forward(self, x, lengths):
        return self.linear(x.flatten(1)).unflatten(1, (2, 3))


@pytest.mark.parametrize("regime", ["full_access", "withheld"])
def test_a_bank_refers_to_the_pictures_as_they_are_stored(regime):
    data = module(regime)
    bank = Memory(data.task, K)
    bank.fill(data.batches("train"))
    shown = torch.from_numpy(data.split("train").presence).all(1)
    assert len(bank) == (40 if regime == "full_access" else int(shown.sum()))
    stored = bank._stored["image"].values
    assert stored.dtype == torch.uint8
    assert stored.data_ptr() == data.split("train").samples.inputs["image"].ctypes.data
    rows = torch.arange(len(bank))
    x, _ = bank.read("image", rows)
    unit = torch.from_numpy(pictures())[bank.sample_id].float()
    pixels = data.task.modalities[0].pixels
    for c in range(3):
        undone = (x[:, c] * pixels.std[c] + pixels.mean[c]) * 255
        torch.testing.assert_close(undone, unit[:, c], atol=1e-2, rtol=0)


def test_what_is_remembered_is_neither_scaled_nor_read_again(monkeypatch):
    # who checks types while tests run reads the first modality of each batch
    data, embed = module(modalities=["age", "image"]), Patches().requires_grad_(False).eval()
    read = []
    whole = Stored.read
    monkeypatch.setattr(
        Stored, "read", lambda self, *rows: (read.append(self.values.dtype), whole(self, *rows))[1]
    )
    for batch in data.train_dataloader():
        batch.embed("image", embed)
    assert torch.uint8 in read
    read.clear()
    for batch in data.train_dataloader():
        moved = batch.hide(~batch.presence).to("cpu")
        moved.embed("image", embed)
        assert torch.uint8 not in read
    assert moved.inputs["image"].shape == (len(moved), 3, 8, 8)
    assert torch.uint8 in read


def test_the_state_holds_pictures_in_8_bits_and_a_fresh_memory_finds_and_lends_the_same():
    data, embed = module(), Patches().requires_grad_(False).eval()
    bank = Memory(data.task, K)
    bank.fill(data.batches("train"))
    state = bank.eval().state_dict()
    assert state["input_0"].dtype == torch.uint8
    assert state["input_0"].shape == (40, 3, 8, 8)
    fresh = Memory(data.task, K).eval()
    fresh.load_state_dict({name: x.clone() for name, x in state.items()})
    for batch in data.batches("val"):
        rows = bank.neighbours(batch).rows
        assert torch.equal(fresh.neighbours(batch).rows, rows)
        for name in data.task.names:
            one, other = (part.read(name, rows.flatten())[0] for part in (bank, fresh))
            assert torch.equal(one, other)
        torch.testing.assert_close(
            fresh.tokens("image", rows, embed), bank.tokens("image", rows, embed)
        )


def test_a_better_epoch_copies_what_learns_and_nothing_of_the_bank():
    data = module()
    method = Redeem(data.task, dim=8, depth=2, neighbours=3)
    method.prepare(data.batches("train"))
    assert any(name.startswith("memory.input_") for name in method.state_dict())
    for stage in method.stages:
        method.begin(stage)
        kept = method.learned_state()
        assert not any(name.startswith("memory.") for name in kept)
        assert {n for n, p in method.named_parameters() if p.requires_grad} <= set(kept)
        assert "draw_key" in kept
    # what is kept restores all that training has moved
    method.eval()
    batch = next(iter(data.val_dataloader()))
    before = {name: value.detach().clone() for name, value in kept.items()}
    with torch.no_grad():
        expected = method(batch)
        for p in method.parameters():
            if p.requires_grad:
                p.add_(0.1)
        assert not torch.allclose(method(batch), expected)
        method.load_state_dict(before, strict=False)
        assert torch.equal(method(batch), expected)


def test_columns_that_are_constant_but_for_rounding_say_nothing():
    task = Task("regression", (Modality("a", "vector", (3,)),), ("y",))
    train = make_batch(task, torch.ones(40, 1).bool(), seed=1)
    # a column that is constant up to rounding, one that is tiny but varies
    train.inputs["a"][:, 0] = 3e6 * (1 + 1e-7 * torch.rand(40))
    train.inputs["a"][:, 1] *= 1e-9
    bank = Memory(task, K)
    bank.fill([train])
    keys = bank.keys
    assert not keys[:, 0].any()
    assert keys[:, 1].abs().max() > 0.1


def vectors_file(tmp_path, ids, seed=0, **arrays):
    file = tmp_path / "vectors.npz"
    g = np.random.default_rng(seed)
    made = {name: g.normal(size=(len(ids), w)) for name, w in (("a", 7), ("b", 3))}
    np.savez(file, id=np.array(ids), **(made | arrays))
    return file, made | arrays


def test_samples_are_found_by_vectors_of_the_users_choice(tmp_path):
    ids = [*range(40), *range(1000, 1012)]
    file, made = vectors_file(tmp_path, ids)
    bank = Memory(TASK, K, retrieve_by=str(file))
    assert bank.by == ("vectors of vectors.npz",) * 2
    train = make_batch(TASK, torch.ones(40, 2).bool(), seed=1)
    bank.fill([train])
    ask = strangers()
    found = bank.eval().neighbours(ask)
    assert torch.equal(bank.neighbours(ask.blind()).rows, found.rows)
    for i in range(len(ask)):
        score = torch.zeros(40).double()
        for m, name in enumerate(TASK.names):
            if ask.presence[i, m]:
                x = torch.from_numpy(made[name])
                score += nn.functional.cosine_similarity(x[:40], x[40 + i][None], dim=1)
        chosen = score[train_row(bank, found.rows[i])]
        assert torch.allclose(chosen, score.sort(descending=True).values[:K], atol=3e-3)
    fresh = Memory(TASK, K, retrieve_by=str(file)).eval()
    fresh.load_state_dict(bank.state_dict())
    assert torch.equal(fresh.neighbours(ask).rows, found.rows)


def test_vectors_that_do_not_serve_are_refused_in_one_line(tmp_path):
    file, _ = vectors_file(tmp_path, range(39))
    bank = Memory(TASK, K, retrieve_by=str(file))
    with pytest.raises(ValueError, match="1 of 40 samples have no vector for 'a'"):
        bank.fill([make_batch(TASK, torch.ones(40, 2).bool(), seed=1)])
    for arrays, words in (
        ({"id": np.array([1, 1])}, "holds an id twice"),
        ({"id": np.array([0.5, 1])}, "whole numbers as id"),
        ({"a": np.zeros(2)}, "found int64 .2,. and .2,."),
    ):
        np.savez(file, **({"id": np.array([0, 1]), "a": np.zeros((2, 3))} | arrays))
        with pytest.raises(ValueError, match=words):
            Memory(TASK, K, retrieve_by=str(file))
    np.savez(file, id=np.array([0]), a=np.zeros((1, 3)))
    with pytest.raises(ValueError, match=r"is no npz with id .n,. and b"):
        Memory(TASK, K, retrieve_by=str(file))
    with pytest.raises(ValueError, match="is no npz"):
        Memory(TASK, K, retrieve_by=str(tmp_path / "none.npz"))
