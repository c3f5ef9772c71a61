"""Means of a feature inside each mask, painted back to the pixels of the mask."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sptsr.masks.batch import PriorBatch
from sptsr.masks.tiles import RegionSums, Tile

_PART = 1 << 18  # pixels that are summed at a time


@dataclass(frozen=True)
class SiteMasks:
    """The masks of a batch at the resolution of one site.

    Attributes:
        members: float32 [K, N] of 0 and 1, which masks each palette code is inside.
        owner: int64 [K], which image each code belongs to.
        index: int64 [B, h, w], which code each pixel of the site has.
        tile: where the batch is one tile of its images, else None.
        counted: bool [h, w], the pixels that count for that tile; None without one.
    """

    members: Tensor
    owner: Tensor
    index: Tensor
    tile: Tile | None = None
    counted: Tensor | None = None

    @classmethod
    def of(cls, codes: PriorBatch, num_masks: int) -> SiteMasks:
        """Returns the first `num_masks` masks at the resolution of the codes."""
        index = codes.index.long()
        counted = codes.tile and codes.tile.counted((index.shape[1], index.shape[2]), 1.0, 0.0, index.device)
        return cls(codes.table(num_masks), codes.owners(), index, codes.tile, counted)

    def pool(self, features: Tensor) -> Tensor:
        """Returns for each pixel the mean feature of its masks, [B, c, h, w].

        Each mask has the mean of `features` [B, c, h, w] over its pixels; a pixel gets the mean of the means of its
        masks, weighted by one over their areas, so that the smallest mask counts most. A pixel in no mask gets 0. The
        order of the masks plays no part. Sums are in float64, where the device has it, under autocast too: over the
        pixels of a large image those of float32 are off by up to 8 %, those of bfloat16 by more. On a tile the means
        are those of the whole image, as soon as they are known (see `TiledSums`).

        Pixels are summed by palette code first (K is a few hundred an image) and masks from codes, so no dense mask is
        made: the cost is one pass over the pixels, plus K N c.
        """
        with torch.autocast(features.device.type, enabled=False):
            flat = features.permute(0, 2, 3, 1).flatten(0, 2).float()  # [B h w, c]
            sums = None
            if self.tile is not None and self.counted is not None:
                counted = self.counted.expand_as(self.index).reshape(-1)
                sums = self.tile.exchange(self._sums(flat[counted], self.index.reshape(-1)[counted]))
            if sums is None:
                sums = self._sums(flat, self.index.reshape(-1))
            weights = self.members / sums.areas.clamp(min=1)[self.owner]
            weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
            painted = torch.einsum('kn,knc->kc', weights, sums.means()[self.owner])
            return F.embedding(self.index, painted).permute(0, 3, 1, 2).to(features.dtype)

    def _sums(self, features: Tensor, pixels: Tensor) -> RegionSums:
        """Returns the sums over pixels with `features` [P, c] and the codes `pixels` [P]."""
        batch, count, codes = len(self.index), self.members.shape[1], len(self.owner)
        wide = features.dtype if features.device.type == 'mps' else torch.float64  # which Apple's GPUs lack
        sums = features.new_zeros(codes, features.shape[1], dtype=wide)
        for part, of in zip(features.split(_PART), pixels.split(_PART), strict=True):  # few of them are wide at a time
            sums = sums.index_add_(0, of, part.to(wide))
        sums = sums.to(features.dtype)
        sizes = torch.bincount(pixels, minlength=codes).to(features.dtype)
        areas = features.new_zeros(batch, count).index_add_(0, self.owner, self.members * sizes[:, None])
        totals = features.new_zeros(batch, count, features.shape[1]).index_add_(
            0, self.owner, self.members[:, :, None] * sums[:, None, :]
        )
        return RegionSums(totals, areas)
