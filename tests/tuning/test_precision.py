"""Autocast with exact ends: which layers those are, and that gradients come near to fp32's."""

from pathlib import Path

import pytest
import torch

from sptsr.archs.precision import keep_ends_exact
from sptsr.archs.spt_arch import SPTNet
from sptsr.images.folder import ImageFolder
from tests.archs.cases import CASES, inputs, make_net, trained

ENDS = {
    'IMDN': ['fea_conv', 'upsampler.0'],
    'EDSR': ['conv_first', 'conv_last'],
    'SwinIR pixelshuffledirect': ['conv_first', 'upsample.0'],
    'ECBSR': ['backbone.0', 'backbone.3'],  # layers of a class of its own
    'RIDNet': ['sub_mean', 'head', 'tail', 'add_mean'],  # the mean is a layer, of images on both sides
    'CARN': ['sub_mean.shifter', 'entry', 'exit', 'add_mean.shifter'],
    'FFDNet gray': ['model.0', 'model.16'],
}


def _features(net: SPTNet) -> tuple[torch.Tensor, list[torch.dtype]]:
    """Returns the output in bf16, and the dtypes of the features that reach the units."""
    dtypes: list[torch.dtype] = []
    handles = [unit.register_forward_pre_hook(lambda _, args: dtypes.append(args[0].dtype)) for unit in net.units]
    lq, masks = inputs(16, 24)
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        output = net(lq, masks)
    for handle in handles:
        handle.remove()
    return output, dtypes


@pytest.mark.parametrize('case', ENDS)
def test_the_ends_are_found(case: str):
    assert keep_ends_exact(make_net(case)) == ENDS[case]


def test_every_network_has_two_ends():
    for case in CASES:
        assert len(keep_ends_exact(make_net(case))) >= 2, case


def test_a_layer_with_lora_is_one_layer():
    net = SPTNet({'type': 'IMDN', 'upscale': 4}, sites=['fea_conv', 'IMDB1', 'upsampler'], tune='lora')
    assert keep_ends_exact(net) == ENDS['IMDN']
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        assert net(torch.rand(1, 3, 16, 16)).dtype == torch.float32


@pytest.mark.parametrize('case', ['IMDN', 'EDSR', 'RCAN', 'SwinIR pixelshuffledirect', 'RRDBNet x4'])
def test_what_the_blocks_add_to_is_fp32(case: str):
    net = trained(make_net(case))
    assert torch.bfloat16 in _features(net)[1]
    keep_ends_exact(net)
    output, dtypes = _features(net)
    assert output.dtype == torch.float32
    assert set(dtypes) == {torch.float32}


def test_nothing_changes_without_autocast():
    net = trained(make_net('IMDN'))
    lq, masks = inputs(16, 24)
    before, keys = net(lq, masks), list(net.state_dict())
    keep_ends_exact(net)
    assert torch.equal(net(lq, masks), before)
    assert list(net.state_dict()) == keys
    assert torch.equal(net.double()(lq.double(), masks), net(lq.double(), masks))


@pytest.mark.data
def test_gradients_on_photographs_are_nearly_those_of_fp32(real_data: Path):
    """Official IMDN on crops of Set5: what bf16 changes in the gradient is halved at least."""

    def gradient(net: SPTNet, half: bool) -> torch.Tensor:
        net.zero_grad()
        for key in lq.keys:
            image, truth = (
                torch.from_numpy(images.read(key)).permute(2, 0, 1)[None].float() / 255 for images in (lq, gt)
            )
            masks = (image[:, :1] > torch.arange(64).view(1, 64, 1, 1) / 64).float()
            with torch.autocast('cpu', torch.bfloat16, enabled=half):
                output = net(image[..., :48, :48], masks[..., :48, :48])
            (output.float() - truth[..., :192, :192]).abs().mean().backward()
        return torch.cat([p.grad.flatten() for p in net.adapter_parameters().values() if p.grad is not None])

    lq, gt = (ImageFolder(real_data / 'sr' / 'Set5' / name) for name in ('LRx4', 'GTx4'))
    torch.manual_seed(0)
    net = SPTNet({'type': 'IMDN', 'upscale': 4}, str(real_data / 'weights' / 'IMDN_x4.pth'))
    exact = gradient(net, half=False)
    plain = (gradient(net, half=True) - exact).norm() / exact.norm()
    keep_ends_exact(net)
    ours = (gradient(net, half=True) - exact).norm() / exact.norm()
    assert ours < plain / 2
