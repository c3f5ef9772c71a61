"""The pool: failures are named and the others go on, commands share the work, and nothing outlives the command."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sptsr.core.errors import UserError
from sptsr.study.pool import Pool
from sptsr.study.runs import Run, Use
from sptsr.study.steps import LocalProcess, Slot, slots_of
from sptsr.study.stores import Recipe
from tests.study.conftest import write_study
from tests.tuning.processes import CONTEXT

ROOT = Path(__file__).parents[2]


def _run(folder: Path, name: str, iterations: int = 5) -> Run:
    run = Run(name, folder / name, {'is': name}, {'train': {'total_iter': iterations}})
    run.tests['t'] = {}
    run.uses.append((Use('row', name, 0), 't'))
    return run


class _Step:
    """A step that only notes that it was made, after some looks, and writes what the real one would."""

    def __init__(self, command, log, environment, lock, code=0) -> None:
        verb = command[command.index('-m') + 1].rpartition('.')[2]
        home = log.parent
        with open(home.parent / 'steps', 'a') as steps:
            name = log.stem if verb == 'make_store' else home.name
            steps.write(f'{name} {verb} {environment.get("CUDA_VISIBLE_DEVICES", "-")}\n')
        self.looks, self.code, self.log = 3, code, log
        run = _run(home.parent, home.name)
        if verb == 'make_store':
            self.made = log.with_suffix('.json')
        else:
            self.made = run.adapter if verb == 'train' else run.metrics('t')

    def poll(self):
        self.looks -= 1
        if self.looks > 0:
            return None
        if self.code == 0:
            self.made.parent.mkdir(parents=True, exist_ok=True)
            self.made.write_text('{}')
        return self.code

    def stop(self, hard: bool) -> None:
        self.looks, self.code = 0, -15


def test_a_failed_run_is_named_with_its_log_and_the_others_go_on(tmp_path):
    runs = [_run(tmp_path, name) for name in ('a', 'b', 'c')]

    def start(command, log, environment, lock):
        fails = log.parent.name == 'b'
        if fails:
            log.write_text('one line\nsptsr: x.png: cut off\n')
        return _Step(command, log, environment, lock, code=2 if fails else 0)

    failures = Pool([Slot(), Slot()], start=start, quiet=True).do(runs)
    assert [str(failure) for failure in failures] == [
        f'row, b, seed 0: train failed: x.png: cut off (see {tmp_path}/b/train.log)'
    ]
    assert [run.done for run in runs] == [True, False, True]
    # the same command tries it again, and makes nothing twice
    assert Pool([Slot()], start=_Step, quiet=True).do(runs) == []
    steps = (tmp_path / 'steps').read_text().splitlines()
    assert sorted(steps) == sorted(
        ['a train -', 'a test -', 'b train -', 'c train -', 'c test -', 'b train -', 'b test -']
    )


def test_a_step_that_ends_well_without_its_result_has_failed(tmp_path):
    class Stopped(_Step):
        def poll(self):
            return 0

    (failure,) = Pool([Slot()], start=Stopped, quiet=True).do([_run(tmp_path, 'a')])
    assert 'train failed' in str(failure)


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_all_steps_and_the_same_command_goes_on(tmp_path, number):
    runs = [_run(tmp_path, name) for name in 'abc']
    started = []

    def start(*arguments):
        step = _Step(*arguments)
        step.looks = 10**9  # it runs until it is stopped
        started.append(step)
        if len(started) == 2:
            os.kill(os.getpid(), number)
        return step

    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        Pool([Slot(), Slot()], start=start, quiet=True).do(runs)
    assert len(started) == 2
    assert [step.poll() for step in started] == [-15, -15]
    assert signal.getsignal(number) is before
    assert Pool([Slot()], start=_Step, quiet=True).do(runs) == []


def test_each_gpu_has_one_run_at_a_time(tmp_path):
    assert slots_of(3, [], 1) == [Slot(), Slot(), Slot()]
    assert [slot.environment for slot in slots_of(1, ['0', '1', '2'], 1)] == [
        {'CUDA_VISIBLE_DEVICES': gpu} for gpu in '012'
    ]
    assert [slot.environment for slot in slots_of(1, ['0', '1', '2'], 2)] == [{'CUDA_VISIBLE_DEVICES': '0,1'}]
    with pytest.raises(UserError, match='1 GPUs for --nproc 2'):
        slots_of(1, ['0'], 2)
    runs = [_run(tmp_path, name) for name in 'abc']
    assert Pool(slots_of(1, ['4', '7'], 1), start=_Step, quiet=True).do(runs) == []
    steps = (tmp_path / 'steps').read_text().splitlines()
    assert steps[:2] == ['a train 4', 'b train 7']
    assert {step.split()[2] for step in steps} == {'4', '7'}


def _do(folder: Path) -> None:
    runs = [_run(folder, name) for name in 'abcd']
    for run in runs:
        run.needs.append(_store(folder, 'masks'))
    Pool([Slot()], start=_Step, quiet=True).do(runs)
    assert all(run.done for run in runs)


def test_two_commands_on_one_folder_share_the_work(tmp_path):
    commands = [CONTEXT.Process(target=_do, args=(tmp_path,)) for _ in range(2)]
    for command in commands:
        command.start()
    for command in commands:
        command.join(60)
    assert [command.exitcode for command in commands] == [0, 0]
    steps = (tmp_path / 'steps').read_text().splitlines()
    made = [f'{name} {verb} -' for name in 'abcd' for verb in ('train', 'test')]
    assert sorted(steps) == sorted([*made, 'masks make_store -'])


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    run = _run(tmp_path, 'a')
    code = 'import fcntl, sys, time; f = open(sys.argv[1], "w"); fcntl.flock(f, 2); print(flush=True); time.sleep(99)'
    run.home.mkdir()
    with subprocess.Popen([sys.executable, '-c', code, str(run.home / 'lock')], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert run.lock() is None
        other.kill()
    lock = run.lock()
    assert lock is not None
    lock.close()


def test_a_folder_of_other_options_is_refused(tmp_path):
    run = _run(tmp_path, 'a')
    run.home.mkdir()
    run.check()
    (run.home / 'run.json').write_text(json.dumps({'identity': {'is': 'another'}}))
    with pytest.raises(UserError, match='holds a run of other options'):
        run.check()


def _store(folder: Path, name: str, *needs: Recipe) -> Recipe:
    return Recipe(folder / 'priors' / name, {'is': name}, {}, needs)


def test_a_run_waits_for_its_own_stores_and_for_no_others(tmp_path):
    base = _store(tmp_path, 'base')
    shuffled, random = _store(tmp_path, 'shuffled', base), _store(tmp_path, 'random', base)
    runs = [_run(tmp_path, name) for name in ('frozen', 'spt', 'shuffle', 'random')]
    for run, need in zip(runs[1:], (base, shuffled, random), strict=True):
        run.needs.append(need)
    at_once: list[set[str]] = []
    running: dict[str, _Step] = {}

    def start(command, log, environment, lock):
        step = _Step(command, log, environment, lock)
        running[str(log)] = step
        at_once.append({Path(name).stem for name, one in running.items() if one.looks > 0})
        return step

    assert Pool([Slot(), Slot()], start=start, quiet=True).do(runs) == []
    assert all(work.done for work in (*runs, base, shuffled, random))
    steps = [line.rpartition(' ')[0] for line in (tmp_path / 'steps').read_text().splitlines()]
    assert len(steps) == len(set(steps)) == 4 * 2 + 3
    for first, then in (
        ('base make_store', 'spt train'),
        ('base make_store', 'shuffled make_store'),
        ('shuffled make_store', 'shuffle train'),
        ('random make_store', 'random train'),
    ):
        assert steps.index(first) < steps.index(then)
    assert set(steps[:2]) == {'frozen train', 'base make_store'}  # it waits for no store
    assert all(len(names) <= 2 for names in at_once)
    assert any({'shuffled', 'random'} & names and len(names) == 2 for names in at_once)
    # what is there is not made again
    assert Pool([Slot()], start=_Step, quiet=True).do(runs) == []
    assert len((tmp_path / 'steps').read_text().splitlines()) == len(steps)


def test_a_store_that_fails_takes_the_runs_that_need_it_along_and_no_others(tmp_path):
    base = _store(tmp_path, 'base')
    shuffled = _store(tmp_path, 'shuffled', base)
    runs = [_run(tmp_path, name) for name in ('spt', 'shuffle', 'frozen')]
    runs[0].needs.append(base)
    runs[1].needs.append(shuffled)

    def start(command, log, environment, lock):
        fails = log.stem == 'base'
        if fails:
            log.write_text('sptsr: x.png: cut off\n')
        return _Step(command, log, environment, lock, code=2 if fails else 0)

    failures = Pool([Slot()], start=start, quiet=True).do(runs)
    log = tmp_path / 'priors' / 'base.log'
    assert {str(failure) for failure in failures} == {
        f'masks base: make_store failed: x.png: cut off (see {log})',
        f'row, spt, seed 0: train failed: masks base could not be made (see {log})',
        f'masks shuffled: make_store failed: masks base could not be made (see {log})',
        f'row, shuffle, seed 0: train failed: masks shuffled could not be made (see {log})',
    }
    assert [run.done for run in runs] == [False, False, True]
    assert Pool([Slot()], start=_Step, quiet=True).do(runs) == []


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
