import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbench.layers.moments import central_moment_discrepancy


def everyone(x):
    return torch.ones(len(x), dtype=torch.bool)


def test_a_discrepancy_worked_by_hand():
    # means 1 and 3; second central moments 1 and 4, third 0 and 0
    x, y = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [5.0]])
    found = [
        central_moment_discrepancy(x, y, everyone(x), everyone(y), order=order).item()
        for order in (1, 2, 3)
    ]
    assert found == [pytest.approx(2.0), pytest.approx(5.0), pytest.approx(5.0)]


def test_features_are_put_together_by_their_euclidean_norm():
    x, y = torch.zeros(2, 2), torch.tensor([[3.0, 4.0], [3.0, 4.0]])
    found = central_moment_discrepancy(x, y, everyone(x), everyone(y))
    assert found.item() == pytest.approx(5.0)


@settings(derandomize=True, deadline=None, max_examples=20)
@given(seed=st.integers(0, 99))
def test_it_is_that_of_the_selected_rows_in_any_order(seed):
    g = torch.Generator().manual_seed(seed)
    x, y = torch.randn(6, 3, generator=g), torch.randn(5, 3, generator=g)
    in_x, in_y = torch.tensor([1, 1, 0, 1, 0, 1]).bool(), torch.tensor([1, 0, 1, 1, 1]).bool()
    small = central_moment_discrepancy(x[in_x], y[in_y], everyone(x[in_x]), everyone(y[in_y]))
    garbage = x.masked_fill(~in_x[:, None], torch.nan)
    torch.testing.assert_close(central_moment_discrepancy(garbage, y, in_x, in_y), small)
    torch.testing.assert_close(central_moment_discrepancy(y, x, in_y, in_x), small)
    order = torch.randperm(6, generator=g)
    torch.testing.assert_close(central_moment_discrepancy(x[order], y, in_x[order], in_y), small)


def test_a_sample_is_no_distance_from_itself_and_its_gradient_is_finite():
    x = torch.randn(7, 4, requires_grad=True)
    found = central_moment_discrepancy(x, x, everyone(x), everyone(x))
    found.backward()
    assert found == 0
    assert x.grad.eq(0).all()


def test_a_sample_without_rows_has_no_distance_from_another():
    x = torch.randn(4, 3, requires_grad=True)
    nobody = torch.zeros(4, dtype=torch.bool)
    found = central_moment_discrepancy(x, torch.randn(5, 3), nobody, torch.ones(5).bool())
    found.backward()
    assert found == 0
    assert x.grad.eq(0).all()


def test_equal_means_and_different_shapes_are_told_apart():
    torch.manual_seed(0)
    x = torch.randn(2000, 1)
    wide, skewed = 2 * torch.randn(2000, 1), torch.randn(2000, 1).square() - 1
    alike, apart, other = (
        central_moment_discrepancy(x, y, everyone(x), everyone(y), order=3)
        for y in (torch.randn(2000, 1), wide, skewed)
    )
    assert alike < 0.3
    assert apart > 2
    assert other > 2
