"""No masks at all: for adapters that were tuned to work without them too."""

from __future__ import annotations

import numpy as np

from sptsr.core.registry import SOURCE_REGISTRY, register
from sptsr.images.decode import RGB
from sptsr.masks.prior import Prior
from sptsr.priors.sources.source import Source


@register(SOURCE_REGISTRY, 'none')
class NoMasksSource(Source):
    """Finds no masks in any image: what an adapter gives without them (see `prior_dropout` of the datasets)."""

    name = 'none'
    sees_image = False

    def __init__(self) -> None:
        self.params = {}

    def __call__(self, image: RGB, key: str, max_masks: int) -> Prior:
        del key, max_masks
        return Prior.encode(np.zeros((0, *image.shape[:2]), np.bool_))
