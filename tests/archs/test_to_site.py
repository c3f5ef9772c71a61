"""S at other resolutions: means over areas, at even and odd sizes; and a U-shaped network keeps its detail."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from sptsr.archs.pooling import SiteMasks
from sptsr.archs.sites import Grid
from sptsr.archs.spt_arch import SPTNet
from sptsr.archs.to_site import CarriedPrior, prior_to_site, regions_to_site
from sptsr.masks.batch import PriorBatch
from tests.conftest import photograph


def _image(height: int, width: int) -> torch.Tensor:
    return torch.from_numpy(photograph('coffee.png', height, width)).permute(2, 0, 1)[None].float() / 255


def _mean_over_cells(prior: torch.Tensor, grid: Grid, size: tuple[int, int], site: Grid) -> torch.Tensor:
    """The definition, on a map twelve times as fine that is continued on all sides."""
    fine, around = 12, 16
    wide = functional.pad(prior, (around,) * 4, mode='replicate')
    wide = wide.repeat_interleave(fine, 2).repeat_interleave(fine, 3)
    result = torch.empty(*prior.shape[:2], *size)
    step = site.stride / grid.stride * fine
    start = ((grid.border - site.border) / grid.stride + around) * fine
    for row in range(size[0]):
        for column in range(size[1]):
            top, left = round(start + row * step), round(start + column * step)
            result[..., row, column] = wide[..., top : top + round(step), left : left + round(step)].mean(dim=(2, 3))
    return result


@pytest.mark.parametrize(
    ('size', 'grid', 'small', 'site'),
    [
        ((36, 48), Grid(), (18, 24), Grid(2.0)),
        ((37, 51), Grid(), (18, 25), Grid(2.0)),  # a strided convolution that leaves the last row out
        ((37, 51), Grid(), (19, 26), Grid(2.0)),  # one that pads
        ((37, 51), Grid(), (9, 12), Grid(4.0)),
        ((37, 51), Grid(), (10, 13), Grid(4.0)),
        ((37, 51), Grid(), (5, 7), Grid(8.0)),
        ((19, 26), Grid(2.0), (9, 13), Grid(4.0)),
        ((37, 51), Grid(), (20, 27), Grid(2.0, 2.0)),
        ((37, 51), Grid(), (18, 25), Grid(2.0, -0.5)),  # pixels of S lie in two cells
        ((37, 51), Grid(), (37, 51), Grid(1.0, 0.5)),
        ((24, 32), Grid(2.0), (16, 21), Grid(3.0)),
        ((16, 21), Grid(3.0), (24, 32), Grid(2.0)),
        ((18, 25), Grid(2.0), (37, 51), Grid()),
        ((18, 25), Grid(), (36, 50), Grid(0.5)),
    ],
)
def test_a_pixel_of_a_site_has_the_mean_of_what_lies_under_it(size, grid, small, site):
    prior = _image(*size)
    moved = prior_to_site(prior, grid, small, site)
    assert moved.shape[-2:] == small
    assert torch.allclose(moved, _mean_over_cells(prior, grid, small, site), atol=1e-5)


@pytest.mark.parametrize(('size', 'stride'), [((36, 48), 2), ((36, 48), 4), ((37, 51), 2), ((38, 50), 4)])
def test_sizes_that_a_network_pads_give_the_bits_of_before(size, stride):
    prior = _image(*size)
    small = tuple(-(-side // stride) for side in size)
    right, bottom = small[1] * stride - size[1], small[0] * stride - size[0]
    before = functional.avg_pool2d(functional.pad(prior, (0, right, 0, bottom), mode='replicate'), stride)
    assert torch.equal(prior_to_site(prior, Grid(), small, Grid(float(stride))), before)


@pytest.mark.parametrize(
    ('length', 'side', 'stride'), [(37, 18, 2), (37, 19, 2), (37, 12, 3), (37, 13, 3), (36, 18, 2)]
)
def test_masks_are_those_under_the_middle_of_a_pixel(length, side, stride):
    masks = torch.rand(1, 6, length, length, generator=torch.Generator().manual_seed(0)) < 0.4
    regions = regions_to_site(SiteMasks.of(PriorBatch.from_masks(masks), 6), (side, side), Grid(float(stride)))
    middles = (torch.arange(side) * stride + stride // 2).clamp(max=length - 1)
    expected = masks[..., middles, :][..., middles]
    assert torch.equal(regions.members[regions.index].permute(0, 3, 1, 2) > 0, expected)


def test_gradients_of_means_are_right():
    prior = torch.rand(1, 2, 5, 7, dtype=torch.float64, requires_grad=True)
    for size, site in (((2, 3), Grid(2.0)), ((2, 3), Grid(2.0, -0.5)), ((4, 5), Grid(1.5))):
        assert torch.autograd.gradcheck(lambda s, size=size, site=site: prior_to_site(s, Grid(), size, site), prior)


def test_detail_comes_back_with_what_coarser_sites_changed():
    first = _image(33, 47)
    carried = CarriedPrior(first, keeps_detail=True)
    fine = carried.at((33, 47), Grid()) + 0.5
    carried.leave(fine, Grid())
    carried.leave(carried.at((17, 24), Grid(2.0)), Grid(2.0))
    carried.leave(carried.at((9, 12), Grid(4.0)) + 3, Grid(4.0))
    carried.leave(carried.at((17, 24), Grid(2.0)) + 7, Grid(2.0))
    assert torch.allclose(carried.at((33, 47), Grid()), fine + 10, atol=1e-5)
    lost = CarriedPrior(first, keeps_detail=False)
    lost.leave(lost.at((5, 6), Grid(8.0)), Grid(8.0))
    assert (lost.at((33, 47), Grid()) - first).abs().max() > 0.1


def test_a_resolution_that_is_new_has_the_detail_of_the_first():
    first = _image(32, 48)
    carried = CarriedPrior(first, keeps_detail=True)
    carried.leave(carried.at((4, 6), Grid(8.0)) + 2, Grid(8.0))
    expected = prior_to_site(first, Grid(), (16, 24), Grid(2.0)) + 2
    assert torch.allclose(carried.at((16, 24), Grid(2.0)), expected, atol=1e-5)


class UNet(nn.Module):
    """Three levels down to an eighth, and back, with skips."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.tail = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(8, 8, 2, stride=2) for _ in range(3))
        self.up = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))

    def forward(self, image):
        features = [self.head(image)]
        for down in self.down:
            features.append(down(features[-1]))
        x = features.pop()
        for up in self.up:
            skip = features.pop()
            x = up(functional.interpolate(x, skip.shape[-2:])) + skip
        return self.tail(x) + image


