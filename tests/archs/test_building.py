"""A network that raises, or asks for more memory than there is, ends in one line that says whose it is."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sptsr
from sptsr.archs.attach import attach
from sptsr.archs.backbone import build_network
from sptsr.archs.call import call_network
from sptsr.archs.units import ModulationUnit
from sptsr.core import free_memory
from sptsr.core.errors import UserError
from sptsr.core.free_memory import free_bytes, in_words
from sptsr.core.registry import ARCH_REGISTRY, STEM_REGISTRY, UNIT_REGISTRY, import_plugins
from tests.conftest import run_cli

NET = """
import torch
from torch import nn
from sptsr.registry import ARCH_REGISTRY, register


@register(ARCH_REGISTRY)
class MoodyNet(nn.Module):
    def __init__(self, width: int = 8, fail: str = ''):
        super().__init__()
        if fail == 'init':
            torch.zeros(2) @ torch.zeros(3)
        self.head = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.tail = nn.Conv2d(width, 3, 3, padding=1)
        self.fail = fail

    def forward(self, x):
        if self.fail == 'always':
            raise NotImplementedError
        if self.fail == 'small' and x.shape[-2] < 34:
            raise IndexError('too small for me,\\nsorry')
        y = self.head(x)
        for block in self.body:
            y = block(y)
        return x + self.tail(y)
