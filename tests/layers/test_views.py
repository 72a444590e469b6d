import pytest
import torch
from torch import nn

from mmbench.layers.views import SHIFT, TURN, ZOOM, View


class Same(nn.Module):
    def forward(self, x, lengths):
        return x


@pytest.fixture
def blob():
    """One bright spot, left and above of the middle."""
    rows, columns = torch.meshgrid(torch.arange(33.0), torch.arange(33.0), indexing="ij")
    return torch.exp(-((rows - 10) ** 2 + (columns - 8) ** 2) / 8)[None, None]


def centre(image):
    weight = image[0, 0] / image[0, 0].sum()
    steps = torch.linspace(-1, 1, 34)[:-1] + 1 / 33  # middles of pixels
    return torch.stack([(weight.sum(0) * steps).sum(), (weight.sum(1) * steps).sum()])


def test_the_first_view_is_the_image_itself(blob):
    assert View(Same(), 0)(blob, None) is blob


@pytest.mark.parametrize("number", range(1, 9))
def test_a_view_moves_a_spot_to_where_its_map_says(blob, number):
    view = View(Same(), number)
    at = view.transform[:, :2] @ centre(view(blob, None)) + view.transform[:, 2]
    torch.testing.assert_close(at, centre(blob), atol=0.02, rtol=0)


def test_views_differ_but_not_by_much_and_every_second_is_mirrored():
    maps = torch.stack([View(Same(), number).transform for number in range(1, 40)])
    assert len(torch.unique(maps, dim=0)) == 39
    determinant = torch.linalg.det(maps[:, :, :2])
    assert (determinant.sign() == torch.tensor([-1.0, 1.0] * 20)[:39]).all()
    size = determinant.abs().rsqrt()
    assert ((size - 1).abs() <= ZOOM + 1e-6).all()
    assert size.std() > ZOOM / 4
    turn = torch.rad2deg(torch.atan2(-maps[:, 0, 1], maps[:, 1, 1]))
    assert (turn.abs() <= TURN + 1e-4).all()
    assert (maps[:, :, 2].abs() <= SHIFT).all()


def test_a_view_is_the_same_whenever_it_is_made(blob):
    assert torch.equal(View(Same(), 5)(blob, None), View(Same(), 5)(blob, None))
