import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbench.layers.fusion import masked_mean, presence_code, random_pattern, random_subset


@st.composite
def presences(draw):
    """Tables with at least one modality in every row."""
    modalities = draw(st.integers(1, 6))
    codes = draw(st.lists(st.integers(1, 2**modalities - 1), min_size=1, max_size=8))
    return torch.tensor([[code >> m & 1 for m in range(modalities)] for code in codes]).bool()


def repeat(row, times):
    return torch.tensor([row]).bool().expand(times, -1)


def test_masked_mean_worked_by_hand():
    v = torch.tensor([[[1.0, 10.0], [3.0, 20.0], [5.0, 60.0]]])
    assert masked_mean(v, repeat([1, 0, 1], 1)).tolist() == [[3.0, 35.0]]


def test_masked_mean_is_zero_where_nothing_is_selected():
    assert masked_mean(torch.ones(1, 3, 2), repeat([0, 0, 0], 1)).tolist() == [[0.0, 0.0]]


def test_masked_mean_is_deaf_to_nan_where_nothing_is_selected():
    v = torch.tensor([[[2.0], [math.nan]]], requires_grad=True)
    mean = masked_mean(v, repeat([1, 0], 1))
    mean.sum().backward()
    assert mean.tolist() == [[2.0]]
    assert v.grad.tolist() == [[[1.0], [0.0]]]


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_masked_mean_is_the_mean_of_the_selected_along_any_axis(dim):
    torch.manual_seed(dim)
    v, w = torch.randn(3, 4, 5, 2), torch.rand(3, 4, 5) < 0.5
    v, w = v.movedim(dim, 0), w.movedim(dim, 0)
    got = masked_mean(v.movedim(0, dim), w.movedim(0, dim), dim)
    for i in range(w.shape[1]):
        for j in range(w.shape[2]):
            chosen = [v[n, i, j] for n in range(len(v)) if w[n, i, j]]
            want = sum(chosen) / len(chosen) if chosen else torch.zeros(2)
            torch.testing.assert_close(got[i, j], want)


@given(presences())
@settings(derandomize=True, deadline=None, max_examples=50)
def test_presence_code_reads_the_bits_of_the_row(presence):
    want = [sum(2**m for m, there in enumerate(row) if there) for row in presence.tolist()]
    assert presence_code(presence).tolist() == want


def test_presence_code_of_forty_modalities_does_not_overflow():
    assert presence_code(repeat([1] * 40, 1)).item() == 2**40 - 1


@given(presences(), st.integers(0, 7), st.integers(0, 99))
@settings(derandomize=True, deadline=None, max_examples=50)
def test_random_subset_keeps_as_many_of_the_present_as_asked(presence, n_keep, seed):
    keep = torch.full((len(presence),), n_keep)
    kept = random_subset(presence, keep, torch.Generator().manual_seed(seed))
    assert not (kept & ~presence).any()
    assert kept.sum(1).tolist() == presence.sum(1).clamp_max(n_keep).tolist()


def test_random_subset_takes_a_number_of_its_own_for_each_sample():
    kept = random_subset(repeat([1, 1, 1], 3), torch.tensor([1, 3, 0]))
    assert kept.sum(1).tolist() == [1, 3, 0]


def test_random_subset_makes_every_subset_of_a_size_equally_likely():
    presence = repeat([1, 0, 1, 1, 1], 12_000)
    generator = torch.Generator().manual_seed(0)
    codes = presence_code(random_subset(presence, torch.full((12_000,), 2), generator))
    counts = codes.bincount()[codes.unique()]
    assert len(counts) == 6
    assert (counts - 2000).abs().max() < 5 * math.sqrt(12_000 * 1 / 6 * 5 / 6)


@given(presences(), st.integers(0, 99))
@settings(derandomize=True, deadline=None, max_examples=50)
def test_random_pattern_is_a_non_empty_subset_of_what_is_there(presence, seed):
    kept = random_pattern(presence, torch.Generator().manual_seed(seed))
    assert not (kept & ~presence).any()
    assert kept.any(1).all()


def test_random_pattern_makes_every_non_empty_subset_equally_likely():
    presence = repeat([1, 0, 1, 0, 1], 14_000)
    codes = presence_code(random_pattern(presence, torch.Generator().manual_seed(0)))
    counts = codes.bincount()[codes.unique()]
    assert len(counts) == 7
    assert (counts - 2000).abs().max() < 5 * math.sqrt(14_000 * 1 / 7 * 6 / 7)


def test_random_pattern_draws_for_each_sample_by_itself():
    patterns = random_pattern(repeat([1, 1, 1], 64), torch.Generator().manual_seed(0))
    assert len(patterns.unique(dim=0)) > 1


@pytest.mark.parametrize("draw", [random_pattern, lambda p, g: random_subset(p, p.sum(1) // 2, g)])
def test_draws_repeat_with_the_seed_and_change_without(draw):
    presence = repeat([1, 1, 1, 1], 64)
    first, second, other = (draw(presence, torch.Generator().manual_seed(s)) for s in (3, 3, 4))
    assert first.equal(second)
    assert not first.equal(other)
