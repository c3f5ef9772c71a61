"""A step of a study as a process on this machine, and the places where steps go."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from sptsr.core.errors import UserError

# Ends with its parent, by SIGKILL too (PR_SET_PDEATHSIG is 1), and leaves the group that Ctrl-C reaches.
_CHILD = (
    'import ctypes, os, sys\n'
    'os.setsid()\n'
    'ctypes.CDLL(None).prctl(1, 15)\n'
    'sys.exit(1) if os.getppid() != int(sys.argv[1]) else os.execv(sys.argv[2], sys.argv[2:])'
)
_MODULES = {'train': 'sptsr.train', 'test': 'sptsr.test', 'make_store': 'sptsr.study.make_store'}


class Process(Protocol):
    """A step that runs."""

    def poll(self) -> int | None:
        """Returns the exit code; None while it runs."""

    def stop(self, hard: bool) -> None:
        """Asks it to save and end, with all that it started; `hard` ends it at once."""


Start = Callable[[Sequence[str], Path, 'dict[str, str]', int], Process]  # command, log, environment, lock


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
        started = descendants(self.process.pid) if hard else []
        for target in (os.killpg, os.kill):  # it is a group of its own a moment after its start
            with suppress(ProcessLookupError):
                target(self.process.pid, signal.SIGKILL if hard else signal.SIGTERM)
                break
        for process in started:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


def descendants(process: int) -> list[int]:
    """Returns the processes that one has started, and those that these have; torchrun's are groups of their own."""
    children: dict[int, list[int]] = {}
    for record in Path('/proc').glob('[0-9]*/stat'):
        with suppress(OSError):  # it has ended meanwhile
            parent = int(record.read_text(errors='replace').rpartition(')')[2].split()[1])
            children.setdefault(parent, []).append(int(record.parent.name))
    found = [process]
    for one in found:
        found += children.get(one, [])
    return found[1:]


@dataclass(frozen=True)
class Slot:
    """A place where one step at a time goes.

    Attributes:
        environment: what is set for it, such as `CUDA_VISIBLE_DEVICES`.
    """

    environment: dict[str, str] = field(default_factory=dict)


def slots_of(jobs: int, gpus: Sequence[str], processes: int) -> list[Slot]:
    """Returns the places for steps: as many as `jobs`, or one for every so many GPUs as a training has processes.

    Raises:
        UserError: too few GPUs.
    """
    if not gpus:
        return [Slot() for _ in range(jobs)]
    groups = [gpus[n : n + processes] for n in range(0, len(gpus) - processes + 1, processes)]
    if not groups:
        raise UserError(f'--gpus {",".join(gpus)}: {len(gpus)} GPUs for --nproc {processes}; name more')
    return [Slot({'CUDA_VISIBLE_DEVICES': ','.join(group)}) for group in groups]


def python(words: Sequence[str], processes: int = 1) -> list[str]:
    """Returns the command that does a step with this Python, trainings in several processes under torchrun.

    Args:
        words: `train`, `test` or `make_store` with its arguments.
        processes: ranks of a training.
    """
    module = _MODULES[words[0]]
    if processes > 1 and words[0] == 'train':
        torchrun = ['-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={processes}']
        return [sys.executable, *torchrun, '-m', module, *words[1:], '--launcher', 'pytorch']
    return [sys.executable, '-m', module, *words[1:]]


def threads() -> str:
    """Returns the number of threads of a run on CPUs, as the environment says it; sums depend on it."""
    return os.environ.get('OMP_NUM_THREADS', '1')
