"""Ways to tune the backbone itself: what learns, what it starts as, merged LoRA, files, and what is refused."""

import copy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import sptsr
from sptsr.archs.adapter import load_adapter, read_adapter, save_adapter
from sptsr.archs.backbone import build_network
from sptsr.archs.spt_arch import SPTNet
from sptsr.archs.weights import state_digest
from sptsr.core.errors import UserError
from sptsr.core.registry import ARCH_REGISTRY, register
from sptsr.options.tune import WAYS
from tests.archs.cases import CASES, inputs
from tests.conftest import photograph

TUNES = ('all', 'bias', 'lora')
# Plain blocks; tokens and LayerNorm; sites that are activations; grouped convolutions and shared blocks; BatchNorm.
NETWORKS = ('IMDN', 'SwinIR pixelshuffledirect', 'FFDNet', 'CARN_M', 'DnCNN BR')
PAIRS = [(case, tune) for case in NETWORKS for tune in TUNES]
ALL = (*TUNES, 'adapter+lora')


def tuned(case: str, tune: str, seed: int = 0, **options) -> SPTNet:
    torch.manual_seed(seed)
    arch, arguments = CASES[case]
    return SPTNet({'type': arch, **arguments}, tune=tune, **without_masks(tune), **options)


def without_masks(tune: str) -> dict:
    return {'unit': {'type': 'PlainUnit'}} if tune == 'adapter+lora' else {}


def steps(net: SPTNet, count: int = 2) -> SPTNet:
    lq, _ = inputs(16, 24)
    optimizer = torch.optim.Adam(net.adapter_parameters().values(), 1e-3)
    for _ in range(count):
        optimizer.zero_grad()
        (net(lq) - 0.3).square().mean().backward()
        optimizer.step()
    return net


def expected(backbone: nn.Module, tune: str) -> set[str]:
    """Names of what learns in a network as it was before LoRA was added; with LoRA, of the layers."""
    kinds = (nn.BatchNorm2d, nn.LayerNorm)
    norms = {
        f'{path}.{name}' for path, m in backbone.named_modules() if isinstance(m, kinds) for name in ('weight', 'bias')
    }
    names = {name for name, _ in backbone.named_parameters()}
    return names if tune == 'all' else norms | {name for name in names if name.split('.')[-1] == 'bias'}


@pytest.mark.parametrize(('case', 'tune'), PAIRS)
def test_a_step_changes_what_should_learn_and_nothing_else(case: str, tune: str):
    net = tuned(case, tune)
    alone = build_network({'type': CASES[case][0], **CASES[case][1]}).eval()
    if tune != 'lora':
        alone.load_state_dict(net.backbone.state_dict())
        assert torch.equal(net(inputs(16, 24)[0]), alone(inputs(16, 24)[0]))  # untrained, it is its backbone
        assert {f'backbone.{name}' for name in expected(alone, tune)} == set(net.adapter_parameters())
    assert {n for n, p in net.named_parameters() if p.requires_grad} == {f'backbone.{p}' for p in net.learned.paths}
    before = {name: value.clone() for name, value in net.backbone.state_dict().items()}
    steps(net)
    changed = {name for name, value in net.backbone.state_dict().items() if not torch.equal(value, before[name])}
    assert changed <= net.learned.paths
    # the last bias of attention's keys, say, has no influence; a layer may be dead at the start
    assert len(changed) >= 0.8 * len(net.learned.paths)
    assert not net.uses_masks


@pytest.mark.parametrize('case', NETWORKS)
def test_lora_is_in_the_layers_of_the_blocks(case: str):
    net = tuned(case, 'lora', rank=2)
    paths = {
        'IMDN': ['IMDB1.c1', 'IMDB1.c2', 'IMDB1.c3', 'IMDB1.c4'],
        'SwinIR pixelshuffledirect': ['layers.1.residual_group.blocks.0.attn.qkv', 'layers.0.conv.0'],
        'FFDNet': ['model.4', 'model.10'],
        'DnCNN BR': ['model.5'],
        'CARN_M': ['b1.b1.body.4'],
    }[case]
    assert set(paths) <= set(net.learned.layers)
    assert not {'fea_conv', 'conv_first', 'model.0', 'entry'} & set(net.learned.layers)
    count = 0
    for path in net.learned.layers:
        layer = net.backbone.get_submodule(path).base_layer
        assert getattr(layer, 'groups', 1) == 1
        across = layer.weight[0].numel()  # inputs of one output
        count += 2 * (across + len(layer.weight))
    assert sum(p.numel() for p in net.adapter_parameters().values()) == count


