"""The main job on photographs: exact iterations, only the adapter learns, nothing is ever torn."""

import copy
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sptsr.archs.adapter import read_adapter, save_adapter
from sptsr.archs.spt_arch import SPTNet
from sptsr.archs.weights import state_digest
from sptsr.core.errors import UserError
from sptsr.tuning.adapter_files import trained_with
from sptsr.tuning.testing import test_pipeline as run_test
from sptsr.tuning.training import train_pipeline
from tests.conftest import base_options, run_cli, write_options
from tests.tuning.processes import wait_until


@pytest.fixture
def options(photographs: Path, tiny_weights: Path) -> dict:
    options = base_options(photographs, trains=True)
    options['network_g']['backbone_weights'] = str(tiny_weights)
    return options


def _net(opt: dict) -> SPTNet:
    return SPTNet(**{k: v for k, v in copy.deepcopy(opt['network_g']).items() if k != 'type'})


def _adapter_bytes(root: Path, name: str = 'net_g_latest') -> bytes:
    return (root / 'experiments' / 'tiny' / 'models' / f'{name}.safetensors').read_bytes()


def test_a_run_makes_its_iterations_and_moves_the_adapter_only(options: dict, tmp_path: Path):
    options['datasets']['train']['batch_size_per_gpu'] = 9  # larger than the set; stock makes no iteration then
    options['train']['total_iter'] = 5
    options['datasets']['val'] = {
        **{k: v for k, v in options['datasets']['train'].items() if 'dataroot' in k or k == 'type'},
        'name': 'holdout',
    }
    options['val']['val_freq'] = 2
    options['logger']['use_tb_logger'] = True
    model = train_pipeline(write_options(tmp_path / 'x.yml', options), tmp_path)
    home = tmp_path / 'experiments' / 'tiny'
    assert sorted(p.name for p in (home / 'models').iterdir()) == [
        'net_g_2.safetensors',
        'net_g_4.safetensors',
        'net_g_5.safetensors',
        'net_g_best_holdout_psnr.safetensors',
        'net_g_best_holdout_ssim.safetensors',
        'net_g_latest.safetensors',
    ]
    assert sorted(p.name for p in (home / 'training_states').iterdir()) == ['2.state', '4.state', '5.state']
    assert model.best_metric_results['holdout']['psnr']['iter'] in (2, 4, 5)
    log = next(home.glob('train_tiny_*.log')).read_text()
    assert 'iter:       5' in log
    etas = re.findall(r'eta: ([^,]*),', log)
    assert len(etas) > 1
    assert all(re.fullmatch(r'\d+:\d\d:\d\d', eta) for eta in etas)  # upstream's last one is "-1 day"
    assert etas[-1] == '0:00:00'
    assert log.count('holdout, 4 images: psnr') == 3
    assert list((tmp_path / 'tb_logger' / 'tiny').iterdir())
    assert (home / 'x.yml').exists()

    torch.manual_seed(3)
    fresh = _net(options)
    assert state_digest(model.net.backbone) == state_digest(fresh.backbone)
    adapter = read_adapter(home / 'models' / 'net_g_latest.safetensors')
    assert adapter.iteration == 5
    assert adapter.backbone_sha256 == fresh.backbone_digest()
    moved = [not torch.equal(value, adapter.params[name]) for name, value in fresh.adapter_state().items()]
    assert len(moved) == len(adapter.params) == 20
    assert all(moved)
    assert adapter.params_ema is not None
    assert any(not torch.equal(adapter.params[n], adapter.params_ema[n]) for n in adapter.params)


def test_the_same_run_twice_gives_the_same_bytes_whatever_the_workers(options: dict, tmp_path: Path):
    for number, workers in enumerate((0, 2)):
        options['datasets']['train']['num_worker_per_gpu'] = workers
        train_pipeline(write_options(tmp_path / 'x.yml', options), tmp_path / str(number))
    assert _adapter_bytes(tmp_path / '0') == _adapter_bytes(tmp_path / '1')


