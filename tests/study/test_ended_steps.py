"""Steps end with the command that started them, and a study that was killed goes on to the same table."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sptsr.study.steps import LocalProcess
from tests.study.conftest import write_study

ROOT = Path(__file__).parents[2]


def _alive(pid: int) -> bool:
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] not in 'ZX'
    except OSError:
        return False


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGKILL])
def test_a_step_and_its_children_end_with_the_command(tmp_path, number):
    """The command is a process that starts one step, which has a child of its own."""
    step = 'import os, time; os.fork(); open(f"{os.getpid()}.pid", "w").close(); time.sleep(99)'
    command = (
        'import sys, time; from pathlib import Path; from sptsr.study.steps import LocalProcess\n'
        'lock = open("lock", "w")\n'
        f'p = LocalProcess([sys.executable, "-c", {step!r}], Path("log"), {{}}, lock.fileno())\n'
        'open("started", "w").close()\n'
        'time.sleep(99)'
    )
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    with subprocess.Popen([sys.executable, '-c', command], cwd=tmp_path, env=environment) as process:
        deadline = time.monotonic() + 100
        while len(list(tmp_path.glob('*.pid'))) < 2:
            assert time.monotonic() < deadline, (tmp_path / 'log').read_text()
            time.sleep(0.02)
        pids = [int(path.stem) for path in tmp_path.glob('*.pid')]
        assert all(map(_alive, pids))
        process.send_signal(number)
        process.wait()
        step_pid = min(pids)
        while _alive(step_pid):
            assert time.monotonic() < deadline, 'the step outlives the command'
            time.sleep(0.02)
    for pid in pids:  # a child that the step itself leaves behind is the step's; our trainings' workers end with it
        if _alive(pid):
            os.kill(pid, signal.SIGKILL)


def test_a_step_that_is_stopped_ends_with_its_children(tmp_path):
    step = 'import os, time; os.fork(); open(f"{os.getpid()}.pid", "w").close(); time.sleep(99)'
    os.chdir(tmp_path)
    with open('lock', 'w') as lock:
        process = LocalProcess([sys.executable, '-c', step], Path('log'), {}, lock.fileno())
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob('*.pid'))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.stop(hard=False)
    while process.poll() is None or any(_alive(int(path.stem)) for path in tmp_path.glob('*.pid')):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert process.poll() == -signal.SIGTERM


def test_a_hard_stop_ends_the_workers_of_torchrun_too(tmp_path):
    """They lead sessions of their own, which a signal to the group of torchrun does not reach."""
    worker = 'import os, time; open(f"{os.getpid()}.pid", "w").close(); time.sleep(99)'
    step = f'import subprocess, sys; subprocess.run([sys.executable, "-c", {worker!r}], start_new_session=True)'
    os.chdir(tmp_path)
    with open('lock', 'w') as lock:
        process = LocalProcess([sys.executable, '-c', step], Path('log'), {}, lock.fileno())
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob('*.pid')):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    (pid,) = (int(path.stem) for path in tmp_path.glob('*.pid'))
    process.stop(hard=True)
    while process.poll() is None or _alive(pid):
        assert time.monotonic() < deadline, 'the worker outlives the step'
        time.sleep(0.02)
    assert process.poll() == -signal.SIGKILL


def _table(file: Path, folder: Path) -> subprocess.Popen:
    words = [sys.executable, '-m', 'sptsr', 'table', str(file), '--runs', 'runs', '-o', 'out', '--jobs', '2']
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    log = open(folder / 'log', 'a')  # noqa: SIM115 (as long as the process)
    return subprocess.Popen(words, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)


def _trainings() -> dict[int, str]:
    """Processes that train below this folder, with the run that they are at."""
    found = {}
    for entry in Path('/proc').glob('[0-9]*'):
        try:
            words = (entry / 'cmdline').read_bytes().decode().split('\0')
            here = os.readlink(entry / 'cwd')
        except OSError:
            continue
        if here == os.getcwd() and 'sptsr.train' in words:
            found[int(entry.name)] = Path(words[words.index('-opt') + 1]).parent.name
    return found


def _await(condition, what: str, seconds: float = 400):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.02)
    return found


@pytest.mark.slow
def test_killed_and_started_again_it_ends_with_the_table_of_an_undisturbed_run(study, tmp_path):
    from tests.study.test_table import run_study

    del study['arms']['masks of other images']
    study['seeds'] = [0]
    study['arms'] = {name: {'train': {'total_iter': 60}, **arm} for name, arm in study['arms'].items()}
    study['arms']['frozen'] = {'tune': 'none'}
    file = write_study(tmp_path, study)
    whole = run_study(file, tmp_path / 'whole')
    os.chdir(tmp_path)
    states = lambda: list(tmp_path.glob('runs/*/experiments/*/training_states/[1-9]*.state'))  # noqa: E731

    # the whole tree, in the middle of two trainings
    command = _table(file, tmp_path)
    _await(lambda: len({path.parents[1] for path in states()}) == 2, 'no two trainings')
    for pid in [command.pid, *_trainings()]:
        os.kill(pid, signal.SIGKILL)
    command.wait()
    _await(lambda: not _trainings(), 'a training goes on')
    assert not list((tmp_path / 'out').glob('*'))

    # one training
    command = _table(file, tmp_path)
    victim, run = next(iter(_await(_trainings, 'no training').items()))
    os.kill(victim, signal.SIGKILL)
    assert command.wait(400) == 1
    text = (tmp_path / 'log').read_text()
    assert 'train failed: it was ended by SIGKILL' in text
    assert run in text

    command = _table(file, tmp_path)
    assert command.wait(400) == 0, (tmp_path / 'log').read_text()[-2000:]
    for name in ('table.csv', 'per_image.csv'):
        assert (tmp_path / 'out' / name).read_bytes() == whole[name]
