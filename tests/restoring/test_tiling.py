from dataclasses import replace

import pytest
import torch
from torch import nn

from sptsr import attach, make_prior, restore
from sptsr.archs.sizes import SizeRules
from sptsr.archs.spt_arch import SPTNet
from sptsr.archs.units import RegionUnit
from sptsr.commands.demo import NETWORK
from sptsr.evaluation.cost import peak_bytes
from sptsr.masks.batch import PriorBatch
from sptsr.priors.extract import build_source
from sptsr.restoring.tiling import restore_padded, restore_tiled
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


@pytest.mark.parametrize('size', [(40, 61), (33, 32), (1, 1), (5, 100)])
@torch.no_grad()
def test_tiles_give_the_whole_image_once_the_overlap_covers_the_receptive_field(size):
    net = _net()
    lq, masks = torch.rand(1, 3, *size), PriorBatch.from_masks(torch.rand(1, 6, *size) < 0.5)
    whole = net(lq, masks)
    tiled = restore_tiled(net, lq, masks, SizeRules(), 2, tile=16, overlap=12)
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
]


@pytest.mark.parametrize('unit', UNITS, ids=lambda unit: ' '.join(unit.values()))
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
    lq = torch.from_numpy(photograph('coffee.png', *size)).permute(2, 0, 1)[None].float() / 255
    prior = build_source('felzenszwalb')(photograph('coffee.png', *size), 'coffee', 6)
    masks, rules = PriorBatch.of([prior]), SizeRules(grid=2)
    calls = []

    def forward(part, part_masks):
        calls.append(part.shape)
        return net(part, part_masks)

    whole = net(lq, masks)
    tiled = restore_tiled(forward, lq, masks, rules, 1, tile=32, overlap=28)
    assert (tiled - whole).abs().max() < 1e-3
    tiles = -(-size[0] // 32) * -(-size[1] // 32)
    assert len(calls) % tiles == 0
    if unit['type'] == 'RegionUnit':
        assert 2 <= len(calls) // tiles <= 7
        one_pass = restore_tiled(lambda part, codes: net(part, replace(codes, tile=None)), lq, masks, rules, 1, 32, 28)
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
        assert len(seen) == (side // 32) ** 2
        assert max(seen) == 48 * 48 if side > 64 else 40 * 40


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
    lq, codes = torch.rand(1, 3, 75, 94), PriorBatch.from_masks(torch.rand(1, 6, 75, 94) < 0.5)
    whole = restore_padded(net, lq, codes, net.sizes, net.scale)
    tiled = restore_tiled(net, lq, codes, net.sizes, net.scale, tile=31, overlap=44)
    difference = (tiled - whole).abs().max()
    assert difference < 1e-3
    no_masks = restore_padded(net, lq, PriorBatch.from_masks(torch.zeros(1, 6, 75, 94)), net.sizes, net.scale)
    assert (no_masks - whole).abs().max() > 10 * difference  # masks play a part


def test_the_memory_of_tiles_grows_by_the_pixels_of_the_image_alone():
    net = attach(NETWORK).eval()
    peaks = []
    for side in (128, 256):
        image = photograph('astronaut.png', side, side)
        prior = make_prior(image)
        peaks.append(peak_bytes(lambda image=image, prior=prior: restore(net, image, prior, tile=32), 'cpu'))
    # 3 bytes a pixel of the result, and 64 for each of the LQ image: its values, its masks, and sums over them
    assert peaks[1] - peaks[0] < (256**2 - 128**2) * (3 * net.scale**2 + 64)
