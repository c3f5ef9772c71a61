"""Units on networks of one's own that others tune too, in inference mode, or that compute again."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import sptsr
from sptsr.archs.spt_arch import SPTNet


def _net() -> nn.Sequential:
    layers = [nn.Conv2d(width, out, 3, padding=1) for width, out in ((3, 8), (8, 8), (8, 12))]
    return nn.Sequential(*layers, nn.PixelShuffle(2))


@pytest.mark.parametrize('first', ['units', 'LoRA'])
def test_two_that_tune_one_network_are_detached_in_any_order(first):
    backbone, lq = _net().train(), torch.rand(1, 3, 12, 16)
    before = backbone(lq)
    nets = {'units': sptsr.attach(backbone, ['1'], width=4)}
    nets['LoRA'] = SPTNet(backbone, sites=['1'], tune='lora')
    last = next(name for name in nets if name != first)
    assert not sptsr.detach(nets[first]).training
    assert sptsr.detach(nets[last]).training
    assert torch.equal(backbone(lq), before)
    assert all(parameter.requires_grad for parameter in backbone.parameters())


def test_units_made_in_inference_mode_can_be_trained(tmp_path):
    backbone = _net()
    with torch.inference_mode():
        net = sptsr.attach(backbone, ['1'], width=4)
        sptsr.save(net, tmp_path / 'a.safetensors')
        net = sptsr.load(tmp_path / 'a.safetensors', backbone=sptsr.detach(net))
    net.train()
    net(torch.rand(1, 3, 12, 16), torch.zeros(1, 64, 12, 16)).sum().backward()
    assert any(parameter.grad is not None for parameter in net.adapter_parameters().values())


def test_a_network_that_computes_again_in_the_backward_pass():
    class Again(nn.Sequential):
        def forward(self, x):
            return checkpoint(super().forward, x, use_reentrant=False)

    with pytest.raises(sptsr.UserError, match='torch.utils.checkpoint.*use_checkpoint: false'):
        sptsr.attach(Again(*_net()), ['1'], width=4)
