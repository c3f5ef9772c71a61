import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from sptsr import attach, make_prior, restore
from sptsr.archs.backbone import build_network
from sptsr.archs.call import call_network
from sptsr.archs.recipes import RECIPES
from sptsr.archs.sizes import SizeRules
from sptsr.archs.spt_arch import SPTNet
from sptsr.archs.units import RegionUnit
from sptsr.commands.demo import NETWORK
from sptsr.evaluation.cost import peak_bytes
from sptsr.masks.batch import PriorBatch
from sptsr.priors.extract import build_source
from sptsr.restoring.memory import bytes_a_pixel
from sptsr.restoring.tiling import cuts, restore_padded, restore_tiled
from tests.conftest import photograph


def _net() -> SPTNet:
    """A trained-looking SPTNet with a receptive field of about 20 pixels."""
    torch.manual_seed(0)
    body = nn.Sequential(*[nn.Conv2d(3, 3, 3, padding=1) for _ in range(3)], nn.Upsample(scale_factor=2))
    net = SPTNet(body, sites=['0', '1'], unit={'type': 'ModulationUnit', 'width': 4}, num_masks=6).eval()
    for name, value in net.adapter_parameters().items():
        if 'out' in name:
            nn.init.normal_(value, std=0.3)
    return net


@pytest.mark.parametrize('size', [(40, 61), (33, 32), (1, 1), (5, 300)])
@torch.no_grad()
def test_tiles_give_the_whole_image_once_the_overlap_covers_the_receptive_field(size):
    net = _net()
    lq, masks = torch.rand(1, 3, *size), PriorBatch.from_masks(torch.rand(1, 6, *size) < 0.5)
    whole = net(lq, masks)
    assert size == (1, 1) or cuts(*size, 4, 12, SizeRules()) != size
    tiled = restore_tiled(net, lq, masks, SizeRules(), 2, tile=4, overlap=12)
    assert tiled.shape == whole.shape
    assert (tiled - whole).abs().max() < 1e-5
    if min(size) > 20:
        rough = restore_tiled(net, lq, masks, SizeRules(), 2, tile=16, overlap=0)
        assert (rough - whole).abs().max() > 1e-4  # the test can tell


