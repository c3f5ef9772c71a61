"""docs/plug-in.md, command by command: from a network of one's own to a tuned adapter."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sptsr.archs.adapter import read_adapter
from sptsr.commands.demo_data import make_sets
from sptsr.images.folder import ImageFolder
from sptsr.priors.extract import build_source, extract
from tests.conftest import base_options, run_cli, write_options

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope='module')
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like a clone after `make demo`."""
    root = tmp_path_factory.mktemp('clone')
    shutil.copytree(ROOT / 'examples', root / 'examples')
    data = root / 'results' / 'demo' / 'data'
    make_sets(data)
    for split in ('train', 'test'):
        extract(ImageFolder(data / split / 'LRx4'), data / split / 'prior', build_source('felzenszwalb'))
    return root


def test_the_page_from_a_network_to_an_adapter(clone: Path):
    page = (ROOT / 'docs' / 'plug-in.md').read_text()
    commands = [line for block in re.findall(r'```sh\n(.*?)```', page, re.DOTALL) for line in block.splitlines()]
    assert [command.split()[0] for command in commands] == ['python'] + ['sptsr'] * 6
    outputs = []
    for command in commands:
        words = shlex.split(command)
        if 'train' in words:  # as written, except for its length
            if '--force_yml' not in words:
                words.append('--force_yml')
            words += ['train:total_iter=20', 'train:scheduler:periods=[20]', 'logger:save_checkpoint_freq=20']
        if words[0] == 'sptsr':
            done = run_cli(*words[1:], cwd=clone)
        else:
            done = subprocess.run([sys.executable, *words[1:]], cwd=clone, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout)
    (pasted,) = [text for text in re.findall(r'```yaml\n(.*?)```', page, re.DOTALL) if 'MyNet' in text]
    assert yaml.safe_load(pasted) == yaml.safe_load(_proposal(outputs[1]))
    for name, unit in (
        ('SPT_MyNet', 'ModulationUnit'),
        ('Shuffled_MyNet', 'ModulationUnit'),
        ('Plain_MyNet', 'PlainUnit'),
    ):
        adapter = read_adapter(clone / 'experiments' / name / 'models' / 'net_g_latest.safetensors')
        assert adapter.iteration == 20
        assert adapter.network_g['unit']['type'] == unit
    assert (ROOT / 'examples' / 'my_net.py').read_text().count('\n') <= 40


def _proposal(report: str) -> str:
    return report.split('for an option file:\n\n', 1)[1].split('\n\n`sites: auto`', 1)[0]


@pytest.mark.parametrize(
    ('network', 'arguments'),
    [
        ('SwinIR', ['window_size=4', 'img_size=16', 'embed_dim=12', 'depths=[2,2]', 'num_heads=[2,2]', 'upscale=4',
                    'upsampler=pixelshuffledirect', 'mlp_ratio=2']),
        ('RCAN', ['num_feat=16', 'num_group=2', 'num_block=1']),
        (str(ROOT / 'examples' / 'my_net.py') + ':MyNet', ['width=8']),
    ],
)  # fmt: skip
def test_a_pasted_proposal_trains(network: str, arguments: list[str], photographs: Path, tmp_path: Path):
    done = run_cli('sites', network, *arguments)
    assert done.returncode == 0, done.stderr
    assert 'Proposal' in done.stdout
    options = base_options(photographs, trains=True)
    pasted = yaml.safe_load(_proposal(done.stdout))
    options |= {key: value for key, value in pasted.items() if key != 'network_g'}
    options['network_g'] = {**pasted['network_g'], 'unit': {'type': 'RegionUnit', 'width': 4}}
    options['train']['total_iter'] = 2
    done = run_cli('train', '-opt', write_options(tmp_path / 'x.yml', options), '--root', tmp_path)
    assert done.returncode == 0, done.stderr
    assert read_adapter(tmp_path / 'experiments' / 'tiny' / 'models' / 'net_g_latest.safetensors').iteration == 2


def test_sites_of_usual_networks_need_no_arguments(tmp_path: Path):
    from sptsr.archs.recipes import RECIPES
    from sptsr.commands.network_report import describe_network

    walked = 0
    for name in RECIPES:
        report = describe_network(name)
        assert 'Proposal' in report
        assert '`sites: auto` knows this network' in report
        walked += 1
    assert walked == 13
    assert '`sites: auto` knows this network: 3 units, IMDB1 to IMDB5.' in describe_network('IMDN')
    assert '1 unit, IMDB1.' in describe_network('IMDN', ['num_modules=2'])
    few = describe_network('DnCNN', ['nb=3'])  # where `auto` finds none
    assert 'Proposal' in few
    assert 'sites: auto' not in few


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ([], 'sites: give a network'),
        (['SwinIIR'], "no arch is called 'SwinIIR'; did you mean 'SwinIR'"),
        (['IMDN', 'upscael=2'], "IMDN takes no 'upscael'; did you mean 'upscale'"),
        (['IMDN', 'upscale'], "'upscale' is not of the form k=v"),
        (['none.py:Net'], 'sptsr: none.py: no such file'),
        (['spandrel', 'path=none.pth'], 'none.pth: no such file'),
        (['-opt', 'none.yml'], 'none.yml: cannot read it'),
    ],
)
def test_mistakes(arguments: list[str], message: str, tmp_path: Path):
    done = run_cli('sites', *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count('\n') == 1
    assert message in done.stderr


def test_a_plugin_that_fails_keeps_its_traceback(tmp_path: Path):
    (tmp_path / 'broken.py').write_text('import sptsr\nraise RuntimeError("of its author")\n')
    done = run_cli('sites', 'broken.py:Net', cwd=tmp_path)
    assert done.returncode == 2
    assert 'line 2' in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last == 'sptsr: broken.py: importing it failed (of its author); its traceback is above'
