"""SPTNet and every recipe: exact when untrained, light, and nothing but the adapter learns."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from sptsr.archs.adapter import load_adapter, read_adapter, save_adapter
from sptsr.archs.recipes import RECIPES
from sptsr.archs.sites import match_sites, measure_sites
from sptsr.archs.spt_arch import SPTNet
from sptsr.archs.units import ModulationUnit, PlainUnit
from sptsr.archs.weights import read_weights, state_digest
from sptsr.codes import MaskCodes
from sptsr.errors import UserError
from sptsr.images import ImageFolder
from sptsr.registry import ARCH_REGISTRY, UNIT_REGISTRY, lookup
from sptsr.sizing import restore_padded

# Each recipe at least once, in the variants that change its numbers.
CASES = {
    'IMDN': ('IMDN', {'nf': 16, 'num_modules': 2, 'upscale': 3}),
    'EDSR': ('EDSR', {'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 16, 'num_block': 4, 'upscale': 2}),
    'MSRResNet': ('MSRResNet', {'num_feat': 16, 'num_block': 4, 'upscale': 2}),
    'RCAN': ('RCAN', {'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 16, 'num_group': 2, 'num_block': 1, 'upscale': 2}),
    **{
        f'RRDBNet x{scale}': (
            'RRDBNet',
            {'num_in_ch': 3, 'num_out_ch': 3, 'scale': scale, 'num_feat': 8, 'num_block': 5, 'num_grow_ch': 4},
        )
        for scale in (4, 2, 1)
    },
    **{
        f'SwinIR {upsampler or "denoising"}': (
            'SwinIR',
            {
                **{'img_size': 16, 'window_size': 4, 'embed_dim': 12, 'depths': [2, 2], 'num_heads': [2, 2]},
                **{'mlp_ratio': 2, 'upscale': 4, 'upsampler': upsampler, 'resi_connection': '3conv'},
            },
        )
        for upsampler in ('pixelshuffledirect', 'pixelshuffle', 'nearest+conv', '')
    },
    'SRVGGNetCompact': ('SRVGGNetCompact', {'num_feat': 8, 'num_conv': 8, 'upscale': 2}),
    'SRVGGNetCompact relu': ('SRVGGNetCompact', {'num_feat': 8, 'num_conv': 8, 'upscale': 2, 'act_type': 'relu'}),
    'ECBSR': ('ECBSR', {**RECIPES['ECBSR'].usual, 'num_channel': 8, 'num_block': 2, 'scale': 2}),
    'RIDNet': ('RIDNet', {**RECIPES['RIDNet'].usual, 'mid_channels': 16, 'num_block': 2}),
    'CARN': ('CARN', {'nf': 8, 'upscale': 3}),
    'CARN_M': ('CARN_M', {'nf': 16, 'upscale': 4}),
    'FFDNet': ('FFDNet', {'nc': 12, 'nb': 9}),
    'FFDNet gray': ('FFDNet', {'in_nc': 1, 'out_nc': 1, 'nc': 12, 'nb': 9}),
    'DnCNN': ('DnCNN', {'nc': 8, 'nb': 9}),
    'DnCNN BR': ('DnCNN', {'in_nc': 3, 'out_nc': 3, 'nc': 8, 'nb': 9, 'act_mode': 'BR'}),
}
UNITS = ('ModulationUnit', 'PlainUnit', 'RegionUnit')
SIZES = ((37, 53), (16, 16), (9, 21))
WALKED = []


def _net(case: str, unit: str = 'ModulationUnit', seed: int = 0, **options) -> SPTNet:
    torch.manual_seed(seed)
    arch, arguments = CASES[case]
    return SPTNet({'type': arch, **arguments}, unit={'type': unit, 'width': 8}, num_masks=5, **options)


def _inputs(height: int, width: int, batch: int = 2, channels: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.rand(batch, channels, height, width), (torch.rand(batch, 5, height, width) < 0.4).float()


def _trained(net: SPTNet, steps: int = 2, channels: int = 3) -> SPTNet:
    lq, masks = _inputs(12, 16, channels=channels)
    optimizer = torch.optim.Adam(net.adapter_parameters().values(), 1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        (net(lq, masks) - 0.3).abs().mean().backward()
        optimizer.step()
    return net


@torch.no_grad()
def _restored(net: SPTNet, lq: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    return restore_padded(net, lq, MaskCodes.from_masks(masks), net.sizes, net.scale)


@torch.no_grad()
def _alone(backbone: nn.Module, net: SPTNet, lq: torch.Tensor) -> torch.Tensor:
    return restore_padded(lambda image, _: backbone(image), lq, None, net.sizes, net.scale)


@pytest.mark.parametrize('unit', UNITS)
@pytest.mark.parametrize('case', CASES)
def test_every_recipe_with_every_unit(case: str, unit: str, tmp_path: Path):
    arch, arguments = CASES[case]
    net = _net(case, unit)
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
        lq, masks = _inputs(*size, channels=channels)
        expected = _alone(alone, net, lq)
        assert expected.shape[-2:] == (size[0] * scale, size[1] * scale)
        assert torch.equal(_restored(net, lq, masks), expected)  # step 0
        with net.units_off():
            assert torch.equal(_restored(net, lq, masks), expected)

    initial = {name: value.detach().clone() for name, value in net.adapter_parameters().items()}
    net.train()
    assert not net.backbone.training
    _trained(net, channels=channels)
    assert state_digest(net.backbone) == before
    assert not any(p.requires_grad for p in net.backbone.parameters())
    unmoved = [name for name, value in net.adapter_parameters().items() if torch.equal(value, initial[name])]
    # the last unit's prior goes nowhere but into its own output, so all tensors have a gradient
    assert unmoved == []

    save_adapter(tmp_path / 'a.safetensors', net, {'backbone': {'type': arch}}, 2)
    other = _net(case, unit, seed=99)
    other.backbone.load_state_dict(net.backbone.state_dict())
    lq, masks = _inputs(11, 17, channels=channels)
    assert not torch.equal(_restored(other, lq, masks), _restored(net, lq, masks))
    load_adapter(other, tmp_path / 'a.safetensors')
    assert torch.equal(_restored(other, lq, masks), _restored(net, lq, masks))
    assert torch.equal(_alone(net.backbone, net, lq), _alone(alone, net, lq))  # called by itself it is what it was
    with pytest.raises(UserError, match=f'trained for {arch} .*this backbone holds others'):
        load_adapter(_net(case, unit, seed=5), tmp_path / 'a.safetensors')
    WALKED.append((case, unit))


def test_all_recipes_and_units_were_walked():
    assert {arch for arch, _ in CASES.values()} == set(RECIPES)
    assert set(UNITS) == set(UNIT_REGISTRY.keys())
    assert len(WALKED) == len(CASES) * len(UNITS) == 63


def test_masks_matter_to_modulation_and_not_to_plain():
    lq, masks = _inputs(14, 15)
    outputs = {}
    for unit in UNITS:
        net = _trained(_net('IMDN', unit))
        with torch.no_grad():
            outputs[unit] = (net(lq, masks), net(lq, 1 - masks))
    assert not torch.equal(*outputs['ModulationUnit'])
    assert torch.equal(*outputs['PlainUnit'])
    assert torch.equal(_trained(_net('IMDN', 'PlainUnit'))(lq, None), outputs['PlainUnit'][0])


def test_adapters_are_light_at_the_default_width():
    for backbone, limit in (
        ({'type': 'IMDN'}, 0.08),
        ({'type': 'EDSR', 'num_in_ch': 3, 'num_out_ch': 3}, 0.03),
    ):
        net = SPTNet(backbone)
        own = sum(p.numel() for p in net.backbone.parameters())
        assert sum(p.numel() for p in net.adapter_parameters().values()) <= limit * own


def test_a_copy_is_independent():
    net = _net('IMDN')
    twin = copy.deepcopy(net)
    _trained(twin)
    lq, masks = _inputs(10, 10)
    with torch.no_grad():
        assert torch.equal(net(lq, masks), net.backbone(lq))
        assert not torch.equal(twin(lq, masks), net(lq, masks))


def test_an_error_in_the_backbone_leaves_no_state():
    net = _net('IMDN')
    with pytest.raises(RuntimeError):
        net(torch.rand(1, 4, 8, 8), torch.rand(1, 5, 8, 8))
    assert net._call is None
    handle = net.backbone.get_submodule('LR_conv').register_forward_hook(lambda *_: 1 / 0)
    lq, masks = _inputs(8, 8)
    with pytest.raises(ZeroDivisionError):
        net(lq, masks)
    handle.remove()
    assert net._call is None
    assert torch.equal(net(lq, masks), net.backbone(lq))


@pytest.mark.parametrize('masks', [None, torch.zeros(2, 4, 8, 8), torch.zeros(2, 5, 8, 9), torch.zeros(1, 5, 8, 8)])
def test_wrong_masks_are_refused(masks):
    with pytest.raises(ValueError, match='masks must be'):
        _net('IMDN')(torch.rand(2, 3, 8, 8), masks)


class Down(nn.Module):
    """A user's own network with a site at half resolution, one that returns a tuple, and one that is unused."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 8, 3, padding=1)
        self.down = nn.Conv2d(8, 12, 2, stride=2)
        self.up = nn.ConvTranspose2d(12, 8, 2, stride=2)
        self.tail = nn.Conv2d(8, 3, 3, padding=1)
        self.pair = nn.MaxPool2d(1, return_indices=True)
        self.unused = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        features, _ = self.pair(self.up(self.down(self.head(x))))
        return self.tail(features) + x


