"""Filling, checking and describing prior stores."""

from __future__ import annotations

import os
import shutil
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sptsr.errors import UserError
from sptsr.images import RGB, ImageFolder
from sptsr.lmdb_env import close_reader
from sptsr.priors.sources.base import Source
from sptsr.priors.store import PriorStore, PriorWriter, StoreHeader, has_header
from sptsr.progress import bar
from sptsr.registry import SOURCE_REGISTRY, lookup, register_all
from sptsr.signatures import argument_problems
from sptsr.yaml_io import read_settings

_WAITING = 8  # priors that may wait to be packed and written


@dataclass(frozen=True)
class ExtractReport:
    """How many priors were made now, and how many were there before."""

    made: int
    kept: int


def extract(
    images: ImageFolder,
    path: str | os.PathLike[str],
    source: Source,
    max_masks: int = 64,
    rank: int = 0,
    world: int = 1,
) -> ExtractReport:
    """Fills the store at `path` with the prior of each image; what is there is kept.

    With several ranks each takes a stride of the sorted images and writes a shard of its own,
    `PATH.shards/RANK`; `merge` joins them when all are done. A rank that dies loses its current image
    only, and shards of a run that was cut off count as done, whatever the number of ranks was.

    Args:
        images: the LQ images.
        path: store, made when missing.
        source: makes the priors.
        max_masks: at most this many masks an image, 1..64.
        rank, world: this process, and the number of processes.

    Raises:
        UserError: an unreadable image, or whatever the source or the store refuses. What was
            written before stays whole.
    """
    if not 1 <= max_masks <= 64:
        raise UserError(f'--max-masks {max_masks}: must be 1..64')
    source.check(images.keys)
    target = Path(path) if world == 1 else shard_path(path, rank)
    created = not target.exists()
    made = 0
    with PriorWriter(target, source.header(max_masks)) as writer:
        try:
            others = _Others(path, target, writer.header)
            made, kept = _fill(images, images.keys[rank::world], writer, others, source, max_masks, rank)
        except UserError:
            if created and writer.entries() == 0:
                shutil.rmtree(target)  # nothing came of it, so nothing stays
            raise
    return ExtractReport(made, kept)


def _fill(
    images: ImageFolder,
    keys: Sequence[str],
    writer: PriorWriter,
    others: _Others,
    source: Source,
    max_masks: int,
    rank: int,
) -> tuple[int, int]:
    """Reads ahead in one thread and packs and writes in another, while this one makes masks."""
    made = kept = 0
    with (
        bar(len(keys), 'priors', disable=rank > 0) as progress,
        ThreadPoolExecutor(1) as reader,
        ThreadPoolExecutor(1) as packer,
    ):
        written: deque[Future[None]] = deque()
        groups = [keys[n : n + source.group] for n in range(0, len(keys), source.group)]
        ahead = reader.submit(_read, images, groups[0]) if groups else None
        try:
            for number, group in enumerate(groups):
                assert ahead is not None
                loaded = ahead.result()
                ahead = reader.submit(_read, images, groups[number + 1]) if number + 1 < len(groups) else None
                missing = [
                    (key, image)
                    for key, image in zip(group, loaded, strict=True)
                    if not writer.holds(key, image) and not others.hold(key, image)
                ]
                kept += len(group) - len(missing)
                progress.update(len(group) - len(missing))
                wanted = [key for key, _ in missing]
                priors = source.several([image for _, image in missing], wanted, max_masks) if missing else iter(())
                for (key, image), prior in zip(missing, priors, strict=True):
                    written.append(packer.submit(writer.put, key, image, prior))
                    made += 1
                    while len(written) > _WAITING:
                        written.popleft().result()
                    progress.update()
            while written:
                written.popleft().result()
        except BaseException:
            if ahead is not None:
                ahead.cancel()
            wait(written)  # what was made is kept
            raise
    return made, kept


def _read(images: ImageFolder, keys: Sequence[str]) -> list[RGB]:
    return [images.read(key) for key in keys]


class _Others:
    """The merged store and the shards of other ranks: what they hold need not be made again."""

    def __init__(self, path: str | os.PathLike[str], own: Path, header: StoreHeader) -> None:
        self.stores = []
        for other in [Path(path), *shards_of(path)]:
            if other != own and has_header(other):
                store = PriorStore(other)
                store.header.must_agree(header, other)
                self.stores.append(store)

    def hold(self, key: str, image: RGB) -> bool:
        return any(key in store and store.made_from(key, image) for store in self.stores)


def shard_path(path: str | os.PathLike[str], rank: int) -> Path:
    """Returns where a rank writes."""
    return Path(f'{path}.shards') / f'{rank:05d}'


def shards_of(path: str | os.PathLike[str]) -> list[Path]:
    """Returns the shards beside a store, in order."""
    return sorted(Path(f'{path}.shards').glob('[0-9]*'))


