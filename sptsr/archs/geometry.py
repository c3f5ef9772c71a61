"""The stem that is told what the masks mean: where they end, how large they are, and what the image is like in them.

Also its control, which is told as much of the image and nothing of masks.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import replace
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sptsr.archs.stems import layout_of
from sptsr.core.errors import UserError, one_of
from sptsr.core.registry import STEM_REGISTRY, register
from sptsr.core.values import Range
from sptsr.masks.batch import PriorBatch
from sptsr.masks.mask_statistics import MEAN, SHARE, SPREAD
from sptsr.masks.prior import MAX_FINE, MAX_MASKS

MAPS = ('boundary', 'nearness', 'count', 'size', 'residual', 'spread')
_OF_THE_IMAGE = {'size', 'residual', 'spread'}  # depend on `PriorBatch.statistics`
FINE_MAPS = ('fine_boundary', 'fine_nearness')
SIDES = 'fine_sides'  # only where it is asked for: it takes longer than all the others
REACH = 6  # pixels from a boundary at which nothing is told of it any more
_AROUND = 2  # pixels of the LQ image, to each side, of which `fine_sides` is told
_NOISE = 0.1  # added to a spread that is divided by: flat regions stay flat, and masks of other images count alike


@register(STEM_REGISTRY, 'geometry')
class GeometryStem(nn.Sequential):
    """S0 = conv3x3(LeakyReLU(conv3x3([LQ, maps]))), with maps that say what the masks around a pixel mean.

    As channels of their own, masks are told by their number: channel 7 is another object in each image, and there is
    little that a convolution can learn of it. These maps mean the same in every image:

    - `boundary`: log(1 + n), n the number of masks that end between the pixel and its four neighbours;
    - `nearness`: 1 at a pixel where a mask ends, less by 1/6 for each pixel of distance from one (the larger of height
      and width), 0 from 6 pixels on;
    - `count`: the number of masks around the pixel;
    - `size`: -log of the share of the image that the smallest mask around the pixel takes, of those that take any;
    - `residual`: each channel of the LQ image less its mean in that mask, over 0.1 + its spread there;
    - `spread`: that spread over 0.1 + itself.

    With `fine: k`, masks on a grid k times as fine as the LQ image's tell where in a pixel they end, k^2 channels each:

    - `fine_boundary`, `fine_nearness`: the first two maps on that grid, up to two pixels of the LQ image from where a
      mask ends; the k x k values in a pixel become channels;
    - `fine_sides` (not by default, as it takes longer than all others): what the grey level of the LQ image is like on
      this side of where masks end. The mean of the 5x5 pixels around, weighted by exp(-d^2 / (2 * 0.8^2) - 0.7 n), less
      the same with n = 0; d is the distance in pixels of the LQ image, n the number of masks that only one of the two
      is in. So it is an interpolation that does not mix what masks tell apart, less one that does.

    Where a pixel is in no mask, `count` to `spread` are 0; without masks, all maps are. Each is scaled to about unit
    variance. Share, mean and spread are those of the whole image (`PriorBatch.statistics`); where these are not given,
    they are taken of the images that are. So the maps of a crop are those of the whole image from 6 pixels off its
    border on.

    Masks must be numbered by area, the largest first, as in every `Prior`. Of equally large ones the last counts as
    the smallest.

    Args:
        in_channels: of the LQ image.
        num_masks: so many masks are looked at, the largest.
        width: channels of S0.
        maps: which of the maps above there are; by default all but `fine_sides`.
        fine: k, 1..4, or 1 to read masks on the grid of the LQ image only. Masks on another grid than the k times as
            fine one are brought to it (see `Prior.at`).
    """

    uses_masks: ClassVar[bool] = True

    def __init__(
        self,
        in_channels: int,
        num_masks: int,
        width: int,
        maps: list[str] | None = None,
        fine: Annotated[int, Range(1, 4)] = 1,
    ) -> None:
        if not 1 <= fine <= MAX_FINE:
            raise UserError(f'stem geometry: fine {fine} is not in 1..{MAX_FINE}')
        known = (*MAPS, *FINE_MAPS, SIDES)
        unknown = [name for name in maps or () if name not in known]
        if unknown:
            raise UserError(f"stem geometry: no map is called '{unknown[0]}'{one_of(str(unknown[0]), known)}")
        default = MAPS if fine == 1 else MAPS + FINE_MAPS
        names = [name for name in known if name in (default if maps is None else maps)]
        too_fine = [name for name in names if fine == 1 and name not in MAPS]
        if too_fine:
            raise UserError(f'stem geometry: map {too_fine[0]} is of a finer grid than the image; set fine: 2, 3 or 4')
        if not names:
            raise UserError(f'stem geometry: maps names none; say which of {", ".join(known)}, or leave it out')
        each = {'residual': in_channels, **dict.fromkeys((*FINE_MAPS, SIDES), fine**2)}
        channels = in_channels + sum(each.get(name, 1) for name in names)
        first = nn.Conv2d(channels, width, 3, padding=1)
        super().__init__(first, nn.LeakyReLU(0.1), nn.Conv2d(width, width, 3, padding=1))
        self.num_masks, self.names, self.fine = num_masks, names, fine
        self.uses_statistics = not _OF_THE_IMAGE.isdisjoint(names)

    def forward(self, lq: Tensor, masks: PriorBatch | None) -> Tensor:
        """Returns S0 [B, width, h, w] for [B, in_channels, h, w] and the codes of its masks."""
        assert masks is not None
        maps = self.maps(lq, masks).to(lq.dtype).contiguous(memory_format=layout_of(lq))
        return super().forward(torch.cat([lq, maps], dim=1))

    @torch.no_grad()
    def maps(self, lq: Tensor, masks: PriorBatch) -> Tensor:
        """Returns the maps, float32 [B, number of maps, h, w], computed in float32 under autocast too."""
        if self.num_masks < MAX_MASKS:
            masks = replace(masks, palette=masks.palette & ((1 << self.num_masks) - 1))
        kind = lq.device.type
        with nullcontext() if kind == 'meta' else torch.autocast(kind, enabled=False):  # meta has no autocast
            boundary, nearness = _of_boundaries(masks.at(1), REACH)
            found = {'boundary': boundary, 'nearness': nearness, **_of_regions(lq.float(), masks.at(1))}
            if self.fine > 1:
                within = _of_boundaries(masks.at(self.fine), 2 * self.fine)
                found |= zip(FINE_MAPS, (F.pixel_unshuffle(each, self.fine) for each in within), strict=True)
            if SIDES in self.names:
                found[SIDES] = _of_sides(lq.float().mean(dim=1), masks.at(self.fine))
            return torch.cat([found[name] for name in self.names], dim=1)


@register(STEM_REGISTRY, 'grey')
class GreyStem(nn.Sequential):
    """S0 = conv3x3(LeakyReLU(conv3x3([LQ, maps]))): the control of `GeometryStem`, with maps that know no masks.

    They are as many as its maps, and functions of the pixel's own grey level g (the mean of its colours):

        0.9 (1 + cos(k pi g)), k = 1, 2, ...

    The factor is such that both stems, which have as many parameters, start with the same spread of S0, and one
    step of an optimiser changes it by as much (tests/archs/test_fairness.py).

    Args:
        in_channels, num_masks, width: as in `GeometryStem`; the number of masks plays no part.
    """

    uses_masks: ClassVar[bool] = False

    def __init__(self, in_channels: int, num_masks: int, width: int) -> None:
        count = len(MAPS) - 1 + in_channels
        first = nn.Conv2d(in_channels + count, width, 3, padding=1)
        super().__init__(first, nn.LeakyReLU(0.1), nn.Conv2d(width, width, 3, padding=1))
        self.count = count

    def forward(self, lq: Tensor, masks: PriorBatch | None = None) -> Tensor:
        """Returns S0 [B, width, h, w] for [B, in_channels, h, w]."""
        phase = lq.mean(dim=1, keepdim=True) * math.pi
        maps = torch.cat([0.9 + 0.9 * (phase * k).cos() for k in range(1, self.count + 1)], dim=1)
        return super().forward(torch.cat([lq, maps.contiguous(memory_format=layout_of(lq))], dim=1))


def _of_boundaries(masks: PriorBatch, reach: int) -> tuple[Tensor, Tensor]:
    """Returns `boundary` and `nearness` on the grid of the masks, both [B, 1, k h, k w]."""
    changes = masks.changes().float()[:, None]
    near = grown = (changes > 0).float()
    for _ in range(reach - 1):
        grown = _largest_around(grown)
        near = near + grown
    return changes.log1p(), near * (2 / reach)


def _largest_around(values: Tensor) -> Tensor:
    """Returns the largest of 3x3 values that are at least 0: on a CPU `max_pool2d` in a quarter of its time."""
    if values.device.type != 'cpu':  # where each operation waits for a launch, one is faster than five
        return F.max_pool2d(values, 3, 1, 1)
    padded = F.pad(values, (1, 1, 1, 1))
    rows = torch.maximum(torch.maximum(padded[..., :-2], padded[..., 1:-1]), padded[..., 2:])
    return torch.maximum(torch.maximum(rows[..., :-2, :], rows[..., 1:-1, :]), rows[..., 2:, :])


def _of_sides(grey: Tensor, masks: PriorBatch) -> Tensor:
    """Returns `fine_sides`, [B, k^2, h, w], for grey levels [B, h, w] and masks on the fine grid."""
    k, (batch, height, width) = masks.fine, grey.shape
    fine = masks.index.unflatten(1, (height, k)).unflatten(3, (width, k)).transpose(2, 3).flatten(3)  # [B, h, w, k^2]
    chosen = _not_alike_around(fine)
    own = fine.flatten(0, 2)[chosen].long()  # [n, k^2]
    rows, columns = (
        torch.arange(-_AROUND, side + _AROUND, device=grey.device).clamp(0, side - 1) for side in (height, width)
    )
    at = torch.arange(batch * rows.shape[0] * columns.shape[0], device=grey.device)
    at = at.view(batch, rows.shape[0], columns.shape[0])
    there = at[:, :height, :width].flatten()[chosen, None] + at[0, : 2 * _AROUND + 1, : 2 * _AROUND + 1].flatten()
    levels, codes = (each[:, rows][:, :, columns].flatten()[there] for each in (grey, masks.at(1).index))  # [n, 25]
    levels = levels - levels[:, levels.shape[1] // 2, None]  # a difference follows, of which small numbers lose less
    inside = (torch.arange(k, device=grey.device) + 0.5) / k - 0.5  # from the middle of the LQ image's pixel
    near = torch.arange(-_AROUND, _AROUND + 1, device=grey.device)[:, None] - inside
    near = (near**2 * (-0.5 / 0.8**2)).exp()
    weights = (near[:, None, :, None] * near[:, None, :]).flatten(2).flatten(0, 1)  # [25, k^2]

    def told(own: Tensor, levels: Tensor, codes: Tensor, weights: Tensor) -> Tensor:
        alike = (masks.apart(own[:, None], codes) * -0.7).exp()
        return ((alike * levels) @ weights) / (alike @ weights)

    if _has_no_values(grey):
        sides = torch.cat([told(own[:, n], levels, codes, weights[:, n : n + 1]) for n in range(k * k)], dim=1)
    else:  # the fine pixels in one of the LQ image have few codes, most of them one
        count = masks.palette.shape[0]
        pixels = torch.arange(own.shape[0], device=grey.device)[:, None]
        runs, which = (pixels * count + own).flatten().unique_consecutive(return_inverse=True)
        pixels = runs // count
        each = told(runs % count, levels[pixels], codes[pixels], weights)
        sides = each.gather(0, which.view_as(own))
    sides = (sides - levels @ weights / weights.sum(dim=0)) * 25
    found = sides.new_zeros(batch * height * width, k * k).index_copy(0, chosen, sides)
    return found.view(batch, height, width, k * k).permute(0, 3, 1, 2)


def _not_alike_around(codes: Tensor) -> Tensor:
    """Returns which pixels, counted through [B, h, w, n], have more than one code among those of the 5x5 around."""
    if _has_no_values(codes):
        return torch.arange(codes.shape[0] * codes.shape[1] * codes.shape[2], device=codes.device)
    ends = torch.stack([codes.amax(dim=3), -codes.amin(dim=3)]).float()
    ends = F.max_pool2d(ends, 2 * _AROUND + 1, 1, _AROUND)
    return (ends[0] + ends[1]).flatten().nonzero()[:, 0]


def _has_no_values(tensor: Tensor) -> bool:
    """Returns whether there can be no sizes that depend on values."""
    return tensor.is_meta or torch.compiler.is_compiling()


def _of_regions(lq: Tensor, masks: PriorBatch) -> dict[str, Tensor]:
    given, table, owners = masks.statistics is not None, masks.table(), masks.owners()
    masks = masks.describe(lq, table)
    assert masks.statistics is not None
    numbered = table * torch.arange(1, MAX_MASKS + 1, device=table.device, dtype=table.dtype)
    if given:  # a mask of a finer grid that no pixel's middle is in may gain one when the image is flipped
        numbered = numbered * (masks.statistics[..., SHARE] > 0).index_select(0, owners)
    smallest = numbered.amax(dim=1).long()  # 1 for the first mask, 0 for none
    # The row before the first mask of each image is for codes in none. All else there follows from its share.
    rows = F.pad(masks.statistics, (0, 0, 1, 0))
    rows[:, 0, SHARE] = 1
    own = rows.flatten(0, 1).index_select(0, owners * rows.shape[1] + smallest)
    share, mean, spread = own[:, :1], own[:, MEAN], own[:, SPREAD:]
    divisor = torch.where(smallest[:, None] > 0, spread + _NOISE, math.inf)  # a residual is 0 in no mask
    # All but the pixel's own colour follows from its code, so it is computed for each code and looked up once.
    size, count = share.clamp(min=1e-8).log() * -0.5, table.sum(dim=1, keepdim=True) * 0.4
    each = torch.cat([count, size, 2 * spread / (spread + _NOISE), divisor, mean], dim=1)
    found = F.embedding(masks.index, each).permute(0, 3, 1, 2)
    return {
        'count': found[:, :1],
        'size': found[:, 1:2],
        'residual': (lq - found[:, 4:]) / found[:, 3:4],
        'spread': found[:, 2:3],
    }
