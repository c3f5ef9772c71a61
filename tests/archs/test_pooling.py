"""Pooling by palette code equals pooling by dense masks; S and regions stay over their pixels of the image."""

import pytest
import torch

from sptsr.archs.pooling import SiteMasks
from sptsr.archs.sites import Grid
from sptsr.archs.stems import MaskStem, PlainStem, RepeatedStem, _grey_codes
from sptsr.archs.to_site import prior_to_site, regions_to_site
from sptsr.archs.units import RegionUnit
from sptsr.masks.batch import PriorBatch


def _masks(batch: int = 3, count: int = 6, height: int = 11, width: int = 14) -> torch.Tensor:
    torch.manual_seed(2)
    masks = torch.rand(batch, count, height, width) < 0.3
    masks[1, 2] = False  # an empty mask
    masks[2] = False  # an image without masks
    return masks


def test_codes_keep_masks_and_move_with_the_image():
    masks = _masks(count=64)
    codes = PriorBatch.from_masks(masks)
    assert torch.equal(codes.expand(64), masks.float())
    assert torch.equal(codes.crop(2, 3, 9, 10).expand(64), masks[..., 2:9, 3:10].float())
    padded = codes.pad(right=20, bottom=5).expand(64)
    reflected = torch.nn.functional.pad(masks.float(), (0, 13, 0, 5), mode='reflect')
    assert torch.equal(padded, torch.nn.functional.pad(reflected, (0, 7, 0, 0), mode='replicate'))
    with pytest.raises(ValueError, match=r'masks must be \[B, 1..64, H, W\]'):
        PriorBatch.from_masks(torch.zeros(1, 65, 2, 2))


def test_stems_are_the_convolution_of_image_and_masks():
    torch.manual_seed(0)
    masks, lq = _masks(), torch.rand(3, 3, 11, 14, dtype=torch.float64)
    codes = PriorBatch.from_masks(masks)
    grey = PriorBatch(_grey_codes(6, 2.5), (lq.mean(1) * 255).round().int()).expand(6, torch.float64)
    cases = (
        (MaskStem(3, 6, 8), torch.cat([lq, masks.double()], 1)),
        (PlainStem(3, 6, 8, 2.5), torch.cat([lq, grey], 1)),
        (RepeatedStem(3, 6, 8), lq[:, torch.arange(9) % 3]),
    )
    for stem, seen in cases:
        stem.double()
        dense = stem[2](stem[1](stem[0](seen)))
        with torch.no_grad():
            assert torch.allclose(stem(lq, codes), dense, atol=1e-12)
        ours = stem(lq, codes)
        assert torch.allclose(ours, dense, atol=1e-12)
        cotangent = torch.randn_like(dense)
        for parameter in stem.parameters():
            first, second = (torch.autograd.grad(o, parameter, cotangent, retain_graph=True)[0] for o in (ours, dense))
            assert torch.allclose(first, second, atol=1e-10)
            assert first.abs().max() > 0.1


def test_pooling_is_that_of_dense_masks():
    masks = _masks()
    features = torch.randn(3, 5, 11, 14, requires_grad=True)
    pooled = SiteMasks.of(PriorBatch.from_masks(masks), 6).pool(features)
    dense = masks.float()
    areas = dense.sum(dim=(2, 3))
    means = torch.einsum('bnhw,bchw->bnc', dense, features) / areas.clamp(min=1)[..., None]
    weights = dense / areas.clamp(min=1)[..., None, None]
    weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-30)
    expected = torch.einsum('bnhw,bnc->bchw', weights, means)
    assert torch.allclose(pooled, expected, atol=1e-5)
    assert expected.abs().max() > 0.1
    assert torch.equal(pooled[2], torch.zeros_like(pooled[2]))
    cotangent = torch.randn_like(pooled)
    ours, theirs = (torch.autograd.grad(out, features, cotangent, retain_graph=True)[0] for out in (pooled, expected))
    assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize('half', [torch.bfloat16, torch.float16])
def test_pooling_is_exact_under_autocast(half: torch.dtype):
    masks = torch.rand(2, 6, 40, 50, generator=torch.Generator().manual_seed(0)) < 0.3
    features = torch.rand(2, 5, 40, 50, generator=torch.Generator().manual_seed(1)) + 10
    regions = SiteMasks.of(PriorBatch.from_masks(masks), 6)
    with torch.autocast('cpu', half):
        pooled = regions.pool(features)
    assert pooled.dtype == torch.float32
    assert torch.equal(pooled, regions.pool(features))
    assert regions.pool(features.to(half)).dtype == half


def test_pooling_is_exact_over_many_pixels():
    """Added up one after another in float32, a million pixels of 0.1 had the mean 0.101."""
    whole = PriorBatch(torch.tensor([1]), torch.zeros(1, 1024, 1024, dtype=torch.int32))
    values = torch.full((1, 1, 1024, 1024), 0.1)
    values[..., 1::2] = 0.2
    assert torch.allclose(SiteMasks.of(whole, 1).pool(values), torch.tensor(0.15), rtol=1e-6)


