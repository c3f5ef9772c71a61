"""Units of one's own: two that are told more of regions than `RegionUnit`.

    plugins: [./examples/region_units.py]
    network_g: {unit: {type: SoftRegionUnit, stem: geometry}}

docs/results/arms.md says what they give. Both see the whole image that the network is given; neither knows tiles.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sptsr.archs.pooling import SiteMasks
from sptsr.archs.units import RegionUnit
from sptsr.core.registry import UNIT_REGISTRY, register


@register(UNIT_REGISTRY)
class SoftRegionUnit(RegionUnit):
    """A `RegionUnit` with soft membership: of the masks that end nearby, a pixel is a part.

    A pixel belongs to a mask by the share of the mask in the 5x5 pixels around it. As means and painting are linear in
    membership, both become those of `RegionUnit` with a box filter in front and behind:

        P = box(paint(pool(box(q(F)))))
    """

    def _pooled(self, query: Tensor, regions: SiteMasks) -> Tensor:
        return _box(super()._pooled(_box(query), regions))


@register(UNIT_REGISTRY)
class RegionAttentionUnit(RegionUnit):
    """A `RegionUnit` that also looks at the pixels of a region that are most like the pixel.

        P = paint(pool(q(F))) + a attend(q(F))

    attend works on means of 4x4 pixels (stride 4). Each takes the mean of the `nearest` that are most like it by the
    cosine of their q, among those whose smallest mask is the same, weighted by a softmax of 10 times the cosine; itself
    is one of them. It is enlarged to the pixels by repetition. a is a weight for each channel that starts at zero.

    Args:
        channels, width, path, stem: as in `RegionUnit`.
        nearest: k.
    """

    def __init__(self, channels: int, width: int = 16, nearest: int = 8, **options: Any) -> None:
        super().__init__(channels, width, **options)
        self.nearest = nearest
        self.weight = nn.Parameter(torch.zeros(width))

    def _pooled(self, query: Tensor, regions: SiteMasks) -> Tensor:
        attended = F.interpolate(self._attended(query, regions), scale_factor=4.0)
        attended = attended[..., : query.shape[2], : query.shape[3]]
        return super()._pooled(query, regions) + self.weight[:, None, None] * attended

    def _attended(self, query: Tensor, regions: SiteMasks) -> Tensor:
        """Returns what each 4x4 pixels see, [B, width, h / 4, w / 4], rounded up."""
        small = F.avg_pool2d(query, 4, ceil_mode=True)
        tokens = small.flatten(2).transpose(1, 2)  # [B, n, width]
        smallest = (regions.members * torch.arange(1, regions.members.shape[1] + 1, device=query.device)).amax(1)
        region = smallest[regions.index][:, ::4, ::4].flatten(1)  # of the first of the 4x4
        unit = F.normalize(tokens, dim=2)
        seen = []
        for rows, theirs in zip(unit.split(1024, dim=1), region.split(1024, dim=1), strict=True):
            alike = rows @ unit.transpose(1, 2)  # [B, rows, n]
            alike = alike.masked_fill(theirs[:, :, None] != region[:, None], -torch.inf)
            best, where = alike.topk(min(self.nearest, alike.shape[2]), dim=2)
            chosen = torch.gather(tokens[:, None].expand(-1, where.shape[1], -1, -1), 2, _wide(where, tokens.shape[2]))
            seen.append(((10 * best).softmax(2)[..., None] * chosen).sum(2))
        return torch.cat(seen, dim=1).transpose(1, 2).unflatten(2, small.shape[2:])


def _box(values: Tensor) -> Tensor:
    return F.avg_pool2d(values, 5, 1, 2, count_include_pad=False)


def _wide(where: Tensor, channels: int) -> Tensor:
    return where[..., None].expand(-1, -1, -1, channels)
