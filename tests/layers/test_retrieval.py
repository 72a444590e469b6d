from collections import Counter
from dataclasses import replace
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbench.checks.tasks import TASKS, all_patterns, make_batch
from mmbench.data.hashing import hashed
from mmbench.data.task import Modality, Task
from mmbench.layers.fusion import presence_code
from mmbench.layers.retrieval import SupportBank, distinct_ranks, queries

M = 4
TASK = Task("single_label", tuple(Modality(n, "vector", (3,)) for n in "abcd"), ("x", "y"))
few = settings(derandomize=True, deadline=None, max_examples=40)
some_presence = st.lists(
    st.integers(1, 2**M - 1).map(lambda code: [bool(code >> m & 1) for m in range(M)]),
    min_size=1,
    max_size=12,
)


def bank_of(rows):
    bank = SupportBank(TASK)
    bank.fill([make_batch(TASK, torch.tensor(rows))])
    return bank


def test_hashing_is_splitmix64():
    # reference outputs of the generator's finaliser, in unsigned arithmetic
    def reference(x):
        mask = 2**64 - 1
        x = (x + 0x9E3779B97F4A7C15) & mask
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        return x ^ (x >> 31)

    keys = [0, 1, 2, 123456789, 2**62, -1, -(2**63)]
    found = hashed(torch.tensor(keys), 7).tolist()
    unsigned = [reference(reference(k % 2**64) ^ 7) for k in keys]
    assert found == [x & (2**63 - 1) for x in unsigned]


def test_hashed_bits_are_even():
    bits = hashed(torch.arange(20_000), 3)
    for bit in range(0, 62, 7):
        assert abs((bits >> bit & 1).float().mean() - 0.5) < 0.015


@few
@given(st.integers(0, 9), st.integers(0, 6), st.integers(0, 10**6))
def test_ranks_are_distinct_and_below_the_size(size, count, key):
    ranks, chosen = distinct_ranks(
        torch.tensor([size]), torch.tensor([count]), torch.tensor([key]), 4
    )
    drawn = ranks[chosen].tolist()
    assert len(drawn) == len(set(drawn)) == min(size, count, 4)
    assert all(0 <= rank < size for rank in drawn)


def test_every_subset_is_drawn_equally_often():
    n = 20_000
    keys = hashed(torch.arange(n))
    ranks, _ = distinct_ranks(torch.full((n,), 5), torch.full((n,), 3), keys, 3)
    counts = Counter(map(tuple, ranks.sort(1).values.tolist()))
    assert set(counts) == set(combinations(range(5), 3))
    expected = n / 10
    assert (
        sum((c - expected) ** 2 / expected for c in counts.values()) < 27.9
    )  # p = 0.001, 9 d.o.f.


@few
@given(some_presence, some_presence, st.integers(0, 1000))
def test_draws_come_from_the_supporting_group_of_equation_two(train, asking, seed):
    bank = bank_of(train)
    presence = torch.tensor(asking)
    code = presence_code(presence)
    kept = [frozenset(m for m in range(M) if row[m]) for row in bank.presence.tolist()]
    for target in range(M):
        lacking = [i for i, row in enumerate(asking) if not row[target]]
        if not lacking:
            continue
        key = hashed(torch.tensor(lacking), seed)
        drawn = bank.draw(
            code[lacking],
            torch.full((len(lacking),), target),
            presence.sum(1)[lacking],
            key,
            M - 1,
        )
        for q, i in enumerate(lacking):
            mc = frozenset(m for m in range(M) if asking[i][m])
            group = {j for j, s in enumerate(kept) if mc <= s and target in s}
            fallback = {j for j, s in enumerate(kept) if target in s}
            rows = drawn.rows[q][drawn.chosen[q]].tolist()
            pool = group or fallback
            assert set(rows) <= pool
            assert len(rows) == len(set(rows)) == min(len(pool), len(mc))
            assert drawn.relaxed[q].item() == (not group and bool(fallback))
            assert drawn.empty[q].item() == (not fallback)


def test_every_member_of_a_group_is_drawn_in_the_end():
    train = [[True] * 4, [True, True, False, False], [False, True, True, True], [True] * 4]
    bank = bank_of(train)
    n = 200
    drawn = bank.draw(
        torch.full((n,), 0b0010),  # has b
        torch.zeros(n, dtype=torch.long),  # lacks a
        torch.ones(n, dtype=torch.long),
        hashed(torch.arange(n)),
        3,
    )
    seen = set(drawn.rows[:, 0].tolist())
    assert {bank.sample_id[row].item() for row in seen} == {0, 1, 3}


def test_the_bank_keeps_its_rows_together():
    rows = all_patterns(TASK)
    batch = make_batch(TASK, rows)
    bank = SupportBank(TASK)
    bank.fill([batch])
    for row, sample in enumerate(bank.sample_id.tolist()):
        assert torch.equal(bank.presence[row], batch.presence[sample])
        for m, name in enumerate(TASK.names):
            assert torch.equal(getattr(bank, f"input_{m}")[row], batch.inputs[name][sample])


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.kind)
def test_a_saved_bank_loads_into_an_empty_one(task):
    bank, fresh = SupportBank(task), SupportBank(task)
    bank.fill([make_batch(task, all_patterns(task))])
    fresh.load_state_dict(bank.state_dict())
    assert len(fresh) == len(bank) > 0
    for (name, a), b in zip(bank.state_dict().items(), fresh.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_what_absent_entries_hold_is_not_kept():
    rows = torch.tensor([[True, True, True, False]])
    bank = SupportBank(TASK)
    bank.fill([make_batch(TASK, rows, garbage=float("nan"))])
    assert torch.equal(bank.input_3, torch.zeros(1, 3))


def test_queries_are_the_gaps():
    presence = torch.tensor([[True, False], [False, True], [True, False]])
    assert [rows.tolist() for rows in queries(presence)] == [[1], [0, 2]]
    assert [rows.shape for rows in queries(presence.to("meta"))] == [(3,), (3,)]


def test_a_bank_can_keep_a_few_samples_whatever_their_order():
    batch = make_batch(TASK, all_patterns(TASK))
    one, other = SupportBank(TASK), SupportBank(TASK)
    one.fill([batch], most=5)
    order = torch.arange(len(batch)).flip(0)
    flipped = replace(
        batch,
        inputs={name: x[order] for name, x in batch.inputs.items()},
        presence=batch.presence[order],
        target=batch.target[order],
        sample_id=batch.sample_id[order],
    )
    other.fill([flipped], most=5)
    assert len(one) == 5
    assert set(one.sample_id.tolist()) == set(other.sample_id.tolist())
    kept = one.everything()
    assert torch.equal(kept.inputs["a"], batch.inputs["a"][kept.sample_id])
