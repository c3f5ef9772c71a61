"""Masks from graph-based segmentation: deterministic, without weights; the default of the demo."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

import numpy as np
from skimage.segmentation import felzenszwalb

from sptsr.core.errors import UserError
from sptsr.core.registry import SOURCE_REGISTRY, register
from sptsr.images.decode import RGB
from sptsr.masks.prior import Prior
from sptsr.masks.regions import Regions
from sptsr.priors.sources.source import Source, must_lie_in


@register(SOURCE_REGISTRY, 'felzenszwalb')
class FelzenszwalbSource(Source):
    """Felzenszwalb and Huttenlocher's segmentation at several scales, deduplicated.

    "Efficient Graph-Based Image Segmentation", IJCV 2004, as scikit-image implements it.

    Args:
        scales: the method's `scale` of each run; larger means larger regions.
        sigma: width of the Gaussian smoothing before each run, in pixels.
        min_size: smallest region of a run, in pixels.
        max_iou: of two regions with an IoU above this the smaller is dropped.
    """

    name = 'felzenszwalb'
    bytes_a_pixel = 650  # measured on photographs; most of it scikit-image's edges

    def __init__(
        self,
        scales: Sequence[float] = (25.0, 50.0, 100.0, 200.0),
        sigma: float = 0.5,
        min_size: int = 20,
        max_iou: float = 0.9,
    ) -> None:
        if not 1 <= len(scales) <= 32:
            raise UserError('felzenszwalb: scales must be 1 to 32 numbers, such as scales=[25,50,100,200]')
        for scale in scales:
            must_lie_in(self.name, {'scales': (scale, 1e-6, 1e9)})
        must_lie_in(
            self.name, {'sigma': (sigma, 0, 100), 'min_size': (min_size, 0, 1 << 31), 'max_iou': (max_iou, 0, 1)}
        )
        self.params = {
            'scales': [float(scale) for scale in scales],
            'sigma': float(sigma),
            'min_size': int(min_size),
            'max_iou': float(max_iou),
        }

    def __call__(self, image: RGB, key: str, max_masks: int) -> Prior:
        if min(image.shape[:2]) < 2:  # scikit-image fails on one row or column
            return Prior.encode(np.ones((1, *image.shape[:2]), np.bool_))
        maps = [
            felzenszwalb(image, scale=scale, sigma=self.params['sigma'], min_size=self.params['min_size'])
            for scale in self.params['scales']
        ]
        regions = Regions.from_label_maps(maps)
        return Prior.from_regions(regions.select(max_masks, self.params['min_size'], self.params['max_iou']))

    def versions(self) -> dict[str, str]:
        return {'scikit-image': version('scikit-image')}
