"""Random regions with the numbers and areas of those of a given store: a control."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from sptsr.core.errors import UserError
from sptsr.core.registry import SOURCE_REGISTRY, register
from sptsr.images.decode import RGB
from sptsr.images.draws import image_of
from sptsr.masks.prior import Prior
from sptsr.masks.regions import Regions
from sptsr.priors.sources.source import Source, must_lie_in
from sptsr.priors.store import PriorStore

_CELLS = 600  # Voronoi cells an image, of which the regions are made


@register(SOURCE_REGISTRY, 'random')
class RandomSource(Source):
    """Unions of Voronoi cells around random places, with the areas of the masks of a given store.

    They lie on a grid as fine as that of the given store. An image gets as many masks as the entry of its own key has
    there, each of about the same share of the image (of another entry's, chosen by the key, where there is none). The
    same key and seed give the same masks, whatever the image shows.

    Args:
        like: prior store whose counts and areas are copied.
        seed: of the random places; another one gives other masks.
    """

    name = 'random'
    sees_image = False

    def __init__(self, like: str, seed: int = 0) -> None:
        must_lie_in(self.name, {'seed': (seed, 0, (1 << 63) - 1)})
        self.like = PriorStore(like)
        self.keys = list(self.like.keys())
        if not self.keys:
            raise UserError(f'random: like={like}: the store is empty')
        self.fine = self.like.header.fine
        self.bytes_a_pixel = 50 * self.fine**2  # measured: distances to the cells
        self.params = {'like': Path(like).name, 'seed': int(seed)}

    def __call__(self, image: RGB, key: str, max_masks: int) -> Prior:
        rng = self._rng(key)
        model = self.like.get(self._pattern(key, rng))
        height, width = (side * self.fine for side in image.shape[:2])
        shares = model.areas()[:max_masks] / model.index.size
        cells = min(_CELLS, height * width)
        seeds = rng.random((cells, 2)) * (height, width)
        owner = _voronoi(seeds, height, width)
        sizes = np.bincount(owner.reshape(-1), minlength=cells)
        members = np.zeros((cells, len(shares)), np.bool_)
        for number, share in enumerate(shares):
            centre = rng.random(2) * (height, width)
            nearest = np.argsort(((seeds - centre) ** 2).sum(axis=1))
            filled = np.cumsum(sizes[nearest])
            members[nearest[: 1 + int(np.abs(filled - share * height * width).argmin())], number] = True
        return replace(Prior.from_regions(Regions(owner, members).select(max_masks)), fine=self.fine)

    def digest(self, key: str) -> str:
        return hashlib.sha256(self.like.raw(self._pattern(key, self._rng(key)))[1]).hexdigest()

    def _rng(self, key: str) -> np.random.Generator:
        return np.random.default_rng([self.params['seed'], *hashlib.sha256(key.encode()).digest()])

    def _pattern(self, key: str, rng: np.random.Generator) -> str:
        """Returns the key of the entry whose counts and areas an image gets."""
        known = next((name for name in (key, image_of(key)) if name in self.like), None)
        return self.keys[int(rng.integers(len(self.keys)))] if known is None else known


def _voronoi(seeds: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns for each pixel the nearest seed, int64 [H, W]."""
    from scipy.spatial import KDTree

    rows, columns = np.mgrid[:height, :width]
    centres = np.stack([rows.reshape(-1) + 0.5, columns.reshape(-1) + 0.5], axis=1)
    return KDTree(seeds).query(centres)[1].astype(np.int64).reshape(height, width)
