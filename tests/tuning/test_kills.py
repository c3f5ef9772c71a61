"""SIGKILL at any moment, a full disk, damaged files: all files are whole, and the end is the unbroken run's."""

import os
import random
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from sptsr.archs.adapter import read_adapter
from sptsr.core.errors import UserError
from sptsr.tuning.states import read_state
from tests.conftest import run_cli, validated_options, write_options
from tests.tuning.processes import finish, start, tune

TOTAL = 40
# processes of the run, workers of each loader, kills; twenty or more in all
KILLS = [(1, 0, 13), (1, 2, 3), (2, 0, 6)]


@pytest.fixture
def options(photographs: Path, tiny_weights: Path) -> dict:
    options = validated_options(photographs, tiny_weights, 'holdout', 17)
    options['train']['total_iter'] = TOTAL
    options['logger']['save_checkpoint_freq'] = 1  # so that many kills meet a save
    return options


def _home(root: Path) -> Path:
    return root / 'experiments' / 'tiny'


def _check_files(home: Path) -> int:
    """Reads all that has a final name; returns the newest iteration."""
    newest = 0
    for path in home.glob('*/*'):
        if path.name.startswith('.tmp-'):
            continue
        if path.suffix == '.state':
            state = read_state(path)
            assert state['iter'] == int(path.stem)
            assert read_adapter(home / 'models' / f'net_g_{path.stem}.safetensors').iteration == state['iter']
            newest = max(newest, state['iter'])
        else:
            assert path.suffix == '.safetensors'
            read_adapter(path)
    return newest


def _await_iteration(home: Path, iteration: int, process) -> None:
    while process.is_alive():
        if any(int(p.stem) >= iteration for p in home.glob('training_states/[0-9]*.state')):
            return
        time.sleep(0.002)


@pytest.mark.slow
@pytest.mark.parametrize(('world', 'workers', 'kills'), KILLS)
def test_killed_at_random_moments_it_ends_as_the_unbroken_run(
    options: dict, tmp_path: Path, world: int, workers: int, kills: int
):
    launcher = 'pytorch' if world > 1 else 'none'
    options['datasets']['train']['num_worker_per_gpu'] = workers
    path = write_options(tmp_path / 'x.yml', options)
    assert finish(start(tune, path, tmp_path / 'whole', launcher=launcher, world=world)) == [0] * world
    names = sorted(p.name for p in _home(tmp_path / 'whole').glob('models/*'))
    assert len(names) == TOTAL + 3  # the latest, and the best of two metrics

    rng = random.Random(world + workers)
    done, middle, number = 0, 0, 0
    while done < kills:
        root = tmp_path / str(number)
        number += 1
        before = 0
        while True:
            ranks = start(tune, path, root, launcher=launcher, world=world)
            if done < kills:
                victim = rng.choice(ranks)
                if rng.random() < 0.8:  # some steps further; else at any time, such as the start
                    _await_iteration(_home(root), before + rng.randint(1, 9), victim)
                    victim.join(rng.uniform(0, 0.04))  # somewhere in a step, a save or a validation
                else:
                    victim.join(rng.uniform(0, 2))
                if victim.is_alive():
                    victim.kill()
                    done += 1
            codes = finish(ranks)
            newest = _check_files(_home(root))
            assert newest >= before
            middle += before < newest < TOTAL
            before = newest
            # a rank killed while it left had nothing more to do; the same command would put the finished run aside
            if codes == [0] * world or (_home(root) / 'models' / 'net_g_latest.safetensors').is_file():
                break
        left, right = (_home(r) / 'models' for r in (root, tmp_path / 'whole'))
        assert sorted(p.name for p in left.iterdir()) == names
        for name in names:
            assert (left / name).read_bytes() == (right / name).read_bytes(), name
        assert not list((root / 'experiments').glob('*archived*'))
    assert middle >= 2


def test_a_full_disk_ends_in_one_line_and_loses_nothing(options: dict, tmp_path: Path):
    """A tmpfs in a mount namespace of its own fills up; enlarged, the same command ends as on a large disk."""
    options['train']['total_iter'] = 12
    path = write_options(tmp_path / 'x.yml', options)
    mount = f'mount -t tmpfs -o size=300k none {tmp_path}/small'
    (tmp_path / 'small').mkdir()
    if subprocess.run(['unshare', '-m', 'sh', '-c', mount], capture_output=True, check=False).returncode:
        pytest.skip('this machine lets nobody mount a tmpfs')
    command = f'{sys.executable} -m sptsr train -opt {path} --root {tmp_path}/small'
    copy = f'cp -r {tmp_path}/small/experiments/tiny {tmp_path}'
    enlarge = f'mount -o remount,size=50m {tmp_path}/small'
    script = f'{mount}; {command}; echo "code $?"; {copy}/first; {enlarge}; {command} && {copy}/second'
    (tmp_path / 'first').mkdir()
    (tmp_path / 'second').mkdir()
    alike = {**os.environ, 'OMP_NUM_THREADS': '1'}  # as in the other processes: sums depend on it
    done = subprocess.run(['unshare', '-m', 'sh', '-c', script], capture_output=True, text=True, check=False, env=alike)
    assert 'code 2' in done.stdout
    assert 'Traceback' not in done.stderr
    (message,) = [line for line in done.stderr.splitlines() if line.startswith('sptsr: ')]
    assert 'cannot write it (No space left on device); free space' in message
    assert 0 < _check_files(tmp_path / 'first' / 'tiny') < 12
    assert not list((tmp_path / 'first').rglob('.tmp-*'))
    assert done.returncode == 0, done.stderr
    assert finish(start(tune, path, tmp_path / 'whole')) == [0]
    for name in ('net_g_12', 'net_g_latest'):
        left, right = (
            home / 'models' / f'{name}.safetensors'
            for home in (tmp_path / 'second' / 'tiny', _home(tmp_path / 'whole'))
        )
        assert left.read_bytes() == right.read_bytes()
    assert _check_files(tmp_path / 'second' / 'tiny') == 12