@pytest.mark.parametrize('case', NETWORKS)
def test_merged_lora_gives_the_same_images_and_comes_apart_exactly(case: str):
    net = tuned(case, 'lora')
    for name, value in net.adapter_parameters().items():
        nn.init.normal_(value, std=0.05 if '.lora_A.' in name else 0.02)
    lq, _ = inputs(16, 24)
    with torch.no_grad():
        with net.units_off():
            frozen = net(lq)
        apart, weights = net(lq), {k: v.clone() for k, v in net.backbone.state_dict().items()}
        together = net.merge()(lq)
        assert (apart - frozen).abs().max() > 1e-4
        torch.testing.assert_close(together, apart, rtol=0, atol=1e-5)
        with net.units_off():
            assert torch.equal(net(lq), frozen)
        assert torch.equal(net(lq), together)
        state = {name: value.clone() for name, value in net.adapter_state().items()}
        net.train()  # a merged network cannot learn
        assert not net.learned.merged
        assert all(torch.equal(v, weights[k]) for k, v in net.backbone.state_dict().items())
        assert torch.equal(net(lq), apart)
        assert all(torch.equal(v, state[k]) for k, v in net.adapter_state().items())


@pytest.mark.parametrize('tune', ALL)
def test_a_file_gives_the_same_images(tune: str, tmp_path: Path):
    weights = tmp_path / 'weights.pth'
    torch.manual_seed(7)
    section = {'type': 'IMDN', **CASES['IMDN'][1]}
    torch.save(build_network(section).state_dict(), weights)
    net = steps(SPTNet(section, str(weights), tune=tune, **without_masks(tune))).eval()
    image = photograph('coffee.png', 24, 28)
    restored = sptsr.restore(net, image)
    sptsr.save(net, 'a.safetensors')
    adapter = read_adapter('a.safetensors')
    assert adapter.tune == tune
    assert adapter.params.keys() == net.adapter_parameters().keys()
    assert adapter.backbone_sha256 == state_digest(SPTNet(section, str(weights)).backbone)
    again = sptsr.load('a.safetensors')
    assert np.array_equal(sptsr.restore(again, image), restored)
    with again.units_off():
        found = sptsr.restore(again, image)
        assert not np.array_equal(found, restored)
    assert np.array_equal(sptsr.restore(again, image), restored)
    # raw and averaged tensors are told apart, also by a network whose LoRA is merged
    average = {name: 0.5 * value for name, value in net.adapter_state().items()}
    save_adapter('b.safetensors', net, net.options, 4, average)
    for key, values in (('params', net.adapter_state()), ('params_ema', average), (None, average)):
        load_adapter(again.merge(), 'b.safetensors', key)
        assert all(torch.equal(again.adapter_state()[name], value) for name, value in values.items())
    load_adapter(again, 'b.safetensors', 'params')
    assert np.abs(sptsr.restore(again, image).astype(int) - restored).max() <= 1
    alone = sptsr.detach(again)
    assert state_digest(alone) == adapter.backbone_sha256
    assert [type(m) for m in alone.modules()] == [type(m) for m in build_network(section).modules()]
    assert all(p.requires_grad for p in alone.parameters())


@pytest.mark.parametrize('tune', ALL)
def test_it_follows_copies_and_types(tune: str):
    net = steps(tuned('IMDN', tune))
    lq, _ = inputs(16, 24)
    other = copy.deepcopy(net)
    with torch.no_grad():
        before = net(lq)
        for value in other.adapter_parameters().values():
            value.zero_()
        assert not torch.equal(other(lq), before)
        assert torch.equal(net(lq), before)
        with other.double().units_off():
            torch.testing.assert_close(other(lq.double()).float(), tuned('IMDN', tune)(lq), atol=1e-5, rtol=0)


@pytest.mark.data
def test_counts_on_the_official_network(real_data: Path):
    """IMDN (arXiv 1909.11856) has 715 K parameters."""
    weights = str(real_data / 'weights' / 'IMDN_x4.pth')
    counts = {}
    for tune in WAYS:
        net = SPTNet({'type': 'IMDN', 'upscale': 4}, weights, tune=tune)
        counts[tune] = sum(p.numel() for p in net.adapter_parameters().values())
    # of each of 6 blocks: 3x3 of 64, 48, 48, 48 to 64, 64, 64, 16 channels, 1x1 of 64, and 64 to 4 and back
    lora = sum(4 * (9 * a + b) for a, b in ((64, 64), (48, 64), (48, 64), (48, 16)))
    lora += sum(4 * (a + b) for a, b in ((64, 64), (64, 4), (4, 64)))
    # 5 convolutions and 2 of the attention in each block; behind them 1x1 and 3x3 to 64, and the upsampler's 48
    bias = 64 + 6 * (64 * 3 + 16 + 64 + 4 + 64) + 64 + 64 + 48
    units = counts['adapter']
    both = units + 6 * lora
    assert counts == {'adapter': units, 'adapter+lora': both, 'all': 715_176, 'lora': 6 * lora, 'bias': bias}
    assert counts['adapter'] < 0.2 * counts['all']


