"""Loaders: a training stream that is a function of the seed, and loaders for evaluation."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
from collections.abc import Iterator, Sequence
from multiprocessing.connection import wait
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from sptsr.core.distributed import Ranks
from sptsr.core.errors import UserError
from sptsr.masks.batch import PriorBatch

_ALONE = Ranks()


class SeededIndex(int):
    """An index that carries the seed of its sample; datasets that know nothing of it see an int."""

    seed: int

    def __new__(cls, index: int, seed: int) -> SeededIndex:
        value = super().__new__(cls, index)
        value.seed = seed
        return value

    def __reduce__(self) -> tuple[Any, ...]:
        return SeededIndex, (int(self), self.seed)


class TrainStream(Sampler[list[int]]):
    """The batches of iterations `start` to `stop` of one rank, as one endless shuffled stream.

    Epoch e is a permutation drawn from (seed, e); batches run across the end of an epoch, so no
    sample is dropped and exactly the iterations asked for are made, even when the batch is larger
    than the set. Sample n of the stream has a seed of its own drawn from (seed, n). So what
    iteration i sees depends on nothing but seed, batch size, number of ranks and i.

    Args:
        length: images in the set.
        batch: batch size of one rank.
        seed: of the run.
        start: iterations already made.
        stop: iterations to make in all.
        ranks: this process among those that share the run.
    """

    def __init__(self, length: int, batch: int, seed: int, start: int, stop: int, ranks: Ranks = _ALONE) -> None:
        if length < 1 or batch < 1:
            raise ValueError(f'need at least one image and a batch of one, got {length} and {batch}')
        self.length, self.batch, self.seed = length, batch, seed
        self.start, self.stop, self.rank, self.world = start, stop, ranks.rank, ranks.world

    def __len__(self) -> int:
        return max(0, self.stop - self.start)

    def __iter__(self) -> Iterator[list[int]]:
        epoch, order = -1, np.empty(0, np.int64)
        for iteration in range(self.start, self.stop):
            batch: list[int] = []
            for slot in range(self.batch):
                number = (iteration * self.world + self.rank) * self.batch + slot
                if number // self.length != epoch:
                    epoch = number // self.length
                    order = np.random.default_rng([self.seed, 0, epoch]).permutation(self.length)
                seed = int(np.random.SeedSequence([self.seed, 1, number]).generate_state(1, np.uint64)[0])
                batch.append(SeededIndex(int(order[number % self.length]), seed))
            yield batch

    def epoch(self, iteration: int) -> int:
        """Returns the epoch that an iteration (counted from 1) ends in."""
        return ((iteration * self.world * self.batch) - 1) // self.length


class NamedErrors(Dataset):
    """Wraps a dataset: seeds global generators for stock ones, and names the file of any failure."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.opt = dataset.opt

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        seed = getattr(index, 'seed', None)
        if seed is not None:  # stock BasicSR datasets draw from the global generators
            random.seed(seed)
            np.random.seed(seed % (1 << 32))
            torch.default_generator.manual_seed(seed % (1 << 63))  # torch.manual_seed records a traceback for CUDA
        try:
            return self.dataset[index]
        except UserError:
            raise
        except Exception as error:
            paths = getattr(self.dataset, 'paths', None)
            name = paths[index] if paths else f'item {int(index)}'
            raise UserError(f'{self.opt.get("name")}: {name}: cannot be loaded ({error}); check the file') from error


def collate(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Collates samples; the priors become one `PriorBatch` (or None where there are none)."""
    priors = [sample.get('prior') for sample in samples]
    rest = [{key: value for key, value in sample.items() if key != 'prior'} for sample in samples]
    batch = default_collate(rest)
    batch['prior'] = None if any(prior is None for prior in priors) else PriorBatch.of(priors)  # type: ignore[arg-type]
    return batch


def train_loader(dataset: Any, opt: dict[str, Any], stream: TrainStream) -> DataLoader:
    """Returns the loader of a training stream; workers live as long as the stream."""
    workers = int(opt.get('num_worker_per_gpu', 0))
    return DataLoader(
        NamedErrors(dataset),
        batch_sampler=stream,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=bool(opt.get('pin_memory', False)) and torch.cuda.is_available(),
        worker_init_fn=_start_worker,
    )


def eval_loader(dataset: Any, ranks: Ranks = _ALONE) -> DataLoader:
    """Returns the loader of a validation or test set: one image a batch, in order; each rank has its share.

    With `num_worker_per_gpu` in its section, that many processes read ahead; they live as long as the loader.
    """
    share = range(ranks.rank, len(dataset), ranks.world)
    workers = int(dataset.opt.get('num_worker_per_gpu') or 0)
    return DataLoader(
        NamedErrors(dataset),
        batch_size=1,
        sampler=share,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=_start_worker,
        persistent_workers=workers > 0,
    )


def _start_worker(_worker: int) -> None:
    torch.set_num_threads(1)
    # Ctrl-C and a scheduler's SIGTERM reach the whole group while the main process still finishes its
    # step. A worker that dies of a signal makes torch raise there, in the middle of anything; one that
    # leaves with 0 does not. SIGTERM must end it: that is how Python gets rid of it at exit.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    """Ends this worker as soon as its parent has ended, by SIGKILL too; torch looks every five seconds only."""
    wait([sentinel])
    os._exit(0)
