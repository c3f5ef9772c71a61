"""A run that ends by a signal to its first process takes its loader's workers with it."""

import functools
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sptsr.core.registry import METRIC_REGISTRY
from sptsr.study.steps import descendants
from tests.conftest import base_options, write_options
from tests.tuning.processes import finish, start, tune, wait_until

pytestmark = pytest.mark.skipif(sys.platform != 'linux', reason='lists processes by /proc')
WORKERS = 2


@pytest.fixture
def options(photographs: Path, tiny_weights: Path) -> dict:
    options = base_options(photographs, trains=True)
    options['network_g']['backbone_weights'] = str(tiny_weights)
    train = options['datasets']['train']
    train['num_worker_per_gpu'] = WORKERS
    options['datasets']['val'] = {k: v for k, v in train.items() if k[:8] in ('dataroot', 'type')} | {'name': 'holdout'}
    options['val']['val_freq'] = 3
    options['logger'] |= {'use_tb_logger': True, 'print_freq': 1, 'save_checkpoint_freq': 1000}
    return options


def _held_tune(path: Path, root: Path, moment: str, held: Path) -> None:
    """`sptsr train` that waits at a moment, from when `held` is made until it is removed."""

    def holding(function: Callable) -> Callable:
        @functools.wraps(function)  # the check of options reads its signature
        def call(*arguments, **settings):
            result = function(*arguments, **settings)
            if not descendants(os.getpid()):  # metrics are tried before there are workers
                return result
            held.touch()
            while held.exists():
                time.sleep(0.01)
            return result

        return call

    if moment == 'validation':
        METRIC_REGISTRY._obj_map['calculate_psnr'] = holding(METRIC_REGISTRY._obj_map['calculate_psnr'])
    else:
        from torch.utils.tensorboard import SummaryWriter

        SummaryWriter.add_scalar = holding(SummaryWriter.add_scalar)
    tune(path, root, log=root / 'log')


def _runs(pid: int) -> bool:
    """Returns whether a process is there; one that has ended and waits for its parent is not."""
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] not in 'ZX'
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize('moment', ['validation', 'TensorBoard'])
@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM])
def test_no_worker_is_left(options: dict, tmp_path: Path, moment: str, number: signal.Signals):
    options['train']['total_iter'] = 1000
    path = write_options(tmp_path / 'x.yml', options)
    held = tmp_path / 'held'
    (process,) = ranks = start(_held_tune, path, tmp_path, moment, held)
    wait_until(lambda: held.exists() or not process.is_alive(), f'no {moment} in time')
    workers = descendants(process.pid)
    assert len(workers) >= WORKERS, (tmp_path / 'log').read_text()
    os.kill(process.pid, number)
    if number == signal.SIGTERM:  # it finishes the step and saves
        while process.is_alive():
            held.unlink(missing_ok=True)
            process.join(0.01)
    (code,) = finish(ranks)
    assert code == (0 if number == signal.SIGTERM else -signal.SIGKILL)
    wait_until(lambda: not any(map(_runs, workers)), f'of {workers} some are left: {[w for w in workers if _runs(w)]}')
    states = list((tmp_path / 'experiments' / 'tiny' / 'training_states').glob('*.state'))
    assert bool(states) == (number == signal.SIGTERM)
