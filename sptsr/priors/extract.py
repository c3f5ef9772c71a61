"""Filling, checking and describing prior stores."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sptsr.errors import UserError
from sptsr.images import ImageFolder
from sptsr.priors.sources.base import Source
from sptsr.priors.store import PriorStore, PriorWriter
from sptsr.progress import bar
from sptsr.registry import SOURCE_REGISTRY, lookup, register_all
from sptsr.signatures import argument_problems
from sptsr.yaml_io import read_settings


@dataclass(frozen=True)
class ExtractReport:
    """How many priors were made now, and how many were there before."""

    made: int
    kept: int


def extract(images: ImageFolder, path: str | os.PathLike[str], source: Source, max_masks: int = 64) -> ExtractReport:
    """Fills the store at `path` with the prior of each image; what is there is kept.

    Args:
        images: the LQ images.
        path: store, made when missing.
        source: makes the priors.
        max_masks: at most this many masks an image, 1..64.

    Raises:
        UserError: an unreadable image, or whatever the source or the store refuses. What was
            written before stays whole.
    """
    if not 1 <= max_masks <= 64:
        raise UserError(f'--max-masks {max_masks}: must be 1..64')
    source.check(images.keys)
    created = not os.path.exists(path)
    made = kept = 0
    with PriorWriter(path, source.header(max_masks)) as writer, bar(len(images), 'priors') as progress:
        try:
            for key in images.keys:
                image = images.read(key)
                if writer.holds(key, image):
                    kept += 1
                else:
                    writer.put(key, image, source(image, key, max_masks))
                    made += 1
                progress.update()
        except UserError:
            if created and not made:
                shutil.rmtree(path)  # nothing came of it, so nothing stays
            raise
    return ExtractReport(made, kept)


def verify(images: ImageFolder, store: PriorStore) -> Iterator[str]:
    """Yields one line for each image whose prior is missing, damaged, or another image's."""
    with bar(len(images), 'verify') as progress:
        for key in images.keys:
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