def test_sites_of_any_network_are_measured_and_the_prior_is_resized():
    torch.manual_seed(0)
    net = SPTNet(Down(), sites=['head', 'down', 're:u.'], unit={'type': 'ModulationUnit', 'width': 4}, num_masks=5)
    assert [(s.path, s.channels, s.grid.stride) for s in net.sites] == [('head', 8, 1), ('down', 12, 2), ('up', 8, 1)]
    assert net.scale == 1
    lq, masks = _inputs(12, 14)
    assert torch.equal(net(lq, masks), net.backbone(lq))
    _trained(net)
    assert not torch.equal(net(lq, masks), net.backbone(lq))


@pytest.mark.parametrize(
    ('sites', 'match'),
    [
        (['heat'], "'heat' matches no module of Down; did you mean 'head'"),
        (['head', 'tial'], "'tial' matches no module of Down; did you mean 'tail'"),
        (['qqqq'], 'its modules: head, down, up'),
        (['re:('], 'is no regular expression'),
        (['unused'], "'unused' is never called by Down"),
        (['pair'], "'pair' returns a tuple, not a feature map"),
        ([], 'the list is empty'),
        ('auto', "'auto' knows .*IMDN.*, not Down"),
    ],
)
def test_wrong_sites_name_the_closest_candidate(sites, match: str):
    with pytest.raises(UserError, match=match):
        SPTNet(Down(), sites=sites)


