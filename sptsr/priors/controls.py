"""Control priors: masks of other images (shuffle), and masks of what the LQ image cannot show (oracle)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sptsr.core.errors import UserError
from sptsr.core.progress import bar
from sptsr.images.decode import RGB, image_digest
from sptsr.images.draws import image_of
from sptsr.images.folder import ImageFolder
from sptsr.masks.prior import Prior
from sptsr.masks.regions import Regions, to_size
from sptsr.priors.sources.source import Source
from sptsr.priors.store import PriorStore, PriorWriter
from sptsr.priors.store_header import StoreHeader


class FromOtherImages(Source):
    """Makes the masks of an image from another image of the same key, such as its GT (the oracle).

    The masks are reduced to the LQ image's size, or to a finer grid: a pixel is inside where at least half of its
    block is.

    Args:
        source: makes the masks.
        others: the images that the source gets, of the LQ images' size or a whole multiple of it.
        names: their keys by keys of the LQ images, where these differ.
        fine: the masks lie on a grid so many times as fine as the LQ image's.
    """

    def __init__(
        self, source: Source, others: ImageFolder, names: Mapping[str, str] | None = None, fine: int = 1
    ) -> None:
        self.source, self.others, self.names, self.fine = source, others, names or {}, fine
        self.params = {**source.params, 'oracle': True}
        self.seen = '', ''  # the last of the others, with its digest
        self.weights_sha256 = source.weights_sha256

    def __call__(self, image: RGB, key: str, max_masks: int) -> Prior:
        other = self._other(key)
        pixels = self.others.read(other)
        self.source.must_fit(pixels, self.others.name(other))
        masks = self.source(pixels, key, 64).decode()
        height, width = (side * self.fine for side in image.shape[:2])
        small = to_size(masks, (height, width), 0, self.others.name(other))
        return replace(Prior.from_regions(Regions.from_masks(small).select(max_masks)), fine=self.fine)

    def check(self, keys: Sequence[str]) -> None:
        self.seen = '', ''
        self.source.check(keys)
        for key in keys:
            if self._other(key) not in self.others:
                raise UserError(f"{self.others.root}: no image '{key}' for --oracle; give a folder with all of them")

    def digest(self, key: str) -> str:
        other = self._other(key)
        if self.seen[0] != other:  # draws of an image follow each other
            self.seen = other, image_digest(self.others.read(other)).hex()
        return self.seen[1] + self.source.digest(key)

    def _other(self, key: str) -> str:
        """Returns the key of the image that the source gets: for a noisy draw, the key of its image."""
        key = self.names.get(key, key)
        return key if key in self.others else image_of(key)

    def header(self, max_masks: int) -> StoreHeader:
        header = self.source.header(max_masks)
        return replace(header, params=self.params, saw_image=False, fine=self.fine)


def shuffle(store: PriorStore, out: str | os.PathLike[str], seed: int = 0) -> int:
    """Writes a store in which each image has another image's prior, resized to its own.

    Numbers and areas of the masks stay those of real ones, but no mask fits its image: a gain with them does not
    come from the image's regions. No image keeps its own prior; the choice depends on the seed only. Where the
    store holds several noisy draws of an image, draw n gets the prior of draw n of another image.

    Returns:
        number of entries.

    Raises:
        UserError: entries of fewer than two images, an image that lacks a draw, or a store with other
            priors at `out`.
    """
    draws = _draws(store)
    keys = list(store.keys())
    images = sorted({image_of(key) for key in keys}, key=str.encode) if draws > 1 else keys
    if len(images) < 2:
        raise UserError(f'{store.path}: holds priors of {len(images)} images; shuffling needs two')
    order = np.random.default_rng([seed, len(images)]).permutation(len(images))
    every = [key for image in images for key in (store.degradation.keys(image) if store.degradation else [image])]
    lacking = next((key for key in every if key not in store), None)
    if lacking is not None:
        raise UserError(f'{store.path}: has no prior of {lacking}; make it with sptsr prior extract first')
    # A single cycle through all images, so that none gets its own prior.
    donors = {images[a]: images[b] for a, b in zip(order, np.roll(order, 1), strict=True)}
    header = replace(store.header, params={**store.header.params, 'shuffled': seed})

    def prior_of(key: str) -> Prior:
        image = image_of(key) if draws > 1 else key
        return store.get(donors[image] + key[len(image) :]).resized(*store.get(key).size)

    return _beside(store, out, header, prior_of, 'shuffle')


def random_like(store: PriorStore, out: str | os.PathLike[str], source: Source) -> int:
    """Writes a store with masks of a source that looks at no image, for the very images of another store.

    The data that go with such a store are those that go with the other one, noise included: the two differ in their
    masks and in nothing else.

    Args:
        store: the other store.
        out: the new one.
        source: such as `random` with `like` the other store.

    Returns:
        number of entries.
    """
    header = replace(source.header(store.header.max_masks), **_of_the_images(store))

    def prior_of(key: str) -> Prior:
        blank = np.zeros((*store.get(key).size, 3), np.uint8)
        return source(blank, key, store.header.max_masks)

    return _beside(store, out, header, prior_of, 'random regions')


def oracle_like(
    store: PriorStore, out: str | os.PathLike[str], source: Source, others: ImageFolder, names: Mapping[str, str]
) -> int:
    """Writes a store with masks that a source finds in other images (the GT), for the very images of another store.

    Args:
        store: the other store.
        out: the new one.
        source: makes the masks.
        others: the other images, of the size of the store's or a whole multiple of it.
        names: keys of the other images by keys of the store, where they differ.

    Returns:
        number of entries.
    """
    oracle = FromOtherImages(source, others, names, store.header.fine)
    header = replace(oracle.header(store.header.max_masks), **_of_the_images(store))

    def prior_of(key: str) -> Prior:
        blank = np.zeros((*store.get(key).size, 3), np.uint8)
        return oracle(blank, key, store.header.max_masks)

    return _beside(store, out, header, prior_of, 'oracle')


def _of_the_images(store: PriorStore) -> dict[str, Any]:
    """Returns what a header says of the images that priors belong to."""
    return {'saw_image': store.header.saw_image, 'degradation': store.header.degradation}


def _draws(store: PriorStore) -> int:
    return store.degradation.draws if store.degradation else 1


def _beside(
    store: PriorStore, out: str | os.PathLike[str], header: StoreHeader, prior_of: Callable[[str], Prior], what: str
) -> int:
    """Writes a store of the same images with other priors; returns the number of entries."""
    if os.path.realpath(out) == os.path.realpath(store.path):
        raise UserError(f'{out}: is the store whose images are taken; choose another one with -o')
    keys = list(store.keys())
    with PriorWriter(out, header) as writer, bar(len(keys), what) as progress:
        for key in keys:
            writer.put_raw(key, store.raw(key)[0], prior_of(key).to_bytes())
            progress.update()
    return len(keys)
