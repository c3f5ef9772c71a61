"""What a page shows of an image: the window where the arms differ most, losslessly packed, within a number of bytes."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from sptsr.images.bicubic import imresize
from sptsr.images.decode import RGB
from sptsr.masks.prior import Prior
from sptsr.report.pictures import mask_colours, outlines, smallest_masks

Change = npt.NDArray[np.uint8]

_SMALLEST_SIDE = 32
_LONGEST_SIDE = 16383  # of WebP
_MARGIN = 4  # LQ pixels around a window that the bicubic kernel of an enlargement reaches
_FILL, _OUTLINE = 115, 190  # opacity of masks, of 255
_TRIES = 6


@dataclass(frozen=True)
class Window:
    """A part of an image, in pixels of the restored image; top and left are multiples of the scale."""

    top: int
    left: int
    height: int
    width: int

    def of(self, image: Any, scale: int = 1) -> Any:
        """Returns this part of [H, W, ...], or of an image `scale` times as small."""
        top, left, height, width = (-(-side // scale) for side in (self.top, self.left, self.height, self.width))
        return image[top : top + height, left : left + width]


def difference(images: Sequence[RGB]) -> Change:
    """Returns how far images [H, W, 3] of one size differ at each pixel: largest minus smallest value, [H, W]."""
    low, high = images[0], images[0]
    for image in images[1:]:
        low, high = np.minimum(low, image), np.maximum(high, image)
    return (high - low).max(axis=2)


def window_of(change: Change, area: int, scale: int) -> Window:
    """Returns the window of at most about `area` pixels that holds most of a change, squared; no side is above 16,383.

    Args:
        change: from `difference`, [H, W].
        area: pixels; from (32 x 32) up.
        scale: the window begins and ends on pixels of the LQ image.
    """
    height, width = (min(side, _in_steps(_LONGEST_SIDE, scale)) for side in change.shape)
    rows = min(height, _in_steps(area**0.5, scale))
    columns = min(width, _in_steps(area / rows, scale))
    rows = min(height, _in_steps(area / columns, scale))  # what a narrow image leaves
    height, width = change.shape
    squares = np.square(change, dtype=np.float32)
    blocks = np.add.reduceat(squares, range(0, height, scale), axis=0, dtype=np.float64)
    blocks = np.add.reduceat(blocks, range(0, width, scale), axis=1)
    sums = np.pad(blocks, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    tall, wide = -(-rows // scale), -(-columns // scale)
    inside = sums[tall:, wide:] - sums[:-tall, wide:] - sums[tall:, :-wide] + sums[:-tall, :-wide]
    best = np.argwhere(inside >= inside.max() * (1 - 1e-12))
    middle = (np.array(inside.shape) - 1) / 2
    top, left = best[np.abs(best - middle).sum(axis=1).argmin()] * scale  # the one in the middle where all are alike
    return Window(int(top), int(left), min(rows, height - int(top)), min(columns, width - int(left)))


def enlarged(lq: RGB, window: Window, scale: int) -> RGB:
    """Returns what MATLAB's bicubic enlargement of an LQ image has in a window."""
    if scale == 1:
        return window.of(lq)
    top, left = window.top // scale, window.left // scale
    above, before = min(top, _MARGIN), min(left, _MARGIN)
    bottom, right = (-(-side // scale) + _MARGIN for side in (window.top + window.height, window.left + window.width))
    part = imresize(lq[top - above : bottom, left - before : right], scale)
    return Window(above * scale, before * scale, window.height, window.width).of(part)


def overlay(prior: Prior, window: Window, scale: int) -> npt.NDArray[np.uint8]:
    """Returns masks as RGBA [height, width, 4] of a window: small ones on top, each with its outline."""
    top, left, height, width = (-(-s // scale) for s in (window.top, window.left, window.height, window.width))
    colours = np.zeros((65, 4), np.uint8)
    colours[1:, :3], colours[1:, 3] = mask_colours(64), _FILL
    part = prior.crop(top, left, height, width).at(scale)
    number = smallest_masks(part)[: window.height, : window.width]
    painted = colours[number]
    painted[outlines(number)] = (255, 255, 255, _OUTLINE)
    return painted


def packed(image: npt.NDArray[np.uint8]) -> str:
    """Returns an image, [H, W, 3] or [H, W, 4], as a `data:` address of a lossless WebP."""
    buffer = io.BytesIO()
    # higher methods pack a few percent smaller and take several times as long
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, 'WEBP', lossless=True, method=1, quality=50)
    return 'data:image/webp;base64,' + base64.b64encode(buffer.getvalue()).decode()


def packed_window(
    images: Mapping[str, RGB], lq: RGB | None, lq_name: str, prior: Prior | None, most: int, change: Change
) -> tuple[Window, dict[str, str], str | None]:
    """Returns the largest window that can be packed in `most` bytes, its images by name, and its masks.

    Args:
        images: by name, all [H, W, 3].
        lq: [H / scale, W / scale, 3], or None.
        lq_name: of its enlargement, which comes first.
        prior: masks of the LQ image, or None.
        most: bytes of all together. The smallest window, 32 x 32, may take more.
        change: from `difference`.
    """
    small = lq.shape[0] if lq is not None else prior.size[0] if prior is not None else change.shape[0]
    scale = max(1, round(change.shape[0] / small))
    height, width = change.shape
    area = min(height * width, most // (2 * len(images)))  # two bytes a pixel, a good guess for photographs
    for number in range(_TRIES):
        window = window_of(change, max(area, _SMALLEST_SIDE**2), scale)
        parts = {} if lq is None else {lq_name: packed(enlarged(lq, window, scale))}
        parts |= {name: packed(window.of(image)) for name, image in images.items()}
        masks = None if prior is None else packed(overlay(prior, window, scale))
        size = sum(map(len, parts.values())) + len(masks or '')
        seen = window.height * window.width
        if size > most and seen > _SMALLEST_SIDE**2:
            area = int(0.97 * seen * most / size)
        elif number == 0 and seen < height * width and size < 0.8 * most:
            area = min(height * width, int(0.95 * seen * most / size))
        else:
            break
    return window, parts, masks


def _in_steps(side: float, step: int) -> int:
    return max(step, int(side) // step * step)
