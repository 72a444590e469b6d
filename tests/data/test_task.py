import re

import pytest

from mmbench.data.task import AXES, Modality, Task

VECTOR = Modality("lab", "vector", (4,))


@pytest.mark.parametrize("kind", AXES)
def test_each_kind_takes_a_shape_of_its_own_axes(kind):
    vocab = 5 if kind == "tokens" else 0
    shape = tuple(range(2, 2 + len(AXES[kind])))
    assert Modality("x", kind, shape, vocab).shape == shape
    with pytest.raises(ValueError, match=re.escape(f"needs the axes {AXES[kind]}")) as error:
        Modality("x", kind, (*shape, 2), vocab)
    assert str((*shape, 2)) in str(error.value)


def test_sequences_tokens_and_bags_alone_have_lengths():
    with_lengths = {
        kind
        for kind, axes in AXES.items()
        if Modality("x", kind, (2,) * len(axes), 5 * (kind == "tokens")).has_lengths
    }
    assert with_lengths == {"sequence", "tokens", "bag"}


@pytest.mark.parametrize("name", ["", "two words", "1st", "audio+text", "a-b"])
def test_a_name_that_patterns_cannot_hold_is_refused(name):
    with pytest.raises(ValueError, match=re.escape(f"modality name {name!r} is not usable")):
        Modality(name, "vector", (4,))


def test_tokens_need_a_vocabulary_and_others_must_not_have_one():
    with pytest.raises(ValueError, match=r"vocab_size belongs to tokens.*vocab_size 0"):
        Modality("words", "tokens", (4,))
    with pytest.raises(ValueError, match=r"vocab_size belongs to tokens.*kind vector with.*7"):
        Modality("lab", "vector", (4,), 7)


def test_a_task_names_its_modalities_in_order_and_counts_its_outputs():
    task = Task(
        "single_label", (Modality("b", "vector", (1,)), Modality("a", "vector", (1,))), ("x", "y")
    )
    assert task.names == ("b", "a")
    assert task.num_outputs == 2


@pytest.mark.parametrize(("modalities", "outputs"), [((), ("x",)), ((VECTOR,), ())])
def test_a_task_without_modality_or_output_is_refused(modalities, outputs):
    with pytest.raises(ValueError, match="at least one modality and one output"):
        Task("regression", modalities, outputs)


def test_a_modality_named_twice_is_refused():
    with pytest.raises(ValueError, match=r"modality names must differ, found .'lab', 'lab'."):
        Task("regression", (VECTOR, VECTOR), ("x",))


MIXED = Task(
    "regression",
    (VECTOR, Modality("eeg", "sequence", (9, 2)), Modality("slide", "bag", (5, 3))),
    ("x",),
)


def test_one_modality_is_the_first_of_the_most_wanted_kind():
    assert MIXED.one_of(("bag", "sequence")).name == "slide"
    assert MIXED.one_of(("sequence", "bag")).name == "eeg"
    assert MIXED.one_of(("image", "vector")).name == "lab"


def test_a_modality_that_is_named_goes_before_the_most_wanted_kind():
    assert MIXED.one_of(("bag", "sequence"), "eeg").name == "eeg"


@pytest.mark.parametrize(
    ("kinds", "name", "words"),
    [
        (("bag",), "slides", "no modality named 'slides'; there are lab, eeg, slide"),
        (("bag", "sequence"), "lab", "kind bag or sequence is needed, found lab of kind vector"),
        (("image",), None, "image is needed, found lab of kind vector, eeg of kind sequence, slid"),
    ],
)
def test_a_modality_that_does_not_fit_is_refused(kinds, name, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        MIXED.one_of(kinds, name)
