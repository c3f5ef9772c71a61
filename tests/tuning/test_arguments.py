"""Arguments of torch and BasicSR are tried before a run: nothing is written, and one line says what is wrong."""

import re

import pytest

from sptsr.archs.spt_arch import SPTNet
from sptsr.core.distributed import Ranks
from sptsr.core.errors import UserError
from sptsr.options.keys import TRAIN_DEFAULTS
from sptsr.tuning.tuner import Tuner
from tests.archs.cases import make_net
from tests.conftest import base_options, run_cli, write_options

TRAIN = {
    **TRAIN_DEFAULTS,
    'total_iter': 100,
    'optim_g': {'type': 'Adam', 'lr': 1e-3},
    'scheduler': {'type': 'MultiStepLR', 'milestones': [4]},
    'pixel_opt': {'type': 'L1Loss'},
}


@pytest.fixture(scope='module')
def net() -> SPTNet:
    return make_net('IMDN')


@pytest.mark.parametrize(
    ('key', 'section', 'match'),
    [
        ('optim_g', {'type': 'Adam', 'lr': -1}, r'optim_g: Adam refuses its arguments \(Invalid learning rate'),
        ('optim_g', {'type': 'Adam', 'lr': 'x'}, 'optim_g: Adam refuses its arguments'),
        ('optim_g', {'type': 'Adam', 'betas': [0.9, 2]}, 'optim_g: Adam refuses its arguments'),
        ('optim_g', {'type': 'Adam', 'fused': True, 'foreach': True}, 'optim_g: Adam refuses its arguments'),
        ('optim_g', {'type': 'Adam', 'lr': 1e-3, 'capturable': True}, 'optim_g: Adam cannot make a step'),
        ('scheduler', {'type': 'StepLR', 'step_size': 0}, r'scheduler: StepLR .*by zero'),
        ('scheduler', {'type': 'CosineAnnealingLR', 'T_max': 0}, r'scheduler: CosineAnnealingLR .*by zero'),
        (
            'scheduler',
            {'type': 'OneCycleLR', 'max_lr': 1, 'total_steps': 50},
            'scheduler: it has no rate for iteration 100',
        ),
        ('scheduler', {'type': 'OneCycleLR', 'max_lr': 1}, 'scheduler: OneCycleLR refuses its arguments'),
        ('pixel_opt', {'type': 'L1Loss', 'reduction': 'x'}, r'pixel_opt: L1Loss refuses its arguments \(Unsupported'),
    ],
)
def test_a_step_is_tried_before_the_run(net: SPTNet, key: str, section: dict, match: str):
    with pytest.raises(UserError, match=f'^train.{match}') as caught:
        Tuner(net, {**TRAIN, key: section}, Ranks())
    assert len(str(caught.value).splitlines()) == 1


def test_a_schedule_that_reaches_the_end_is_taken(net: SPTNet):
    Tuner(net, {**TRAIN, 'scheduler': {'type': 'OneCycleLR', 'max_lr': 1, 'total_steps': 100}}, Ranks())


@pytest.mark.parametrize(
    ('backbone', 'match'),
    [
        ({'type': 'IMDN', 'nf': 16, 'num_modules': 2, 'out_nc': 1}, r'IMDN makes images of \(1, .* GT is \(3,'),
        ({'type': 'DnCNN', 'nb': 3, 'nc': 8, 'in_nc': 3, 'out_nc': 3}, "'auto' finds none in DnCNN of so few blocks"),
    ],
)
def test_a_network_of_other_images_than_the_gt_is_refused(photographs, tmp_path, backbone: dict, match: str):
    options = base_options(photographs, trains=True)
    options['network_g'] |= {'backbone': backbone, 'sites': 'auto'}
    path = write_options(tmp_path / 'x.yml', options)
    done = run_cli('train', '-opt', path)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / 'experiments').exists()
    assert re.search(match, done.stderr), done.stderr


@pytest.mark.parametrize('change', [{'gt_size': 70}, {'gt_size': None}, {'io_backend': {'type': 'tape'}}])
def test_the_first_sample_of_basicsrs_datasets_is_tried(photographs, tmp_path, change: dict):
    options = base_options(photographs, trains=True)
    data = options['datasets']['train']
    del data['dataroot_prior']
    data |= {'type': 'PairedImageDataset', 'io_backend': {'type': 'disk'}, **change}
    options['network_g']['unit'] = {'type': 'PlainUnit', 'width': 4}
    done = run_cli('train', '-opt', write_options(tmp_path / 'x.yml', options))
    assert done.returncode == 2, done.stderr
    assert 'PairedImageDataset' in done.stderr
    assert not (tmp_path / 'experiments').exists()
