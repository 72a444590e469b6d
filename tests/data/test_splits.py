from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbench.data.samples import SPLITS
from mmbench.data.splits import (
    grouped,
    rows_of,
    stable_hash,
    stable_ids,
    stratified,
    stratified_groups,
)

few = settings(derandomize=True, deadline=None, max_examples=40)


def test_a_name_always_gets_the_same_id():
    # BLAKE2b of "a" with 8 bytes of output is 40f89e395b66422f; the lowest bit is dropped
    assert stable_hash("a") == 0x40F89E395B66422F >> 1
    assert stable_ids(["a", "b"]).tolist() == [stable_hash("a"), stable_hash("b")]
    assert stable_hash("ä") >= 0


@few
@given(st.lists(st.integers(0, 4), min_size=1, max_size=200), st.integers(0, 10**6))
def test_each_stratum_is_dealt_in_the_asked_shares(labels, first):
    stratum = np.array(labels)
    ids = np.arange(first, first + len(stratum))
    part = stratified(ids, stratum, val=0.15, test=0.2, fold=1, folds=5)
    for value, size in Counter(labels).items():
        for split, share in (("val", 0.15), ("test", 0.2)):
            found = (stratum[rows_of(part, split)] == value).sum()
            assert abs(found - share * size) < 1


@few
@given(st.lists(st.integers(0, 6), min_size=1, max_size=150), st.integers(2, 7))
def test_cross_validation_tests_every_sample_once(labels, folds):
    stratum = np.array(labels)
    ids = np.arange(len(stratum)) * 7 - 50
    tested = np.concatenate(
        [
            rows_of(stratified(ids, stratum, val=0.1, test=1 / folds, fold=k, folds=folds), "test")
            for k in range(folds)
        ]
    )
    assert sorted(tested.tolist()) == list(range(len(ids)))


def test_test_parts_smaller_than_a_fold_do_not_overlap():
    ids, stratum = np.arange(500), np.arange(500) % 3
    tested = [
        set(rows_of(stratified(ids, stratum, val=0.15, test=0.15, fold=k, folds=5), "test"))
        for k in range(5)
    ]
    assert [len(rows) for rows in tested] == pytest.approx([75] * 5, abs=2)
    assert len(set().union(*tested)) == sum(len(rows) for rows in tested)


@few
@given(st.permutations(list(range(60))))
def test_the_order_of_the_rows_does_not_matter(order):
    ids, stratum = np.arange(1000, 1060), np.arange(60) % 4
    plain = stratified(ids, stratum, val=0.2, test=0.2)
    moved = stratified(ids[order], stratum[order], val=0.2, test=0.2)
    assert (plain[order] == moved).all()


def test_totals_come_out_right_though_no_class_divides_evenly():
    ids, stratum = np.arange(1600), np.repeat(np.arange(100), 16)  # 2.4 of each class
    part = stratified(ids, stratum, val=0.15, test=0.15)
    assert Counter(part.tolist())[SPLITS.index("test")] == pytest.approx(240, abs=4)
    assert Counter(part.tolist())[SPLITS.index("val")] == pytest.approx(240, abs=4)


def test_a_partition_looks_random_and_not_like_the_order_of_the_ids():
    ids = np.arange(1000)
    tested = rows_of(stratified(ids, np.zeros(1000), val=0.0, test=0.5), "test")
    assert 450 < tested.mean() < 550
    assert 200 < (np.diff(tested) == 1).sum() < 300  # half of 500 neighbours; 499 if in order


def test_shares_that_leave_nothing_to_train_on_are_refused():
    with pytest.raises(ValueError, match=r"val 0.5 and test 0.5 were asked for"):
        stratified(np.arange(3), np.zeros(3), val=0.5, test=0.5)


@few
@given(
    st.lists(st.integers(0, 9), min_size=2, max_size=200).filter(lambda x: len(set(x)) > 1),
    st.floats(0.05, 0.6),
)
def test_groups_are_chosen_whole_and_near_the_share(groups, share):
    group = np.array([f"video{g}" for g in groups])
    chosen = grouped(np.arange(len(group)), group, share=share)
    assert not set(group[chosen]) & set(group[~chosen])
    assert chosen.any()
    assert not chosen.all()
    sizes = Counter(groups)
    if sizes.most_common(1)[0][1] <= share * len(group):  # else one group alone is too much
        assert abs(chosen.sum() - share * len(group)) <= max(sizes.values()) / 2 + 1e-9


def test_one_group_cannot_be_divided():
    with pytest.raises(ValueError, match="at least two groups"):
        grouped(np.arange(3), np.array(["a"] * 3), share=0.5)


@few
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 6)), min_size=1, max_size=60),
    st.integers(2, 5),
)
def test_groups_are_dealt_whole_and_tested_once(groups, folds):
    name = np.repeat([f"g{k}" for k in range(len(groups))], [size for _, size in groups])
    label = np.repeat([label for label, _ in groups], [size for _, size in groups])
    tested = np.zeros(len(name), int)
    for fold in range(folds):
        part = stratified_groups(name, label, val=0.1, test=1 / folds, fold=fold, folds=folds)
        for one in set(name):
            assert len(set(part[name == one])) == 1
        tested += part == SPLITS.index("test")
        for value in set(label):
            largest = max(size for other, size in groups if other == value)
            wanted = (label == value).sum() / folds
            found = ((part == SPLITS.index("test")) & (label == value)).sum()
            assert abs(found - wanted) < largest + 1e-9
    assert (tested == 1).all()


def test_a_group_counts_for_the_label_that_most_of_it_has():
    name = np.repeat(np.arange(40), 3)
    label = np.tile([1, 0, 1], 40) * (name % 2)  # odd groups are mostly 1, even ones are 0
    part = stratified_groups(name, label, val=0.0, test=0.2)
    tested = np.unique(name[part == SPLITS.index("test")])
    assert [(tested % 2 == k).sum() for k in (0, 1)] == [4, 4]


def test_groups_of_one_sample_are_dealt_in_the_shares_of_samples():
    ids = np.arange(300)
    part = stratified_groups(ids, ids % 3, val=0.15, test=0.15)
    assert np.bincount(part).tolist() == [210, 45, 45]


def test_groups_do_not_depend_on_the_order_of_samples():
    name, label = np.repeat(np.arange(30), 2), np.repeat(np.arange(30) % 2, 2)
    order = np.random.default_rng(0).permutation(60)
    part = stratified_groups(name, label, val=0.2, test=0.2)
    mixed = stratified_groups(name[order], label[order], val=0.2, test=0.2)
    np.testing.assert_array_equal(mixed, part[order])
