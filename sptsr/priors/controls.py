"""Priors that answer questions: of other images (shuffle), and of what the LQ image cannot show (oracle)."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from sptsr.core.errors import UserError
from sptsr.core.progress import bar
from sptsr.images.decode import RGB
from sptsr.images.folder import ImageFolder
from sptsr.masks.prior import Prior
from sptsr.masks.regions import Regions, to_size
from sptsr.priors.sources.source import Source
from sptsr.priors.store import PriorStore, PriorWriter, StoreHeader


class FromOtherImages(Source):
    """A source that looks at other images of the same keys, such as GT: the oracle.

    Its masks are brought to the LQ image's size: an LQ pixel is inside where at least half of its block is.

    Args:
        source: makes the masks.
        others: the images it looks at, of the LQ images' size or a whole multiple of it.
    """

    def __init__(self, source: Source, others: ImageFolder) -> None:
        self.source, self.others = source, others
        self.params = {**source.params, 'oracle': True}
        self.weights_sha256 = source.weights_sha256

    def __call__(self, image: RGB, key: str, max_masks: int) -> Prior:
        other = self.others.read(key)
        masks = self.source(other, key, 64).decode()
        small = to_size(masks, image.shape[:2], 0, self.others.name(key))
        return Prior.from_regions(Regions.from_masks(small).select(max_masks))

    def check(self, keys: Sequence[str]) -> None:
        self.source.check(keys)
        for key in keys:
            if key not in self.others:
                raise UserError(f"{self.others.root}: no image '{key}' for --oracle; give a folder with all of them")

    def header(self, max_masks: int) -> StoreHeader:
        inner = self.source.header(max_masks)
        return StoreHeader(inner.source, self.params, inner.weights_sha256, max_masks, inner.versions)


def shuffle(store: PriorStore, out: str | os.PathLike[str], seed: int = 0) -> int:
    """Writes a store in which each image has another image's prior, resized to its own.

    The masks are as many and as large as real ones, and mean nothing: what a unit gains with them
    it does not gain from regions. No image keeps its own; the choice depends on the seed only.

    Returns:
        number of entries.

    Raises:
        UserError: fewer than two entries, or a store with other priors at `out`.
    """
    keys = list(store.keys())
    if len(keys) < 2:
        raise UserError(f'{store.path}: holds {len(keys)} priors; shuffling needs two')
    order = np.random.default_rng([seed, len(keys)]).permutation(len(keys))
    donors = {keys[a]: keys[b] for a, b in zip(order, np.roll(order, 1), strict=True)}  # one ring, so never itself
    header = StoreHeader(
        store.header.source,
        {**store.header.params, 'shuffled': seed},
        store.header.weights_sha256,
        store.header.max_masks,
        store.header.versions,
    )
    with PriorWriter(out, header) as writer, bar(len(keys), 'shuffle') as progress:
        for key in keys:
            size = store.get(key).size
            writer.put_raw(key, store.raw(key)[0], store.get(donors[key]).resized(*size).to_bytes())
            progress.update()
    return len(keys)