@pytest.mark.parametrize(('count', 'density'), [(4, 4), (16, 15), (16, 16), (64, 53), (64, 60), (64, 64), (4, 64)])
def test_grey_codes_have_the_density_that_is_asked_for(count: int, density: float):
    bits = torch.tensor([[code >> n & 1 for n in range(64)] for code in _grey_codes(count, density).tolist()])
    assert not bits[:, count:].any()
    assert bits[:, :count].sum(dim=1).float().mean() == min(density, count)


def test_a_region_unit_ignores_the_order_of_masks_and_not_the_masks():
    torch.manual_seed(0)
    unit = RegionUnit(8, 4)
    torch.nn.init.normal_(unit.out.weight)
    masks, features, prior = _masks(), torch.randn(3, 8, 11, 14), torch.randn(3, 4, 11, 14)

    def refined(masks: torch.Tensor) -> torch.Tensor:
        return unit(features, prior, SiteMasks.of(PriorBatch.from_masks(masks), 6))[0]

    assert torch.allclose(refined(masks), refined(masks[:, [3, 1, 5, 0, 2, 4]]), atol=1e-5)
    assert not torch.allclose(refined(masks), refined(~masks), atol=1e-3)


def test_a_region_unit_is_told_how_much_a_feature_varies_in_its_masks():
    torch.manual_seed(0)
    unit, plain = RegionUnit(8, 4, spread=True), RegionUnit(8, 4)
    plain.load_state_dict({name: value for name, value in unit.state_dict().items() if name != 'spread'})
    masks, features, prior = _masks(), torch.randn(3, 8, 11, 14), torch.randn(3, 4, 11, 14)
    regions = SiteMasks.of(PriorBatch.from_masks(masks), 6)
    assert torch.equal(unit(features, prior, regions)[1], plain(features, prior, regions)[1])  # it starts as none
    query = unit.query(features)
    dense = masks.float()
    areas = dense.sum(dim=(2, 3)).clamp(min=1)
    weights = dense / areas[..., None, None]
    weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-30)
    mean, square = (
        torch.einsum('bnhw,bnc->bchw', weights, torch.einsum('bnhw,bchw->bnc', dense, value) / areas[..., None])
        for value in (query, query**2)
    )
    torch.nn.init.normal_(unit.spread)
    expected = mean + unit.spread[:, None, None] * ((square - mean**2).clamp(min=0) + 1e-6).sqrt()
    pooled = unit._pooled(query, regions)
    assert torch.allclose(pooled, expected, atol=1e-4)
    (slope,) = torch.autograd.grad(pooled.sum(), unit.spread)
    assert slope.isfinite().all()
    assert slope.abs().min() > 1
    with torch.autocast('cpu', torch.bfloat16):
        assert unit(features, prior, regions)[0].isfinite().all()


@pytest.mark.parametrize('stride', [2, 4])
def test_down_is_the_average_of_what_lies_under_a_pixel(stride: int):
    prior = torch.rand(1, 2, 37, 54)
    size = (-(-37 // stride), -(-54 // stride))
    small = prior_to_site(prior, Grid(), size, Grid(float(stride)))
    assert small.shape[-2:] == size
    assert torch.allclose(small[0, :, 3, 5], prior[0, :, 3 * stride : 4 * stride, 5 * stride : 6 * stride].mean((1, 2)))
    back = prior_to_site(small, Grid(float(stride)), (37, 54), Grid())
    assert torch.equal(back[0, :, 20, 31], small[0, :, 20 // stride, 31 // stride])


def test_padding_inside_a_network_continues_and_does_not_stretch():
    prior = torch.rand(1, 2, 35, 50)
    padded = prior_to_site(prior, Grid(), (40, 56), Grid())
    assert torch.equal(padded[..., :35, :50], prior)
    assert torch.equal(padded[..., 39, 55], prior[..., 34, 49])
    bordered = prior_to_site(prior, Grid(), (35 + 36, 50 + 36), Grid(1.0, 18.0))
    assert torch.equal(bordered[..., 18:53, 18:68], prior)
    assert torch.equal(prior_to_site(bordered, Grid(1.0, 18.0), (35, 50), Grid()), prior)
    up = prior_to_site(prior, Grid(), (105, 150), Grid(1 / 3))
    assert torch.equal(up, prior.repeat_interleave(3, 2).repeat_interleave(3, 3))


def test_regions_follow_the_same_grids():
    codes = PriorBatch.from_masks(_masks(height=12, width=16))
    regions = SiteMasks.of(codes, 6)
    up = regions_to_site(regions, (24, 32), Grid(0.5))
    assert torch.equal(up.index, regions.index.repeat_interleave(2, 1).repeat_interleave(2, 2))
    down = regions_to_site(regions, (3, 4), Grid(4.0))
    assert torch.equal(down.index, regions.index[:, 2::4, 2::4])
    assert regions_to_site(regions, (12, 16), Grid()) is regions
