"""Checks and describes prior stores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sptsr.core.errors import UserError
from sptsr.core.progress import bar
from sptsr.images.folder import ImageFolder
from sptsr.priors.store import PriorStore


def verify(images: ImageFolder, store: PriorStore, sample: int = 0) -> Iterator[str]:
    """Yields one line for each image whose prior is missing, damaged, or another image's.

    Args:
        images: the LQ images.
        store: of their priors.
        sample: number of images to check, spread evenly over the sorted images; 0 for all.
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
    """Figures of a store; each array is float64 [images].

    Attributes:
        masks: number of masks.
        codes: number of sets of masks that occur together at a pixel.
        coverage: share of the pixels that are inside at least one mask, 0..1.
        density: number of masks that a pixel is in on average.
        entry_bytes: size of the entry.
    """

    masks: np.ndarray
    codes: np.ndarray
    coverage: np.ndarray
    density: np.ndarray
    entry_bytes: np.ndarray


def statistics(store: PriorStore) -> StoreStatistics:
    """Reads every prior of a store and returns its figures."""
    rows = []
    for key in store.keys():  # noqa: SIM118 (not a dict)
        prior = store.get(key)
        density = prior.areas().sum() / prior.index.size
        rows.append((prior.count, len(prior.palette), prior.coverage(), density, store.stored_bytes(key)))
    table = np.array(rows, dtype=np.float64).reshape(len(rows), 5)
    return StoreStatistics(*table.T)


def shown_params(params: Mapping[str, Any]) -> str:
    """Returns the parameters of a source as text; of a network that the images went through, what tells it apart."""
    shown = dict(params)
    through = shown.get('through')
    if isinstance(through, Mapping):
        backbone = through.get('backbone')
        name = backbone.get('type') if isinstance(backbone, Mapping) else 'a network'
        told = f', told sigma {through["sigma"]:g}' if isinstance(through.get('sigma'), int | float) else ''
        shown['through'] = f'{name} {str(through.get("weights_sha256"))[:12]} of {through.get("options")}{told}'
    return ', '.join(f'{key}={value}' for key, value in shown.items())


def describe(store: PriorStore) -> list[str]:
    """Returns header and statistics of a store as lines of text."""
    header, figures = store.header, statistics(store)
    made_from = str(store.degradation) if store.degradation else 'not known'
    lines = [
        f'store      {store.path}: {len(store)} priors, schema {header.schema}',
        f'source     {header.source} ({shown_params(header.params)}), at most {header.max_masks} masks',
        f'images     prior degrade: {made_from}',
        f'grid       {header.fine} times as fine as the images'
        if header.fine > 1
        else 'grid       the pixels of the images',
        f'knows      {"the image, with its noise" if header.saw_image else "nothing of the image itself"}',
        f'weights    {header.weights_sha256 or "none"}',
        f'versions   {", ".join(f"{name} {version}" for name, version in header.versions.items())}',
    ]
    for title, values in (
        ('masks', figures.masks),
        ('codes', figures.codes),
        ('coverage', figures.coverage),
        ('density', figures.density),
        ('bytes', figures.entry_bytes),
    ):
        if len(values):
            shown = (
                f'{values.mean():.4g} mean, {np.median(values):.4g} median, {values.min():.4g} to {values.max():.4g}'
            )
            lines.append(f'{title:<10} {shown} an image')
    return lines