"""


@pytest.fixture
def plugin(here: Path) -> Path:
    (here / 'moody.py').write_text(NET)
    return here / 'moody.py'


@pytest.mark.parametrize(
    ('fail', 'line', 'said'),
    [
        ('init', 12, 'MoodyNet cannot be built (RuntimeError: '),
        ('always', 20, 'MoodyNet takes no image of 40x80 (NotImplementedError)'),
        ('small', 22, 'MoodyNet fails on an image of 32x40 (IndexError: too small for me, sorry)'),
    ],
)
def test_whose_fault_it_is(plugin: Path, fail: str, line: int, said: str):
    section = f'network_g={{type: SPTNet, backbone: {{type: MoodyNet, fail: {fail}}}, sites: [body.*]}}'
    forced = [f'plugins=[{plugin}]', section, 'scale=1', 'datasets:test:dataroot_gt=set/LRx4b']
    shutil.copytree('set/LRx4', 'set/LRx4b')
    done = run_cli('test', '-opt', 'test.yml', '--force_yml', *forced)
    assert done.returncode == 2
    errors = [text for text in done.stderr.splitlines() if text.startswith('sptsr')]
    assert len(errors) == 1
    assert said in errors[0]
    assert f'it comes from {plugin}:{line}, which is not part of sptsr (--debug' in errors[0]
    assert 'Traceback' not in done.stderr
    assert 'Traceback' in run_cli('test', '-opt', 'test.yml', '--debug', '--force_yml', *forced).stderr
    import_plugins([str(plugin)])
    with pytest.raises(UserError) as raised:
        call_network(build_network({'type': 'MoodyNet', 'fail': fail}), torch.zeros(1, 3, 32, 40))
    assert raised.value.__cause__ is not None


def test_a_stock_network_has_no_place_in_a_users_code(here: Path):
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(4, 3, 3))
    with pytest.raises(UserError, match=r'^network: Sequential takes no image of 40x80 .*; mend its forward'):
        attach(net, ['0'])
    with pytest.raises(UserError, match=r'^network: EDSR cannot be built .*; check its arguments$'):
        build_network({'type': 'EDSR', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': -4})
    with pytest.raises(UserError, match='IMDN fails on an image of 8x8 .*; check its arguments and the images'):
        call_network(build_network({'type': 'IMDN', 'upscale': 2}), torch.zeros(1, 1, 8, 8))


def test_an_error_in_a_unit_of_sptsr_stays_what_it_is():
    net = attach({'type': 'IMDN', 'nf': 16, 'num_modules': 1, 'upscale': 2}, unit='PlainUnit', width=4)
    unit = net.units[0]
    del unit._modules[next(iter(unit._modules))]
    with pytest.raises(AttributeError):
        net(torch.zeros(1, 3, 16, 16))


def test_a_network_that_does_not_fit_is_refused_before_memory_is_taken(here: Path, monkeypatch: pytest.MonkeyPatch):
    huge = 'network_g:backbone={type: EDSR, upscale: 4, num_in_ch: 3, num_out_ch: 3, num_feat: 1000000}'
    done = run_cli('test', '-opt', 'test.yml', '--force_yml', huge, 'network_g:backbone_weights=~')
    assert done.returncode == 2
    assert done.stderr.count('\n') == 1
    assert re.match(
        r'sptsr: network: EDSR needs about 36\.\d TB of memory, and [\d,.]+ GB are free; lower the', done.stderr
    )
    monkeypatch.setattr(free_memory, 'free_bytes', lambda _device='cpu': 300_000_000)
    with pytest.raises(UserError, match=r'IMDN needs about \d+ MB of memory, and 300 MB are free'):
        build_network({'type': 'IMDN', 'upscale': 4, 'nf': 2048})
    small = {'type': 'IMDN', 'upscale': 4, 'nf': 64}
    torch.manual_seed(1)
    alone = ARCH_REGISTRY.get('IMDN')(upscale=4, nf=64)
    torch.manual_seed(1)
    counted = build_network(small)
    assert all(map(torch.equal, alone.state_dict().values(), counted.state_dict().values()))
    assert type(next(counted.parameters())) is nn.Parameter


def test_memory_in_words():
    assert [in_words(size) for size in (0, 3e6, 4.25e9, 36e12, 7.2e15)] == [
        '0 MB',
        '3 MB',
        '4.2 GB',
        '36.0 TB',
        '7,200.0 TB',
    ]
    assert 1e8 < free_bytes() < 1e15


class _Unit(ModulationUnit):
    """A unit that gives what a test says in place of (F, S)."""

    def forward(self, features, prior, regions=None):
        return GIVEN(features, prior)


class _Stem(nn.Sequential):
    """A stem that gives what a test says in place of S0."""

    uses_masks = True

    def __init__(self, in_channels: int, num_masks: int, width: int) -> None:
        super().__init__(nn.Conv2d(in_channels, width, 3, padding=1))

    def forward(self, lq, masks):
        return GIVEN(super().forward(lq), masks)


GIVEN: Callable[[Tensor, Any], Any] = lambda features, prior: (features, prior)  # noqa: E731


def _attached(monkeypatch: pytest.MonkeyPatch, given: Callable[[Any, Any], Any], **options: str) -> None:
    monkeypatch.setitem(UNIT_REGISTRY._obj_map, '_Unit', _Unit)
    monkeypatch.setitem(STEM_REGISTRY._obj_map, '_Stem', _Stem)
    monkeypatch.setitem(globals(), 'GIVEN', given)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1))
    sptsr.attach(net, sites=['0'], width=4, **options)


@pytest.mark.parametrize(
    ('given', 'said'),
    [
        (lambda f, s: f, r'gave a tensor of 4 dimensions \[1, 8, 40, 80\] in place of a pair'),
        (lambda f, s: {'F': f, 'S': s}, 'gave a dict in place of a pair'),
        (lambda f, s: (f[:, :4], s), r'\[1, 4, 40, 80\] as F in place of \[1, 8, 40, 80\]'),
        (lambda f, s: (f, f), r'\[1, 8, 40, 80\] as S in place of \[1, 4, 40, 80\]'),
        (lambda f, s: (f, None), 'gave a NoneType as S'),
    ],
)
def test_what_a_unit_of_ones_own_gives_is_looked_at(given, said: str, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UserError, match=f'unit _Unit: .*{said}'):
        _attached(monkeypatch, given, unit='_Unit')


@pytest.mark.parametrize(
    ('given', 'said'),
    [
        (lambda s, m: s[:, :3], r'\[1, 3, 40, 80\] in place of S0 \[1, 4, 40, 80\]'),
        (lambda s, m: s[..., ::2], r'\[1, 4, 40, 40\] in place of S0'),
        (lambda s, m: (s, s), 'a tuple in place of S0'),
    ],
)
def test_what_a_stem_of_ones_own_gives_is_looked_at(given, said: str, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UserError, match=f'stem: gave .*{said}'):
        _attached(monkeypatch, given, stem='_Stem')
