"""Steps as jobs, with submitit's executor for this machine in the place of Slurm's."""

import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sptsr.core.errors import UserError
from sptsr.study.slurm import SlurmStart
from tests.conftest import run_cli
from tests.study.conftest import write_study

pytest.importorskip('submitit')


def _ended(process, seconds: float = 100) -> int | None:
    deadline = time.monotonic() + seconds
    while (code := process.poll()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return code


def test_a_job_gives_its_code_and_writes_its_log(tmp_path):
    start = SlurmStart(tmp_path / 'slurm', {'cluster': 'local', 'timeout_min': 5})
    script = 'import os, sys; print(os.environ["SPTSR_X"]); sys.exit(int(sys.argv[1]))'
    jobs = {
        code: start([sys.executable, '-c', script, str(code)], tmp_path / f'{code}.log', {'SPTSR_X': 'y'}, 0)
        for code in (0, 3)
    }
    for code, job in jobs.items():
        assert _ended(job) == code
        assert (tmp_path / f'{code}.log').read_text() == 'y\n'


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Children get SIGINT, by which submitit takes local jobs back, as they do of a pool; a shell's `&` ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures('interruptible')
def test_a_job_is_taken_back(tmp_path):
    start = SlurmStart(tmp_path / 'slurm', {'cluster': 'local', 'timeout_min': 5})
    script = 'import time; open("started", "w").close(); time.sleep(99)'
    job = start([sys.executable, '-c', script], tmp_path / 'log', {}, 0)
    deadline = time.monotonic() + 60
    while not Path('started').exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    job.stop(hard=False)
    assert _ended(job) != 0


def test_mistakes(study, tmp_path):
    with pytest.raises(UserError, match=r'--slurm: .*slurm_partitoin'):
        SlurmStart(tmp_path, {'cluster': 'local', 'slurm_partitoin': 'gpu'})
    file = write_study(tmp_path, study)
    for words, expected in (
        (['--slurm', 'gpu'], "--slurm: 'gpu' is not of the form k=v"),
        (['--slurm', '--gpus', '0'], '--gpus is for GPUs of this machine'),
    ):
        done = run_cli('table', file, *words)
        assert (done.returncode, expected in done.stderr) == (2, True), done.stderr