def test_a_run_cut_off_and_resumed_is_the_unbroken_one(options: dict, tmp_path: Path):
    path = write_options(tmp_path / 'x.yml', options)
    train_pipeline(path, tmp_path / 'whole')
    train_pipeline(path, tmp_path / 'cut')
    home = tmp_path / 'cut' / 'experiments' / 'tiny'
    for name in ('4', '6'):  # as if it had been killed after iteration 3
        (home / 'training_states' / f'{name}.state').unlink()
        (home / 'models' / f'net_g_{name}.safetensors').unlink()
    (home / 'models' / 'net_g_latest.safetensors').unlink()
    (home / 'training_states' / '.tmp-killed.state').write_bytes(b'half')
    (home / 'training_states' / '4.state').write_bytes(b'torn')  # no writer of ours leaves this, a disk may
    train_pipeline(path, tmp_path / 'cut')
    assert _adapter_bytes(tmp_path / 'cut') == _adapter_bytes(tmp_path / 'whole')
    assert not list((tmp_path / 'cut' / 'experiments').glob('*archived*'))
    assert not list((home / 'training_states').glob('.tmp*'))


def test_when_it_goes_on_and_when_it_starts_anew(options: dict, tmp_path: Path):
    path = write_options(tmp_path / 'x.yml', options)
    train_pipeline(path, tmp_path)
    train_pipeline(path, tmp_path)  # finished: put aside, as BasicSR does
    archived = list((tmp_path / 'experiments').glob('tiny_archived_*'))
    assert len(archived) == 1
    (log,) = (tmp_path / 'experiments' / 'tiny').glob('train_*.log')
    assert f'put aside: {archived[0]}\n' in log.read_text()
    longer = train_pipeline(path, tmp_path, auto_resume=True, force=['train:total_iter=8'])
    assert len(list((tmp_path / 'experiments').glob('tiny_archived_*'))) == 1
    assert (tmp_path / 'experiments' / 'tiny' / 'training_states' / '8.state').exists()
    assert read_adapter(tmp_path / 'experiments' / 'tiny' / 'models' / 'net_g_latest.safetensors').iteration == 8
    assert longer.schedulers[0].last_epoch == 7
    adapter = tmp_path / 'experiments' / 'tiny' / 'models' / 'net_g_latest.safetensors'
    before = adapter.read_bytes()
    with pytest.raises(UserError, match=r'8\.state: is of iteration 8, beyond train\.total_iter, 6'):
        train_pipeline(path, tmp_path, auto_resume=True)
    with pytest.raises(UserError, match=r'--fresh: begins anew, and path\.resume_state names a state'):
        train_pipeline(
            path, tmp_path, fresh=True, force=[f'path:resume_state={adapter.parent}/../training_states/8.state']
        )
    assert adapter.read_bytes() == before
    other = ['network_g:unit:width=6', 'train:total_iter=9']
    with pytest.raises(UserError, match='tensors do not fit'):
        train_pipeline(path, tmp_path, auto_resume=True, force=other)


def test_a_kill_behind_the_last_state_costs_nothing(options: dict, tmp_path: Path):
    path = write_options(tmp_path / 'x.yml', options)
    train_pipeline(path, tmp_path)
    latest = tmp_path / 'experiments' / 'tiny' / 'models' / 'net_g_latest.safetensors'
    whole = latest.read_bytes()
    latest.unlink()
    train_pipeline(path, tmp_path)
    assert latest.read_bytes() == whole
    assert not list((tmp_path / 'experiments').glob('*archived*'))


