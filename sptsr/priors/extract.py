"""Fills a prior store, alone or as one of several processes."""

from __future__ import annotations

import os
import runpy
import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sptsr.core.errors import UserError, refusing
from sptsr.core.progress import bar
from sptsr.core.registry import SOURCE_REGISTRY, import_named, lookup
from sptsr.core.signatures import argument_problems, parameters
from sptsr.core.yaml_io import read_settings
from sptsr.images.decode import RGB
from sptsr.images.folder import ImageFolder
from sptsr.masks.prior import Prior
from sptsr.priors.sources.source import Source
from sptsr.priors.store import PriorStore, PriorWriter, has_header
from sptsr.priors.store_header import StoreHeader

_WAITING = 8  # at most this many priors wait to be packed and written


@dataclass(frozen=True)
class ExtractReport:
    """Counts of an extraction.

    Attributes:
        made: priors that this run made.
        kept: priors that were there before.
    """

    made: int
    kept: int


def extract(
    images: ImageFolder,
    path: str | os.PathLike[str],
    source: Source,
    max_masks: int = 64,
    rank: int = 0,
    world: int = 1,
    on_prior: Callable[[int], object] | None = None,
) -> ExtractReport:
    """Fills the store at `path` with the prior of each image; existing entries are kept.

    With several ranks each takes every `world`-th of the sorted images and writes a shard of its own,
    `PATH.shards/RANK`; `merge` joins them when all are done. A rank that is killed loses at most the images it
    works on. Entries in shards of an interrupted run are not made again, whatever its number of ranks was.

    Args:
        images: the LQ images.
        path: store, made when missing.
        source: makes the priors.
        max_masks: at most this many masks an image, 1..64.
        rank, world: this process, and the number of processes.
        on_prior: called with the number of priors that were made or found since its last call; without it, a
            progress bar shows them.

    Raises:
        UserError: an unreadable image, or whatever the source or the store refuses. What was
            written before stays valid.
    """
    if not 1 <= max_masks <= 64:
        raise UserError(f'--max-masks {max_masks}: must be 1..64')
    source.check(images.keys)
    target = Path(path) if world == 1 else shard_path(path, rank)
    created = not target.exists()
    made = 0
    with PriorWriter(target, header_of(images, source, max_masks)) as writer:
        try:
            others = _Others(path, target, writer.header)
            keys = images.keys[rank::world]
            with bar(len(keys), 'priors', disable=world > 1) as shown:
                made, kept = _fill(images, keys, writer, others, source, max_masks, on_prior or shown.update)
        except BaseException:  # a source of one's own raises anything
            if created and writer.entries() == 0:
                shutil.rmtree(target)  # it would stay without an entry
            raise
    return ExtractReport(made, kept)


def _fill(
    images: ImageFolder,
    keys: Sequence[str],
    writer: PriorWriter,
    others: _Others,
    source: Source,
    max_masks: int,
    progress: Callable[[int], object],
) -> tuple[int, int]:
    """Reads ahead in one thread and packs and writes in another, while this one makes masks."""
    made = kept = 0
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as packer:
        written: deque[Future[None]] = deque()
        groups = [keys[n : n + source.group] for n in range(0, len(keys), source.group)]
        ahead = reader.submit(_read, images, source, groups[0]) if groups else None
        try:
            for number, group in enumerate(groups):
                assert ahead is not None
                loaded = ahead.result()
                ahead = reader.submit(_read, images, source, groups[number + 1]) if number + 1 < len(groups) else None
                of = {key: digest for key, (_, digest) in zip(group, loaded, strict=True)}
                missing = [
                    (key, image)
                    for key, (image, _) in zip(group, loaded, strict=True)
                    if not writer.holds(key, image, of[key]) and not others.hold(key, image, of[key])
                ]
                kept += len(group) - len(missing)
                progress(len(group) - len(missing))
                wanted = [key for key, _ in missing]
                for key, image in missing:
                    source.must_fit(image, images.name(key))
                priors = _several(source, [image for _, image in missing], wanted, max_masks)
                for (key, image), prior in zip(missing, priors, strict=True):
                    written.append(packer.submit(writer.put, key, image, prior, of[key]))
                    made += 1
                    while len(written) > _WAITING:
                        written.popleft().result()
                    progress(1)
            while written:
                written.popleft().result()
        except BaseException:
            if ahead is not None:
                ahead.cancel()
            wait(written)  # priors that are already made are still written
            raise
    return made, kept


