import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbench.data.vocabulary import encode, vocabulary, words


def test_words_are_lower_case_and_keep_apostrophes():
    assert words("I DON'T know -- 3D, äh?") == ["i", "don't", "know", "3d", "äh"]


def test_frequent_words_come_first_and_rare_ones_get_no_id():
    assert vocabulary(["b a b", "a b c"]) == {"b": 2, "a": 3}


def test_ties_are_settled_by_the_alphabet():
    assert vocabulary(["z y z y"]) == {"y": 2, "z": 3}


def test_texts_become_padded_rows_with_their_lengths():
    rows, lengths = encode(["A b", "c", "", "a a a a"], {"a": 2, "b": 3}, steps=3)
    assert rows.tolist() == [[2, 3, 0], [1, 0, 0], [1, 0, 0], [2, 2, 2]]
    assert lengths.tolist() == [2, 1, 1, 3]


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.lists(st.text(max_size=30), min_size=1, max_size=8))
def test_ids_stay_inside_the_vocabulary(texts):
    ids = vocabulary(texts, min_count=1)
    rows, lengths = encode(texts, ids, steps=12)
    assert rows.min() >= 0
    assert rows.max() < 2 + len(ids)
    assert ((rows > 0).sum(axis=1) == lengths).all()
    assert np.isin(lengths, range(1, 13)).all()
