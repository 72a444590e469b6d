import pytest
import torch
import torch.nn.functional as F

from mmbench.data.task import Modality, Task
from mmbench.layers.retrieved import (
    LabelPrompt,
    attend_pooled,
    fit_width,
    mean_retrieved,
    mean_target,
    pool_rows,
)

MODALITIES = (Modality("x", "vector", (2,)),)


def test_the_mean_at_a_place_is_over_the_neighbours_that_have_a_token_there():
    retrieved = torch.tensor([[[[1.0], [2.0], [9.0]], [[3.0], [9.0], [9.0]]]])  # (1, 2, 3, 1)
    read = torch.tensor([[[True, True, False], [True, False, False]]])
    mean, there = mean_retrieved(retrieved, read)
    assert mean[0, :, 0].tolist() == [2, 2, 0]
    assert there[0].tolist() == [True, True, False]


@pytest.mark.parametrize("length", [1, 2, 3, 7])
def test_rows_are_pooled_as_torch_does_over_those_that_are_read(length):
    x, rows = torch.randn(5, 6, 4), torch.tensor([1, 2, 4, 5, 6])
    found = pool_rows(torch.arange(6) < rows[:, None], length) @ x
    for i, n in enumerate(rows.tolist()):
        expected = F.adaptive_avg_pool1d(x[i, :n].T, length).T
        torch.testing.assert_close(found[i], expected)


@pytest.mark.parametrize("jointly", [True, False])
def test_attention_that_is_pooled_first_equals_the_naive_form(jointly):
    torch.manual_seed(0)
    k, tokens, dim, b = 3, 5, 8, 2
    to_q, to_k, to_v = (torch.nn.Linear(dim, dim) for _ in range(3))
    x, retrieved = torch.randn(2, 7, dim), torch.randn(2, k, tokens, dim)
    read = torch.arange(tokens) < torch.tensor([[1, 5, 3], [2, 2, 4]])[:, :, None]
    rows = pool_rows(torch.ones(2, 7, dtype=torch.bool), b)
    with torch.no_grad():
        folded = to_q(x) @ to_k.weight / dim**0.5
        found = to_v(attend_pooled(folded, retrieved, read, rows, jointly=jointly))
        for i in range(2):
            parts = [retrieved[i, j][read[i, j]] for j in range(k)]
            groups = [torch.cat(parts)] if jointly else parts
            out = []
            for group in groups:
                scores = to_q(x[i]) @ to_k(group).T / dim**0.5
                out.append(F.adaptive_avg_pool1d((scores.softmax(1) @ to_v(group)).T, b).T)
            torch.testing.assert_close(found[i], torch.stack(out).mean(0), atol=1e-5, rtol=0)


def test_what_is_not_read_cannot_matter():
    query, retrieved = torch.randn(1, 4, 8), torch.randn(1, 2, 5, 8)
    read = torch.arange(5) < torch.tensor([[2], [5]])
    rows = pool_rows(torch.ones(1, 4, dtype=torch.bool), 2)
    other = torch.where(read[None, :, :, None], retrieved, 7.0)
    for jointly in (True, False):
        one, two = (
            attend_pooled(query, x, read[None], rows, jointly=jointly) for x in (retrieved, other)
        )
        torch.testing.assert_close(one, two)
        assert not torch.allclose(one, attend_pooled(query, other, None, rows, jointly=jointly))


def test_the_mean_target_is_a_share_of_classes_or_labels_or_a_mean_of_values():
    single = Task("single_label", MODALITIES, ("a", "b", "c"))
    found = mean_target(torch.tensor([[0, 2, 0, 1]]), single)
    assert found.tolist() == [[0.5, 0.25, 0.25]]
    for kind in ("multi_label", "regression"):
        task = Task(kind, MODALITIES, ("a", "b"))
        assert mean_target(torch.tensor([[[1.0, 0.0], [1.0, 1.0]]]), task).tolist() == [[1.0, 0.5]]


def test_the_label_token_is_the_mean_label_and_the_head_compares_with_all():
    prompt = LabelPrompt(3, [4, 6], 10)
    with torch.no_grad():
        label = prompt(torch.tensor([[2 / 3, 0.0, 1 / 3]]))
        torch.testing.assert_close(label[0], (2 * prompt.labels[0] + prompt.labels[2]) / 3)
        assert torch.equal(prompt.token(label, 0)[:, 0], label)
        assert torch.equal(prompt.token(label, 1)[:, 0], prompt.enter[1](label))
        pooled = torch.randn(1, 10)
        z = prompt.head(torch.cat([pooled, label], 1))[0]
        expected = torch.stack([z @ prompt.labels[c] for c in range(3)])
        torch.testing.assert_close(prompt.compare(pooled, label)[0], expected)


def test_equal_widths_need_no_layer():
    assert not list(fit_width(4, 4).parameters())
    assert fit_width(4, 6).weight.shape == (6, 4)
