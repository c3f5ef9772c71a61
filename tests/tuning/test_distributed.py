"""Several processes: one gradient, one stream, one set of figures."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from sptsr.archs.adapter import read_adapter
from sptsr.archs.spt_arch import SPTNet
from sptsr.core.distributed import Ranks, first_host, start_ranks
from sptsr.core.errors import UserError
from sptsr.tuning.training import train_pipeline
from tests.archs.cases import inputs, make_net
from tests.conftest import base_options, validated_options, write_options
from tests.tuning.processes import finish, measure, start, tune


def _net() -> SPTNet:
    net = make_net('IMDN').double()
    generator = torch.Generator().manual_seed(3)
    for parameter in net.adapter_parameters().values():  # those that start at zero hold back the gradient of others
        parameter.data.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64), alpha=0.1)
    return net


def _loss(net: SPTNet, rows: slice) -> torch.Tensor:
    lq, masks = inputs(12, 16, batch=4)
    return (net(lq.double()[rows], masks.double()[rows]) - 0.3).abs().mean()


def _gradients(out: Path) -> None:
    ranks = start_ranks('pytorch')
    net = _net()
    _loss(net, slice(2 * ranks.rank, 2 * ranks.rank + 2)).backward()
    assert not ranks.average_gradients(net.adapter_parameters().values(), torch.zeros(()))
    assert ranks.highest(3 - ranks.rank) == 3
    assert ranks.mean(float(ranks.rank)) == 0.5
    assert ranks.gather(ranks.rank) == [0, 1]
    torch.save({name: p.grad for name, p in net.adapter_parameters().items()}, out / f'{ranks.rank}.pt')
    ranks.close()


def test_the_gradient_of_two_ranks_is_that_of_the_double_batch(tmp_path: Path):
    assert finish(start(_gradients, tmp_path, world=2)) == [0, 0]
    net = _net()
    _loss(net, slice(0, 4)).backward()
    ranks = [torch.load(tmp_path / f'{rank}.pt', weights_only=True) for rank in (0, 1)]
    compared = 0
    for name, parameter in net.adapter_parameters().items():
        assert torch.equal(ranks[0][name], ranks[1][name])
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 0
        torch.testing.assert_close(ranks[0][name], parameter.grad, rtol=1e-12, atol=1e-16)
        compared += 1
    assert compared == len(net.adapter_state()) == 20


def _lacking(out: Path) -> None:
    ranks = start_ranks('pytorch')
    of_one, of_none, of_all = (torch.zeros(2, requires_grad=True) for _ in range(3))
    (of_all.sum() + (of_one.sum() if ranks.rank else 0)).backward()
    ranks.average_gradients([of_one, of_none, of_all], torch.zeros(()))
    assert of_none.grad is None
    torch.save([of_one.grad, of_all.grad], out / f'{ranks.rank}.pt')
    ranks.close()


def test_a_parameter_that_one_rank_did_not_use_has_the_mean_on_all(tmp_path: Path):
    """As where a unit goes its ways by chance; ranks would drift apart."""
    assert finish(start(_lacking, tmp_path, world=2)) == [0, 0]
    for rank in (0, 1):
        of_one, of_all = torch.load(tmp_path / f'{rank}.pt', weights_only=True)
        assert of_one.tolist() == [0.5, 0.5]
        assert of_all.tolist() == [1, 1]


@pytest.fixture
def options(photographs: Path, tiny_weights: Path) -> dict:
    return validated_options(photographs, tiny_weights, 'holdout', 3)


def _adapter(root: Path) -> Path:
    return root / 'experiments' / 'tiny' / 'models' / 'net_g_latest.safetensors'


def test_two_ranks_tune_as_one_process_does_with_the_double_batch(options: dict, tmp_path: Path):
    options['datasets']['train']['batch_size_per_gpu'] = 2
    path = write_options(tmp_path / 'two.yml', options)
    assert finish(start(tune, path, tmp_path / 'two', launcher='pytorch', world=2)) == [0, 0]
    options['datasets']['train']['batch_size_per_gpu'] = 4
    path = write_options(tmp_path / 'one.yml', options)
    assert finish(start(tune, path, tmp_path / 'one')) == [0]
    options['datasets']['train']['batch_size_per_gpu'] = 2
    options['train']['accumulate'] = 2
    path = write_options(tmp_path / 'twice.yml', options)
    assert finish(start(tune, path, tmp_path / 'twice')) == [0]
    one = read_adapter(_adapter(tmp_path / 'one'))
    for other in ('two', 'twice'):
        adapter = read_adapter(_adapter(tmp_path / other))
        for name, value in one.params.items():
            torch.testing.assert_close(adapter.params[name], value, rtol=1e-3, atol=2e-5)
    log = next((tmp_path / 'two' / 'experiments' / 'tiny').glob('*.log')).read_text()
    assert 'batch 2 on each of 2 ranks' in log
    assert log.count('holdout, 4 images: psnr') == 2  # one rank writes it, with the images of both


def test_ranks_share_a_test_set_and_find_the_figures_of_one_process(photographs: Path, tmp_path: Path):
    testing = base_options(photographs, trains=False)
    testing['val']['save_img'] = True
    path = write_options(tmp_path / 'x.yml', testing)
    assert finish(start(measure, path, tmp_path / 'one')) == [0]
    assert finish(start(measure, path, tmp_path / 'three', launcher='pytorch', world=3)) == [0, 0, 0]
    one, three = (
        json.loads((tmp_path / r / 'results' / 'tiny' / 'metrics.json').read_text()) for r in ('one', 'three')
    )
    assert len(one['datasets']['photographs']['psnr']['per_image']) == 4
    assert three == one  # to the last bit, in the same order
    assert list(three['datasets']['photographs']['psnr']['per_image']) == ['astronaut', 'chelsea', 'coffee', 'rocket']
    assert len(list((tmp_path / 'three').rglob('*.png'))) == 4


def test_ranks_validate_a_network_with_buffers(options: dict, photographs: Path, tmp_path: Path):
    """Stock BasicSR runs it through DDP on one rank, and crashes."""
    shutil.copytree(photographs / 'LRx4', tmp_path / 'clean')
    for phase in ('train', 'val'):
        options['datasets'][phase] |= {'dataroot_gt': str(tmp_path / 'clean')}
    options['datasets']['train'] |= {'gt_size': 16}
    backbone = {'type': 'DnCNN', 'in_nc': 3, 'out_nc': 3, 'nc': 8, 'nb': 9, 'act_mode': 'BR'}
    options['network_g'] |= {'backbone': backbone, 'backbone_weights': None, 'sites': 'auto'}
    options['scale'] = 1
    path = write_options(tmp_path / 'x.yml', options)
    assert finish(start(tune, path, tmp_path, launcher='pytorch', world=2)) == [0, 0]
    log = next((tmp_path / 'experiments' / 'tiny').glob('*.log')).read_text()
    assert log.count('holdout, 4 images: psnr') == 2


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGKILL])
def test_torchrun_as_documented_stops_on_a_signal_and_goes_on(options: dict, tmp_path: Path, number: signal.Signals):
    options['train']['total_iter'] = 100000
    options['val'].pop('val_freq')
    options['val']['val_freq'] = 100000
    path = write_options(tmp_path / 'x.yml', options)
    command = [
        *(sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2'),
        '-m',
        'sptsr.train',
        '-opt',
        path,
        '--root',
        tmp_path,
        '--launcher',
        'pytorch',
    ]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True, env=environment)
    states = tmp_path / 'experiments' / 'tiny' / 'training_states'
    deadline = time.monotonic() + 120
    while len(list(states.glob('*.state'))) < 3:
        assert process.poll() is None
        assert time.monotonic() < deadline, 'nothing happened in time'
        time.sleep(0.02)
    process.send_signal(number)  # torchrun hands it on; where it is killed, its ranks are told
    _, stderr = process.communicate(timeout=120)
    last = max(int(p.stem) for p in states.glob('*.state'))
    assert f'Stopped at iteration {last} of 100000' in stderr
    assert stderr.count('Stopped at iteration') == 1
    options['train']['total_iter'] = last + 2
    path = write_options(tmp_path / 'x.yml', options)
    settings = {'launcher': 'pytorch', 'auto_resume': True}
    assert finish(start(tune, path, tmp_path, log=tmp_path / 'log', world=2, **settings)) == [0, 0]
    log = (tmp_path / 'log').read_text()
    assert f'Going on from iteration {last}' in log
    assert 'Processes of the run' not in log
    assert read_adapter(_adapter(tmp_path)).iteration == last + 2
    path = write_options(tmp_path / 'x.yml', {**options, 'train': {**options['train'], 'total_iter': last + 3}})
    assert finish(start(tune, path, tmp_path, log=tmp_path / 'log', auto_resume=True)) == [0]
    assert 'Processes of the run: 2 so far, 1 now; each takes a batch of its own.' in (tmp_path / 'log').read_text()


def test_several_processes_without_a_launcher_are_refused(
    options: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Stock ranks all write the same run."""
    path = write_options(tmp_path / 'x.yml', options)
    for name in ('WORLD_SIZE', 'SLURM_STEP_NUM_TASKS'):
        with monkeypatch.context() as patch:
            patch.setenv(name, '2')
            with pytest.raises(UserError, match='2 processes were started and would all write the same run'):
                train_pipeline(path, tmp_path)
    with pytest.raises(UserError, match=r'--launcher pytorch: RANK is not set; start it as `torchrun'):
        train_pipeline(path, tmp_path, launcher='pytorch')
    with pytest.raises(UserError, match='--launcher slurm: SLURM_PROCID is not set; start it with srun'):
        train_pipeline(path, tmp_path, launcher='slurm')
    assert not (tmp_path / 'experiments').exists()


