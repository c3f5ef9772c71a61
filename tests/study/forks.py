"""Steps of a study in processes that start quickly: forked from the server of tests/tuning/processes.py."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from tests.tuning.processes import CONTEXT


def _enter(words: Sequence[str], log: Path, environment: dict[str, str]) -> None:
    os.setsid()
    os.environ.update(environment)
    torch.set_num_threads(1)
    sys.stdout = sys.stderr = open(log, 'a', buffering=1)  # noqa: SIM115 (until the process ends)
    from sptsr.commands.line import main
    from sptsr.study import make_store

    code = make_store.main(words[1:]) if words[0] == 'make_store' else main(words)
    sys.stderr.flush()
    os._exit(code)


class _Fork:
    def __init__(self, words: Sequence[str], log: Path, environment: dict[str, str]) -> None:
        self.process = CONTEXT.Process(target=_enter, args=(words, log, environment))
        self.process.start()

    def poll(self) -> int | None:
        return self.process.exitcode

    def stop(self, hard: bool) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGKILL if hard else signal.SIGTERM)


def start_fork(command: Sequence[str], log: Path, environment: dict[str, str], lock: int) -> _Fork:
    """Starts what `python -m sptsr.VERB WORDS` would."""
    module = command[command.index('-m') + 1]
    return _Fork([module.rpartition('.')[2], *command[command.index('-m') + 2 :]], log, environment)
