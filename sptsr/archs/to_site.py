"""Bringing the prior representation and regions to the resolution of a site."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from sptsr.archs.pooling import SiteMasks
from sptsr.archs.sites import Grid, Site

Size = tuple[int, int]


class CarriedPrior:
    """S on its way from site to site, at one resolution at a time.

    `prior_to_site` brings it to each site. What it averages away on the way to a coarser grid does not come back by
    repeating pixels, so at a finer grid S is given the detail that it had there when it was there last, or where it was
    not, the detail of S0:

        S = up(S_coarse) + T - up(down(T)),  T the last S at this grid

    Args:
        prior: S0 [B, c, h, w].
        keeps_detail: does the above; without it, detail that is averaged away is lost.
    """

    def __init__(self, prior: Tensor, keeps_detail: bool) -> None:
        self.prior = prior  # as the last unit left it
        self.grid = Grid()
        self.first = prior if keeps_detail else None
        self.seen: dict[tuple[Size, Grid], Tensor] = {}  # the last S at each size and grid

    def at(self, size: Size, site: Grid) -> Tensor:
        """Returns S at a site; `size` and `site` as in `prior_to_site`."""
        moved = prior_to_site(self.prior, self.grid, size, site)
        if self.first is None or site.stride >= self.grid.stride:
            return moved
        last = self.seen.get((size, site))
        if last is None:
            last = prior_to_site(self.first, Grid(), size, site)
        coarse = prior_to_site(last, site, (self.prior.shape[-2], self.prior.shape[-1]), self.grid)
        return moved + (last - prior_to_site(coarse, self.grid, size, site))

    def leave(self, prior: Tensor, site: Grid) -> None:
        """Takes over S as the unit of a site left it."""
        self.prior, self.grid = prior, site
        if self.first is not None:
            self.seen[(prior.shape[-2], prior.shape[-1]), site] = prior


def has_several_strides(sites: Sequence[Site]) -> bool:
    """Returns whether sites lie at more than one resolution."""
    return len({site.grid.stride for site in sites}) > 1


def prior_to_site(prior: Tensor, grid: Grid, size: Size, site: Grid) -> Tensor:
    """Returns S [B, c, h', w'] at a site's resolution: a pixel there gets the mean of S over the area that it covers.

    At a coarser site that is an average, in which pixels of S that are covered in part count in part; at a finer one
    mostly the value of the one pixel around it. The mean does not depend on whether sizes are even or odd. Beyond its
    edges, where the backbone pads the image, S is continued by its outer rows and columns; it is never stretched, so a
    pixel of S stays over its pixel of the image.

    Args:
        prior: S [B, c, h, w].
        grid: where the pixels of S lie on the LQ image.
        size: height and width of the feature at the site.
        site: where the pixels of the site lie.
    """
    height, width = prior.shape[-2:]
    if grid == site and _same((height, width), size):
        return prior
    ratio = site.stride / grid.stride
    shift = (grid.border - site.border) / grid.stride  # from the first pixel of S to the site's, in pixels of S
    if ratio > 1 and _is_whole(ratio) and _is_whole(shift):
        step, start = round(ratio), round(shift)
        return F.avg_pool2d(_continued(prior, start, (size[0] * step, size[1] * step)), step)
    if _is_whole(1 / ratio) and _is_whole(shift / ratio):  # each pixel of the site lies inside one of S
        sides = zip((height, width), size, strict=True)
        rows, columns = (_nearest(*pair, grid, site, prior.device) for pair in sides)
        return prior[..., rows, :][..., columns]
    return _averaged(_averaged(prior, 3, size[1], ratio, shift), 2, size[0], ratio, shift)


def regions_to_site(regions: SiteMasks, size: Size, site: Grid) -> SiteMasks:
    """Returns regions of the LQ image at a site's resolution; `size` and `site` as in `prior_to_site`.

    A pixel there is inside the masks that the LQ pixel under its middle is inside; where the middle lies between
    pixels (an even stride), the lower right one of them is taken.
    """
    lq_size = (regions.index.shape[1], regions.index.shape[2])
    if site == Grid() and _same(size, lq_size):
        return regions
    device = regions.index.device
    rows, columns = (_nearest(*sides, Grid(), site, device) for sides in zip(lq_size, size, strict=True))
    counted = regions.tile and regions.tile.counted(size, site.stride, site.border, device)
    return replace(regions, index=regions.index[:, rows][:, :, columns], counted=counted)


def _same(one: Size, other: Size) -> bool:
    """Returns whether two sizes are equal; while a network is exported, whether they are for every image."""
    if not torch.compiler.is_exporting():
        return one == other
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return all(statically_known_true(a == b) for a, b in zip(one, other, strict=True))


def _is_whole(value: float) -> bool:
    return abs(value - round(value)) < 1e-6


def _continued(prior: Tensor, start: int, size: Size) -> Tensor:
    """Returns the window [B, c, *size] of S that begins at `start`, `start`; outer pixels go on beyond the edges."""
    height, width = prior.shape[-2:]
    if start == 0 and _same(size, (height, width)):
        return prior
    if torch.compiler.is_exporting():  # sides are symbols, so what is missing cannot be counted
        sides = zip((height, width), size, strict=True)
        rows, columns = ((torch.arange(n, device=prior.device) + start).clamp(0, length - 1) for length, n in sides)
        return prior[..., rows, :][..., columns]
    inside = prior[..., max(start, 0) : start + size[0], max(start, 0) : start + size[1]]
    before = max(-start, 0)
    right, bottom = size[1] - before - inside.shape[-1], size[0] - before - inside.shape[-2]
    return F.pad(inside, (before, right, before, bottom), mode='replicate')


def _averaged(prior: Tensor, axis: int, side: int, ratio: float, shift: float) -> Tensor:
    """Returns S with `side` pixels along an axis, each the mean over `ratio` pixels of S, the first from `shift` on."""
    length = prior.shape[axis]
    starts = torch.arange(side, dtype=torch.float64) * ratio + shift
    parts = []
    for n in range(int(ratio) + 2):  # no more pixels are covered, even in part
        pixel = starts.floor() + n
        share = (torch.minimum(starts + ratio, pixel + 1) - torch.maximum(starts, pixel)).clamp(min=0) / ratio
        values = prior.index_select(axis, pixel.long().clamp(0, length - 1).to(prior.device))
        parts.append(values * share.to(prior).view(-1, *[1] * (3 - axis)))
    return torch.stack(parts).sum(dim=0)


def _nearest(length: int, side: int, source: Grid, site: Grid, device: torch.device) -> Tensor:
    """Returns which of `length` source pixels lies under the middle of each of `side` site pixels."""
    middles = (torch.arange(side, device=device) + 0.5) * site.stride - site.border
    # slightly up: 1/3 times 3 may come out below the whole number that it stands for
    return ((middles + source.border) / source.stride + 1e-4).floor().long().clamp(0, length - 1)
