import pytest
import torch

from mmbench.layers.stacked import StackedLinear


@pytest.mark.parametrize("rows", [(5,), (2, 5), (1, 2, 5), (0, 5)])
def test_each_map_is_a_linear_layer_of_its_own(rows):
    torch.manual_seed(0)
    stacked = StackedLinear(3, 4, 6)
    x = torch.randn(3, *rows, 4)
    alone = [x[e] @ stacked.weight[e] + stacked.bias[e, 0] for e in range(3)]
    torch.testing.assert_close(stacked(x), torch.stack(alone))


def test_it_takes_one_input_shown_to_all_without_a_copy():
    torch.manual_seed(0)
    stacked = StackedLinear(3, 4, 6)
    x = torch.randn(5, 2, 4)
    torch.testing.assert_close(
        stacked(x.expand(3, -1, -1, -1)), stacked(x.repeat(3, 1, 1, 1)), rtol=0, atol=1e-6
    )


def test_it_starts_as_linear_layers_do():
    torch.manual_seed(0)
    for parameter in StackedLinear(50, 16, 40).parameters():
        assert parameter.abs().max() <= 0.25
        assert parameter.std().item() == pytest.approx(0.25 / 3**0.5, rel=0.05)
