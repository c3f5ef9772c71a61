"""A process that runs one function on one thing after the other, within limits, and may die of it."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import resource
import signal
import sys
import traceback
import urllib.error
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from sptsr.commands.line import main
from sptsr.core.logs import NAME
from tests.tuning.processes import CONTEXT

WALL = 120  # seconds after which a process that waits counts as one that never ends, on however busy a machine


@dataclass(frozen=True)
class Broken:
    """What a function did instead of returning: it raised, took too long, or ended the process."""

    how: str


class Sandbox:
    """Runs a function in a process that is started again where it dies; use it as a context manager.

    Args:
        run: an importable function of one argument.
        memory: bytes that the process may take beyond what it has at its start.
        seconds: of processor time that one call may take; 0 for no limit.
    """

    def __init__(self, run: Callable[[Any], Any], memory: int, seconds: int = 0) -> None:
        self.settings = run, memory, seconds

    def __enter__(self) -> Sandbox:
        self.pipe, theirs = CONTEXT.Pipe()
        self.process = CONTEXT.Process(target=_serve, args=(theirs, *self.settings))
        self.process.start()
        theirs.close()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()

    def __call__(self, thing: object) -> Any:
        """Returns what the function returns, or `Broken`."""
        self.pipe.send(thing)
        try:
            if self.pipe.poll(WALL):
                return self.pipe.recv()
            how = f'no answer after {WALL} s'
        except EOFError:
            self.process.join()
            code = self.process.exitcode or 0
            how = f'more than {self.settings[2]} s' if code == -signal.SIGVTALRM else f'the process ended with {code}'
        self.__exit__()
        self.__enter__()
        return Broken(how)


def _serve(pipe: Connection, run: Callable[[Any], Any], memory: int, seconds: int) -> None:
    torch.set_num_threads(1)
    os.environ['HF_HUB_OFFLINE'] = '1'  # nothing is downloaded
    torch.hub.download_url_to_file = _no_network
    if sys.platform == 'linux':  # elsewhere addresses are not limited
        pages = int(Path('/proc/self/statm').read_text().split()[0])
        limit = pages * resource.getpagesize() + memory
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    with contextlib.suppress(EOFError):  # the tests have ended
        while True:
            pipe.send(_answer(run, pipe.recv(), seconds))


def _no_network(url: str, *_: object, **__: object) -> None:
    raise urllib.error.URLError(f'no network for {url}')


def _answer(run: Callable[[Any], Any], thing: object, seconds: int) -> Any:
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)  # its signal ends the process, also within C code
    try:
        return run(thing)
    except BaseException:
        return Broken(traceback.format_exc())
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


@dataclass(frozen=True)
class Done:
    """What a command left behind: exit code, and what it wrote to its outputs."""

    code: int
    out: str
    err: str


def run_command(asked: tuple[Path, list[str]]) -> Done:
    """Runs `sptsr` with these words in this folder; its outputs take UTF-8, as a terminal's do."""
    folder, words = asked
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding='utf-8', errors=how) for how in ('strict', 'backslashreplace'))
    os.chdir(folder)
    logging.getLogger(NAME).handlers.clear()  # they write to the outputs of the command before
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        try:
            code = main(words)
        except SystemExit as ended:
            code = ended.code
    logging.getLogger(NAME).handlers.clear()
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())  # type: ignore[attr-defined]
    return Done(int(code or 0), *texts)
