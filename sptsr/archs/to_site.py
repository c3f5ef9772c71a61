"""Bringing the prior representation and regions to the resolution of a site."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sptsr.archs.pooling import SiteMasks
from sptsr.archs.sites import Grid


def prior_to_site(prior: Tensor, grid: Grid, size: tuple[int, int], site: Grid) -> Tensor:
    """Returns S [B, c, h', w'] at a site's resolution: area average down, nearest up.

    Where the backbone pads the image, S is continued by its outer rows and columns; it is never
    stretched, so a pixel of S stays over its pixel of the image.

    Args:
        prior: S [B, c, h, w].
        grid: where the pixels of S lie on the LQ image.
        size: height and width of the feature at the site.
        site: where the pixels of the site lie.
    """
    height, width = prior.shape[-2:]
    if (height, width) == size and grid == site:
        return prior
    ratio = site.stride / grid.stride
    step = round(ratio)
    right, bottom = size[1] * step - width, size[0] * step - height
    if step > 1 and step == ratio and grid.border == site.border and min(right, bottom) >= 0:
        padded = F.pad(prior, (0, right, 0, bottom), mode='replicate') if right or bottom else prior
        return F.avg_pool2d(padded, step)
    rows, columns = (_nearest(*sides, grid, site, prior.device) for sides in zip((height, width), size, strict=True))
    return prior[..., rows, :][..., columns]


def regions_to_site(regions: SiteMasks, size: tuple[int, int], site: Grid) -> SiteMasks:
    """Returns regions of the LQ image at a site's resolution, nearest; `size` and `site` as in `prior_to_site`."""
    lq_size = (regions.index.shape[1], regions.index.shape[2])
    if size == lq_size and site == Grid():
        return regions
    device = regions.index.device
    rows, columns = (_nearest(*sides, Grid(), site, device) for sides in zip(lq_size, size, strict=True))
    return SiteMasks(regions.members, regions.owner, regions.index[:, rows][:, :, columns])


def _nearest(length: int, side: int, source: Grid, site: Grid, device: torch.device) -> Tensor:
    """Returns which of `length` source pixels lies under the middle of each of `side` site pixels."""
    middles = (torch.arange(side, device=device) + 0.5) * site.stride - site.border
    # a hair up: 1/3 times 3 may come out under the whole number that it stands for
    return ((middles + source.border) / source.stride + 1e-4).floor().long().clamp(0, length - 1)