@torch.no_grad()
@pytest.mark.parametrize('size', [(64, 96), (37, 51)])
def test_a_u_shaped_network_keeps_the_variance_of_its_prior(size):
    torch.manual_seed(0)
    net = SPTNet(
        UNet(),
        sites=['head', 'down.*', 'up.*'],
        unit={'type': 'ModulationUnit', 'width': 8, 'stem': 'masks'},
        num_masks=6,
    )
    assert [site.grid.stride for site in net.sites] == [1, 2, 4, 8, 4, 2, 1]
    for unit in net.units:  # S' = S, so that the last S can be compared with the first
        for parameter in unit.mix[-1].parameters():
            nn.init.zeros_(parameter)
    seen = []
    net.stem.register_forward_hook(lambda _module, _args, output: seen.append(output))
    net.units[-1].register_forward_hook(lambda _module, _args, output: seen.append(output[1]))
    lq = _image(*size)
    masks = (torch.rand(1, 6, *size, generator=torch.Generator().manual_seed(1)) < 0.4).float()
    net(lq, masks)
    assert torch.allclose(seen[1], seen[0], atol=1e-5)
    net.use_rules(1)
    net(lq, masks)
    before, after = (prior.var(dim=(2, 3)).sum() for prior in seen[2:])
    assert after < 0.5 * before  # what 0.1 did


@torch.no_grad()
def test_a_network_of_one_resolution_has_the_bits_of_before():
    torch.manual_seed(0)
    body = nn.Sequential(nn.PixelUnshuffle(2), *[nn.Conv2d(12, 12, 3, padding=1) for _ in range(3)], nn.PixelShuffle(2))
    net = SPTNet(body, sites=['1', '2', '3'], unit={'type': 'ModulationUnit', 'width': 4, 'stem': 'masks'}, num_masks=6)
    for unit in net.units:
        nn.init.normal_(unit.out.weight)
    lq, masks = _image(32, 48), (torch.rand(1, 6, 32, 48) < 0.4).float()
    latest = net(lq, masks)
    net.use_rules(1)
    assert torch.equal(net(lq, masks), latest)
    assert not torch.equal(latest, net.backbone(lq))
