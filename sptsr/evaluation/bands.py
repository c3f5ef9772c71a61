"""PSNR by where in the image: along the boundaries of masks and away from them, in small and in large masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from basicsr.metrics.metric_util import to_y_channel

from sptsr.core.errors import UserError
from sptsr.core.files import sha256_json
from sptsr.evaluation.metrics import CannotMeasure, Metric
from sptsr.masks.prior import Prior
from sptsr.masks.regions import BoolArray
from sptsr.priors.store import PriorStore
from sptsr.priors.store_header import StoreHeader

BANDS = ('boundary', 'interior', 'small', 'medium', 'large')
_REACH = 3  # pixels
_SHARES = (0.01, 0.1)  # of the image: masks below the first are small, above the second large


@dataclass(frozen=True)
class BandMetric(Metric):
    """PSNR of a part of the image.

    Attributes:
        band: one of `BANDS`.
    """

    band: str = ''

    @property
    def options(self) -> dict[str, Any]:
        return {**super().options, 'band': self.band, 'reach': _REACH}

    def measure_in(self, image: Any, reference: Any, inside: BoolArray) -> float:
        """Returns the PSNR over the pixels of a band, in dB; infinite where they are equal.

        Args:
            image, reference: as for `Metric.measure`.
            inside: the band, bool [H, W].

        Raises:
            CannotMeasure: the band has no pixel, the image is too small, or its size is not its GT's.
        """
        reason = self.unlike(image, reference)
        border = self.arguments.get('crop_border', 0)
        window = tuple(slice(border, side - border) for side in image.shape[:2])
        inside = inside[window]
        if reason is None and not inside.any():
            reason = f'no pixel is in the band {self.band}'
        if reason is not None:
            raise CannotMeasure(reason)
        pair = [np.asarray(one, np.float64)[window] for one in (image, reference)]
        if self.arguments.get('test_y_channel') and image.ndim == 3:
            pair = [to_y_channel(one)[:, :, 0] for one in pair]
        error = float(np.mean((pair[0][inside] - pair[1][inside]) ** 2))
        return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def band_metrics(metrics: Sequence[Metric], header: StoreHeader) -> list[BandMetric]:
    """Returns the metrics of the bands of a store's masks: for each PSNR one of each band."""
    made = [header.source, header.params, header.weights_sha256, header.max_masks, header.fine]
    masks = sha256_json(made)[:16]
    return [
        BandMetric(f'{metric.name} {band}', metric.type, metric.arguments, metric.better, masks, band)
        for metric in metrics
        if metric.type == 'calculate_psnr'
        for band in BANDS
    ]


def bands_of(prior: Prior, size: tuple[int, int]) -> dict[str, BoolArray]:
    """Returns the bands of an image, bool [H, W] each.

    `boundary`: pixels up to 3 pixels from where the masks of the LQ image change; `interior`: the others. `small`,
    `medium`, `large`: pixels whose smallest mask has up to 1 %, up to 10 %, more of the image; pixels in no mask are
    in none of the three.

    Args:
        prior: masks of the LQ image.
        size: height and width of the restored image, a whole multiple of the LQ image's.

    Raises:
        UserError: they are not of an image that this one may have been made from.
    """
    if not _covers(prior, size):
        prior = prior.at(1)  # a grid that is finer than the restored image's, or does not divide it
    if not _covers(prior, size):
        raise UserError(
            f'its masks are of {prior.size[0]}x{prior.size[1]}, the restored image is {size[0]}x{size[1]} '
            '(height x width); make the masks of the LQ images'
        )
    factors = [full // part for full, part in zip(size, prior.index.shape, strict=True)]
    index = prior.index.astype(np.int64).repeat(factors[0], 0).repeat(factors[1], 1)
    edge = np.zeros(index.shape, np.uint8)
    for axis in (0, 1):
        differs = np.diff(index, axis=axis) != 0
        first, last = [slice(None)] * 2, [slice(None)] * 2
        first[axis], last[axis] = slice(None, -1), slice(1, None)
        edge[tuple(first)] |= differs
        edge[tuple(last)] |= differs
    side = 2 * _REACH - 1  # both sides of an edge are within one pixel of it
    near = cv2.dilate(edge, np.ones((side, side), np.uint8)).astype(np.bool_)
    shares = _smallest(prior)[index]
    low, high = _SHARES
    return {
        'boundary': near,
        'interior': ~near,
        'small': shares <= low,
        'medium': (shares > low) & (shares <= high),
        'large': (shares > high) & np.isfinite(shares),
    }


def _covers(prior: Prior, size: tuple[int, int]) -> bool:
    """Returns whether a pixel of the masks is a square of pixels of an image of this size."""
    (height, down), (width, right) = (divmod(full, part) for full, part in zip(size, prior.index.shape, strict=True))
    return height == width > 0 and down == right == 0


def _smallest(prior: Prior) -> np.ndarray:
    """Returns for each code the share of the image that its smallest mask has, float64 [K]; infinite for no mask."""
    shares = prior.areas() / prior.index.size
    bits = (prior.palette[:, None] >> np.arange(prior.count, dtype=np.uint64)) & np.uint64(1)
    inside = np.where(bits.astype(np.bool_), shares, np.inf)
    return inside.min(axis=1, initial=np.inf)


def places_of(store: PriorStore, key: str, size: tuple[int, int]) -> dict[str, BoolArray]:
    """Returns the bands of a test image; of several noisy draws the first one's, which is the test's.

    Raises:
        UserError: names store and key where the masks are missing or do not fit.
    """
    prior = store.get(store.degradation.key(key, 0) if store.degradation else key)
    try:
        return bands_of(prior, size)
    except UserError as error:
        raise UserError(f'val.bands: {store.path}[{key}]: {error}') from error
