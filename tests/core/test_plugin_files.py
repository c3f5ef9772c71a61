"""Plug-in files import what lies beside them, and belong to projects that have a `basicsr` of their own."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from basicsr.archs import rcan_arch

from sptsr.archs.backbone import build_network
from sptsr.core.errors import UserError
from sptsr.core.plugin_files import load_plugin, module_name
from sptsr.core.registry import ARCH_REGISTRY, import_plugins
from tests.conftest import run_cli

REGISTRY = """
class Registry():
    def __init__(self, name):
        self._name = name
        self._obj_map = {}

    def _do_register(self, name, obj):
        assert name not in self._obj_map, f"'{name}' was already registered"
        self._obj_map[name] = obj

    def register(self):
        def deco(found):
            self._do_register(found.__name__, found)
            return found
        return deco

    def __contains__(self, name):
        return name in self._obj_map

DATASET_REGISTRY = Registry('dataset')
ARCH_REGISTRY = Registry('arch')
"""
# What a project's copy of BasicSR looks like in a fresh clone: `version.py` is made by its setup.
PROJECT = {
    'basicsr/__init__.py': 'from .archs import *\nfrom .version import __gitsha__\n',
    'basicsr/archs/__init__.py': """
import importlib
from os import path as osp
from basicsr.utils import get_root_logger, scandir
from basicsr.utils.registry import ARCH_REGISTRY

folder = osp.dirname(osp.abspath(__file__))
names = [osp.splitext(osp.basename(v))[0] for v in scandir(folder) if v.endswith('_arch.py')]
modules = [importlib.import_module(f'basicsr.archs.{name}') for name in names]
""",
    'basicsr/archs/arch_util.py': 'MARK = "the project\'s own"\n\ndef half(x):\n    return 0.5 * x\n',
    'basicsr/archs/rcan_arch.py': """
from torch import nn
from basicsr.utils.registry import ARCH_REGISTRY

@ARCH_REGISTRY.register()
class RCAN(nn.Module):
    changed = True
""",
    'basicsr/archs/mine_arch.py': """
from torch import nn
import basicsr.archs.arch_util as util
from basicsr.archs.arch_util import half
from basicsr.archs.rcan_arch import RCAN
from basicsr.utils.registry import ARCH_REGISTRY

@ARCH_REGISTRY.register()
class MineSR(nn.Module):
    mark = util.MARK

    def __init__(self, width: int = 4):
        super().__init__()
        self.changed = RCAN.changed
        self.body = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        from basicsr.utils.registry import ARCH_REGISTRY as later
        assert 'MineSR' in later
        return half(self.body(x))
""",
    'basicsr/utils/__init__.py': "from .misc import *\n__all__ = ['get_root_logger', 'scandir']\n",
    'basicsr/utils/misc.py': """
import os

def get_root_logger():
    return None

def scandir(folder):
    return sorted(os.listdir(folder))