def merge(path: str | os.PathLike[str], header: StoreHeader) -> int:
    """Moves all shards into the store at `path` and removes them; may be cut off and run again.

    Returns:
        number of entries in the store.
    """
    shards = [PriorStore(shard) for shard in shards_of(path) if has_header(shard)]
    with PriorWriter(path, header) as writer:
        rows = ((key, *shard.raw(key)) for shard in shards for key in shard.keys())  # noqa: SIM118 (not a dict)
        with bar(sum(map(len, shards)), 'merge') as progress:
            for key, digest, content in rows:
                writer.put_raw(key, digest, content)
                progress.update()
        count = writer.entries()
    for shard in shards:
        close_reader(shard.path)
    shutil.rmtree(f'{path}.shards', ignore_errors=True)
    return count


def extract_distributed(
    images: ImageFolder, path: str | os.PathLike[str], source: Source, max_masks: int = 64
) -> ExtractReport | None:
    """As `extract`, by all processes that torchrun started; the report is rank 0's, None on others.

    Raises:
        UserError: as `extract`; it ends all ranks.
    """
    rank, world = int(os.environ.get('RANK', '0')), int(os.environ.get('WORLD_SIZE', '1'))
    if world == 1:
        if any(map(has_header, shards_of(path))):  # of a run with several ranks that was cut off
            merge(path, source.header(max_masks))
        return extract(images, path, source, max_masks)
    import torch.distributed as dist

    dist.init_process_group('gloo')  # nothing but waiting for each other goes through it
    try:
        mine = extract(images, path, source, max_masks, rank, world)
        reports: list[ExtractReport | None] = [None] * world
        dist.all_gather_object(reports, mine)
        if rank == 0:
            merge(path, source.header(max_masks))
        dist.barrier()
        done = [report for report in reports if report is not None]
        return ExtractReport(sum(r.made for r in done), sum(r.kept for r in done)) if rank == 0 else None
    finally:
        dist.destroy_process_group()


def verify(images: ImageFolder, store: PriorStore, sample: int = 0) -> Iterator[str]:
    """Yields one line for each image whose prior is missing, damaged, or another image's.

    Args:
        images: the LQ images.
        store: of their priors.
        sample: look at this many, spread evenly over the sorted images; 0 for all.
    """
    keys = images.keys
    if 0 < sample < len(keys):
        keys = [keys[n * len(keys) // sample] for n in range(sample)]
    with bar(len(keys), 'verify') as progress:
        for key in keys:
            try:
                store.get(key, images.read(key))
            except UserError as error:
                yield str(error)
            progress.update()


@dataclass(frozen=True)
class StoreStatistics:
    """Figures over a store; each array has one value an image."""

    masks: np.ndarray
    codes: np.ndarray
    coverage: np.ndarray
    entry_bytes: np.ndarray


def statistics(store: PriorStore) -> StoreStatistics:
    """Reads every prior of a store and returns its figures."""
    rows = []
    for key in store.keys():  # noqa: SIM118 (not a dict)
        prior = store.get(key)
        rows.append((prior.count, len(prior.palette), prior.coverage(), store.stored_bytes(key)))
    table = np.array(rows, dtype=np.float64).reshape(len(rows), 4)
    return StoreStatistics(*table.T)


def describe(store: PriorStore) -> list[str]:
    """Returns header and statistics of a store as lines for people."""
    header, figures = store.header, statistics(store)
    params = ', '.join(f'{key}={value}' for key, value in header.params.items())
    lines = [
        f'store      {store.path}: {len(store)} priors, schema {header.schema}',
        f'source     {header.source} ({params}), at most {header.max_masks} masks',
        f'weights    {header.weights_sha256 or "none"}',
        f'versions   {", ".join(f"{name} {version}" for name, version in header.versions.items())}',
    ]
    for title, values in (
        ('masks', figures.masks),
        ('codes', figures.codes),
        ('coverage', figures.coverage),
        ('bytes', figures.entry_bytes),
    ):
        if len(values):
            shown = (
                f'{values.mean():.4g} mean, {np.median(values):.4g} median, {values.min():.4g} to {values.max():.4g}'
            )
            lines.append(f'{title:<10} {shown} an image')
    return lines


def build_source(name: str, settings: Sequence[str] = ()) -> Source:
    """Makes a source from its name and `k=v` texts, checked against its signature.

    Raises:
        UserError: no such source, no such parameter, or a value of another type.
    """
    register_all()
    found = lookup(SOURCE_REGISTRY, name)
    arguments = read_settings(settings, '--set')
    problems = argument_problems(found, arguments, f'source {name}')
    if problems:
        raise UserError(f'--set: {problems[0][1]}')
    return found(**arguments)


if __name__ == '__main__':
    from sptsr.cli import main

    raise SystemExit(main(['prior', 'extract', *sys.argv[1:]]))
