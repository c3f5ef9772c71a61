"""Padding and tiling of the LQ image and its masks together."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Forward = Callable[[Tensor, Tensor | None], Tensor]


def restore_padded(forward: Forward, lq: Tensor, masks: Tensor | None, multiple: int, scale: int) -> Tensor:
    """Pads at the right and bottom to a multiple, restores, and cuts the result back.

    Args:
        forward: `(lq, masks)` to the restored image at `scale`.
        lq: [B, C, h, w] in 0..1, padded by reflection (by its last pixel where it is too small for that).
        masks: [B, N, h, w] or None, padded the same way.
        multiple: of height and width that `forward` needs; 1 pads nothing.
        scale: size of the result over size of the input.

    Returns:
        [B, C', scale h, scale w].
    """
    height, width = lq.shape[-2:]
    pad = (0, -width % multiple, 0, -height % multiple)
    if pad[1] == 0 and pad[3] == 0:
        return forward(lq, masks)
    mode = 'reflect' if pad[1] < width and pad[3] < height else 'replicate'
    lq = F.pad(lq, pad, mode=mode)
    masks = None if masks is None else F.pad(masks, pad, mode=mode)
    return forward(lq, masks)[..., : height * scale, : width * scale]


def restore_tiled(
    forward: Forward, lq: Tensor, masks: Tensor | None, multiple: int, scale: int, tile: int, overlap: int
) -> Tensor:
    """Restores tile by tile, so that the memory of `forward` does not grow with the image.

    Each tile sees `overlap` LQ pixels around what is kept of it. Once `overlap` covers the
    network's receptive field, a convolutional network gives what it gives untiled.

    Args:
        forward, lq, masks, multiple, scale: as in `restore_padded`.
        tile: side of what is kept of a tile, in LQ pixels.
        overlap: margin of a tile on each side, in LQ pixels.

    Returns:
        [B, C', scale h, scale w] on the CPU.
    """
    if tile < 1 or overlap < 0:
        raise ValueError(f'tile must be at least 1 and overlap at least 0, got {tile} and {overlap}')
    height, width = lq.shape[-2:]
    result: Tensor | None = None
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            bottom, right = min(top + tile, height), min(left + tile, width)
            y0, x0 = max(top - overlap, 0), max(left - overlap, 0)
            y1, x1 = min(bottom + overlap, height), min(right + overlap, width)
            part = lq[..., y0:y1, x0:x1]
            part_masks = None if masks is None else masks[..., y0:y1, x0:x1]
            restored = restore_padded(forward, part, part_masks, multiple, scale)
            if result is None:
                shape = (*restored.shape[:2], height * scale, width * scale)
                result = torch.empty(shape, dtype=restored.dtype)
            result[..., top * scale : bottom * scale, left * scale : right * scale] = restored[
                ..., (top - y0) * scale : (bottom - y0) * scale, (left - x0) * scale : (right - x0) * scale
            ].cpu()
    assert result is not None
    return result
