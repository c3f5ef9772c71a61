"""Compares priors of the same images, such as those of clean and of degraded ones."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt

from sptsr.core.errors import UserError, nearest
from sptsr.core.files import write_json
from sptsr.core.progress import bar
from sptsr.masks.prior import Prior
from sptsr.masks.regions import Regions
from sptsr.priors.store import PriorStore

# Largest distance of boundary pixels that match, as a share of the image's diagonal: BSDS500's benchmark (Arbelaez et
# al., "Contour Detection and Hierarchical Image Segmentation", PAMI 2011).
_TOLERANCE = 0.0075


@dataclass(frozen=True)
class Likeness:
    """How well another prior of an image agrees with a reference prior.

    Attributes:
        iou: for each mask of the reference the best IoU with a mask of the other, averaged over masks, 0..1.
        iou_weighted: the same, weighted by the area of the reference's masks.
        boundary_f: harmonic mean of precision and recall of boundary pixels, 0..1.
        coverage: share of the pixels that the other prior covers, 0..1.
        coverage_reference: share that the reference covers, 0..1.
        masks: number of masks of the other prior.
        masks_reference: number of masks of the reference.
    """

    iou: float
    iou_weighted: float
    boundary_f: float
    coverage: float
    coverage_reference: float
    masks: float
    masks_reference: float


def likeness_of(reference: Prior, other: Prior) -> Likeness:
    """Returns the likeness of two priors of one image; the other is brought to the reference's size and grid."""
    other = other.on_grid_of(reference)
    first, second = reference.count, other.count
    best, areas = np.zeros(first), reference.areas().astype(np.float64)
    if first and second:
        joint = Regions.from_masks(np.concatenate([reference.decode(), other.decode()]))
        best = joint.iou()[:first, first:].max(axis=1)
    return Likeness(
        iou=float(best.mean()) if first else math.nan,
        iou_weighted=float((best * areas).sum() / areas.sum()) if areas.sum() else math.nan,
        boundary_f=_boundary_f(boundaries(reference), boundaries(other)),
        coverage=other.coverage(),
        coverage_reference=reference.coverage(),
        masks=second,
        masks_reference=first,
    )


def boundaries(prior: Prior) -> npt.NDArray[np.bool_]:
    """Returns where a pixel is inside other masks than its left or upper neighbour, bool, of the grid's shape."""
    edge = np.zeros(prior.index.shape, np.bool_)
    codes = prior.palette[prior.index]
    edge[:, 1:] |= codes[:, 1:] != codes[:, :-1]
    edge[1:] |= codes[1:] != codes[:-1]
    return edge


def _boundary_f(reference: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> float:
    if not reference.any() and not other.any():
        return 1.0
    if not reference.any() or not other.any():
        return 0.0
    limit = max(1.0, _TOLERANCE * math.hypot(*reference.shape))
    recall = float((distance_transform_edt(~other)[reference] <= limit).mean())  # type: ignore[index]
    precision = float((distance_transform_edt(~reference)[other] <= limit).mean())  # type: ignore[index]
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def compare_stores(
    reference: PriorStore, other: PriorStore, keys: Sequence[str] = ()
) -> tuple[dict[str, Likeness], Likeness]:
    """Compares two stores key by key.

    Args:
        reference: the store that the other one is measured against.
        other: must have the keys.
        keys: only these; all of the reference by default.

    Returns:
        the likeness of each image, and the mean over images (nan left out).

    Raises:
        UserError: a key that one of them lacks, or no keys at all.
    """
    keys = list(keys) or list(reference.keys())
    if not keys:
        raise UserError(f'{reference.path}: holds no priors; extract some')
    for key in keys:
        for store in (reference, other):
            if key not in store:
                raise UserError(f"{store.path}: no prior of '{key}'{nearest(key, store.keys())}; extract it")
    rows = {}
    with bar(len(keys), 'compare') as progress:
        for key in keys:
            rows[key] = likeness_of(reference.get(key), other.get(key))
            progress.update()
    return rows, mean_of(list(rows.values()))


def mean_of(rows: Sequence[Likeness]) -> Likeness:
    """Returns the mean of each figure over images, nan left out: an image without a reference mask has no IoU."""
    means = {}
    for field in fields(Likeness):
        values = [getattr(row, field.name) for row in rows if not math.isnan(getattr(row, field.name))]
        means[field.name] = math.fsum(values) / len(values) if values else math.nan
    return Likeness(**means)


def write_report(
    path: str | os.PathLike[str], rows: dict[str, Likeness], mean: Likeness, stores: Sequence[str]
) -> None:
    """Writes all figures as JSON."""

    def plain(row: Likeness) -> dict[str, Any]:
        return {name: None if math.isnan(value) else value for name, value in asdict(row).items()}

    record = {'reference': stores[0], 'other': stores[1], 'mean': plain(mean)}
    write_json(path, {**record, 'per_image': {key: plain(row) for key, row in rows.items()}})
