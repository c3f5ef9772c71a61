"""Runs what is missing, several at a time, each step in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TextIO

from tqdm import tqdm

from sptsr.core.errors import UserError
from sptsr.core.progress import bar
from sptsr.study.runs import Run, python, threads

_LOOK = 0.1  # seconds between two looks at the processes
_PATIENCE = 60.0  # seconds that a process has to save and end
_ITERATION = re.compile(rb'iter: *([\d,]+)')
# Ends with its parent, by SIGKILL too (PR_SET_PDEATHSIG is 1), and leaves the group that Ctrl-C reaches.
_CHILD = (
    'import ctypes, os, sys\n'
    'os.setsid()\n'
    'ctypes.CDLL(None).prctl(1, 15)\n'
    'sys.exit(1) if os.getppid() != int(sys.argv[1]) else os.execv(sys.argv[2], sys.argv[2:])'
)


class Process(Protocol):
    """A step that runs."""

    def poll(self) -> int | None:
        """Returns the exit code; None while it runs."""

    def stop(self, hard: bool) -> None:
        """Asks it to save and end, with all that it started; `hard` ends it at once."""


Start = Callable[[Sequence[str], Path, 'dict[str, str]', int], Process]  # command, log, environment, lock


@dataclass(frozen=True)
class Slot:
    """A place where one run at a time goes.

    Attributes:
        environment: what is set for it, such as `CUDA_VISIBLE_DEVICES`.
    """

    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """A step that did not end well.

    Attributes:
        run: of the study.
        step: `train` or `test`.
        reason: its last line, or how it ended.
        log: all that it wrote.
    """

    run: Run
    step: str
    reason: str
    log: Path

    def __str__(self) -> str:
        return f'{self.run.name}: {self.step} failed: {self.reason} (see {self.log})'


class LocalProcess:
    """A step in a process on this machine."""

    def __init__(self, command: Sequence[str], log: Path, environment: dict[str, str], lock: int) -> None:
        with open(log, 'ab') as stream:
            self.process = subprocess.Popen(
                [sys.executable, '-c', _CHILD, str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env={**os.environ, **environment},
                pass_fds=(lock,),
            )

    def poll(self) -> int | None:
        return self.process.poll()

    def stop(self, hard: bool) -> None:
        for target in (os.killpg, os.kill):  # it is a group of its own a moment after its start
            try:
                target(self.process.pid, signal.SIGKILL if hard else signal.SIGTERM)
                return
            except ProcessLookupError:
                continue


@dataclass
class _Active:
    """A run that is being worked on: its steps, the first of which runs."""

    run: Run
    slot: Slot
    lock: TextIO
    steps: list[list[str]]
    process: Process | None = None
    seen: int = 0  # iterations that were shown


class Pool:
    """Does runs until all are done, have failed, or a signal asks to stop.

    Args:
        slots: one run at a time goes into each.
        processes: ranks of each training.
        start: starts a step; by default in a process on this machine.
        quiet: show nothing.
    """

    def __init__(
        self, slots: Sequence[Slot], processes: int = 1, start: Start = LocalProcess, quiet: bool = False
    ) -> None:
        self.free = list(slots)
        self.processes, self.start, self.quiet = processes, start, quiet
        self.active: list[_Active] = []
        self.failures: list[Failure] = []
        self.signals = 0

    def do(self, runs: Sequence[Run]) -> list[Failure]:
        """Does what is missing of the runs; a run that another process works on is waited for.

        Raises:
            KeyboardInterrupt: SIGINT or SIGTERM came; all processes have ended.
        """
        waiting = [run for run in runs if not run.done]
        total = sum(_iterations(run) for run in runs)
        done = sum(progress_of(run) for run in runs)
        before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            with bar(total, 'study', 'step', done, disable=self.quiet) as shown:
                self._loop(waiting, shown)
        finally:
            self._end_all()
            for number, handler in before.items():
                signal.signal(number, handler)
        if self.signals:
            raise KeyboardInterrupt
        return self.failures

    def _loop(self, waiting: list[Run], shown: Any) -> None:
        others: set[str] = set()  # runs that another process works on
        while (waiting or self.active) and not self.signals:
            for run in list(waiting):
                if not self.free:
                    break
                if self._begin(run):
                    waiting.remove(run)
                    others.discard(run.id)
                elif run.id not in others:
                    others.add(run.id)
                    self._say(f'{run.name}: another process works on it ({run.home})')
            for active in list(self.active):
                self._look(active, shown)
            waiting = [run for run in waiting if not run.done]
            shown.set_postfix_str(f'{len(waiting) + len(self.active)} runs left', refresh=False)
            time.sleep(_LOOK)

    def _begin(self, run: Run) -> bool:
        """Starts the first step of a run in a free slot; returns False when another process has the run."""
        lock = run.lock()
        if lock is None:
            return False
        run.prepare()
        steps = [words for words in run.commands() if not _is_done(run, words)]
        active = _Active(run, self.free.pop(0), lock, steps, seen=progress_of(run))
        self.active.append(active)
        self._next(active)
        return True

    def _next(self, active: _Active) -> None:
        """Starts the next step of a run; after the last one its slot is free again."""
        if not active.steps:
            self._leave(active)
            self._say(f'{active.run.name}: done')
            return
        words = active.steps[0]
        log = _log(active.run, words)
        self._say(f'{active.run.name}: {words[0]} ({log})')
        environment = {'OMP_NUM_THREADS': threads(), **active.slot.environment}
        active.process = self.start(python(words, self.processes), log, environment, active.lock.fileno())

    def _look(self, active: _Active, shown: Any) -> None:
        now = progress_of(active.run)
        shown.update(max(0, now - active.seen))
        active.seen = max(now, active.seen)
        if active.process is None:
            return
        code = active.process.poll()
        if code is None or self.signals:
            return
        words = active.steps.pop(0)
        if code == 0 and _is_done(active.run, words):
            self._next(active)
            return
        log = _log(active.run, words)
        failure = Failure(active.run, words[0], _reason(code, log), log)
        self.failures.append(failure)
        self._leave(active)
        self._say(f'sptsr: {failure}')

    def _leave(self, active: _Active) -> None:
        active.process = None
        active.lock.close()
        self.active.remove(active)
        self.free.append(active.slot)

    def _note(self, number: int, _frame: object) -> None:
        self.signals += 1

    def _end_all(self) -> None:
        """Asks all processes to save and end, and ends those that do not; a second signal ends them at once."""
        if self.active:
            self._say(f'stopping {len(self.active)} runs; the same command goes on')
        for active in self.active:
            if active.process is not None and active.process.poll() is None:
                active.process.stop(hard=False)
        deadline = time.monotonic() + _PATIENCE
        for active in list(self.active):
            while active.process is not None and active.process.poll() is None:
                if time.monotonic() > deadline or self.signals > 1:
                    active.process.stop(hard=True)
                time.sleep(_LOOK / 4)
            self._leave(active)

    def _say(self, text: str) -> None:
        if not self.quiet:
            tqdm.write(text, file=sys.stderr)


def _is_done(run: Run, words: Sequence[str]) -> bool:
    if words[0] == 'train':
        return run.trained
    return run.metrics(Path(words[2]).stem.removeprefix('test_')).is_file()


def _log(run: Run, words: Sequence[str]) -> Path:
    return run.home / f'{Path(words[2]).stem}.log'


def _iterations(run: Run) -> int:
    """Returns the iterations of a run; a network that is not trained counts as one."""
    return 1 if run.train is None else int(run.train['train']['total_iter'])


def progress_of(run: Run) -> int:
    """Returns the iterations that a run has made, as far as its states and its log say."""
    if run.train is None:
        return int(run.done)
    if run.trained:
        return _iterations(run)
    states = [int(path.stem) for path in run.states.glob('*.state') if path.stem.isdigit()]
    log = run.home / 'train.log'
    try:
        with open(log, 'rb') as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - 4096))
            noted = _ITERATION.findall(stream.read())
    except OSError:
        noted = []
    last = int(noted[-1].replace(b',', b'')) if noted else 0
    return min(_iterations(run), max([last, *states]))


def _reason(code: int, log: Path) -> str:
    """Returns the last line that a process wrote, or how it ended."""
    if code < 0:
        return f'it was ended by {signal.Signals(-code).name}'
    try:
        with open(log, 'rb') as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - 4096))
            lines = stream.read().decode(errors='replace').strip().splitlines()
    except OSError:
        lines = []
    return lines[-1].removeprefix('sptsr: ') if lines else f'exit code {code}'


def slots_of(jobs: int, gpus: Sequence[str], processes: int) -> list[Slot]:
    """Returns the places for runs: as many as `jobs`, or one for every so many GPUs as a training has processes.

    Raises:
        UserError: too few GPUs.
    """
    if not gpus:
        return [Slot() for _ in range(jobs)]
    groups = [gpus[n : n + processes] for n in range(0, len(gpus) - processes + 1, processes)]
    if not groups:
        raise UserError(f'--gpus {",".join(gpus)}: {len(gpus)} GPUs for --nproc {processes}; name more')
    return [Slot({'CUDA_VISIBLE_DEVICES': ','.join(group)}) for group in groups]
