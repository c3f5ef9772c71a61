"""Many overlapping regions of one image, without one dense mask for each.

A pixel belongs to a set of regions; few distinct sets occur in an image. `Regions`
keeps the distinct sets (atoms) and an index map. Areas, intersections and IoU of all
pairs are then small matrix products over atoms, whatever the image size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sptsr.core.errors import UserError

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.integer]


@dataclass(frozen=True)
class Regions:
    """N regions of an [H, W] image as K atoms.

    Attributes:
        index: int [H, W], the atom of each pixel, 0..K-1.
        members: bool [K, N], whether atom k lies in region n.
    """

    index: IntArray
    members: BoolArray

    @classmethod
    def from_masks(cls, masks: BoolArray) -> Regions:
        """Makes regions of bool masks [N, H, W], which may overlap; N may be 0."""
        count, height, width = masks.shape
        if count == 0:
            return cls(np.zeros((height, width), np.int64), np.zeros((1, 0), np.bool_))
        packed = np.packbits(masks.reshape(count, -1), axis=0).T  # [HW, ceil(N / 8)]
        rows = np.ascontiguousarray(packed).view(f'V{packed.shape[1]}').ravel()
        unique, index = unique_of_map(rows)
        bits = np.frombuffer(unique.tobytes(), np.uint8).reshape(len(unique), -1)
        members = np.unpackbits(bits, axis=1, count=count).astype(np.bool_)
        return cls(index.reshape(height, width), members)

    @classmethod
    def from_label_maps(cls, maps: Sequence[IntArray], background: int | None = None) -> Regions:
        """Makes one region of each label of each map.

        Args:
            maps: label maps [H, W] of one size, at least one.
            background: a label that stands for "no region" in all maps.
        """
        height, width = maps[0].shape
        index = np.zeros(height * width, np.int64)
        columns: list[tuple[int, int]] = []  # of each region: its map, its label's rank
        ranks = []
        for number, labels in enumerate(maps):
            values, rank = unique_of_map(labels.reshape(-1))
            columns += [(number, r) for r, value in enumerate(values) if value != background]
            ranks.append(rank)
            _, index = unique_of_map(index * len(values) + rank)
        atoms = int(index.max()) + 1 if index.size else 1
        members = np.zeros((atoms, len(columns)), np.bool_)
        first = np.zeros(atoms, np.int64)
        first[index] = np.arange(index.size)  # any pixel of the atom tells its labels
        for column, (number, rank) in enumerate(columns):
            members[:, column] = ranks[number][first] == rank
        return cls(index.reshape(height, width), members)

    @property
    def count(self) -> int:
        """N, the number of regions."""
        return self.members.shape[1]

    def areas(self) -> npt.NDArray[np.int64]:
        """Returns the area of each region in pixels, int64 [N]."""
        atoms, regions = np.nonzero(self.members)  # few: an atom lies in a handful of regions
        return np.bincount(regions, self._sizes()[atoms], minlength=self.count).astype(np.int64)

    def iou(self) -> npt.NDArray[np.float64]:
        """Returns intersection over union of all pairs, float64 [N, N]; empty regions give 0."""
        weighted = self.members * self._sizes()[:, None].astype(np.float64)
        intersection = self.members.T.astype(np.float64) @ weighted
        areas = self.areas().astype(np.float64)
        union = areas[:, None] + areas[None, :] - intersection
        return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)

    def select(self, max_regions: int, min_area: int = 1, max_iou: float = 1.0) -> Regions:
        """Orders by area, largest first, drops small ones and near-duplicates, and keeps the first.

        Args:
            max_regions: at most this many remain.
            min_area: a region under this many pixels is dropped; at least 1.
            max_iou: a region whose IoU with a larger, kept one is above this is dropped.
                Ties in area keep the given order, so the outcome is deterministic.
        """
        areas = self.areas()
        order = [n for n in np.argsort(-areas, kind='stable') if areas[n] >= max(1, min_area)]
        if max_iou >= 1.0:
            return self.take(order[:max_regions])
        kept: list[int] = []
        # In portions: a large image has thousands of regions, and of those only the first few dozen are looked at.
        for start in range(0, len(order), 2 * max_regions):
            if len(kept) >= max_regions:
                break
            portion = order[start : start + 2 * max_regions]
            together = kept + portion
            overlap = Regions(self.index, self.members[:, together]).iou()
            places = list(range(len(kept)))  # of the kept ones in `together`
            for place in range(len(kept), len(together)):
                if len(places) < max_regions and (not places or overlap[place, places].max() <= max_iou):
                    places.append(place)
            kept = [together[place] for place in places]
        return self.take(kept)

    def take(self, order: Sequence[int]) -> Regions:
        """Returns the regions of these numbers, in this order, with atoms merged where they became equal."""
        members = self.members[:, list(order)]
        if members.shape[1] == 0:
            return Regions(np.zeros_like(self.index), np.zeros((1, 0), np.bool_))
        unique, inverse = np.unique(members, axis=0, return_inverse=True)
        return Regions(inverse.reshape(-1)[self.index], unique)

    def masks(self) -> BoolArray:
        """Returns the dense masks, bool [N, H, W]."""
        return np.moveaxis(self.members[self.index], -1, 0)

    def _sizes(self) -> npt.NDArray[np.int64]:
        return np.bincount(self.index.reshape(-1), minlength=len(self.members)).astype(np.int64)


def unique_of_map(values: npt.NDArray[np.generic]) -> tuple[npt.NDArray[Any], IntArray]:
    """Returns what `np.unique(values, return_inverse=True)` returns for the pixels [HW] of a map of regions, faster.

    Neighbours are mostly equal, so only the first of each run of equal values is sorted.
    """
    if values.size == 0:
        return np.unique(values, return_inverse=True)
    starts = np.concatenate([[0], np.flatnonzero(values[1:] != values[:-1]) + 1])
    unique, inverse = np.unique(values[starts], return_inverse=True)
    return unique, np.repeat(inverse, np.diff(starts, append=values.size))


def to_size(masks: BoolArray, size: tuple[int, int], scale: int, name: object) -> BoolArray:
    """Brings masks [N, sH.., sW..] to [N, H, W] by majority of each s x s block.

    Args:
        masks: bool, at the size or a whole multiple of it; up to s - 1 pixels more are cut off at the right and
            bottom. So are those of the uncut image, when the image was cut to a multiple of 2 to 8 pixels.
        size: height and width to bring them to.
        scale: s; 0 finds it.
        name: what to call the masks in a message.

    Raises:
        UserError: their size is not a multiple.
    """
    if len(masks) == 0:
        return np.zeros((0, *size), np.bool_)
    height, width = size
    full_height, full_width = masks.shape[1:]
    factor = scale or full_height // height
    fits = factor >= 1 and any(
        (full_height // factor // cut * cut, full_width // factor // cut * cut) == (height, width)
        for cut in range(1, 9)
    )
    if not fits:
        raise UserError(
            f'{name}: labels of {full_height}x{full_width} do not belong to an image of {height}x{width} '
            '(height x width); give labels of its size or of a whole multiple of it'
        )
    cut = masks[:, : height * factor, : width * factor]
    if factor == 1:
        return cut
    small = np.empty((len(masks), height, width), np.bool_)
    for mask, out in zip(cut, small, strict=True):  # one by one: counts take eight times the memory of masks
        np.greater_equal(2 * mask.reshape(height, factor, width, factor).sum(axis=(1, 3)), factor * factor, out=out)
    return small