REFUSED = [
    ({'tune': 'everything'}, "there is no way 'everything'"),
    ({'tune': 'none'}, 'the backbone alone is tested without an SPTNet'),
    ({'tune': 'all', 'unit': {'type': 'PlainUnit'}}, 'unit: tune: all has no units and uses no masks; remove it'),
    ({'tune': 'all', 'sites': ['IMDB1']}, 'sites: tune: all has no sites; remove it'),
    ({'tune': 'bias', 'num_masks': 3}, 'num_masks: tune: bias has no units and uses no masks; remove it'),
    ({'tune': 'bias', 'rank': 3}, r'rank: only tune: lora and adapter\+lora have a rank; remove it'),
    ({'rank': 3}, r'rank: only tune: lora and adapter\+lora have a rank; remove it'),
    ({'tune': 'lora', 'rank': 0}, r'rank: 0 is not in 1\.\.256'),
    ({'tune': 'lora', 'rank': 257}, r'rank: 257 is not in 1\.\.256'),
    ({'tune': 'adapter+lora', 'rank': 0}, r'rank: 0 is not in 1\.\.256'),
    ({'tune': 'adapter+lora', 'unit': {'path': 'ladder'}}, 'no gradient reaches LoRA in the backbone'),
]


@pytest.mark.parametrize(('arguments', 'message'), REFUSED)
def test_what_makes_no_sense_is_refused(arguments: dict, message: str):
    with pytest.raises(UserError, match=message):
        SPTNet({'type': 'IMDN', **CASES['IMDN'][1]}, **arguments)


def test_a_file_of_another_way_is_refused():
    save_adapter('a.safetensors', steps(tuned('IMDN', 'bias')), {'type': 'SPTNet', 'tune': 'bias'}, 1)
    for tune in ('all', 'lora', 'adapter'):
        with pytest.raises(UserError, match=f'tuned by tune: bias, and this network is by tune: {tune}; make them'):
            load_adapter(tuned('IMDN', tune), 'a.safetensors')
    net = tuned('IMDN', 'lora', rank=2)
    save_adapter('b.safetensors', net, net.options, 1)
    with pytest.raises(UserError, match='set sites and rank to those it was trained with'):
        load_adapter(tuned('IMDN', 'lora', rank=3), 'b.safetensors')
    net = tuned('IMDN', 'adapter+lora', rank=2)
    save_adapter('c.safetensors', net, net.options, 1)
    with pytest.raises(UserError, match='set sites, unit, num_masks, rank and lora_sites to those it was trained with'):
        load_adapter(tuned('IMDN', 'adapter+lora', rank=3), 'c.safetensors')


def test_without_peft_the_others_work(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, 'peft', None)
    with pytest.raises(UserError, match=r"tune: LoRA needs peft; pip install 'sptsr\[lora\]'"):
        tuned('IMDN', 'lora')
    tuned('IMDN', 'all')
    tuned('IMDN', 'bias')


class Block(nn.Module):
    """Two layers; `kept` says how the second one is used."""

    def __init__(self, kept: str) -> None:
        super().__init__()
        self.kept = kept
        self.first = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.second = nn.Conv2d(3, 3, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.kept == 'fused':
            with torch.no_grad():
                self.second.weight.copy_(self.first.weight.mean((2, 3), keepdim=True))
        x = self.first(x)
        if self.kept == 'weight':
            return nn.functional.conv2d(x, self.second.weight)
        return self.second(x).detach() if self.kept == 'detached' else self.second(x)


class Odd(nn.Module):
    """x1, of one block."""

    def __init__(self, kept: str = '') -> None:
        super().__init__()
        self.body = Block(kept)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


def test_what_cannot_learn_is_refused():
    lq = torch.rand(1, 3, 8, 16)
    SPTNet(Odd(), tune='all').learned.check(lq)
    before = {k: v.clone() for k, v in SPTNet(Odd(), tune='all').adapter_state().items()}
    assert len(before) == 2
    with pytest.raises(UserError, match="Odd writes into its tensor 'body.second.weight' while it runs"):
        SPTNet(Odd('fused'), tune='all').learned.check(lq)
    with pytest.raises(UserError, match="no gradient reaches 'body.first.weight' of Odd"):
        SPTNet(Odd('detached'), tune='all').learned.check(lq)
    with pytest.raises(UserError, match="no gradient reaches 'body.second.lora_A.weight' of Odd"):
        SPTNet(Odd('weight'), sites=['body'], tune='lora').learned.check(lq)
    with pytest.raises(UserError, match='Odd has no biases or normalisation layers; tune it in another way'):
        SPTNet(Odd(), tune='bias')


def test_networks_without_a_recipe_need_sites_for_lora_only():
    register(ARCH_REGISTRY)(Odd)
    assert SPTNet({'type': 'Odd'}, tune='all').sites == []
    with pytest.raises(UserError, match="'auto' knows"):
        SPTNet({'type': 'Odd'}, tune='lora')
    assert SPTNet({'type': 'Odd'}, tune='lora', sites=['body']).learned.layers == ['body.first', 'body.second']


@pytest.mark.parametrize('tune', ALL)
def test_what_is_done_in_inference_mode_keeps_it_trainable(tune: str):
    net = tuned('IMDN', tune)
    lq, _ = inputs(16, 24)
    with torch.inference_mode():
        net.eval().merge()
        with net.units_off():
            frozen = net(lq)
        assert torch.allclose(net(lq), frozen, atol=1e-6)
    before = {name: value.clone() for name, value in net.adapter_state().items()}
    steps(net.train())
    assert any(not torch.equal(value, before[name]) for name, value in net.adapter_state().items())
