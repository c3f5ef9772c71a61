"""`examples/region_units.py`: soft regions and attention say what brute force over dense masks says."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sptsr
from sptsr.archs.pooling import SiteMasks
from sptsr.archs.spt_arch import SPTNet
from sptsr.commands.demo import NETWORK, WEIGHTS
from sptsr.core.errors import UserError
from sptsr.core.registry import UNIT_REGISTRY, import_plugins, lookup
from sptsr.masks.batch import PriorBatch
from sptsr.masks.prior import Prior
from sptsr.priors.extract import build_source
from sptsr.restoring.tiling import restore_tiled
from tests.conftest import photograph

FILE = str(Path(__file__).parents[2] / 'examples' / 'region_units.py')


def unit(name: str, **options: int) -> nn.Module:
    import_plugins([FILE])
    return lookup(UNIT_REGISTRY, name)(6, 6, **options)


@pytest.fixture(scope='module')
def prior() -> Prior:
    image = photograph('coffee.png', 26, 37)
    found = build_source('felzenszwalb', ['min_size=8'])(image, 'x', 64)
    assert found.count > 5
    return found


def test_soft_regions_are_those_of_dense_soft_masks(prior: Prior):
    cut = prior.crop(3, 5, 12, 15)
    hard = F.pad(torch.from_numpy(cut.decode()).double(), (2, 2, 2, 2))
    query = torch.rand(1, 6, 12, 15, generator=torch.Generator().manual_seed(0))
    got = unit('SoftRegionUnit')._pooled(query, SiteMasks.of(PriorBatch.of([cut]), 64))[0]
    shares = torch.stack([hard[:, y : y + 12, x : x + 15] for y in range(5) for x in range(5)]).mean(0)
    areas = shares.sum((1, 2))
    expected = torch.zeros(6, 12, 15, dtype=torch.float64)
    for y in range(12):
        for x in range(15):
            weights = torch.where(areas > 0, shares[:, y, x] / areas, 0)
            means = [(share * query[0]).sum((1, 2)) / area for share, area in zip(shares, areas, strict=True)]
            told = sum(w * mean for w, mean in zip(weights, means, strict=True) if w > 0)
            expected[:, y, x] = told / weights.sum() if weights.sum() > 0 else 0
    torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('size', [(12, 16), (9, 14)])
def test_attention_looks_at_the_most_similar_of_the_same_region(prior: Prior, size: tuple[int, int]):
    cut = prior.crop(3, 5, *size)
    dense = torch.from_numpy(cut.decode())
    query = torch.randn(1, 6, *size, generator=torch.Generator().manual_seed(0))
    attention = unit('RegionAttentionUnit', nearest=2)
    got = attention._attended(query, SiteMasks.of(PriorBatch.of([cut]), 64))[0]
    blocks = [(y, x) for y in range(0, size[0], 4) for x in range(0, size[1], 4)]
    means = [query[0, :, y : y + 4, x : x + 4].mean((1, 2)) for y, x in blocks]
    regions = [max([n for n in range(len(dense)) if dense[n, y, x]], default=-1) for y, x in blocks]
    for number, mean in enumerate(means):
        same = [other for other, region in zip(means, regions, strict=True) if region == regions[number]]
        scores = torch.stack([torch.cosine_similarity(mean, other, dim=0) for other in same])
        best = scores.topk(min(2, len(same)))
        expected = sum(w * same[n] for w, n in zip((10 * best.values).softmax(0), best.indices, strict=True))
        torch.testing.assert_close(got.flatten(1)[:, number], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', ['SoftRegionUnit', 'RegionAttentionUnit'])
def test_networks_with_these_units_start_as_they_are_and_learn(prior: Prior, name: str):
    import_plugins([FILE])
    torch.manual_seed(0)
    net = SPTNet(NETWORK, str(WEIGHTS), unit={'type': name, 'stem': 'geometry', 'width': 8}).eval()
    lq, masks = torch.rand(1, 3, 26, 37), PriorBatch.of([prior])
    with torch.no_grad():
        assert torch.equal(net(lq, masks), net.backbone(lq))
    optimizer = torch.optim.Adam(net.adapter_parameters().values(), 1e-2)
    losses = []
    for _ in range(5):
        loss = (net(lq, masks) - 0.5).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(parameter.grad.abs().max() > 0 for parameter in net.adapter_parameters().values())
    with pytest.raises(UserError, match='knows no tiles'):
        restore_tiled(net, lq, masks, net.sizes, net.scale, 16, 4)
    with torch.autocast('cpu', torch.bfloat16), torch.no_grad():
        half = net(lq, masks)
    with torch.no_grad():
        assert (half - net(lq, masks)).abs().max() < 0.05


def test_their_options_are_checked():
    import_plugins([FILE])
    net = sptsr.attach(NETWORK, unit='RegionAttentionUnit', stem='geometry', nearest=3, width=8)
    assert net.units[0].nearest == 3
    with pytest.raises(UserError, match='nearest'):
        sptsr.attach(NETWORK, unit='RegionAttentionUnit', stem='geometry', nearest=0)
    with pytest.raises(UserError, match='nearest'):
        sptsr.attach(NETWORK, unit='SoftRegionUnit', stem='geometry', nearest=3)
