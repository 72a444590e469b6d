from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mmbench.data.batch import Batch, zero_absent
from mmbench.data.embeddings import Embeddings

NAMES = ("audio", "words")
FEW = settings(derandomize=True, deadline=None, max_examples=50)
PRESENCE = torch.tensor([[1, 1], [1, 0], [0, 1], [1, 1]], dtype=torch.bool)
TABLES = st.lists(st.booleans(), min_size=8, max_size=8).map(
    lambda row: torch.tensor(row).view(4, 2)
)


def build(presence=PRESENCE):
    steps = torch.tensor([3, 1, 2, 3])
    return Batch(
        modalities=NAMES,
        inputs={
            "audio": zero_absent(1 + torch.arange(8.0).view(4, 2), presence[:, 0]),
            "words": zero_absent(1 + torch.arange(12).view(4, 3), presence[:, 1]),
        },
        presence=presence,
        target=torch.tensor([0, 1, 0, 1]),
        sample_id=torch.arange(4) + 7,
        lengths={"words": zero_absent(steps, presence[:, 1])},
    )


def same(one, other):
    return (
        torch.equal(one.presence, other.presence)
        and all(torch.equal(one.inputs[m], other.inputs[m]) for m in NAMES)
        and torch.equal(one.lengths["words"], other.lengths["words"])
    )


