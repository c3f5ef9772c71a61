"""`~` means the home folder in option files, on the command line and in parameters of sources."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import yaml

from sptsr.archs.attach import load
from sptsr.core.errors import UserError
from sptsr.core.homes import expanded
from sptsr.core.plugin_files import module_name
from tests.conftest import run_cli

PLUGIN = """
from torch import nn
from sptsr.registry import ARCH_REGISTRY, register

@register(ARCH_REGISTRY)
class AtHome(nn.Module):
    pass
"""


@pytest.fixture
def home(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with all files of a run; `here` has option files that name them by `~`."""
    folder = here / 'home of mine'
    folder.mkdir()
    monkeypatch.setenv('HOME', str(folder))
    shutil.move(here / 'set', folder / 'set')
    (folder / 'plug.py').write_text(PLUGIN)
    for name in ('train', 'test'):
        options = yaml.safe_load((here / f'{name}.yml').read_text())
        weights = options['network_g']['backbone_weights']
        shutil.copy(weights, folder / 'tiny.pth')
        text = (here / f'{name}.yml').read_text().replace(str(here / 'set'), '~/set').replace(weights, '~/tiny.pth')
        (folder / f'{name}.yml').write_text(f'plugins: [~/plug.py]\n{text}')
        (here / f'{name}.yml').write_text(f'base: ~/{name}.yml\n')
    return folder


def test_every_path_of_a_run_may_begin_with_it(home: Path, here: Path):
    assert run_cli('train', '-opt', 'train.yml', '--force_yml', 'train:total_iter=1', '--root', '~').returncode == 0
    adapter = home / 'experiments' / 'tiny' / 'models' / 'net_g_latest.safetensors'
    shutil.move(adapter, home / 'adapter.safetensors')
    tested = run_cli('test', '-opt', '~/test.yml', '--force_yml', 'path:pretrain_network_g=~/adapter.safetensors')
    assert tested.returncode == 0, tested.stderr
    assert tested.stdout.count('photographs') == 1
    assert f'pretrain_network_g: {home}/adapter' in run_cli(
        'options', '-opt', 'test.yml', '--force_yml', 'path:pretrain_network_g=~/adapter.safetensors'
    ).stdout  # fmt: skip
    labels = ['labels', '--set', 'dir=~/labels']
    (home / 'labels').mkdir()
    assert 'no label files' in run_cli('prior', 'extract', '-i', '~/set/LRx4', '-o', 'x', '--source', *labels).stderr
    state = next((home / 'experiments' / 'tiny' / 'training_states').glob('*.state')).relative_to(home)
    resumed = run_cli(
        *('train', '-opt', 'train.yml', '--root', '~'),
        *('--force_yml', 'train:total_iter=2', f'path:resume_state=~/{state}'),
    )
    assert resumed.returncode == 0, resumed.stderr
    assert module_name(home / 'plug.py') is not None
    assert load(home / 'adapter.safetensors').options['backbone_weights'] == str(home / 'tiny.pth')
    assert not list(here.rglob('~*'))


def test_a_user_that_is_not_there_is_one_line(here: Path):
    nobody = '~nosuchuser/x'
    said = "~nosuchuser/x: there is no user 'nosuchuser' here; write the path out"
    commands = [
        ['test', '-opt', 'test.yml', '--force_yml', f'{key}={nobody}']
        for key in (
            'network_g:backbone_weights',
            'path:pretrain_network_g',
            'path:param_key_g',
            'datasets:test:dataroot_gt',
            'datasets:test:meta_info_file',
            'base',
        )
    ]
    commands += [
        ['test', '-opt', 'test.yml', '--force_yml', f'plugins=[{nobody}.py]'],
        ['test', '-opt', nobody],
        ['prior', 'extract', '-i', nobody, '-o', 'x', '--source', 'felzenszwalb'],
        ['prior', 'extract', '-i', 'set/LRx4', '-o', 'x', '--source', 'sam', '--set', f'checkpoint={nobody}'],
        ['sites', 'spandrel', f'path={nobody}'],
        ['restore', '-i', 'set/LRx4', '-o', 'x', '-a', nobody],
    ]
    for command in commands:
        done = run_cli(*command)
        assert done.returncode == 2, command
        assert done.stderr.count('\n') == 1, done.stderr
        assert said.removesuffix("here; write the path out") in done.stderr.replace('x.py', 'x') or (
            'base' in command[-1] and "unknown key 'base'" in done.stderr), done.stderr  # fmt: skip
    assert not (here / 'x').exists()


def test_other_texts_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv('HOME', '/home/me')
    value = {'a': ['~', '~/b', 'x~/b', '~b', 3, None], '~/k': {'c': ('~/d', torch.float32)}}
    assert expanded(value) == {
        'a': ['/home/me', '/home/me/b', 'x~/b', '~b', 3, None],
        '~/k': {'c': ('/home/me/d', torch.float32)},
    }
    (tmp_path / '~none').mkdir()
    (tmp_path / '~none' / 'file').touch()
    assert expanded('~none/file') == '~none/file'  # a folder of that name
    for wrong in ('~a\0b/c', '~\udcff/c', '~none/other'):
        with pytest.raises(UserError, match='write the path out'):
            expanded(wrong)
