"""How a run of `sptsr train` and of `sptsr test` starts and ends."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from logging import Logger
from pathlib import Path
from typing import Any

import torch
from basicsr.models import build_model
from basicsr.utils import get_time_str, set_random_seed
from torch.utils.data import DataLoader

from sptsr.core import logs
from sptsr.core.distributed import Ranks, start_ranks
from sptsr.core.errors import UserError, unwrapped
from sptsr.core.locks import FolderLock
from sptsr.data.checked import open_dataset
from sptsr.data.loader import eval_loader
from sptsr.evaluation.metrics import read_metrics
from sptsr.options.load import Options, load_options
from sptsr.tuning.adapter_files import best_file
from sptsr.tuning.model import SPTModel


@contextmanager
def started(
    path: str | os.PathLike[str],
    is_train: bool,
    root: str | os.PathLike[str],
    force: Sequence[str],
    launcher: str,
) -> Iterator[tuple[Options, Ranks, FolderLock]]:
    """Yields the checked options, this process among those of the run, and the lock of its folder, not held yet.

    Random generators are seeded, and `options.opt` has `dist`, `rank` and `world_size`. At the end the group of
    processes is left, and the lock is free.

    Args:
        path: the option file.
        is_train: for training; else for a test.
        root: where outputs go.
        force: `--force_yml` entries.
        launcher: `none`, `pytorch` or `slurm` (see `sptsr.core.distributed.start_ranks`).

    Raises:
        UserError: a mistake in the options, on this rank or another one, or no group of processes. One that was
            raised inside comes as the dataset raised it, also from a worker process.
    """
    try:
        options = load_options(path, is_train, root, force)
        _check_processes(options, launcher)
    except UserError as error:
        _tell_others(error, launcher)
        raise
    opt = options.opt
    ranks = start_ranks(launcher, opt.get('dist_params'), cuda=opt['num_gpu'] > 0)
    try:
        ranks.raise_together(None)
        opt.update(dist=ranks.world > 1, rank=ranks.rank, world_size=ranks.world)
        set_random_seed(opt['manual_seed'])
        home, work = ('experiments_root', 'trains') if is_train else ('results_root', 'tests')
        with FolderLock(Path(opt['path'][home]), work) as lock:
            yield options, ranks, lock
    except UserError as error:
        raise unwrapped(error) from error
    except RuntimeError as error:
        if 'DataLoader worker' in str(error):  # torch's handler of SIGCHLD raises it, wherever the process is
            raise worker_killed() from error
        if ranks.world > 1 and 'gloo' in str(error):
            raise UserError('another rank ended without a word (it may have been killed); see what it wrote') from error
        raise
    finally:
        ranks.close()


def worker_killed() -> UserError:
    """Returns what to say where a process that loads images is gone."""
    return UserError(
        'a process that loads images was killed, for want of memory perhaps; free some, or lower num_worker_per_gpu'
    )


def _check_processes(options: Options, launcher: str) -> None:
    """Raises UserError where one process is asked to work on several GPUs; its batch would be too small."""
    wanted = options.given.get('num_gpu', 'auto')
    if launcher == 'none' and wanted != 'auto' and wanted > 1:
        raise UserError(
            f'num_gpu: {wanted}, but a process works on one GPU; start one for each '
            f'(torchrun --nproc_per_node {wanted} ... --launcher pytorch), or set num_gpu: 1'
        )


def _tell_others(error: UserError, launcher: str) -> None:
    """Joins the other ranks of the run, if there are any, and ends their start with this error."""
    with suppress(Exception):  # this rank's own error is the one to show
        ranks = start_ranks(launcher, cuda=torch.cuda.is_available(), timeout=timedelta(minutes=5))
        with suppress(UserError):
            ranks.raise_together(error)
        ranks.close()


def eval_loaders(opt: dict[str, Any], ranks: Ranks) -> list[DataLoader]:
    """Returns the loaders of all sets of complete options without the training set, which gives random crops.

    Raises:
        UserError: a set that cannot be read, two sets of one name (the figures of one would be lost), or a metric
            that cannot be used.
    """
    metrics = [metric.name for metric in read_metrics(opt['val']['metrics'])]
    sections = [data for phase, data in opt['datasets'].items() if phase != 'train']
    if not sections and not opt['is_train']:
        raise UserError('datasets: a test needs a set besides train; add val or test')
    names = [data['name'] for data in sections]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"datasets: two sets are called '{name}'; give each a name of its own")
    files: dict[Path, str] = {}
    for name, metric in itertools.product(names if opt['is_train'] else [], metrics):
        here = f"'{name}' by {metric}"
        other = files.setdefault(best_file(Path(), name, metric), here)
        if other != here:
            raise UserError(
                f'datasets: the best adapters of {other} and {here} would be one file; rename a set or a metric'
            )
    return [eval_loader(open_dataset(data), ranks) for data in sections]


def build_spt_model(opt: dict[str, Any]) -> SPTModel:
    """Returns the model of complete options; raises UserError when it is none of ours."""
    model: Any = build_model(opt)
    if not isinstance(model, SPTModel):
        raise UserError(f'model_type: {opt["model_type"]}: only an SPTModel is trained and tested here; use BasicSR')
    return model


def start_log(opt: dict[str, Any], ranks: Ranks, periodic: bool = True, quiet: bool = False) -> Logger:
    """Sends log lines to stderr, and those of the first rank to a new file in the run's folder.

    Args:
        opt: complete options.
        ranks: this process among those of the run.
        periodic: let the lines of every `print_freq` through to stderr.
        quiet: let only warnings through to stderr.
    """
    verb = 'train' if opt['is_train'] else 'test'
    file = Path(opt['path']['log']) / f'{verb}_{opt["name"]}_{get_time_str()}.log'
    return logs.setup(file if ranks.first else None, periodic, quiet or not ranks.first)