class Counting(nn.Module):
    """Doubles its input and adds one, so that zeros do not stay zero by chance."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x, lengths):
        self.calls += 1
        return 2.0 * x + 1 if lengths is None else 2.0 * x + lengths[:, None]


def test_has_is_the_column_of_a_modality():
    assert build().has("words").tolist() == [True, False, True, True]
    assert len(build()) == 4


@FEW
@given(TABLES)
def test_hiding_withholds_what_was_asked_for_and_reveals_nothing(absent):
    batch = build()
    hidden = batch.hide(absent)
    assert torch.equal(hidden.presence, PRESENCE & ~absent)
    for column, name in enumerate(NAMES):
        for i in range(4):
            wanted = batch.inputs[name][i] if hidden.presence[i, column] else torch.zeros(1)
            assert (hidden.inputs[name][i] == wanted).all()
    assert (hidden.lengths["words"] == batch.lengths["words"] * hidden.presence[:, 1]).all()
    assert same(batch, build())  # the original stays


@FEW
@given(TABLES, TABLES)
def test_hiding_twice_is_hiding_once_and_parts_add_up_in_any_order(first, second):
    batch = build()
    once = batch.hide(first)
    assert same(once.hide(first), once)
    assert same(once.hide(second), batch.hide(first | second))
    assert same(batch.hide(second).hide(first), once.hide(second))


def test_hiding_leaves_target_ids_and_teacher_alone():
    batch = replace(build(), teacher=build(torch.ones(4, 2, dtype=torch.bool)))
    hidden = batch.hide(torch.tensor([[True, False]] * 4))
    assert hidden.target is batch.target
    assert hidden.sample_id is batch.sample_id
    assert hidden.teacher is batch.teacher
    assert hidden.teacher.presence.all()


def test_nan_in_what_is_hidden_does_not_survive():
    batch = build(torch.ones(4, 2, dtype=torch.bool))
    batch.inputs["audio"][1] = torch.nan
    hidden = batch.hide(torch.tensor([[False, False], [True, False]] * 2))
    assert hidden.inputs["audio"].isfinite().all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_an_embedding_is_zero_where_absent_whatever_the_entry_held(value):
    batch = build()
    batch.inputs["audio"][2] = value
    z = batch.embed("audio", Counting())
    assert not z[2].any()
    assert torch.equal(z[[0, 1, 3]], 2 * build().inputs["audio"][[0, 1, 3]] + 1)


def test_an_encoder_is_given_the_lengths_of_its_modality():
    batch = build()
    z = batch.embed("words", Counting())
    there = batch.presence[:, 1]
    assert torch.equal(
        z, zero_absent(2.0 * batch.inputs["words"] + batch.lengths["words"][:, None], there)
    )


def test_no_gradient_comes_from_where_a_modality_is_absent():
    batch = build()
    x = batch.inputs["audio"].requires_grad_()
    batch.embed("audio", Counting()).sum().backward()
    assert x.grad.sum(1).tolist() == [4, 4, 0, 4]


def test_embeddings_are_made_once_for_each_encoder_and_modality_and_change_no_result():
    full = build(torch.ones(4, 2, dtype=torch.bool))
    once = full.with_embeddings(Embeddings(len(full), learning=False))
    encoders = [Counting(), Counting()]
    for absent in ([True, False], [False, True], [False, False]):
        hidden = full.hide(torch.tensor([absent] * 4))
        shared = once.hide(torch.tensor([absent] * 4))
        for name in NAMES:
            for encoder in encoders:
                alone = Counting()
                assert torch.equal(shared.embed(name, encoder), hidden.embed(name, alone))
                assert alone.calls == 1
    assert [encoder.calls for encoder in encoders] == [2, 2]  # one a modality


def test_embeddings_give_nothing_that_its_batch_does_not_show():
    once = build().with_embeddings(Embeddings(4, learning=False))
    shared = once.hide(torch.tensor([[True, False]] + [[False, False]] * 3))
    assert not shared.embed("audio", Counting())[[0, 2]].any()


def test_embeddings_do_not_mistake_a_new_encoder_for_one_that_is_gone():
    shared = build().with_embeddings(Embeddings(4, learning=False))
    for k in range(20):  # an encoder that nobody holds would free its id for the next one
        found = shared.embed("audio", lambda x, _, k=k: x + k)
        assert torch.equal(found, zero_absent(build().inputs["audio"] + k, build().has("audio")))


def test_a_batch_moves_with_its_teacher():
    seen = {"audio": torch.ones(4, 3, dtype=torch.bool)}
    batch = replace(build(), observed=seen, teacher=build())
    moved = batch.to("meta")
    for one in (moved, moved.teacher):
        tensors = [one.presence, one.target, one.sample_id, *one.inputs.values()]
        assert {x.device.type for x in (*tensors, *one.lengths.values())} == {"meta"}
    assert moved.observed["audio"].device.type == "meta"
    assert batch.presence.device.type == "cpu"
    assert {field.name for field in fields(Batch)} == {
        "modalities", "inputs", "presence", "target", "sample_id", "lengths", "observed",
        "teacher", "embeddings",
    }  # fmt: skip


def test_what_is_observed_is_hidden_with_its_modality_and_taken_with_its_samples():
    seen = torch.tensor([[True, False], [True, True], [False, True], [True, True]])
    batch = replace(build(torch.ones(4, 2, dtype=torch.bool)), observed={"audio": seen})
    column = batch.modalities.index("audio")
    absent = torch.zeros(4, 2, dtype=torch.bool)
    absent[1, column] = True
    hidden = batch.hide(absent)
    assert torch.equal(hidden.observed["audio"], seen & ~absent[:, column : column + 1])
    assert torch.equal(batch.take(torch.tensor([2])).observed["audio"], seen[2:3])
    assert torch.equal(batch.blind().observed["audio"], seen)


@FEW
@given(st.lists(st.booleans(), min_size=3, max_size=3))
def test_keep_zeroes_all_other_rows(rows):
    x = torch.full((3, 2, 2), torch.nan)
    x[torch.tensor(rows)] = 5.0
    kept = zero_absent(x, torch.tensor(rows))
    assert kept.sum().item() == 20 * sum(rows)


def test_taking_rows_takes_everything_of_them_and_of_their_teacher():
    whole = build(torch.ones(4, 2, dtype=torch.bool))
    batch = replace(build(), teacher=whole).with_embeddings(Embeddings(4, learning=False))
    rows = torch.tensor([3, 0])
    part = batch.take(rows)
    assert len(part) == 2
    assert part.embeddings is None
    for one, every in ((part, batch), (part.teacher, whole)):
        assert torch.equal(one.presence, every.presence[rows])
        assert torch.equal(one.target, every.target[rows])
        assert torch.equal(one.sample_id, every.sample_id[rows])
        for name in NAMES:
            assert torch.equal(one.inputs[name], every.inputs[name][rows])
        assert torch.equal(one.lengths["words"], every.lengths["words"][rows])
    mask = torch.tensor([False, True, True, False])
    assert torch.equal(batch.take(mask).sample_id, batch.sample_id[1:3])