def test_slurm_says_the_same_in_other_words(monkeypatch: pytest.MonkeyPatch):
    for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT'):
        monkeypatch.setenv(name, '')  # so that what is set is taken back
        monkeypatch.delenv(name)
    said = {'SLURM_PROCID': '0', 'SLURM_NTASKS': '1', 'SLURM_LOCALID': '0', 'SLURM_STEP_NODELIST': 'gpu[07-09]'}
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    assert start_ranks('slurm', {'port': 12345}) == Ranks(0, 1)
    assert (os.environ['MASTER_ADDR'], os.environ['MASTER_PORT']) == ('gpu07', '12345')


def test_a_wrong_environment_is_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv('WORLD_SIZE', '')
    assert start_ranks('none') == Ranks()
    said = {'RANK': '0', 'WORLD_SIZE': '2', 'LOCAL_RANK': '0', 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': 'x'}
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r'--launcher pytorch: no group of 2 processes at 127\.0\.0\.1:x \('):
        start_ranks('pytorch')
    with socket.create_server(('127.0.0.1', 0)) as taken:
        monkeypatch.setenv('MASTER_PORT', str(taken.getsockname()[1]))
        with pytest.raises(UserError, match='give each run on a machine a port of its own'):
            start_ranks('pytorch')
    monkeypatch.setenv('RANK', 'abc')
    with pytest.raises(UserError, match="RANK: 'abc' in the environment is no whole number"):
        start_ranks('pytorch')


@pytest.mark.parametrize(
    ('nodes', 'host'),
    [
        ('a7', 'a7'),
        ('a7,b2', 'a7'),
        ('node[003-005,9]', 'node003'),
        ('node[12,3],other', 'node12'),
        ('r[1-2]n[04,08]', 'r1n04'),
        ('gpu-a-[1-3].cluster.org', 'gpu-a-1.cluster.org'),
    ],
)
def test_the_first_host_of_slurms_list(nodes: str, host: str):
    assert first_host(nodes) == host
