"""`examples/region_units.py`: soft regions and attention say what brute force over dense masks says."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sptsr.archs.pooling import SiteMasks
from sptsr.archs.spt_arch import SPTNet
from sptsr.commands.demo import NETWORK, WEIGHTS
from sptsr.core.registry import UNIT_REGISTRY, import_plugins, lookup
from sptsr.masks.batch import PriorBatch
from sptsr.masks.prior import Prior
from sptsr.priors.extract import build_source
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


def _around(mask: Tensor) -> Tensor:
    """Returns the share of a mask in the 5x5 pixels around each pixel, of those that are there."""
    height, width = mask.shape
    rows = [[mask[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3].mean() for x in range(width)] for y in range(height)]
    return torch.tensor(rows)


def test_soft_regions_are_those_of_dense_soft_masks(prior: Prior):
    cut = prior.crop(3, 5, 12, 15)
    dense = torch.from_numpy(cut.decode()).float()
    query = torch.rand(1, 6, 12, 15, generator=torch.Generator().manual_seed(0))
    got = unit('SoftRegionUnit')._pooled(query, SiteMasks.of(PriorBatch.of([cut]), 64))[0]
    around = torch.stack([_around(plane) for plane in query[0]])
    areas = dense.sum((1, 2)).clamp(min=1)
    means = torch.einsum('nhw,chw->nc', dense, around) / areas[:, None]
    weights = dense / areas[:, None, None]
    weights = weights / weights.sum(0).clamp(min=1e-30)
    painted = torch.einsum('nhw,nc->chw', weights, means)
    torch.testing.assert_close(got, torch.stack([_around(plane) for plane in painted]))


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
    if name == 'RegionAttentionUnit':
        assert all(parameter.grad is not None for parameter in net.adapter_parameters().values())