""",
    'basicsr/utils/registry.py': REGISTRY,
}


def project(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def named(plugin: Path, name: str) -> type:
    import_plugins([str(plugin)])
    return ARCH_REGISTRY.get(name)


def test_the_two_basicsr_live_side_by_side(tmp_path: Path):
    before = dict(sys.modules)
    folder = project(tmp_path / 'their project', PROJECT)
    mine = named(folder / 'basicsr' / 'archs' / 'mine_arch.py', 'MineSR')
    assert mine.mark == "the project's own"
    net = build_network({'type': 'MineSR', 'width': 2})
    assert net.changed
    assert net(torch.rand(1, 3, 8, 8)).shape == (1, 3, 8, 8)
    assert ARCH_REGISTRY.get('RCAN') is rcan_arch.RCAN  # BasicSR's, and not their changed one
    assert all(sys.modules[name] is module for name, module in before.items())
    assert not hasattr(sys.modules['basicsr.archs.arch_util'], 'MARK')


def test_a_whole_copy_of_basicsr_is_imported_where_it_is_asked_for(tmp_path: Path):
    files = PROJECT | {
        'net.py': 'from basicsr.archs import modules, names\nimport basicsr.archs.mine_arch\nimport basicsr\n'
        'Net = basicsr.archs.mine_arch.MineSR\n'
    }
    module = load_plugin(project(tmp_path, files) / 'net.py')
    assert module.names == ['mine_arch', 'rcan_arch']
    assert module.modules[0].MineSR is module.Net
    assert module.basicsr is not sys.modules['basicsr']
    (tmp_path / 'asks.py').write_text('from basicsr import MineSR\n')
    with pytest.raises(ImportError, match='version'):  # what is wrong there, and not that a name is missing
        load_plugin(tmp_path / 'asks.py')


@pytest.mark.parametrize(
    ('name', 'files'),
    [
        ('a file beside it', {'net.py': 'from blocks import Net', 'blocks.py': '{net}'}),
        ('relative', {'net.py': 'from .blocks import Net', 'blocks.py': '{net}'}),
        ('relative, a module', {'net.py': 'from . import blocks\nNet = blocks.Net', 'blocks.py': '{net}'}),
        ('relative, above', {'models/net.py': 'from ..lib.blocks import Net', 'lib/blocks.py': '{net}'}),
        ('above, not installed', {'models/net.py': 'from lib.blocks import Net', 'lib/blocks.py': '{net}'}),
        ('a package', {'net.py': 'from lib import Net', 'lib/__init__.py': 'from .a import Net', 'lib/a.py': '{net}'}),
        ('a package, whole', {'net.py': 'import lib\nNet = lib.Net', 'lib/__init__.py': 'from lib.a import *',
                              'lib/a.py': '{net}'}),
        ('no __init__', {'net.py': 'import lib.a.b as b\nNet = b.Net', 'lib/a/b.py': '{net}'}),
        ('own package', {'lib/net.py': 'from lib.a import Net', 'lib/__init__.py': '', 'lib/a.py': '{net}'}),
        ('relative, __init__ fails', {'lib/net.py': 'from .a import Net', 'lib/__init__.py': '1 / 0',
                                      'lib/a.py': '{net}'}),
        ('hides an installed one', {'net.py': 'from yaml import Net', 'yaml.py': '{net}'}),
        ('from importlib', {'net.py': 'from importlib import import_module\nNet = import_module("blocks").Net',
                            'blocks.py': '{net}'}),
        ('a name that is none', {'my-net.2.py': 'from .blocks import Net', 'blocks.py': '{net}'}),
        ('not the standard library', {'net.py': 'import random\nrandom.random()\nfrom blocks import Net',
                                      'random.py': '1 / 0', 'blocks.py': '{net}'}),
        ('only a part of basicsr', {'basicsr/archs/net.py': 'from basicsr.utils.registry import ARCH_REGISTRY\n'
                                    'from basicsr.archs.blocks import Net\nARCH_REGISTRY.register()(Net)',
                                    'basicsr/archs/blocks.py': '{net}'}),
    ],
)  # fmt: skip
def test_what_lies_beside_a_plug_in_is_imported(name: str, files: dict[str, str], tmp_path: Path):
    body = 'from torch import nn\n\nclass Net(nn.Module):\n    pass\n'
    written = {key: text.replace('{net}', body) for key, text in files.items()}
    folder = project(tmp_path / 'größe 2.0', written)
    plugin = next(folder / key for key in files)
    before = set(sys.modules)
    import_plugins([f'{plugin}:Net'])
    net = ARCH_REGISTRY.get('Net')
    assert net.__module__.startswith('sptsr.core.plugin_files.')
    assert all(part.isidentifier() for part in net.__module__.split('.'))
    assert pickle.loads(pickle.dumps(net)) is net
    ours = {name for name in sys.modules.keys() - before if name.startswith('sptsr.core.plugin_files.')}
    assert len(ours) >= 2
    assert not {'blocks', 'lib'} & sys.modules.keys()


def test_installed_packages_are_not_looked_for_above_a_plug_in(tmp_path: Path):
    folder = project(tmp_path, {'a/b/net.py': 'import yaml\nSAFE = yaml.safe_load', 'yaml.py': '1 / 0'})
    assert load_plugin(folder / 'a' / 'b' / 'net.py').SAFE is sys.modules['yaml'].safe_load


def test_a_script_that_ends_the_program_does_not(tmp_path: Path):
    (tmp_path / 'script.py').write_text('import sys\nsys.exit(0)\n')
    with pytest.raises(UserError, match='importing it ends the program; put what it runs under if __name__'):
        import_plugins([str(tmp_path / 'script.py')])


def test_names_that_are_taken_and_networks_that_are_not_there_are_said(tmp_path: Path, capsys):
    folder = project(tmp_path, PROJECT | {'net.py': 'from torch import nn\nclass EDSR(nn.Module): pass\nother = 1'})
    for plugin, message in {
        'basicsr/archs/rcan_arch.py': "registers 'RCAN', a name that BasicSR or sptsr has already; rename it",
        'net.py:EDSR': "a network called 'EDSR' is registered already; rename this one",
        'net.py:EDRS': "no network 'EDRS' in this file; did you mean 'EDSR'?",
        'net.py:other': "no network 'other' in this file",
        'net.py:a.b': 'is neither',
    }.items():
        with pytest.raises(UserError) as raised:
            import_plugins([str(folder / plugin)])
        assert message in str(raised.value)
        assert str(raised.value).count('\n') == 0


@pytest.mark.parametrize('name', ['my.py', 'a/b/my.py', 'a_b/my.py', 'a b/my.net.py', 'größe/π.py', '_2f.py', '2.py'])
def test_a_plug_in_file_has_a_name_of_its_own_that_leads_back_to_it(name: str, tmp_path: Path):
    from importlib.util import find_spec

    path = project(tmp_path, {name: ''}) / name
    found = find_spec(module_name(path))
    assert found is not None
    assert found.origin == str(path)
    assert all(part.isidentifier() for part in found.name.split('.'))


def test_a_project_that_one_stands_in_does_not_hide_basicsr(tmp_path: Path):
    """`python -m` puts the present folder first in `sys.path`, and so does torchrun."""
    project(tmp_path, PROJECT)
    code = 'import sptsr, basicsr.archs.rcan_arch as found; print(found.__file__)'
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == rcan_arch.__file__, done.stderr


def test_sites_of_a_network_that_registers_itself_nowhere(tmp_path: Path):
    body = (
        'from torch import nn\nfrom blocks import Block\n\nclass Plain(nn.Module):\n    def __init__(self):\n'
        '        super().__init__()\n        self.head = nn.Conv2d(3, 8, 3, padding=1)\n'
        '        self.body = nn.Sequential(*(Block(8) for _ in range(3)))\n'
        '        self.tail = nn.Conv2d(8, 3, 3, padding=1)\n\n'
        '    def forward(self, x):\n        return x + self.tail(self.body(self.head(x)))\n'
    )
    block = 'from torch import nn\n\nclass Block(nn.Sequential):\n    def __init__(self, n):\n' \
            '        super().__init__(nn.Conv2d(n, n, 3, padding=1), nn.ReLU())\n'  # fmt: skip
    project(tmp_path, {'net.py': body, 'blocks.py': block})
    done = run_cli('sites', './net.py:Plain', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "plugins: ['./net.py:Plain']" in done.stdout
    assert 'body.*' in done.stdout
