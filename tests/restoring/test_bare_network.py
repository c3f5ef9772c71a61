"""`sptsr restore` with a network that has no units: the frozen network that adapters are compared with."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from sptsr.archs.weights import read_weights
from sptsr.images.decode import decode_rgb
from sptsr.images.folder import ImageFolder
from sptsr.restoring.through import Frozen
from tests.conftest import run_cli


@pytest.fixture
def bare(here: Path) -> Path:
    """The option file of the backbone alone."""
    options = yaml.safe_load(Path('test.yml').read_text())
    section = options.pop('network_g')
    options['network_g'] = section['backbone']
    options['path'] = {'pretrain_network_g': section['backbone_weights'], 'strict_load_g': True}
    (here / 'bare.yml').write_text(yaml.safe_dump(options))
    return here / 'bare.yml'


def test_it_gives_what_the_frozen_network_gives(bare: Path):
    command = [sys.executable, '-m', 'sptsr', 'restore', '-i', 'set/LRx4', '-o', 'frozen', '-opt', bare]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, 'frozen: 4 images restored\n'), done.stderr
    images, net = ImageFolder('set/LRx4'), Frozen.of_options(bare)
    for key in images.keys:
        expected = net.restore([images.read(key)], None)[0]
        assert np.array_equal(decode_rgb(Path('frozen', f'{key}.png').read_bytes(), key), expected)
        assert expected.std() > 1


def test_there_is_nothing_to_compare_and_masks_play_no_part(bare: Path):
    report = run_cli('restore', '-i', 'set/LRx4', '-o', 'o', '-opt', bare, '--report')
    assert report.returncode == 2
    assert report.stderr == f'sptsr: --report: shows what an adapter changes, and {bare} has none; remove it\n'
    assert not Path('o').exists()
    masks = run_cli('restore', '-i', 'set/LRx4', '-o', 'o', '-opt', bare, '--source', 'felzenszwalb')
    assert masks.returncode == 0
    assert 'this network uses no masks; --source, --set, --prior and --through play no part' in masks.stderr


def test_units_without_their_adapter_are_refused(here: Path):
    done = run_cli('restore', '-i', 'set/LRx4', '-o', 'o', '-opt', 'test.yml')
    assert done.returncode == 2
    assert 'test.yml: needs path.pretrain_network_g; or name the adapter with -a' in done.stderr


def test_images_of_the_option_file_need_not_be_there(bare: Path, tmp_path: Path):
    options = yaml.safe_load(bare.read_text())
    weights = Path(options['path']['pretrain_network_g']).resolve()
    options['path']['pretrain_network_g'] = 'weights/elsewhere.pth'
    for section in options['datasets'].values():
        section['dataroot_gt'] = 'datasets/not_here'
    moved = tmp_path / 'moved.yml'
    moved.write_text(yaml.safe_dump(options))
    lost = run_cli('restore', '-i', 'set/LRx4', '-o', 'o', '-opt', moved)
    assert (lost.returncode, lost.stderr.count('\n')) == (2, 1)
    assert 'weights/elsewhere.pth: no such file' in lost.stderr
    done = run_cli('restore', '-i', 'set/LRx4', '-o', 'o', '-opt', moved, '--weights', weights)
    assert done.returncode == 0, done.stderr
    assert run_cli('restore', '-i', 'set/LRx4', '-o', 'before', '-opt', bare).returncode == 0
    for path in Path('before').glob('*.png'):
        assert path.read_bytes() == Path('o', path.name).read_bytes()
    assert len(list(Path('o').glob('*.png'))) == 4


def test_a_path_that_is_no_section_is_one_line(bare: Path):
    options = yaml.safe_load(bare.read_text())
    options['path'] = 'weights'
    bare.write_text(yaml.safe_dump(options))
    done = run_cli('prior', 'extract', '-i', 'set/LRx4', '-o', 's', '--source', 'felzenszwalb', '--through', bare)
    assert done.returncode == 2
    assert done.stderr == f'sptsr: {bare}: path must be a section\n'


def test_weights_that_moved_keep_the_entry_that_the_file_names(bare: Path):
    options = yaml.safe_load(bare.read_text())
    state = read_weights(options['path']['pretrain_network_g'])
    torch.save({'params': state, 'params_ema': {name: value * 1.1 for name, value in state.items()}}, 'moved.pth')
    options['path'] |= {'pretrain_network_g': 'gone.pth', 'param_key_g': 'params'}
    Path('gone.yml').write_text(yaml.safe_dump(options))
    for file, out, more in (('gone.yml', 'moved', ['--weights', 'moved.pth']), (bare, 'before', [])):
        done = run_cli('restore', '-i', 'set/LRx4', '-o', out, '-opt', file, *more)
        assert done.returncode == 0, done.stderr
    assert Path('moved/coffee.png').read_bytes() == Path('before/coffee.png').read_bytes()
