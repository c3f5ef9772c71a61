"""SPTNet and every recipe: exact when untrained, light, and nothing but the adapter learns."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from sptsr.archs.adapter import load_adapter, save_adapter
from sptsr.archs.call_state import current
from sptsr.archs.recipes import RECIPES
from sptsr.archs.sites import measure_sites
from sptsr.archs.spt_arch import SPTNet
from sptsr.archs.units import ModulationUnit, PlainUnit
from sptsr.archs.weights import read_weights, state_digest
from sptsr.core.errors import UserError
from sptsr.core.registry import ARCH_REGISTRY, UNIT_REGISTRY, lookup
from sptsr.images.folder import ImageFolder
from sptsr.masks.batch import PriorBatch
from sptsr.restoring.tiling import restore_padded
from tests.archs.cases import CASES, LADDER, UNITS, inputs, make_net, trained

SIZES = ((37, 53), (16, 16), (9, 21))


@torch.no_grad()
def _restored(net: SPTNet, lq: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    return restore_padded(net, lq, PriorBatch.from_masks(masks), net.sizes, net.scale)


@torch.no_grad()
def _alone(backbone: nn.Module, net: SPTNet, lq: torch.Tensor) -> torch.Tensor:
    return restore_padded(lambda image, _: backbone(image), lq, None, net.sizes, net.scale)


@pytest.mark.parametrize('unit', [*UNITS, LADDER])
@pytest.mark.parametrize('case', CASES)
def test_every_recipe_with_every_unit(case: str, unit: str, tmp_path: Path):
    arch, arguments = CASES[case]
    net = make_net(case, unit)
    record = RECIPES[arch].resolve(arch, arguments)
    channels = record.in_channels
    paths = [site.path for site in net.sites]
    measured, scale = measure_sites(net.backbone, paths, torch.rand(1, channels, 40, 80))
    assert measured == net.sites  # channels, layout, stride
    assert scale == net.scale == record.scale
    assert len(net.sites) >= 2
    before = state_digest(net.backbone)
    alone = copy.deepcopy(net.backbone)
    for size in SIZES:
        lq, masks = inputs(*size, channels=channels)
        expected = _alone(alone, net, lq)
        assert expected.shape[-2:] == (size[0] * scale, size[1] * scale)
        assert torch.equal(_restored(net, lq, masks), expected)  # step 0
        with net.units_off():
            assert torch.equal(_restored(net, lq, masks), expected)

    initial = {name: value.detach().clone() for name, value in net.adapter_parameters().items()}
    net.train()
    assert not net.backbone.training
    trained(net, channels=channels)
    assert state_digest(net.backbone) == before
    assert not any(p.requires_grad for p in net.backbone.parameters())
    unmoved = [name for name, value in net.adapter_parameters().items() if torch.equal(value, initial[name])]
    # the last unit's prior goes nowhere but into its own output, so all tensors have a gradient
    assert unmoved == []

    save_adapter(tmp_path / 'a.safetensors', net, {'backbone': {'type': arch}}, 2)
    other = make_net(case, unit, seed=99)
    other.backbone.load_state_dict(net.backbone.state_dict())
    lq, masks = inputs(11, 17, channels=channels)
    assert not torch.equal(_restored(other, lq, masks), _restored(net, lq, masks))
    load_adapter(other, tmp_path / 'a.safetensors')
    assert torch.equal(_restored(other, lq, masks), _restored(net, lq, masks))
    assert torch.equal(_alone(net.backbone, net, lq), _alone(alone, net, lq))  # called by itself it is what it was
    with pytest.raises(UserError, match=f'trained for {arch} .*this backbone holds others'):
        load_adapter(make_net(case, unit, seed=5), tmp_path / 'a.safetensors')


def test_every_recipe_and_every_unit_has_a_case():
    assert {arch for arch, _ in CASES.values()} == set(RECIPES)
    assert set(UNITS) == set(UNIT_REGISTRY.keys())


def test_masks_matter_to_modulation_and_not_to_plain():
    lq, masks = inputs(14, 15)
    outputs = {}
    for unit in UNITS:
        net = trained(make_net('IMDN', unit))
        with torch.no_grad():
            outputs[unit] = (net(lq, masks), net(lq, 1 - masks))
    assert not torch.equal(*outputs['ModulationUnit'])
    assert torch.equal(*outputs['PlainUnit'])
    plain = trained(make_net('IMDN', 'PlainUnit'))
    with torch.no_grad():
        assert torch.equal(plain(lq, None), outputs['PlainUnit'][0])


def test_adapters_are_light_at_the_default_width():
    for backbone, limit in (
        ({'type': 'IMDN'}, 0.08),
        ({'type': 'EDSR', 'num_in_ch': 3, 'num_out_ch': 3}, 0.03),
    ):
        net = SPTNet(backbone)
        own = sum(p.numel() for p in net.backbone.parameters())
        assert sum(p.numel() for p in net.adapter_parameters().values()) <= limit * own


def test_a_copy_is_independent():
    net = make_net('IMDN')
    twin = copy.deepcopy(net)
    trained(twin)
    lq, masks = inputs(10, 10)
    with torch.no_grad():
        assert torch.equal(net(lq, masks), net.backbone(lq))
        assert not torch.equal(twin(lq, masks), net(lq, masks))


def test_an_error_in_the_backbone_leaves_no_state():
    net = make_net('IMDN')
    with pytest.raises(RuntimeError):
        net(torch.rand(1, 4, 8, 8), torch.rand(1, 5, 8, 8))
    assert current.get() is None
    handle = net.backbone.get_submodule('LR_conv').register_forward_hook(lambda *_: 1 / 0)
    lq, masks = inputs(8, 8)
    with pytest.raises(UserError, match='ZeroDivisionError: division by zero'):
        net(lq, masks)
    handle.remove()
    assert current.get() is None
    assert torch.equal(net(lq, masks), net.backbone(lq))


@pytest.mark.parametrize('masks', [None, torch.zeros(2, 4, 8, 8), torch.zeros(2, 5, 8, 9), torch.zeros(1, 5, 8, 8)])
def test_wrong_masks_are_refused(masks):
    with pytest.raises(ValueError, match='masks must be'):
        make_net('IMDN')(torch.rand(2, 3, 8, 8), masks)


def test_codes_and_dense_masks_are_the_same_to_a_network():
    lq, masks = inputs(14, 15)
    for unit in UNITS:
        net = trained(make_net('IMDN', unit))
        with torch.no_grad():
            assert torch.equal(net(lq, masks), net(lq, PriorBatch.from_masks(masks)))
    with pytest.raises(ValueError, match=r'masks must be \[2, 14, 15\]'):
        net(lq, PriorBatch.from_masks(masks[..., :14]))


def test_every_unit_is_as_large_as_its_control():
    for case in ('IMDN', 'SwinIR denoising'):
        counts = {unit: sum(p.numel() for p in make_net(case, unit).adapter_parameters().values()) for unit in UNITS}
        assert len(set(counts.values())) == 1
        assert counts['PlainUnit'] > 1000


def test_units_start_as_identity_for_extreme_features():
    for unit in (ModulationUnit(6, 4), PlainUnit(6, 4)):
        features = torch.tensor([0.0, 1e30, -1e30, 1e-38, -3.0, 7.5]).view(1, 6, 1, 1).expand(1, 6, 3, 3).contiguous()
        out, prior = unit(features, torch.randn(1, 4, 3, 3))
        assert torch.equal(out, features)
        assert prior.shape == (1, 4, 3, 3)


@pytest.mark.cuda
def test_cuda_agrees_with_cpu():
    net = trained(make_net('IMDN'))
    lq, masks = inputs(20, 24)
    with torch.no_grad():
        expected = net(lq, masks)
        got = net.cuda()(lq.cuda(), masks.cuda()).cpu()
    assert (got - expected).abs().max() < 1e-3


@pytest.mark.data
@pytest.mark.parametrize('scale', [2, 3, 4])
def test_untrained_sptnet_gives_the_official_networks_images_bit_for_bit(real_data: Path, scale: int):
    weights = str(real_data / 'weights' / f'IMDN_x{scale}.pth')
    net = SPTNet({'type': 'IMDN', 'upscale': scale}, weights).eval()
    alone = lookup(ARCH_REGISTRY, 'IMDN')(upscale=scale).eval()
    alone.load_state_dict(read_weights(weights))
    images = ImageFolder(real_data / 'sr' / 'Set5' / f'LRx{scale}')
    for key in images.keys:
        lq = torch.from_numpy(images.read(key)).permute(2, 0, 1)[None].float() / 255
        masks = (torch.rand(1, 64, *lq.shape[-2:]) < 0.5).float()
        with torch.no_grad():
            assert torch.equal(net(lq, masks), alone(lq))
