"""Does what is missing of a study, several steps at a time: prior stores, and the runs that need them."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO

from tqdm import tqdm

from sptsr.core.progress import bar
from sptsr.study.steps import LocalProcess, Process, Slot, Start, python

_LOOK = 0.1  # seconds between two looks at the processes
_PATIENCE = 60.0  # seconds that a process has to save and end


class Work(Protocol):
    """Something to do in steps, one after the other: a run, or a prior store."""

    @property
    def id(self) -> str:
        """What tells it from all other work."""
        ...

    @property
    def name(self) -> str:
        """What to call it."""
        ...

    @property
    def home(self) -> Path:
        """Folder in which it is done."""
        ...

    @property
    def needs(self) -> Sequence[Work]:
        """What must be done before it."""
        ...

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        ...

    @property
    def size(self) -> int:
        """How much there is to do, in iterations; 0 where it does not count."""
        ...

    @property
    def progress(self) -> int:
        """How much of `size` is done."""
        ...

    @property
    def environment(self) -> dict[str, str]:
        """What is set for its steps."""
        ...

    def lock(self) -> TextIO | None:
        """Returns a file that holds it until it is closed; None when another process does."""

    def prepare(self) -> None:
        """Writes what its steps read."""

    def commands(self) -> list[list[str]]:
        """Returns its steps, each as words (see `sptsr.study.steps.python`)."""
        ...

    def has_done(self, words: Sequence[str]) -> bool:
        """Returns whether a step is done."""
        ...

    def log(self, words: Sequence[str]) -> Path:
        """Returns where a step writes its messages."""
        ...


@dataclass(frozen=True)
class Failure:
    """A step that did not end well.

    Attributes:
        work: a run or a store of the study.
        step: `train`, `test` or `make_store`.
        reason: its last line, or how it ended.
        log: all that it wrote.
    """

    work: Work
    step: str
    reason: str
    log: Path

    def __str__(self) -> str:
        return f'{self.work.name}: {self.step} failed: {self.reason} (see {self.log})'


@dataclass
class _Active:
    """What is being worked on: its steps, the first of which runs."""

    work: Work
    slot: Slot
    lock: TextIO
    steps: list[list[str]]
    process: Process | None = None
    seen: int = 0  # iterations that were shown


class Pool:
    """Does runs until all are done, have failed, or a signal asks to stop.

    Args:
        slots: one step at a time goes into each.
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
        self.failures: dict[str, Failure] = {}
        self.signals = 0

    def do(self, works: Sequence[Work]) -> list[Failure]:
        """Does what is missing, each after what it needs; what another process works on is waited for.

        Raises:
            KeyboardInterrupt: SIGINT or SIGTERM came; all processes have ended.
        """
        waiting = _in_order(works)
        total = sum(work.size for work in works)
        done = sum(work.progress for work in works)
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
        return list(self.failures.values())

    def _loop(self, waiting: list[Work], shown: Any) -> None:
        others: set[str] = set()  # what another process works on
        while (waiting or self.active) and not self.signals:
            for work in self._ready(waiting):
                if self._begin(work):
                    waiting.remove(work)
                    others.discard(work.id)
                elif work.id not in others:
                    others.add(work.id)
                    self._say(f'{work.name}: another process works on it ({work.home})')
            for active in list(self.active):
                self._look(active, shown)
            waiting = [work for work in waiting if not (work.done or work.id in self.failures)]
            shown.set_postfix_str(f'{len(waiting) + len(self.active)} left', refresh=False)
            time.sleep(_LOOK)

    def _ready(self, waiting: Sequence[Work]) -> Iterator[Work]:
        """Yields what can begin while a slot is free; what needs something that failed fails with it."""
        for work in list(waiting):
            lost = next((self.failures[need.id] for need in work.needs if need.id in self.failures), None)
            if lost is not None:
                self._fail(Failure(work, work.commands()[0][0], f'{lost.work.name} could not be made', lost.log))
            elif not self.free:
                return
            elif all(need.done for need in work.needs):
                yield work

    def _begin(self, work: Work) -> bool:
        """Starts the first step of a work in a free slot; returns False when another process has the work."""
        lock = work.lock()
        if lock is None:
            return False
        work.prepare()
        steps = [words for words in work.commands() if not work.has_done(words)]
        active = _Active(work, self.free.pop(0), lock, steps, seen=work.progress)
        self.active.append(active)
        self._next(active)
        return True

    def _next(self, active: _Active) -> None:
        """Starts the next step; after the last one the slot is free again."""
        work = active.work
        if not active.steps:
            self._leave(active)
            self._say(f'{work.name}: done')
            return
        words = active.steps[0]
        log = work.log(words)
        self._say(f'{work.name}: {words[0]} ({log})')
        environment = {**work.environment, **active.slot.environment}
        active.process = self.start(python(words, self.processes), log, environment, active.lock.fileno())

    def _look(self, active: _Active, shown: Any) -> None:
        now = active.work.progress
        shown.update(max(0, now - active.seen))
        active.seen = max(now, active.seen)
        if active.process is None:
            return
        code = active.process.poll()
        if code is None or self.signals:
            return
        words = active.steps.pop(0)
        if code == 0 and active.work.has_done(words):
            self._next(active)
            return
        log = active.work.log(words)
        self._leave(active)
        self._fail(Failure(active.work, words[0], _reason(code, log), log))

    def _fail(self, failure: Failure) -> None:
        self.failures[failure.work.id] = failure
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
            self._say(f'stopping {len(self.active)} steps; the same command goes on')
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


def _in_order(works: Sequence[Work]) -> list[Work]:
    """Returns what is missing, and what that needs, each behind what it needs."""
    found: dict[str, Work] = {}

    def note(work: Work) -> None:
        if not work.done and work.id not in found:
            for need in work.needs:
                note(need)
            found[work.id] = work

    for work in works:
        note(work)
    return list(found.values())


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
