"""Checkpoints of many networks, saved, found out by spandrel, and refined at the proposed sites."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from sptsr import attach, load, save
from sptsr.archs.backbone import build_network, probe_of
from sptsr.archs.call import call_network
from sptsr.archs.recipes import RECIPES
from sptsr.archs.spt_arch import SPTNet
from sptsr.archs.survey import survey
from sptsr.archs.weights import state_digest
from sptsr.core.errors import UserError
from sptsr.core.registry import ARCH_REGISTRY, lookup
from sptsr.masks.batch import PriorBatch
from sptsr.restoring.tiling import restore_padded

spandrel = pytest.importorskip('spandrel', reason='spandrel is not installed (pip install sptsr[spandrel])')
extra = pytest.importorskip('spandrel_extra_arches', reason='spandrel_extra_arches is not installed')
found = spandrel.architectures

SWIN = {'img_size': 16, 'embed_dim': 16, 'depths': (2, 2), 'num_heads': (2, 2), 'upscale': 2}
# name: maker of the network, the layout of its proposed sites
MAKERS = {
    'HAT': (lambda: found.HAT.HAT(**SWIN, window_size=16, mlp_ratio=2.0, squeeze_factor=4), 'NLC'),
    'DAT': (
        lambda: found.DAT.DAT(
            img_size=64,
            embed_dim=16,
            split_size=[8, 8],
            depth=[2, 2],
            num_heads=[2, 2],
            expansion_factor=2.0,
            upscale=2,
        ),
        'NLC',
    ),
    'SwinIR': (
        lambda: found.SwinIR.SwinIR(**SWIN, window_size=8, mlp_ratio=2.0, upsampler='pixelshuffledirect'),
        'NLC',
    ),
    'Restormer': (
        lambda: extra.architectures.Restormer.Restormer(
            dim=8, num_blocks=[1, 2, 2, 2], num_refinement_blocks=2, heads=[1, 2, 2, 4]
        ),
        'NCHW',
    ),
    'NAFNet': (
        lambda: found.NAFNet.NAFNet(width=8, middle_blk_num=2, enc_blk_nums=[2, 2], dec_blk_nums=[2, 2]),
        'NCHW',
    ),
    'DRUNet': (lambda: found.DRUNet.DRUNet(in_nc=4, out_nc=3, nc=[8, 8, 16, 16], nb=2), 'NCHW'),
    'SCUNet': (lambda: found.SCUNet.SCUNet(config=[2, 2, 2, 2, 2, 2, 2], dim=64), 'NCHW'),
    'OmniSR': (lambda: found.OmniSR.OmniSR(num_feat=16, res_num=2, block_num=1, up_scale=2), 'NCHW'),
    'SPAN': (lambda: found.SPAN.SPAN(num_in_ch=3, num_out_ch=3, feature_channels=8, upscale=2), 'NCHW'),
    'SAFMN': (lambda: found.SAFMN.SAFMN(dim=16, n_blocks=3, upscaling_factor=2), 'NCHW'),
    'Real-CUGAN': (lambda: found.RealCUGAN.UpCunet2x(), 'NCHW'),
    'Real-ESRGAN Compact': (lambda: found.Compact.Compact(num_feat=8, num_conv=6, upscale=2), 'NCHW'),
}


def _save(net: nn.Module, path: Path) -> Path:
    torch.save({'params': net.state_dict()}, path)
    return path


@pytest.mark.parametrize('name', MAKERS)
def test_a_checkpoint_of(name: str, tmp_path: Path):
    torch.manual_seed(0)
    make, layout = MAKERS[name]
    original = make().eval()
    path = _save(original, tmp_path / 'model.pth')
    section = {'type': 'spandrel', 'path': str(path)}
    built = build_network(section)
    assert built.state_dict().keys() == {f'net.{key}' for key in original.state_dict()}
    report = survey(built.eval(), probe_of(built, built.sizes))
    assert report.proposal
    net = SPTNet(section, sites=list(report.proposal), unit={'type': 'ModulationUnit', 'width': 4}, num_masks=5)
    assert len(net.sites) == report.units >= 1
    assert {site.layout for site in net.sites} == {layout}

    digest = state_digest(net.backbone)
    alone = copy.deepcopy(net.backbone)
    for height, width in ((37, 53), (16, 24)):
        lq, masks = torch.rand(2, 3, height, width), PriorBatch.from_masks(torch.rand(2, 5, height, width) < 0.5)
        with torch.no_grad():
            got = restore_padded(net, lq, masks, net.sizes, net.scale)
            assert got.shape == (2, 3, height * net.scale, width * net.scale)
            assert torch.equal(got, restore_padded(lambda x, _: alone(x), lq, None, net.sizes, net.scale))
        # spandrel itself pads, clamps and takes one image
        model = spandrel.ModelLoader(registry=_registry()).load_from_file(path)
        theirs = torch.cat([model(lq[:1]), model(lq[1:])])
        assert torch.allclose(got.clamp(0, 1), theirs, atol=2e-5)

    lq, masks = torch.rand(1, 3, 64, 64), PriorBatch.from_masks(torch.rand(1, 5, 64, 64) < 0.5)
    optimizer = torch.optim.Adam(net.adapter_parameters().values(), 1e-2)
    initial = {key: value.detach().clone() for key, value in net.adapter_parameters().items()}
    for _ in range(2):
        optimizer.zero_grad()
        (net(lq, masks) - 0.3).abs().mean().backward()
        optimizer.step()
    assert [key for key, value in net.adapter_parameters().items() if torch.equal(value, initial[key])] == []
    assert state_digest(net.backbone) == digest


def _registry():
    registry = spandrel.ArchRegistry()
    registry.add(*spandrel.MAIN_REGISTRY, *extra.EXTRA_REGISTRY)
    return registry


def test_a_denoiser_takes_the_noise_level_of_each_image(tmp_path: Path):
    path = _save(MAKERS['DRUNet'][0]().eval(), tmp_path / 'drunet.pth')
    net = build_network({'type': 'spandrel', 'path': str(path)}).eval()
    lq = torch.rand(1, 3, 16, 16).repeat(2, 1, 1, 1)
    with torch.no_grad():
        low, high = call_network(net, lq, torch.tensor([15 / 255, 50 / 255]))
        assert torch.equal(low, net(lq)[0])  # 15 is spandrel's own
        assert not torch.equal(low, high)


def test_wrong_files_are_refused(tmp_path: Path):
    faces = found.RestoreFormer.RestoreFormer()
    with pytest.raises(UserError, match='RestoreFormer is a model for FaceSR; units go into'):
        build_network({'type': 'spandrel', 'path': str(_save(faces, tmp_path / 'faces.pth'))})
    holes = found.LaMa.LaMa()
    with pytest.raises(UserError, match='LaMa is a model for Inpainting'):
        build_network({'type': 'spandrel', 'path': str(_save(holes, tmp_path / 'holes.pth'))})
    with pytest.raises(UserError, match='spandrel knows no network with these tensors'):
        build_network({'type': 'spandrel', 'path': str(_save(nn.Linear(2, 2), tmp_path / 'linear.pth'))})
    cut = MAKERS['SPAN'][0]().state_dict()
    cut.popitem()
    torch.save(cut, tmp_path / 'cut.pth')
    with pytest.raises(UserError, match=r'cut\.pth: spandrel (cannot build .*Missing key|knows no)'):
        build_network({'type': 'spandrel', 'path': str(tmp_path / 'cut.pth')})
    # FFDNet shuffles the image into 12 channels and has one of noise: spandrel takes it for a DnCNN
    torch.save(build_network({'type': 'FFDNet', **RECIPES['FFDNet'].usual}).state_dict(), tmp_path / 'ffdnet.pth')
    with pytest.raises(UserError, match='takes it for DnCNN of images of 12 channels; name its type instead'):
        build_network({'type': 'spandrel', 'path': str(tmp_path / 'ffdnet.pth')})
    with pytest.raises(UserError, match='no such file'):
        build_network({'type': 'spandrel', 'path': str(tmp_path / 'none.pth')})


def test_an_adapter_is_told_where_its_checkpoint_is(tmp_path: Path):
    path = _save(MAKERS['SPAN'][0](), tmp_path / 'x.pth')
    net = attach({'type': 'spandrel', 'path': str(path)})
    save(net, tmp_path / 'a.safetensors')
    moved = path.rename(tmp_path / 'moved.pth')
    with pytest.raises(UserError, match=r"the backbone's weights .*x\.pth are not here; say where with weights="):
        load(tmp_path / 'a.safetensors')
    assert load(tmp_path / 'a.safetensors', weights=moved).backbone_digest() == net.backbone_digest()
    other = _save(MAKERS['SPAN'][0](), tmp_path / 'other.pth')
    with pytest.raises(UserError, match='set path of the backbone to those it was trained for'):
        load(tmp_path / 'a.safetensors', weights=other)


def test_without_spandrel_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import sys

    path = _save(MAKERS['SPAN'][0](), tmp_path / 'x.pth')
    monkeypatch.setitem(sys.modules, 'spandrel', None)
    with pytest.raises(UserError, match=r"spandrel is not installed; pip install 'sptsr\[spandrel\]'"):
        lookup(ARCH_REGISTRY, 'spandrel')(str(path))
