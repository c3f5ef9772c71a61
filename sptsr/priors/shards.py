"""Fills one prior store with several processes: each writes a shard, and the shards are merged at the end."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta

import lmdb
import torch.distributed as dist

from sptsr.core.distributed import enter_group, leave_group, number_of
from sptsr.core.errors import UserError
from sptsr.core.lmdb_env import close_reader
from sptsr.core.locks import try_lock
from sptsr.core.progress import bar
from sptsr.images.folder import ImageFolder
from sptsr.priors.extract import ExtractReport, extract, header_of, shard_path, shards_folder, shards_of
from sptsr.priors.sources.source import Source
from sptsr.priors.store import WRITER_LOCK, PriorStore, PriorWriter, has_header
from sptsr.priors.store_header import StoreHeader

_PATIENCE = timedelta(days=30)


def merge(path: str | os.PathLike[str], header: StoreHeader) -> int:
    """Moves all shards into the store at `path` and removes them; may be interrupted and run again.

    Returns:
        number of entries in the store.

    Raises:
        UserError: a shard holds priors that were made otherwise, or another process is writing one.
    """
    with ExitStack() as locks:
        for shard in shards_of(path):
            lock = try_lock(shard / WRITER_LOCK)
            if lock is None:
                raise UserError(f'{shard}: another extraction is writing it; wait for it, or choose another store')
            locks.enter_context(lock)
        return _merge(path, header)


def _merge(path: str | os.PathLike[str], header: StoreHeader) -> int:
    shards = [PriorStore(shard) for shard in shards_of(path) if has_header(shard)]
    for shard in shards:
        shard.header.must_agree(header, shard.path)
    with PriorWriter(path, header) as writer:
        rows = ((key, *shard.raw(key), shard.made_of(key)) for shard in shards for key in shard.keys())  # noqa: SIM118
        with bar(sum(map(len, shards)), 'merge') as progress:
            for key, digest, content, made_of in rows:
                writer.put_raw(key, digest, content, made_of)
                progress.update()
        count = writer.entries()
    for shard in shards:
        close_reader(shard.path)
    shutil.rmtree(shards_folder(path), ignore_errors=True)
    return count


def extract_distributed(
    images: ImageFolder, path: str | os.PathLike[str], source: Source, max_masks: int = 64
) -> ExtractReport | None:
    """As `extract`, by all processes that torchrun started; the report is rank 0's, None on others.

    Raises:
        UserError: as `extract`; it ends all ranks.
    """
    rank, world = number_of('RANK', '0'), number_of('WORLD_SIZE', '1')
    if world == 1:
        if any(map(has_header, shards_of(path))):  # left by an interrupted run of several ranks
            merge(path, header_of(images, source, max_masks))
        return extract(images, path, source, max_masks)
    # For barriers and small reports only. A rank may have much more to do than another.
    enter_group('gloo', timedelta(minutes=30), _PATIENCE)
    try:
        with _Watch(path, len(images), rank, world) as watch:
            mine = extract(images, path, source, max_masks, rank, world, watch.count)
            with _others_may_end():
                dist.barrier()
        reports: list[ExtractReport | None] = [None] * world
        with _others_may_end():
            dist.all_gather_object(reports, mine)
        if rank == 0:
            merge(path, header_of(images, source, max_masks))
        with _others_may_end():
            dist.barrier()
        done = [report for report in reports if report is not None]
        return ExtractReport(sum(r.made for r in done), sum(r.kept for r in done)) if rank == 0 else None
    finally:
        leave_group()


@contextmanager
def _others_may_end() -> Iterator[None]:
    """Turns the loss of another process in an exchange into one line."""
    try:
        yield
    except RuntimeError as error:
        raise UserError('extract: another process ended early, and has said why; the same command goes on') from error


class _Watch:
    """Shows the progress of all ranks on rank 0, which counts the entries of the other shards every second.

    Args:
        path: the store.
        total: number of images of all ranks.
        rank, world: this process, and the number of processes.
    """

    def __init__(self, path: str | os.PathLike[str], total: int, rank: int, world: int) -> None:
        self.path, self.rank = path, rank
        self.own = 0
        self.total = total
        merged = len(PriorStore(path)) if rank == 0 and has_header(path) else 0
        self.before = merged * (world - 1) // world  # the share of the other ranks
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)

    def count(self, number: int) -> None:
        """Notes priors of this rank."""
        self.own += number

    def __enter__(self) -> _Watch:
        if self.rank == 0:
            self.thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.whole = kind is None
        self.done.set()
        if self.rank == 0:
            self.thread.join()

    def _look(self) -> None:
        with bar(self.total, 'priors of all ranks', initial=self.before + self._others()) as shown:
            while not self.done.wait(1.0):
                now = self.before + self.own + self._others()
                shown.update(max(0, min(now, self.total) - shown.n))
            if self.whole:
                shown.update(self.total - shown.n)

    def _others(self) -> int:
        """Returns the priors that lie in shards of other ranks, of this run or one before."""
        own, count = shard_path(self.path, 0), 0
        for shard in shards_of(self.path):
            try:
                count += len(PriorStore(shard)) if shard != own and has_header(shard) else 0
            except (lmdb.Error, UserError):  # its writer is at work; the next look counts it
                continue
        return count