def _read(images: ImageFolder, source: Source, keys: Sequence[str]) -> list[tuple[RGB, str]]:
    """Returns images, each with the digest of what else decides its masks."""
    return [(images.read(key), _digest(source, key)) for key in keys]


def _digest(source: Source, key: str) -> str:
    with refusing(f'{key}: what its masks are made of cannot be read', '--debug shows where'):
        digest = source.digest(key)
    if not isinstance(digest, str):
        raise UserError(f'{key}: digest of source {source.name} gave a {type(digest).__name__}; let it return a str')
    return digest


def _several(source: Source, images: Sequence[RGB], keys: Sequence[str], max_masks: int) -> Iterator[Prior]:
    """Yields the priors of several images; raises UserError for whatever a source of one's own does wrong."""
    for image in images:
        image.flags.writeable = False  # the store keeps a digest of it
    what, remedy = 'its masks cannot be made', 'see whether its source is for such images; --debug shows where'
    priors: Iterator[Prior] | None = None
    for key in keys:
        with refusing(f'{key}: {what}', remedy):
            priors = iter(source.several(images, keys, max_masks)) if priors is None else priors
            prior = next(priors, None)
        if not isinstance(prior, Prior):
            raise UserError(f'{key}: {what}: the source gave a {type(prior).__name__}; let it return a Prior')
        if prior.fine != source.fine:
            raise UserError(
                f'{key}: source {source.name} gave masks {prior.fine} times as fine as the image, and its `fine` is '
                f'{source.fine}; let both agree'
            )
        if prior.count > max_masks:
            raise UserError(
                f'{key}: source {source.name} gave {prior.count} masks, and at most {max_masks} were asked for; let it '
                'heed max_masks'
            )
        yield prior


def header_of(images: ImageFolder, source: Source, max_masks: int) -> StoreHeader:
    """Returns the header of the store that a source makes of these images."""
    degradation = images.degradation.record() if images.degradation else None
    return replace(source.header(max_masks), degradation=degradation)


class _Others:
    """The merged store and the shards of other ranks, whose entries are not made again."""

    def __init__(self, path: str | os.PathLike[str], own: Path, header: StoreHeader) -> None:
        self.stores = []
        for other in [Path(path), *shards_of(path)]:
            if other != own and has_header(other):
                store = PriorStore(other)
                store.header.must_agree(header, other)
                self.stores.append(store)

    def hold(self, key: str, image: RGB, made_of: str) -> bool:
        return any(key in store and store.made_from(key, image, made_of) for store in self.stores)


def shards_folder(path: str | os.PathLike[str]) -> Path:
    """Returns the folder beside a store in which its shards lie."""
    return Path(f'{Path(path)}.shards')  # a slash at the end of the path is none of its name


def shard_path(path: str | os.PathLike[str], rank: int) -> Path:
    """Returns where a rank writes."""
    return shards_folder(path) / f'{rank:05d}'


def shards_of(path: str | os.PathLike[str]) -> list[Path]:
    """Returns the shards beside a store, in order."""
    return sorted(shards_folder(path).glob('[0-9]*'))


def build_source(name: str, settings: Sequence[str] = ()) -> Source:
    """Returns a source built from its name and `k=v` texts, checked against its signature.

    Raises:
        UserError: no such source, no such parameter, or a value of another type.
    """
    return make_source(name, read_settings(settings, '--set'), '--set')


def make_source(name: str, arguments: Mapping[str, Any], what: str) -> Source:
    """Returns a source built from its name and arguments, checked against its signature.

    Args:
        name: in `SOURCE_REGISTRY`; or `path/to/file.py:NAME`, where the file registers it.
        arguments: of its constructor.
        what: begins the message of a mistake.

    Raises:
        UserError: no such source, no such parameter, or a value of another type.
    """
    name, _ = import_named(name)
    found = lookup(SOURCE_REGISTRY, name)
    problems = argument_problems(parameters(found), arguments, f'source {name}')
    if problems:
        raise UserError(f'{what}: {problems[0][1]}')
    with refusing(f'source {name}: cannot be made', 'see its arguments; --debug shows where'):
        source = found(**arguments)
    source.header(1)  # raises where it does not say what decides its masks
    return source


if __name__ == '__main__':  # job scripts of 0.1 say `-m sptsr.priors.extract`; today it is `-m sptsr prior extract`
    sys.argv[1:1] = ['prior', 'extract']
    runpy.run_module('sptsr', run_name='__main__')