@pytest.mark.parametrize('damage', ['cut', 'changed', 'foreign', 'empty'])
def test_a_damaged_newest_state_is_passed_over(options: dict, tmp_path: Path, damage: str):
    options['train']['total_iter'] = 6
    path = write_options(tmp_path / 'x.yml', options)
    assert finish(start(tune, path, tmp_path / 'whole')) == [0]
    assert finish(start(tune, path, tmp_path / 'cut')) == [0]
    state = _home(tmp_path / 'cut') / 'training_states' / '6.state'
    content = bytearray(state.read_bytes())
    with zipfile.ZipFile(state) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    content[largest.header_offset + 200] ^= 4  # one bit of a tensor
    damaged = {'cut': content[:-900], 'changed': content, 'foreign': b'PK of something else', 'empty': b''}
    state.write_bytes(damaged[damage])
    for name in ('6', 'latest'):
        (_home(tmp_path / 'cut') / 'models' / f'net_g_{name}.safetensors').unlink()
    with pytest.raises(UserError, match=r'6\.state: not a readable training state'):
        read_state(state)
    assert finish(start(tune, path, tmp_path / 'cut', log=tmp_path / 'log')) == [0]
    log = (tmp_path / 'log').read_text()
    assert 'passing over a damaged state' in log
    assert 'Going on from iteration 5' in log
    left, right = (_home(tmp_path / r) / 'models' / 'net_g_latest.safetensors' for r in ('cut', 'whole'))
    assert left.read_bytes() == right.read_bytes()


def test_only_the_last_are_kept_and_the_best(options: dict, tmp_path: Path):
    options['logger']['keep_last'] = 3
    path = write_options(tmp_path / 'x.yml', options)
    assert finish(start(tune, path, tmp_path)) == [0]
    home = _home(tmp_path)
    assert sorted(int(p.stem) for p in home.glob('training_states/*')) == [TOTAL - 2, TOTAL - 1, TOTAL]
    names = [*range(TOTAL - 2, TOTAL + 1), 'latest', 'best_holdout_psnr', 'best_holdout_ssim']
    kept = {f'net_g_{name}.safetensors' for name in names}
    assert {p.name for p in home.glob('models/*')} == kept


def test_another_place_does_not_matter(options: dict, tmp_path: Path):
    """The folder of a run moves to another root and goes on there."""
    options['train']['total_iter'] = 8
    path = write_options(tmp_path / 'x.yml', options)
    assert finish(start(tune, path, tmp_path / 'whole')) == [0]
    home = _home(tmp_path / 'whole')
    moved = _home(tmp_path / 'elsewhere')
    for n in (1, 2, 3):
        for name in (f'training_states/{n}.state', f'models/net_g_{n}.safetensors'):
            (moved / name).parent.mkdir(parents=True, exist_ok=True)
            (moved / name).write_bytes((home / name).read_bytes())
    assert finish(start(tune, path, tmp_path / 'elsewhere', log=tmp_path / 'log')) == [0]
    assert 'Going on from iteration 3' in (tmp_path / 'log').read_text()
    left, right = (h / 'models' / 'net_g_latest.safetensors' for h in (moved, home))
    assert left.read_bytes() == right.read_bytes()


_KILLED = """
import os, signal
from torch.utils.data import get_worker_info
from sptsr.core.registry import DATASET_REGISTRY, register
from sptsr.data.paired import PriorPairedImageDataset

@register(DATASET_REGISTRY)
class KilledDataset(PriorPairedImageDataset):
    def __getitem__(self, index):
        if get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)
"""


def test_a_worker_that_is_killed_ends_the_run_in_one_line(options: dict, tmp_path: Path):
    (tmp_path / 'killed.py').write_text(_KILLED)
    options['plugins'] = [str(tmp_path / 'killed.py')]
    options['datasets']['train'] |= {'type': 'KilledDataset', 'num_worker_per_gpu': 1}
    done = run_cli('train', '-opt', write_options(tmp_path / 'x.yml', options), cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert 'sptsr: a process that loads images was killed, for want of memory perhaps' in done.stderr
    assert 'Traceback' not in done.stderr