class Awkward(nn.Module):
    """Sites that cannot take a unit, each for another reason."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.Conv2d(8, 8, 3, padding=1)
        self.twice = nn.Conv2d(8, 8, 3, padding=1)
        self.still = nn.Conv2d(8, 8, 3, padding=1)
        self.vector = nn.AdaptiveAvgPool2d(1)
        self.gate = nn.Sigmoid()
        self.tail = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x):
        x = self.head(x)
        with torch.no_grad():
            x = x + self.still(x)
        small = self.twice(nn.functional.avg_pool2d(x, 2))
        x = self.twice(x) + nn.functional.interpolate(small, x.shape[-2:])
        x = self.body(x)
        gated = x * self.gate(self.vector(x))
        x.mul_(2)  # what the product before needs for its gradient
        return self.tail(gated + x)


@pytest.mark.parametrize(
    ('site', 'match'),
    [
        ('head', "no gradient reaches 'head' of Awkward|'head' and all others: Awkward runs them without gradients"),
        ('still', "'still'.*no_grad"),
        ('twice', r"'twice' is called with different shapes \(\[1, 8, 20, 40\] and \[1, 8, 40, 80\]\)"),
        ('vector', r"'vector' returns a tensor \[1, 8, 1, 1\] .* which is no feature map"),
        ('body', 'Awkward changes a feature in place that a unit needs'),
    ],
)
def test_sites_that_cannot_take_a_unit_are_refused(site: str, match: str):
    with pytest.raises(UserError, match=match):
        SPTNet(Awkward(), sites=[site], num_masks=5)
    assert SPTNet(Awkward(), sites=['tail'], num_masks=5).scale == 1


def test_a_module_that_is_called_again_is_refined_again():
    class Recursive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.tail = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)
            self.body = nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x):
            x = self.head(x)
            for _ in range(3):
                x = x + self.body(x)
            return self.tail(x)

    net = SPTNet(Recursive(), sites=['body'], unit={'type': 'ModulationUnit', 'width': 4}, num_masks=5)
    calls = []
    net.units[0].register_forward_hook(lambda *_: calls.append(1))
    lq, masks = _inputs(9, 10)
    assert torch.equal(net(lq, masks), net.backbone(lq))
    assert len(calls) == 3


def test_codes_and_dense_masks_are_the_same_to_a_network():
    lq, masks = _inputs(14, 15)
    for unit in UNITS:
        net = _trained(_net('IMDN', unit))
        with torch.no_grad():
            assert torch.equal(net(lq, masks), net(lq, MaskCodes.from_masks(masks)))
    with pytest.raises(ValueError, match=r'masks must be \[2, 14, 15\]'):
        net(lq, MaskCodes.from_masks(masks[..., :14]))


def test_every_unit_is_as_large_as_its_control():
    for case in ('IMDN', 'SwinIR denoising'):
        counts = {unit: sum(p.numel() for p in _net(case, unit).adapter_parameters().values()) for unit in UNITS}
        assert len(set(counts.values())) == 1
        assert counts['PlainUnit'] > 1000


def test_globs_do_not_cross_dots():
    net = lookup(ARCH_REGISTRY, 'EDSR')(3, 3, num_feat=8, num_block=3)
    assert match_sites(net, ['body.*']) == ['body.0', 'body.1', 'body.2']
    assert match_sites(net, ['body.?.conv1', 'body']) == ['body', 'body.0.conv1', 'body.1.conv1', 'body.2.conv1']


def test_wrong_backbones_and_units_are_named():
    with pytest.raises(UserError, match="no arch is called 'IMDM'; did you mean 'IMDN'"):
        SPTNet({'type': 'IMDM'})
    with pytest.raises(UserError, match="no unit is called 'ModulatonUnit'; did you mean"):
        SPTNet({'type': 'IMDN'}, unit={'type': 'ModulatonUnit'})
    with pytest.raises(UserError, match='num_masks: 65'):
        SPTNet({'type': 'IMDN'}, num_masks=65)


def test_weights_of_another_network_are_refused(tmp_path: Path):
    net = lookup(ARCH_REGISTRY, 'IMDN')(upscale=2)
    torch.save({'module.' + k: v for k, v in net.state_dict().items()}, tmp_path / 'x2.pth')
    assert SPTNet({'type': 'IMDN', 'upscale': 2}, str(tmp_path / 'x2.pth')).scale == 2
    with pytest.raises(UserError, match=r"2 of another shape, such as 'upsampler\.0\.bias' \[12\] for \[48\]"):
        SPTNet({'type': 'IMDN', 'upscale': 4}, str(tmp_path / 'x2.pth'))
    with pytest.raises(UserError, match='missing.*unknown'):
        SPTNet({'type': 'MSRResNet'}, str(tmp_path / 'x2.pth'))
    (tmp_path / 'cut.pth').write_bytes((tmp_path / 'x2.pth').read_bytes()[:5000])
    for name, match in (('cut.pth', 'not readable as weights'), ('none.pth', 'no such file')):
        with pytest.raises(UserError, match=match):
            read_weights(tmp_path / name)


def test_one_file_with_two_sets_of_tensors_gives_one_of_them(tmp_path: Path):
    """Stock trains on `params` and validates on `params_ema` of the same file."""
    own, average = ({'weight': torch.full((1,), value)} for value in (1.0, 2.0))
    torch.save({'params': own, 'params_ema': average}, tmp_path / 'x.pth')
    assert read_weights(tmp_path / 'x.pth')['weight'] == 2.0
    assert read_weights(tmp_path / 'x.pth', 'params')['weight'] == 1.0
    with pytest.raises(UserError, match="no entry 'parms'; it has params, params_ema"):
        read_weights(tmp_path / 'x.pth', 'parms')


def test_a_module_of_unknown_arguments_is_measured():
    net = SPTNet(lookup(ARCH_REGISTRY, 'IMDN')(in_nc=1, out_nc=1, nf=32, upscale=2), num_masks=5)
    assert [(s.path, s.channels) for s in net.sites] == [(f'IMDB{n}', 32) for n in range(1, 7)]
    assert net.scale == 2
    lq, masks = torch.rand(1, 1, 8, 9), torch.rand(1, 5, 8, 9)
    assert torch.equal(net(lq, masks), net.backbone(lq))


def test_weights_files_run_no_code(tmp_path: Path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / 'owned',))

    torch.save({'params': Evil()}, tmp_path / 'evil.pth')
    with pytest.raises(UserError, match='not readable as weights'):
        read_weights(tmp_path / 'evil.pth')
    assert not (tmp_path / 'owned').exists()


def test_adapter_files(tmp_path: Path):
    net = _trained(_net('IMDN'))
    average = {name: value + 1 for name, value in net.adapter_state().items()}
    save_adapter(tmp_path / 'a.safetensors', net, {'type': 'SPTNet', 'num_masks': 5}, 7, average)
    adapter = read_adapter(tmp_path / 'a.safetensors')
    (tmp_path / 'plain').touch()
    assert (tmp_path / 'a.safetensors').stat().st_mode == (tmp_path / 'plain').stat().st_mode
    assert adapter.iteration == 7
    assert adapter.network_g == {'type': 'SPTNet', 'num_masks': 5}
    assert adapter.backbone_sha256 == net.backbone_digest()
    assert not any('backbone' in name for name in adapter.params)
    assert adapter.params_ema is not None
    load_adapter(net, tmp_path / 'a.safetensors')
    assert all(torch.equal(v, average[n]) for n, v in net.adapter_state().items())
    wide = SPTNet(net.backbone, sites=['IMDB*'], unit={'type': 'ModulationUnit', 'width': 6}, num_masks=5)
    with pytest.raises(UserError, match="tensors do not fit .* such as 'stem"):
        load_adapter(wide, tmp_path / 'a.safetensors')
    (tmp_path / 'cut.safetensors').write_bytes((tmp_path / 'a.safetensors').read_bytes()[:-9])
    with pytest.raises(UserError, match='not a readable adapter'):
        read_adapter(tmp_path / 'cut.safetensors')


def test_units_start_as_identity_for_extreme_features():
    for unit in (ModulationUnit(6, 4), PlainUnit(6, 4)):
        features = torch.tensor([0.0, 1e30, -1e30, 1e-38, -3.0, 7.5]).view(1, 6, 1, 1).expand(1, 6, 3, 3).contiguous()
        out, prior = unit(features, torch.randn(1, 4, 3, 3))
        assert torch.equal(out, features)
        assert prior.shape == (1, 4, 3, 3)


@pytest.mark.cuda
def test_cuda_agrees_with_cpu():
    net = _trained(_net('IMDN'))
    lq, masks = _inputs(20, 24)
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
