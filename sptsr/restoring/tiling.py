"""Padding and tiling of the LQ image and its masks together."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from sptsr.archs.sizes import SizeRules, round_up
from sptsr.masks.batch import PriorBatch
from sptsr.masks.tiles import Tile, TiledSums

Forward = Callable[[Tensor, PriorBatch | None], Tensor]
# What is kept of a restored tile [B, C', h, w]: a tensor of the same shape, of any dtype.
Finish = Callable[[Tensor], Tensor]


def unchanged(tile: Tensor) -> Tensor:
    """Keeps a tile as it is restored."""
    return tile


def restore_padded(forward: Forward, lq: Tensor, masks: PriorBatch | None, rules: SizeRules, scale: int) -> Tensor:
    """Pads at the right and bottom to a size the network takes, restores, and cuts the result back.

    Args:
        forward: `(lq, masks)` to the restored image at `scale`.
        lq: [B, C, h, w] in 0..1, padded by reflection, and by the last pixel of that where it ends.
        masks: of the same size, padded the same way, or None.
        rules: what `forward` needs.
        scale: size of the result over size of the input.

    Returns:
        [B, C', scale h, scale w].
    """
    height, width = lq.shape[-2:]
    right, bottom = rules.padding(height, width)
    if right == 0 and bottom == 0:
        return forward(lq, masks)
    reflected = min(right, width - 1), min(bottom, height - 1)
    masks = None if masks is None else masks.describe(lq)  # before pixels are added
    lq = F.pad(lq, (0, reflected[0], 0, reflected[1]), mode='reflect')
    lq = F.pad(lq, (0, right - reflected[0], 0, bottom - reflected[1]), mode='replicate')
    masks = None if masks is None else masks.pad(right, bottom)
    return forward(lq, masks)[..., : height * scale, : width * scale]


def restore_tiled(
    forward: Forward,
    lq: Tensor,
    masks: PriorBatch | None,
    rules: SizeRules,
    scale: int,
    tile: int,
    overlap: int,
    finish: Finish = unchanged,
) -> Tensor:
    """Restores tile by tile, so that the memory of `forward` does not grow with the image.

    Each tile sees `overlap` LQ pixels around what is kept of it. Once `overlap` covers the receptive field, a
    convolutional network gives what it gives untiled. A unit that averages inside masks (`RegionUnit`) gets the
    averages over the whole image: all tiles are run again until the averages that a pass finds are those that it used,
    at most once for each average that a call takes, and once more. A backbone that itself averages over its whole input
    (channel attention) only comes close.

    No tile has more pixels than a square of side `tile` with its margins; of the grids of such tiles, the one that
    computes the fewest pixels is taken (`cuts`).

    Args:
        forward, lq, masks, rules, scale: as in `restore_padded`. `lq` and `masks` may stay on the
            CPU when `forward` moves what it is given.
        tile: side of what is kept of a square tile, in LQ pixels; raised to the network's grid.
        overlap: margin of a tile on each side, in LQ pixels; raised likewise.
        finish: makes of each tile what is returned of it.

    Returns:
        [B, C', scale h, scale w] on the CPU, in channels-last memory.
    """
    if tile < 1 or overlap < 0:
        raise ValueError(f'tile must be at least 1 and overlap at least 0, got {tile} and {overlap}')
    step = math.lcm(rules.multiple, rules.grid)
    tile, overlap = round_up(tile, step), round_up(overlap, step)
    height, width = lq.shape[-2:]
    down, across = cuts(height, width, tile, overlap, rules)
    corners = list(itertools.product(range(0, height, down), range(0, width, across)))
    if masks is not None and len(corners) > 1:
        masks = masks.describe(lq)
    sums = TiledSums()
    result: Tensor | None = None
    for number in itertools.count(1):
        for top, left in corners:
            bottom, right = min(top + down, height), min(left + across, width)
            y0, x0 = max(top - overlap, 0), max(left - overlap, 0)
            y1, x1 = min(bottom + overlap, height), min(right + overlap, width)
            part_masks = None if masks is None else masks.crop(y0, x0, y1, x1)
            if part_masks is not None and len(corners) > 1:
                part_masks.tile = Tile(
                    sums,
                    top - y0 if top > 0 else -math.inf,
                    bottom - y0 if bottom < height else math.inf,
                    left - x0 if left > 0 else -math.inf,
                    right - x0 if right < width else math.inf,
                )
            restored = restore_padded(forward, lq[..., y0:y1, x0:x1], part_masks, rules, scale)
            kept = restored[..., (top - y0) * scale : (bottom - y0) * scale, (left - x0) * scale : (right - x0) * scale]
            kept = finish(kept)
            if result is None:
                shape = (*kept.shape[:2], height * scale, width * scale)
                result = torch.empty(shape, dtype=kept.dtype, memory_format=torch.channels_last)
            result[..., top * scale : bottom * scale, left * scale : right * scale] = kept.cpu()
        if sums.settled() or number > len(sums.found):
            break
        sums.next_pass()
    assert result is not None
    return result


def cuts(height: int, width: int, tile: int, overlap: int, rules: SizeRules) -> tuple[int, int]:
    """Returns height and width of the tiles that an image is cut into at the least cost.

    Square tiles rarely fit: of 321x481 pixels, tiles of 256 leave strips of 65 and 225 with margins of their own, which
    makes 1.36 times the pixels of the image. Two tiles of 321x241 are as large, and make 1.13 times.

    Args:
        height, width: of the image.
        tile: a tile with its margins has at most (tile + 2 overlap)^2 pixels.
        overlap: margin of a tile where the image goes on.
        rules: what the network needs; where that is squares, tiles are squares of side `tile`.

    Returns:
        Multiples of the network's grid, or the height or width of the image.
    """
    if rules.square:
        return tile, tile
    step = math.lcm(rules.multiple, rules.grid)

    def padded(side: int) -> int:
        return max(round_up(side, rules.multiple), rules.minimum)

    def computed(length: int, part: int) -> int:
        starts = range(0, length, part)
        return sum(padded(min(n + part + overlap, length) - max(n - overlap, 0)) for n in starts)

    most = padded(tile + 2 * overlap) ** 2
    best, fewest = (tile, tile), computed(height, tile) * computed(width, tile)
    for rows in range(1, -(-height // step) + 1):
        down = part_of(height, rows, step)
        lines = computed(height, down)
        if lines * width >= fewest:
            break
        room = most // padded(down + overlap * min(rows - 1, 2))
        columns = next((n for n in (1, 2) if padded(part_of(width, n, step) + overlap * (n - 1)) <= room), None)
        if columns is None:
            widest = (room - 2 * overlap) // step * step
            if widest < 1 or room < rules.minimum:
                continue
            columns = -(-width // widest)
        across = part_of(width, columns, step)
        pixels = lines * computed(width, across)
        if pixels < fewest:
            best, fewest = (down, across), pixels
    return best


def part_of(length: int, count: int, step: int) -> int:
    """Returns the length of all but the last of `count` equal parts, each of which begins at a multiple of `step`."""
    return length if count == 1 else round_up(-(-length // count), step)