@pytest.mark.parametrize('workers', [0, 1])
def test_a_signal_finishes_the_step_and_saves(options: dict, tmp_path: Path, workers: int):
    options['train']['total_iter'] = 100000
    options['datasets']['train']['num_worker_per_gpu'] = workers
    path = write_options(tmp_path / 'x.yml', options)
    process = subprocess.Popen(
        [sys.executable, '-m', 'sptsr.train', '-opt', path, '--root', tmp_path],
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    states = tmp_path / 'experiments' / 'tiny' / 'training_states'
    wait_until(lambda: len(list(states.glob('*.state'))) >= 2)
    os.killpg(process.pid, signal.SIGTERM)  # the workers too, as a scheduler does
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, stderr
    assert 'the same command goes on' in stderr
    last = max(int(p.stem) for p in states.glob('*.state'))
    assert f'Stopped at iteration {last} of 100000' in stderr


def test_bf16_and_channels_last_train_too(options: dict, tmp_path: Path):
    options['train'] |= {'precision': 'bf16', 'channels_last': True, 'warmup_iter': 3}
    options['train']['optim_g'] = {'type': 'AdamW', 'lr': 1e-3, 'weight_decay': 0.01}  # stock knows Adam only
    model = train_pipeline(write_options(tmp_path / 'x.yml', options), tmp_path)
    assert isinstance(model.tuner.optimizer, torch.optim.AdamW)
    assert all(p.dtype == torch.float32 for p in model.net.parameters())
    assert 0 < model.log_dict['l_pix'] < 1


def test_an_adapter_says_what_it_gave_on_the_validation_sets(options: dict, tmp_path: Path):
    options['datasets']['val'] = {**options['datasets']['train'], 'name': 'seen'}
    options['val']['val_freq'] = 4  # of 6 iterations; the last one is validated too
    model = train_pipeline(write_options(tmp_path / 'x.yml', options), tmp_path)
    means = {metric: record['mean'] for metric, record in model.validation_results['seen'].items()}
    models = tmp_path / 'experiments' / options['name'] / 'models'
    assert read_adapter(models / 'net_g_latest.safetensors').trained_with['metrics'] == {'seen': means}
    assert read_adapter(models / 'net_g_4.safetensors').trained_with['metrics'] != {'seen': means}
    assert 'metrics' not in read_adapter(models / 'net_g_2.safetensors').trained_with


def test_a_stock_dataset_serves_units_without_masks(options: dict, tmp_path: Path):
    data = options['datasets']['train']
    data.pop('dataroot_prior')
    data |= {'type': 'PairedImageDataset', 'io_backend': {'type': 'disk'}}
    options['network_g']['unit']['type'] = 'PlainUnit'
    options['datasets']['val'] = {k: v for k, v in data.items() if 'dataroot' in k or k in ('type', 'io_backend')}
    options['datasets']['val']['name'] = 'stock'
    path = write_options(tmp_path / 'x.yml', options)
    model = train_pipeline(path, tmp_path)
    assert sorted(model.validation_results['stock']['psnr']['per_image']) == [
        'astronaut',
        'chelsea',
        'coffee',
        'rocket',
    ]
    data.pop('io_backend')
    data.pop('use_rot')
    with pytest.raises(UserError, match="2 mistakes\n.*needs 'io_backend'\n.*needs 'use_rot'"):
        train_pipeline(write_options(path, options), tmp_path)


def test_evaluation_of_the_three_arms(options: dict, photographs: Path, tmp_path: Path):
    train_pipeline(write_options(tmp_path / 'train.yml', options), tmp_path)
    testing = base_options(photographs, trains=False)
    testing['network_g'] = options['network_g']
    frozen = run_test(write_options(tmp_path / 'test.yml', testing), tmp_path)
    with_masks = copy.deepcopy(testing)
    with_masks['name'] = 'tuned'
    adapter = tmp_path / 'experiments' / 'tiny' / 'models' / 'net_g_latest.safetensors'
    with_masks['path'] = {'pretrain_network_g': str(adapter)}
    with_masks['val']['save_img'] = True
    tuned = run_test(write_options(tmp_path / 'test2.yml', with_masks), tmp_path)
    assert frozen['photographs']['psnr'] != tuned['photographs']['psnr']
    bare = copy.deepcopy(testing)
    bare['name'] = 'bare'
    bare['network_g'] = testing['network_g']['backbone']
    bare['path'] = {'pretrain_network_g': testing['network_g']['backbone_weights']}
    assert run_test(write_options(tmp_path / 'test3.yml', bare), tmp_path) == frozen
    tiled = run_test(tmp_path / 'test.yml', tmp_path, ['val:tile=16', 'val:tile_overlap=4'])
    assert tiled != frozen
    # IMDN's channel attention averages over its input, so tiles come close and are not the same
    assert abs(tiled['photographs']['psnr']['mean'] - frozen['photographs']['psnr']['mean']) < 0.5

    record = json.loads((tmp_path / 'results' / 'tuned' / 'metrics.json').read_text())
    assert record['name'] == 'tuned'
    assert record['seed'] == 3  # of the training; its own manual_seed plays no part
    assert json.loads((tmp_path / 'results' / 'bare' / 'metrics.json').read_text())['seed'] is None
    assert len(record['options_sha256']) == 64
    values = record['datasets']['photographs']['psnr']
    assert sorted(values['per_image']) == ['astronaut', 'chelsea', 'coffee', 'rocket']
    assert values['mean'] == pytest.approx(sum(values['per_image'].values()) / 4)
    net = _net(options)
    assert record['params'] == {
        'trainable': sum(p.numel() for p in net.adapter_parameters().values()),
        'total': sum(p.numel() for p in net.parameters()),
    }
    pictures = tmp_path / 'results' / 'tuned' / 'visualization' / 'photographs'
    assert len(list(pictures.iterdir())) == 4


@pytest.mark.data
def test_published_figures_of_imdn(real_data: Path, tmp_path: Path):
    """Each within 0.002 dB and 0.0001 on Set5; docs/results has those of B100, which takes too long here."""
    published = {'IMDN_x4': (32.211, 0.8948), 'IMDN_x3': (34.362, 0.9270), 'IMDN_x2': (37.997, 0.9605)}
    (tmp_path / 'datasets').mkdir()
    (tmp_path / 'datasets' / 'Set5').symlink_to(real_data / 'sr' / 'Set5')
    for folder in ('GTx4', 'LRx4'):
        some = sorted((real_data / 'sr' / 'BSD100' / folder).iterdir())[:3]
        (tmp_path / 'datasets' / 'B100' / folder).mkdir(parents=True)
        for path in some:
            (tmp_path / 'datasets' / 'B100' / folder / path.name).symlink_to(path)
    (tmp_path / 'weights').symlink_to(real_data / 'weights')
    options = Path(__file__).parents[2] / 'options' / 'test'
    for name, (psnr, ssim) in published.items():
        done = run_cli('test', '-opt', options / f'{name}.yml', cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        record = json.loads((tmp_path / 'results' / name / 'metrics.json').read_text())
        got = record['datasets']['Set5']
        assert len(got['psnr']['per_image']) == 5
        assert got['psnr']['mean'] == pytest.approx(psnr, abs=0.002)
        assert got['ssim']['mean'] == pytest.approx(ssim, abs=0.0001)


def test_going_back_to_a_state_leaves_no_later_ones_beside_it(options: dict, tmp_path: Path):
    options['logger'] |= {'save_checkpoint_freq': 2, 'keep_last': 2}
    path = write_options(tmp_path / 'x.yml', options)
    train_pipeline(path, tmp_path)
    states = tmp_path / 'experiments' / 'tiny' / 'training_states'
    assert sorted(state.name for state in states.iterdir()) == ['4.state', '6.state']
    back = [f'path:resume_state={states}/4.state']
    for _ in range(2):  # the same command can be said again
        train_pipeline(path, tmp_path, force=back)
        assert sorted(state.name for state in states.iterdir()) == ['4.state', '6.state']
    assert list(tmp_path.glob('experiments/tiny/training_states_archived_*/6.state'))


@pytest.mark.parametrize(('sigma', 'said'), [(25, 25), ([0, 50], [0, 50]), (None, None), ('blind', None)])
def test_an_adapter_says_no_noise_level_that_is_none(options: dict, tmp_path: Path, sigma: object, said: object):
    """`sigma: ~` takes the key out of a base file; a set of one's own may call something else so."""
    data = options['datasets']['train'] | {'name': 291, 'sigma': sigma}
    record = trained_with({**options, 'datasets': {'train': data}, 'manual_seed': 0})
    assert (record.get('sigma'), record['dataset']) == (said, '291')
    net = _net(options)
    for kept in (record, {**record, 'sigma': None}):  # as those of before say it
        save_adapter(tmp_path / 'a.safetensors', net, net.options, 0, trained_with=kept)
        assert read_adapter(tmp_path / 'a.safetensors').trained_with.get('sigma') == kept.get('sigma')
