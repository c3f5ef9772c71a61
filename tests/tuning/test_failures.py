"""What goes wrong on one rank ends all ranks, in the same iteration, with the message of that rank."""

import shutil
from pathlib import Path

import pytest

from tests.conftest import base_options, write_options
from tests.tuning.processes import codes, start, tune_otherwise


@pytest.fixture
def options(photographs: Path, tiny_weights: Path) -> dict:
    options = base_options(photographs, trains=True)
    options['network_g']['backbone_weights'] = str(tiny_weights)
    train = options['datasets']['train']
    train['batch_size_per_gpu'] = 1
    options['datasets']['val'] = {k: v for k, v in train.items() if k[:8] in ('dataroot', 'type')} | {'name': 'val'}
    options['val']['val_freq'] = 5
    return options


def _run(tmp_path: Path, paths: list[Path], spoil: str = '') -> tuple[list[int | None], list[str]]:
    logs = [tmp_path / f'{rank}.log' for rank in (0, 1)]
    found = codes(start(tune_otherwise, paths, tmp_path, logs, spoil=spoil, world=2))
    said = [[line for line in log.read_text().splitlines() if 'INFO' not in line] for log in logs]
    return found, [lines[-1] for lines in said]


@pytest.mark.parametrize('precision', ['fp32', 'fp16'])
def test_a_loss_that_is_no_number_on_one_rank_names_its_file(options: dict, tmp_path: Path, precision: str):
    options['train']['precision'] = precision
    path = write_options(tmp_path / 'x.yml', options)
    exits, said = _run(tmp_path, [path, path], 'nan')
    assert exits == [2, 2]
    own = said[1].removeprefix('sptsr: ')
    assert own.startswith('iteration 3: the loss l_pix is nan; lower the learning rate')
    assert said[0] == f'sptsr: rank 1: {own}'
    assert own.endswith('.png')
    assert not (tmp_path / 'experiments' / 'tiny' / 'models' / 'net_g_4.safetensors').exists()


@pytest.mark.parametrize(
    ('spoil', 'exits', 'text'),
    [
        ('gradient', [2, 2], 'iteration 3: the gradient is not finite; lower'),
        ('data', [2, 2], 'b.png: cut off'),
        ('restore', [2, 2], 'c.png: cut off'),
        ('memory', [2, 1], 'RuntimeError: out of memory'),
    ],
)
def test_an_error_of_one_rank_is_told_by_all(options: dict, tmp_path: Path, spoil: str, exits: list, text: str):
    path = write_options(tmp_path / 'x.yml', options)
    found, said = _run(tmp_path, [path, path], spoil)
    assert found == exits
    assert said[0].startswith(f'sptsr: rank 1: {text}')
    assert text in said[1]


def test_a_save_that_fails_on_the_first_rank_ends_the_other(options: dict, tmp_path: Path):
    path = write_options(tmp_path / 'x.yml', options)
    exits, said = _run(tmp_path, [path, path], 'write')
    assert exits == [2, 2]
    assert said == ['sptsr: x.safetensors: no room', 'sptsr: rank 0: x.safetensors: no room']


@pytest.mark.parametrize('what', ['weights', 'prior', 'adapter'])
def test_a_file_that_one_node_has_not(options: dict, tmp_path: Path, what: str):
    """Weights and options are looked at before the ranks meet, stores and adapters after it."""
    here = write_options(tmp_path / 'here.yml', options)
    if what == 'weights':
        options['network_g']['backbone_weights'] = '/no/such.pth'
    elif what == 'adapter':
        (tmp_path / 'bad.safetensors').write_bytes(b'no adapter')
        options['path'] = {'pretrain_network_g': str(tmp_path / 'bad.safetensors')}
    else:
        shutil.copytree(options['datasets']['train']['dataroot_prior'], tmp_path / 'prior')
        (tmp_path / 'prior' / 'data.mdb').unlink()
        options['datasets']['train']['dataroot_prior'] = str(tmp_path / 'prior')
    there = write_options(tmp_path / 'there.yml', options)
    exits, said = _run(tmp_path, [here, there])
    assert exits == [2, 2]
    assert said[1].startswith('sptsr: ')
    name = {'weights': '/no/such.pth: no such file', 'prior': str(tmp_path / 'prior'), 'adapter': 'bad.safetensors'}
    assert name[what] in said[1]
    assert said[0] == f'sptsr: rank 1: {said[1].removeprefix("sptsr: ")}'
    assert not (tmp_path / 'experiments').exists()
