"""The pool: failures are named and the others go on, commands share the work, and nothing outlives the command."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sptsr.core.errors import UserError
from sptsr.study.pool import Pool
from sptsr.study.runs import Run, Use
from sptsr.study.steps import Slot, slots_of
from sptsr.study.stores import Recipe
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
            self.made, self.folder = log.with_suffix('.json'), log.with_suffix('')
        else:
            self.made = run.adapter if verb == 'train' else run.metrics('t')
            self.folder = self.made.parent

    def poll(self):
        self.looks -= 1
        if self.looks > 0:
            return None
        if self.code == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
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
