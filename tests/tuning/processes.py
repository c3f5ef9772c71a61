"""Training processes that start quickly: forked from a server that has imported everything and run nothing.

A fork of the tests' own process would inherit threads that are not there any more.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from pathlib import Path

import torch

import sptsr  # noqa: F401 (mends the import of basicsr)
from sptsr.core.errors import UserError
from sptsr.core.registry import register_all
from sptsr.tuning.testing import test_pipeline as evaluate
from sptsr.tuning.training import train_pipeline

register_all()
_CONTEXT = multiprocessing.get_context('forkserver')
_CONTEXT.set_forkserver_preload([__name__])


def start(target, *arguments, world: int = 1, **settings) -> list:
    """Starts `target(*arguments, **settings)` in as many processes, as torchrun would."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    shared = {'WORLD_SIZE': str(world), 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(port)}
    ranks = []
    for rank in range(world):
        environment = {**shared, 'RANK': str(rank), 'LOCAL_RANK': str(rank)} if world > 1 else {}
        ranks.append(_CONTEXT.Process(target=_enter, args=(environment, target, arguments, settings)))
    for process in ranks:
        process.start()
    return ranks


def finish(ranks: list) -> list[int]:
    """Waits for processes; one that fails takes the others with it. Returns their exit codes."""
    while any(process.is_alive() for process in ranks):
        for process in ranks:
            process.join(0.02)
        if any(process.exitcode for process in ranks):
            for process in ranks:
                process.kill()
    return [process.exitcode for process in ranks]


def _enter(environment: dict[str, str], target, arguments, settings) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    try:
        target(*arguments, **settings)
    except UserError as error:
        print(f'sptsr: {error}', file=sys.stderr)
        os._exit(2)
    os._exit(0)


def tune(path: Path, root: Path, log: Path | None = None, **settings) -> None:
    """`sptsr train`; what it writes to stderr goes to `log`."""
    sys.stderr = open(log or os.devnull, 'a')  # noqa: SIM115 (until the process ends)
    train_pipeline(path, root, **settings)
    sys.stderr.flush()


def measure(path: Path, root: Path, **settings) -> None:
    """`sptsr test`."""
    evaluate(path, root, quiet=True, **settings)
