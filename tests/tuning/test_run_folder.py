"""The folder of a run belongs to one process at a time."""

import subprocess
import sys
from pathlib import Path

import pytest

from sptsr.core import locks
from sptsr.core.errors import UserError
from sptsr.core.locks import FolderLock
from sptsr.tuning.testing import test_pipeline as run_test
from sptsr.tuning.training import train_pipeline
from tests.conftest import base_options, write_options
from tests.tuning.processes import wait_until


def test_two_trainings_do_not_share_a_folder(photographs: Path, tiny_weights: Path, tmp_path: Path):
    """The second one put the first one's folder aside, and the first went on in its place."""
    options = base_options(photographs, trains=True)
    options['network_g']['backbone_weights'] = str(tiny_weights)
    options['train']['total_iter'] = 100000
    path = write_options(tmp_path / 'x.yml', options)
    other = write_options(tmp_path / 'y.yml', {**options, 'manual_seed': 4})
    command = [sys.executable, '-m', 'sptsr.train', '--root', tmp_path, '-opt']
    home = tmp_path / 'experiments' / 'tiny'
    with subprocess.Popen([*command, path], stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: process.poll() is not None or bool(list(home.glob('training_states/*.state'))))
            assert process.poll() is None
            before = home.stat().st_ino
            for words in ([path], [other, '--fresh']):
                done = subprocess.run([*command, *words], stderr=subprocess.PIPE, text=True, check=False)
                assert done.returncode == 2
                assert done.stderr.endswith('another process trains here; wait for it, or choose another name\n')
            assert home.stat().st_ino == before
        finally:
            process.terminate()
    force = ['train:total_iter=1']
    assert train_pipeline(path, tmp_path, fresh=True, force=force).stopped_by == 0  # it is free again


def test_two_tests_do_not_share_a_folder(
    photographs: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Both would write their images and figures into it."""
    monkeypatch.setattr(locks, '_PATIENCE', 0)
    options = base_options(photographs, trains=False)
    options['network_g']['backbone_weights'] = str(tiny_weights)
    path, home = write_options(tmp_path / 'x.yml', options), tmp_path / 'results' / 'tiny'
    with FolderLock(home, 'tests') as lock:
        lock.hold()
        with pytest.raises(UserError, match=r'results/tiny: another process tests here; wait for it, or choose'):
            run_test(path, tmp_path, quiet=True)
        assert not home.exists()
    assert not list(home.parent.iterdir())
    run_test(path, tmp_path, quiet=True)
    assert (home / 'metrics.json').is_file()
