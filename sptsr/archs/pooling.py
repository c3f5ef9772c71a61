"""Statistics of a feature inside each mask, painted back to the pixels of the mask."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sptsr.masks.batch import PriorBatch


@dataclass(frozen=True)
class SiteMasks:
    """The masks of a batch at the resolution of one site.

    Attributes:
        members: [K, N] of 0 and 1, which masks each palette code is inside.
        owner: int64 [K], which image each code belongs to.
        index: int64 [B, h, w], which code each pixel of the site has.
    """

    members: Tensor
    owner: Tensor
    index: Tensor

    @classmethod
    def of(cls, codes: PriorBatch, num_masks: int) -> SiteMasks:
        """Makes the map of the first `num_masks` masks, at the codes' own resolution."""
        index = codes.index.long()
        batch = torch.arange(len(index), device=index.device).view(-1, 1, 1).expand_as(index)
        owner = torch.zeros(len(codes.palette), dtype=torch.int64, device=index.device)
        owner.scatter_(0, index.reshape(-1), batch.reshape(-1))
        return cls(codes.table(num_masks), owner, index)

    def pool(self, features: Tensor) -> Tensor:
        """Returns for each pixel the mean feature of its masks, [B, c, h, w].

        Each mask has the mean of `features` [B, c, h, w] over its pixels; a pixel gets the mean of
        its masks', weighted by one over their areas, so that the smallest region counts most. A
        pixel inside no mask gets 0. The order of the masks plays no part.

        Pixels are summed by palette code first (K is a few hundred an image) and masks from codes,
        so no dense mask is made: the cost is one pass over the pixels, plus K N c.
        """
        batch, channels = features.shape[:2]
        count = self.members.shape[1]
        flat = features.permute(0, 2, 3, 1).reshape(-1, channels).float()
        pixels = self.index.reshape(-1)
        codes = len(self.owner)
        sums = flat.new_zeros(codes, channels).index_add_(0, pixels, flat)
        sizes = torch.bincount(pixels, minlength=codes).to(flat.dtype)

        areas = flat.new_zeros(batch, count).index_add_(0, self.owner, self.members * sizes[:, None])
        totals = flat.new_zeros(batch, count, channels).index_add_(
            0, self.owner, self.members[:, :, None] * sums[:, None, :]
        )
        inverse = areas.clamp(min=1).reciprocal()
        means = totals * inverse[:, :, None]
        weights = self.members * inverse[self.owner]
        weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
        painted = torch.einsum('kn,knc->kc', weights, means[self.owner])
        return F.embedding(self.index, painted).permute(0, 3, 1, 2).to(features.dtype)