class TwoResolutions(nn.Module):
    """Takes any size; three blocks at the size of the image and three at half of it."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.tail = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 3, 3, padding=1)
        self.fine = nn.ModuleList(nn.Conv2d(6, 6, 3, padding=1) for _ in range(3))
        self.coarse = nn.ModuleList(nn.Conv2d(6, 6, 3, stride=2 if n == 0 else 1, padding=1) for n in range(3))

    def forward(self, lq):
        x = self.head(lq)
        for block in self.fine:
            x = x + block(x)
        y = x
        for block in self.coarse:
            y = block(y)
        return self.tail(x + nn.functional.interpolate(y, scale_factor=2)[..., : x.shape[-2], : x.shape[-1]])


UNITS = [
    {'type': 'ModulationUnit'},
    {'type': 'ModulationUnit', 'path': 'ladder'},
    {'type': 'PlainUnit'},
    {'type': 'RegionUnit'},
    {'type': 'RegionUnit', 'path': 'ladder'},
    {'type': 'RegionUnit', 'spread': True},
]


@pytest.mark.parametrize('unit', UNITS, ids=lambda unit: ' '.join(map(str, unit.values())))
@pytest.mark.parametrize('size', [(101, 122), (64, 80)])
@torch.no_grad()
def test_every_unit_gives_tiled_what_it_gives_whole(unit, size):
    """Six sites at two resolutions; the units change the image by more than trained ones do."""
    torch.manual_seed(0)
    net = SPTNet(TwoResolutions(), sites=['fine.*', 'coarse.*'], unit={**unit, 'width': 4}, num_masks=6).eval()
    assert [site.grid.stride for site in net.sites] == [1, 1, 1, 2, 2, 2]
    for name, value in net.adapter_parameters().items():
        if 'out.' in name or 'join' in name:
            nn.init.normal_(value, std=0.3)
        elif 'query' in name:
            value *= 5
        elif 'spread' in name:
            value += 3
    lq = torch.from_numpy(photograph('coffee.png', *size)).permute(2, 0, 1)[None].float() / 255
    prior = build_source('felzenszwalb')(photograph('coffee.png', *size), 'coffee', 6)
    masks, rules = PriorBatch.of([prior]), SizeRules(grid=2)
    calls = []

    def forward(part, part_masks):
        calls.append(part.shape)
        return net(part, part_masks)

    whole = net(lq, masks)
    tiled = restore_tiled(forward, lq, masks, rules, 1, tile=8, overlap=28)
    assert (tiled - whole).abs().max() < 1e-3
    tiles = math.prod(-(-side // part) for side, part in zip(size, cuts(*size, 8, 28, rules), strict=True))
    assert tiles > 1
    assert len(calls) % tiles == 0
    if unit['type'] == 'RegionUnit':
        assert 2 <= len(calls) // tiles <= 7
        one_pass = restore_tiled(lambda part, codes: net(part, replace(codes, tile=None)), lq, masks, rules, 1, 8, 28)
        assert (one_pass - whole).abs().max() > 3e-3  # averages over tiles would be noticed
    else:
        assert len(calls) == tiles


@torch.no_grad()
def test_averages_that_are_no_numbers_end_the_passes():
    net = _net()
    unit = RegionUnit(3, 4)
    net.units[0], net.uses_regions = unit, True
    nn.init.constant_(unit.query.weight, float('nan'))
    lq, masks = torch.rand(1, 3, 40, 40), PriorBatch.from_masks(torch.rand(1, 6, 40, 40) < 0.5)
    calls = []
    restore_tiled(lambda a, b: calls.append(1) or net(a, b), lq, masks, SizeRules(), 2, 20, 0)
    assert len(calls) == 4 * 2


@torch.no_grad()
def test_tiles_move_lq_and_masks_together():
    def forward(lq, masks):
        return lq * masks.expand(3)

    lq, masks = torch.rand(1, 3, 50, 37), PriorBatch.from_masks(torch.rand(1, 4, 50, 37) < 0.5)
    assert torch.equal(restore_tiled(forward, lq, masks, SizeRules(8), 1, 13, 5), lq * masks.expand(3))


@pytest.mark.parametrize('rules', [SizeRules(), SizeRules(grid=2), SizeRules(8), SizeRules(8, minimum=64)])
@pytest.mark.parametrize('overlap', [0, 8, 32])
def test_tiles_have_no_more_pixels_than_square_ones_and_compute_no_more_in_all(rules, overlap):
    rng = np.random.default_rng(0)
    less = 0
    for _ in range(100):
        height, width = (int(side) for side in rng.integers(1, 700, 2))
        tile = int(rng.integers(1, 12)) * 16
        sizes = []

        def forward(lq, masks, sizes=sizes):
            sizes.append(lq.shape[-2] * lq.shape[-1])
            return lq

        lq = torch.rand(1, 1, height, width)
        assert torch.equal(restore_tiled(forward, lq, None, rules, 1, tile, overlap), lq)
        side = tile + 2 * overlap
        assert max(sizes) <= max(side, rules.minimum) ** 2
        squares = squares_of(height, tile, overlap, rules) * squares_of(width, tile, overlap, rules)
        assert sum(sizes) <= squares
        less += sum(sizes) < squares
    assert less > 50 or overlap == 0


def squares_of(length: int, tile: int, overlap: int, rules: SizeRules) -> int:
    """Returns how many rows of pixels are computed where tiles are squares."""
    ends = ((max(n - overlap, 0), min(n + tile + overlap, length)) for n in range(0, length, tile))
    return sum(max(-(-(stop - start) // rules.multiple) * rules.multiple, rules.minimum) for start, stop in ends)


def test_the_shape_of_tiles():
    assert cuts(321, 481, 256, 32, SizeRules()) == (321, 241)
    assert cuts(321, 481, 256, 32, SizeRules(8)) == (321, 248)
    assert cuts(321, 481, 256, 32, SizeRules(square=True)) == (256, 256)
    assert cuts(300, 300, 256, 32, SizeRules()) == (300, 300)
    assert cuts(1, 1, 1, 0, SizeRules()) == (1, 1)


@pytest.mark.parametrize('size', [(8, 16), (9, 13), (3, 5), (1, 1)])
def test_padding_reaches_the_multiple_and_is_cut_off(size):
    seen = []

    def forward(lq, masks):
        seen.append((lq.shape, masks.shape))
        return lq.repeat_interleave(2, 2).repeat_interleave(2, 3)

    lq = torch.rand(1, 3, *size)
    result = restore_padded(forward, lq, PriorBatch.from_masks(torch.rand(1, 2, *size) < 0.5), SizeRules(8), 2)
    assert torch.equal(result, lq.repeat_interleave(2, 2).repeat_interleave(2, 3))
    assert all(side % 8 == 0 for shape in seen[0] for side in shape[-2:])
    assert seen[0][0][-2:] == seen[0][1][-2:]


def test_bad_tiles_are_refused():
    with pytest.raises(ValueError, match='tile must be at least 1'):
        restore_tiled(lambda lq, masks: lq, torch.rand(1, 3, 4, 4), None, SizeRules(), 1, 0, 0)


def test_memory_of_a_pass_does_not_grow_with_the_image():
    """Neither the input of the network nor the dense masks that it expands exceed a tile with its margins."""
    for side in (64, 256):
        seen = []

        def forward(lq, masks, seen=seen):
            seen.append(lq.shape[-1] * lq.shape[-2])
            assert masks.expand(64).shape[-2:] == lq.shape[-2:]
            return lq

        lq = torch.rand(1, 3, side, side)
        codes = PriorBatch.from_masks(torch.rand(1, 64, side, side) < 0.5)
        assert torch.equal(restore_tiled(forward, lq, codes, SizeRules(), 1, tile=32, overlap=8), lq)
        assert len(seen) >= (side // 48) ** 2
        assert max(seen) <= 48 * 48


@pytest.mark.parametrize('case', ['EDSR', 'MSRResNet', 'SRVGGNetCompact', 'FFDNet', 'DnCNN', 'RRDBNet'])
@torch.no_grad()
def test_tiles_of_real_networks(case: str):
    """Convolutional backbones, once the overlap covers the receptive field: to 1e-3 of 0..1."""
    small = {
        'EDSR': {'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 8, 'num_block': 2, 'upscale': 2},
        'MSRResNet': {'num_feat': 8, 'num_block': 2, 'upscale': 3},
        'SRVGGNetCompact': {'num_feat': 8, 'num_conv': 6, 'upscale': 2},
        'FFDNet': {'nc': 8, 'nb': 7},
        'DnCNN': {'in_nc': 3, 'out_nc': 3, 'nc': 8, 'nb': 7},
        'RRDBNet': {'num_in_ch': 3, 'num_out_ch': 3, 'scale': 2, 'num_feat': 8, 'num_block': 2, 'num_grow_ch': 4},
    }
    torch.manual_seed(0)
    net = SPTNet({'type': case, **small[case]}, unit={'type': 'ModulationUnit', 'width': 4}, num_masks=6).eval()
    for name, value in net.adapter_parameters().items():
        if 'out' in name:
            nn.init.normal_(value, std=0.3)
    lq, codes = torch.rand(1, 3, 141, 150), PriorBatch.from_masks(torch.rand(1, 6, 141, 150) < 0.5)
    whole = restore_padded(net, lq, codes, net.sizes, net.scale)
    tiled = restore_tiled(net, lq, codes, net.sizes, net.scale, tile=15, overlap=44)
    assert cuts(141, 150, 15, 44, net.sizes) != (141, 150)
    difference = (tiled - whole).abs().max()
    assert difference < 1e-3
    no_masks = restore_padded(net, lq, PriorBatch.from_masks(torch.zeros(1, 6, 141, 150)), net.sizes, net.scale)
    assert (no_masks - whole).abs().max() > 10 * difference  # masks play a part


@pytest.mark.parametrize('case', ['IMDN', 'EDSR', 'FFDNet', 'CARN', 'RRDBNet', 'SwinIR'])
@torch.inference_mode()
def test_the_estimate_of_memory_is_no_less_than_what_a_pass_takes(case: str):
    record = RECIPES[case].resolve(case, RECIPES[case].usual)
    net = build_network({'type': case, **RECIPES[case].usual}).eval()
    lq = torch.rand(1, record.in_channels, 48, 48)
    taken = peak_bytes(lambda: call_network(net, lq, torch.full((1,), 0.1)), 'cpu') / 48**2
    estimate = bytes_a_pixel(net, record.sizes, record.in_channels)
    assert taken <= estimate * 1.1
    assert estimate < 4 * taken


def test_the_memory_of_tiles_grows_by_the_pixels_of_the_image_alone():
    net = attach(NETWORK).eval()
    peaks = []
    for side in (128, 256):
        image = photograph('astronaut.png', side, side)
        prior = make_prior(image)
        peaks.append(peak_bytes(lambda image=image, prior=prior: restore(net, image, prior, tile=32), 'cpu'))
    # 3 bytes a pixel of the result, and 64 for each of the LQ image: its values, its masks, and sums over them
    assert peaks[1] - peaks[0] < (256**2 - 128**2) * (3 * net.scale**2 + 64)
