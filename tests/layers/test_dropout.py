from pathlib import Path

import pytest
import torch

import mmbench
from mmbench.layers.dropout import Dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.75])
def test_a_share_p_is_zeroed_and_the_rest_scaled(p):
    torch.manual_seed(0)
    x = torch.full((101, 1001), 3.0, requires_grad=True)
    y = Dropout(p)(x)
    zero = y == 0
    assert abs(zero.float().mean() - p) < 4 * (p * (1 - p) / x.numel()) ** 0.5
    torch.testing.assert_close(y[~zero], torch.full_like(y[~zero], 3 / (1 - p)))
    y.sum().backward()
    torch.testing.assert_close(x.grad, y.detach() / 3)


def test_neighbouring_elements_are_dropped_independently():
    torch.manual_seed(0)
    kept = (Dropout(0.5)(torch.ones(400_000)) > 0).float()
    for apart in (1, 2, 3, 4, 8):
        both = (kept[:-apart] * kept[apart:]).mean()
        assert abs(both - 0.25) < 0.005


def test_evaluation_and_rate_zero_change_nothing():
    x = torch.randn(5, 3)
    assert Dropout(0.5).eval()(x) is x
    assert torch.equal(Dropout(0.0)(x), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_mask_is_one_uniform_number_an_element_against_the_rate(dtype):
    x = torch.randn(64, 33, dtype=dtype)
    torch.manual_seed(1)
    y = Dropout(0.3)(x)
    after = torch.rand(1)
    torch.manual_seed(1)
    scale = (torch.rand_like(x) >= 0.3).to(dtype) * (1 / 0.7)
    assert torch.equal(y, x * scale)  # published numbers stand on these draws, bit by bit
    assert torch.equal(torch.rand(1), after)


def test_a_seed_fixes_the_mask():
    x = torch.ones(3, 7)
    layer = Dropout(0.3)
    torch.manual_seed(1)
    first = layer(x)
    torch.manual_seed(1)
    assert torch.equal(layer(x), first)
    assert not torch.equal(layer(x), first)


def test_every_method_draws_its_dropout_in_this_way():
    folder = Path(mmbench.__file__).parent
    files = [*folder.glob("methods/*.py"), *folder.glob("layers/*.py")]
    assert [file.name for file in files if "nn.Dropout(" in file.read_text()] == []
