"""`tune: adapter+lora`: units with masks, and LoRA in the backbone between them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import sptsr
from sptsr.archs.spt_arch import SPTNet
from sptsr.core.errors import UserError
from sptsr.evaluation.cost import count_parameters
from sptsr.restoring.export import example, expected, export
from tests.archs.cases import CASES, filled, inputs, make_net, trained

NETWORKS = ('IMDN', 'SwinIR denoising', 'FFDNet', 'CARN_M')


def _both(case: str) -> SPTNet:
    return make_net(case, tune='adapter+lora', rank=2)


@pytest.mark.parametrize('case', NETWORKS)
def test_it_starts_as_its_backbone_and_both_learn(case: str):
    net = _both(case)
    lq, masks = inputs(12, 16)
    assert torch.equal(net(lq, masks), net.backbone(lq))
    before = {name: value.clone() for name, value in net.adapter_state().items()}
    frozen = {name: value.clone() for name, value in net.backbone.state_dict().items() if '.lora_' not in name}
    trained(net, 3)
    changed = {name for name, value in net.adapter_state().items() if not torch.equal(value, before[name])}
    for part in ('units.', 'stem.', 'backbone.'):
        names = {name for name in before if name.startswith(part)}
        assert len(changed & names) > 0.8 * len(names) > 0, part
    assert all(torch.equal(net.backbone.state_dict()[name], value) for name, value in frozen.items())


@pytest.mark.parametrize('case', NETWORKS)
@torch.no_grad()
def test_each_alone_is_what_it_is_without_the_other(case: str):
    net = filled(_both(case))
    lq, masks = inputs(12, 16)
    state = {name: value.clone() for name, value in net.adapter_state().items()}
    whole = net(lq, masks)
    units, lora = make_net(case), _both(case)
    for other, kept in ((units, ('units.', 'stem.')), (lora, ('backbone.',))):
        for name, value in other.adapter_state().items():
            value.copy_(state[name] if name.startswith(kept) else torch.zeros(()))
        for name, value in net.adapter_state().items():
            value.copy_(state[name] if name.startswith(kept) else torch.zeros(()))
        torch.testing.assert_close(net(lq, masks), other.eval()(lq, masks), rtol=0, atol=1e-6)
        assert (net(lq, masks) - whole).abs().max() > 1e-4


@pytest.mark.parametrize('case', NETWORKS)
@torch.no_grad()
def test_merged_and_taken_out(case: str):
    net = filled(_both(case))
    lq, masks = inputs(12, 16)
    apart = net(lq, masks)
    assert not torch.equal(net(lq, 1 - masks), apart)
    frozen = make_net(case).eval().backbone(lq)
    assert (apart - frozen).abs().max() > 1e-3
    torch.testing.assert_close(net.merge()(lq, masks), apart, rtol=0, atol=1e-4)
    with net.units_off():
        assert torch.equal(net(lq, masks), frozen)
    assert torch.equal(sptsr.detach(net).eval()(lq), frozen)
    assert not any('lora' in name for name, _ in net.backbone.named_modules())


def test_a_file_has_both(tmp_path: Path):
    section = {'type': 'IMDN', **CASES['IMDN'][1]}
    torch.save(make_net('IMDN').backbone.state_dict(), tmp_path / 'imdn.pth')
    net = filled(SPTNet(section, str(tmp_path / 'imdn.pth'), tune='adapter+lora', rank=3))
    sptsr.save(net, tmp_path / 'a.safetensors')
    again = sptsr.load(tmp_path / 'a.safetensors')
    assert (again.tune, again.options['rank']) == ('adapter+lora', 3)
    lq, masks = inputs(12, 16)
    with torch.no_grad():
        padded = torch.cat([masks, torch.zeros(2, 59, 12, 16)], dim=1)
        assert torch.equal(again(lq, padded), net(lq, padded))
    counts = count_parameters(net)
    units = sum(p.numel() for name, p in net.adapter_parameters().items() if not name.startswith('backbone.'))
    assert counts.added == units
    assert counts.trainable > units
    assert counts.backbone == sum(p.numel() for p in make_net('IMDN').backbone.parameters())


@torch.no_grad()
def test_it_is_exported(tmp_path: Path):
    net = filled(_both('FFDNet'))
    made = export(net, tmp_path / 'model.onnx')
    assert made.record['tune'] == 'adapter+lora'
    assert made.record['unit'] == 'ModulationUnit'
    given = example(net, made.record['inputs'], (20, 24), 3)
    with net.units_off():
        frozen = expected(net, given)
    assert np.abs(expected(net, given) - frozen).max() > 1e-3


def test_lora_at_other_sites_than_the_units(tmp_path: Path):
    """Units cost time at inference and LoRA does not, so fewer blocks may have units than LoRA."""
    section, both = {'type': 'IMDN', **CASES['IMDN'][1]}, {'tune': 'adapter+lora', 'rank': 2, 'num_masks': 5}
    torch.save(SPTNet(section).backbone.state_dict(), tmp_path / 'imdn.pth')

    def layers(net: SPTNet) -> list[str]:
        return [name for name in net.adapter_parameters() if '.lora_A.' in name]

    net = filled(SPTNet(section, str(tmp_path / 'imdn.pth'), sites=['IMDB2'], lora_sites=['IMDB*'], **both))
    assert [site.path for site in net.sites] == ['IMDB2']
    assert layers(net) == layers(SPTNet(section, **both))
    one = layers(SPTNet(section, sites=['IMDB2'], lora_sites='IMDB1', **both))
    assert one == [name for name in layers(net) if name.startswith('backbone.IMDB1.')] != []
    sptsr.save(net, tmp_path / 'both.safetensors')
    lq, masks = inputs(12, 16)
    again = sptsr.load(tmp_path / 'both.safetensors')
    assert again.options['lora_sites'] == ['IMDB*']
    assert torch.equal(again(lq, masks), net(lq, masks))


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'lora_sites': ['IMDX*']}, "lora_sites: 'IMDX*' matches no module of IMDN; did you mean 'IMDB1'?"),
        ({'lora_sites': []}, 'lora_sites: the list is empty; name at least one module, or leave it out'),
        ({'lora_sites': ['re:(']}, "lora_sites: 're:(' is no regular expression"),
        ({'lora_sites': ['IMDB*'], 'tune': 'lora'}, 'lora_sites: only tune: adapter+lora has LoRA at other sites'),
        ({'lora_sites': ['IMDB*'], 'tune': 'adapter'}, 'lora_sites: only tune: adapter+lora has LoRA at other sites'),
    ],
)
def test_wrong_lora_sites(arguments: dict, message: str):
    with pytest.raises(UserError, match=re.escape(message)):
        SPTNet({'type': 'IMDN', **CASES['IMDN'][1]}, **{'tune': 'adapter+lora', **arguments})
