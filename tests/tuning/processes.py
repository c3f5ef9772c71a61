"""Training processes that start quickly: forked from a server that has imported everything and run nothing.

A fork of the tests' own process would inherit threads that are not there any more.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

import sptsr  # noqa: F401 (mends the import of basicsr)
from sptsr.commands.line import build_parser
from sptsr.core.errors import UserError
from sptsr.core.registry import register_all
from sptsr.tuning.model import SPTModel
from sptsr.tuning.testing import test_pipeline as evaluate
from sptsr.tuning.training import train_pipeline

register_all()
CONTEXT = multiprocessing.get_context('forkserver')
CONTEXT.set_forkserver_preload([__name__, 'tests.readers'])


def start(target, *arguments, world: int = 1, **settings) -> list:
    """Starts `target(*arguments, **settings)` in as many processes, as torchrun would."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    shared = {'WORLD_SIZE': str(world), 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(port)}
    ranks = []
    for rank in range(world):
        environment = {**shared, 'RANK': str(rank), 'LOCAL_RANK': str(rank)} if world > 1 else {}
        ranks.append(CONTEXT.Process(target=_enter, args=(environment, target, arguments, settings)))
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
    sys.stderr = open(log or os.devnull, 'a', buffering=1)  # noqa: SIM115 (until the process ends)
    train_pipeline(path, root, **settings)
    sys.stderr.flush()


def measure(path: Path, root: Path, **settings) -> None:
    """`sptsr test`."""
    evaluate(path, root, quiet=True, **settings)


def wait_until(condition: Callable[[], bool], what: str = 'nothing happened in time', seconds: float = 300) -> None:
    """Waits for what other processes do; fails with `what` where it does not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def codes(ranks: list, seconds: float = 200) -> list[int | None]:
    """Returns the exit codes of processes that end by themselves; None is one that does not and was killed."""
    deadline = time.monotonic() + seconds
    for process in ranks:
        process.join(max(0.0, deadline - time.monotonic()))
    found = [process.exitcode for process in ranks]
    for process in ranks:
        process.kill()
    return found


def tune_otherwise(paths: list[Path], root: Path, logs: list[Path], spoil: str = '') -> None:
    """`sptsr train` with a file and a log for each rank; `spoil` says what goes wrong on rank 1 at iteration 3.

    `nan`: its GT holds a NaN. `gradient`: its gradient does. `memory`: its forward raises. `data`: its dataset
    raises. `write`: rank 0 cannot save. `restore`: rank 1
    cannot read an image of the validation set.
    """
    rank = int(os.environ['RANK'])
    sys.stderr = open(logs[rank], 'a')  # noqa: SIM115 (until the process ends)
    feed, step = SPTModel.feed_data, SPTModel.optimize_parameters

    def spoiled_feed(self: SPTModel, data: dict) -> None:
        self.fed = getattr(self, 'fed', 0) + 1
        if self.fed == 3 and spoil == 'data':
            raise UserError('b.png: cut off')
        feed(self, data)
        assert self.gt is not None
        if self.fed == 3 and spoil == 'nan':
            self.gt[0, 0, 0, 0] = float('nan')

    def spoiled_step(self: SPTModel, current_iter: int) -> None:
        if current_iter == 3 and spoil == 'gradient':
            parameter = next(iter(self.net.adapter_parameters().values()))
            parameter.register_hook(lambda gradient: gradient * float('nan'))
        if current_iter == 3 and spoil == 'memory':
            self.net.forward = _out_of_memory
        step(self, current_iter)

    def spoiled_save(self: SPTModel, *arguments: object) -> None:
        raise UserError('x.safetensors: no room')

    if rank == 1:
        SPTModel.feed_data, SPTModel.optimize_parameters = spoiled_feed, spoiled_step
    if rank == 1 and spoil == 'restore':
        SPTModel.restore = _unreadable
    if spoil == 'write':
        SPTModel.save = spoiled_save
    try:
        arguments = ['train', '-opt', str(paths[rank]), '--root', str(root), '--launcher', 'pytorch']
        options = build_parser().parse_args(arguments)
        options.run(options)
    except UserError as error:
        print(f'sptsr: {error}', file=sys.stderr, flush=True)
        raise
    except RuntimeError as error:
        print(f'{type(error).__name__}: {error}', file=sys.stderr, flush=True)
        os._exit(1)


def _unreadable(*_: object) -> None:
    raise UserError('c.png: cut off')


def _out_of_memory(*_: object) -> None:
    raise RuntimeError('out of memory')
