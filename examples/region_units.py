"""Units of one's own: two that are told more of regions than `RegionUnit`.

    plugins: [./examples/region_units.py]
    network_g: {unit: {type: SoftRegionUnit, stem: geometry}}

Both need the whole image at once: with `sptsr restore` say `--tile` as large as it. The pixels below are those of the
unit's site.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sptsr.archs.pooling import SiteMasks
from sptsr.archs.units import RegionUnit
from sptsr.core.errors import UserError
from sptsr.core.registry import UNIT_REGISTRY, register
from sptsr.core.values import Range


@register(UNIT_REGISTRY)
class SoftRegionUnit(RegionUnit):
    """A `RegionUnit` with soft membership: of the masks that end nearby, a pixel is a part.

    A pixel belongs to a mask by w, the share of the mask in the 5x5 pixels around it. Means weigh pixels by it, and a
    pixel gets the mean of all masks' means by w over their (soft) areas. Both are sums over masks of what is linear in
    w, so they are made of hard masks, with a box filter in front of the one and behind the other.

    Args:
        channels, width, path, stem: as in `RegionUnit`.
    """

    def __init__(
        self,
        channels: int,
        width: Annotated[int, Range(1, 4096)] = 16,
        path: Literal['inline', 'ladder'] = 'inline',
        stem: str | dict[str, object] | None = None,
    ) -> None:
        super().__init__(channels, width, path, stem=stem)

    def _pooled(self, query: Tensor, regions: SiteMasks) -> Tensor:
        _must_be_whole(self, regions)
        with torch.autocast(query.device.type, enabled=False):
            values = torch.cat([query.float(), torch.ones_like(query[:, :1], dtype=torch.float32)], dim=1)
            flat = _box(values).permute(0, 2, 3, 1).flatten(0, 2)
            totals = regions._sums(flat, regions.index.reshape(-1)).totals[regions.owner]  # [K, N, width + 1]
            areas = totals[..., -1]
            weights = torch.where(areas > 0, regions.members / areas.clamp(min=1e-6), 0)
            means = totals[..., :-1] / areas.clamp(min=1e-6)[..., None]
            table = torch.cat([torch.einsum('kn,knc->kc', weights, means), weights.sum(1, keepdim=True)], dim=1)
            painted = _box(F.embedding(regions.index, table).permute(0, 3, 1, 2))
            return (painted[:, :-1] / painted[:, -1:].clamp(min=1e-30)).to(query.dtype)


@register(UNIT_REGISTRY)
class RegionAttentionUnit(RegionUnit):
    """A `RegionUnit` that also looks at the pixels of a region that are most like the pixel.

        P = paint(pool(q(F))) + a attend(q(F))

    attend works on means of 4x4 pixels (stride 4). Each takes the mean of the `nearest` that are most like it by the
    cosine of their q, among those of the same region, weighted by a softmax of 10 times the cosine; itself is one of
    them. The region of 4x4 pixels is the smallest mask around the first of them. What comes out is enlarged to the
    pixels by repetition. a is a weight for each channel that starts at zero. Time grows with the square of the pixels.

    Args:
        channels, width, path, stem: as in `RegionUnit`.
        nearest: how many to look at.
    """

    def __init__(
        self,
        channels: int,
        width: Annotated[int, Range(1, 4096)] = 16,
        path: Literal['inline', 'ladder'] = 'inline',
        stem: str | dict[str, object] | None = None,
        nearest: Annotated[int, Range(1, 64)] = 8,
    ) -> None:
        super().__init__(channels, width, path, stem=stem)
        self.nearest = nearest
        self.weight = nn.Parameter(torch.zeros(width))

    def _pooled(self, query: Tensor, regions: SiteMasks) -> Tensor:
        _must_be_whole(self, regions)
        with torch.autocast(query.device.type, enabled=False):
            attended = F.interpolate(self._attended(query.float(), regions), scale_factor=4.0)
            attended = attended[..., : query.shape[2], : query.shape[3]]
            told = super()._pooled(query.float(), regions) + self.weight[:, None, None] * attended
            return told.to(query.dtype)

    def _attended(self, query: Tensor, regions: SiteMasks) -> Tensor:
        """Returns what each 4x4 pixels see, [B, width, h / 4, w / 4], rounded up."""
        small = F.avg_pool2d(query, 4, ceil_mode=True)
        tokens = small.flatten(2).transpose(1, 2)  # [B, n, width]
        smallest = (regions.members * torch.arange(1, regions.members.shape[1] + 1, device=query.device)).amax(1)
        region = smallest[regions.index][:, ::4, ::4].flatten(1)
        unit = F.normalize(tokens, dim=2)
        seen = []
        for rows, theirs in zip(unit.split(1024, dim=1), region.split(1024, dim=1), strict=True):
            alike = rows @ unit.transpose(1, 2)  # [B, rows, n]
            alike = alike.masked_fill(theirs[:, :, None] != region[:, None], -torch.inf)
            best, where = alike.topk(min(self.nearest, alike.shape[2]), dim=2)
            where = where[..., None].expand(-1, -1, -1, tokens.shape[2])
            chosen = torch.gather(tokens[:, None].expand(-1, where.shape[1], -1, -1), 2, where)
            seen.append(((10 * best).softmax(2)[..., None] * chosen).sum(2))
        return torch.cat(seen, dim=1).transpose(1, 2).unflatten(2, small.shape[2:])


def _box(values: Tensor) -> Tensor:
    """Returns the mean of 5x5 values; beyond the edges they are 0."""
    return F.avg_pool2d(values, 5, 1, 2)


def _must_be_whole(unit: nn.Module, regions: SiteMasks) -> None:
    if regions.tile is not None:
        raise UserError(f'{type(unit).__name__}: knows no tiles; restore the image as one, by a larger --tile')
