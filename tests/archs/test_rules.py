"""Rules of units: what an older sptsr made goes on by those of then."""

from pathlib import Path

import pytest
import torch

import sptsr
from sptsr.archs.adapter import load_adapter, read_adapter, save_adapter
from sptsr.archs.geometry import GeometryStem
from sptsr.archs.spt_arch import SPTNet
from sptsr.core.errors import UserError
from sptsr.core.registry import ARCH_REGISTRY, lookup
from sptsr.core.version import RULES
from tests.archs.cases import filled

SIX = {'type': 'IMDN', 'nf': 16, 'upscale': 2}
ALL = [f'IMDB{number}' for number in range(1, 7)]
ODD = ALL[::2]


def _paths(net: SPTNet) -> list[str]:
    return [site.path for site in net.sites]


def _with_lora(net: SPTNet) -> set[str]:
    return {name.split('.')[1] for name in net.adapter_parameters() if name.startswith('backbone.')}


@pytest.mark.parametrize(
    ('rules', 'of_masks', 'of_none'),
    [
        (1, 'MaskStem', 'RepeatedStem'),
        (2, 'MaskStem', 'PlainStem'),
        (3, 'GeometryStem', 'GreyStem'),
        (4, 'GeometryStem', 'GreyStem'),
    ],
)
def test_a_unit_without_a_word_of_its_stem_has_that_of_its_rules(rules, of_masks, of_none):
    backbone = {'type': 'IMDN', 'nf': 16, 'num_modules': 2, 'upscale': 4}
    expected = {'ModulationUnit': of_masks, 'PlainUnit': of_none, 'RegionUnit': of_none}
    for name, stem in expected.items():
        started, changed = SPTNet(backbone, unit={'type': name}, rules=rules), SPTNet(backbone, unit={'type': name})
        changed.use_rules(rules)
        for net in (started, changed):
            assert type(net.stem).__name__ == stem
            assert net.uses_statistics == (stem == 'GeometryStem')
        assert started.adapter_state().keys() == changed.adapter_state().keys()
        changed.use_rules(RULES)
        assert type(changed.stem).__name__ == ('GeometryStem' if name == 'ModulationUnit' else 'GreyStem')
    named = SPTNet(backbone, unit={'type': 'ModulationUnit', 'stem': 'geometry'}, rules=rules)
    assert isinstance(named.stem, GeometryStem)


@pytest.mark.parametrize(('rules', 'sites'), [(1, ALL), (2, ALL), (3, ALL), (4, ODD)])
def test_imdn_has_units_behind_the_blocks_of_its_rules_and_lora_in_all(rules, sites):
    net = SPTNet(SIX, tune='adapter+lora', rules=rules)
    assert _paths(net) == sites
    assert _with_lora(net) == set(ALL)
    module = lookup(ARCH_REGISTRY, 'IMDN')(nf=16, upscale=2)
    assert _paths(SPTNet(module, rules=rules)) == sites
    assert _paths(SPTNet(SIX, sites=['IMDB*'], rules=rules)) == ALL  # said, not `auto`


def test_lora_alone_goes_into_all_blocks():
    net = SPTNet(SIX, tune='lora')
    assert _with_lora(net) == set(ALL)
    assert _paths(net) == ALL


@pytest.mark.parametrize('tune', ['adapter', 'adapter+lora'])
@torch.no_grad()
def test_an_adapter_of_older_rules_keeps_its_units(tmp_path: Path, tune):
    torch.save(sptsr.detach(SPTNet(SIX)).state_dict(), weights := tmp_path / 'imdn.pth')
    old = filled(SPTNet(SIX, str(weights), tune=tune, rules=3))
    section = {key: value for key, value in old.options.items() if key != 'rules'}
    save_adapter(tmp_path / 'old.safetensors', old, section, 7)
    lq, masks = torch.rand(2, 3, 12, 15), (torch.rand(2, 64, 12, 15) < 0.4).float()
    expected = old(lq, masks)

    again = sptsr.load(tmp_path / 'old.safetensors')
    assert _paths(again) == ALL
    assert torch.equal(again(lq, masks), expected)
    sptsr.save(again, tmp_path / 'again.safetensors')
    assert read_adapter(tmp_path / 'again.safetensors').rules == 3

    # Into a network with units behind other blocks, whose hooks must go.
    net = SPTNet(SIX, str(weights), tune=tune).eval()
    alone = net.backbone(lq)
    assert _paths(net) == ODD
    load_adapter(net, tmp_path / 'again.safetensors')
    assert _paths(net) == ALL
    assert not any(part.training for part in net.adapter_parts())
    assert torch.equal(net(lq, masks), expected)
    net.use_rules(RULES)
    assert _paths(net) == ODD
    assert len(net.hooks) == len(SPTNet(SIX).hooks)
    load_adapter(net, tmp_path / 'again.safetensors')
    assert torch.equal(net(lq, masks), expected)
    assert torch.equal(sptsr.detach(net)(lq), alone)
    assert not any(module._forward_hooks for module in net.backbone.modules())


@torch.no_grad()
def test_an_adapter_that_is_refused_changes_nothing(tmp_path: Path):
    torch.save(sptsr.detach(SPTNet(SIX)).state_dict(), weights := tmp_path / 'imdn.pth')
    old = SPTNet(SIX, str(weights), unit={'width': 8}, rules=3)
    save_adapter(tmp_path / 'narrow.safetensors', old, old.options, 7)
    net = filled(SPTNet(SIX, str(weights)))
    lq, masks = torch.rand(1, 3, 12, 15), (torch.rand(1, 64, 12, 15) < 0.4).float()
    expected = net(lq, masks)
    for key, message in ((None, 'tensors do not fit'), ('params_ema', "has no entry 'params_ema'")):
        with pytest.raises(UserError, match=message):
            load_adapter(net, tmp_path / 'narrow.safetensors', key)
        assert (net.rules, _paths(net)) == (RULES, ODD)
        assert torch.equal(net(lq, masks), expected)
    alone = net.backbone(lq)
    assert torch.equal(sptsr.detach(net)(lq), alone)
    assert not any(module._forward_hooks for module in net.backbone.modules())
