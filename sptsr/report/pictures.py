"""Pictures: masks painted over an image, and images side by side."""

from __future__ import annotations

import colorsys
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from sptsr.core.free_memory import must_fit
from sptsr.images.decode import RGB, write_png
from sptsr.images.folder import ImageFolder
from sptsr.masks.prior import Prior
from sptsr.priors.store import PriorStore

_MARGIN = 8
_TEXT_HEIGHT = 26
_INK = (32, 32, 32)
_SHOWN_SIDE = 480


def mask_colours(count: int) -> npt.NDArray[np.uint8]:
    """Returns colours that differ clearly from the next ones, RGB, uint8 [count, 3]; hues follow the golden ratio."""
    hues = (0.12 + np.arange(count) * 0.61803398875) % 1.0
    rows = [colorsys.hsv_to_rgb(hue, 0.62 + 0.3 * (n % 2), 1.0 - 0.22 * (n % 3 == 2)) for n, hue in enumerate(hues)]
    return np.round(np.array(rows).reshape(count, 3) * 255).astype(np.uint8)


def enlarge(image: npt.NDArray[Any], factor: int) -> npt.NDArray[Any]:
    """Returns an image or a map [H, W, ...] with each pixel repeated `factor` times in both directions."""
    return np.repeat(np.repeat(image, factor, axis=0), factor, axis=1)


def smallest_masks(prior: Prior) -> npt.NDArray[np.int64]:
    """Returns the number of the smallest mask at each pixel, counted from 1, and 0 where there is none; [H, W]."""
    # the highest bit of a code is the smallest mask
    return np.array([int(code).bit_length() for code in prior.palette], np.int64)[prior.index]


def outlines(numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Returns where a number [H, W] differs from the one to the left or above."""
    edge = np.zeros(numbers.shape, bool)
    edge[:, 1:] |= numbers[:, 1:] != numbers[:, :-1]
    edge[1:] |= numbers[1:] != numbers[:-1]
    return edge


def mask_overlay(image: RGB, prior: Prior, zoom: int = 1, strength: float = 0.45) -> RGB:
    """Paints the masks over an image, small ones on top, each with its outline.

    Args:
        image: uint8 [H, W, 3].
        prior: masks of that size; those on a finer grid are shown on it, where `zoom` is a multiple of how fine it is.
        zoom: whole-number enlargement; masks of small LR images are hard to see without it.
        strength: opacity of the colours, 0..1.

    Returns:
        uint8 [zoom H, zoom W, 3].
    """
    large = enlarge(image, zoom).astype(np.float32)
    colours = mask_colours(prior.count).astype(np.float32)
    prior = prior if zoom % prior.fine == 0 else prior.at(1)
    top = enlarge(smallest_masks(prior), zoom // prior.fine)
    inside = top > 0
    large[inside] = (1 - strength) * large[inside] + strength * colours[top[inside] - 1]
    edge = outlines(top)
    large[edge] = 0.25 * large[edge] + 0.75 * 255
    return np.round(large).astype(np.uint8)


def show_prior(images: ImageFolder, store: PriorStore, key: str, out: str | os.PathLike[str], zoom: int = 0) -> str:
    """Writes `OUT/KEY.png`, the image beside its masks, and returns its path.

    Args:
        images: the LQ images of the store.
        store: the priors.
        key: of image and prior.
        out: folder of the picture.
        zoom: whole-number enlargement; 0 makes the longer side about 480 pixels.
    """
    image = images.read(key)
    prior = store.get(key, image)
    zoom = zoom or prior.fine * max(1, round(_SHOWN_SIDE / max(image.shape[:2]) / prior.fine))
    panels = 2 * image.size * zoom**2
    must_fit(f'{key} at a zoom of {zoom}', 3 * panels, 'lower --zoom')  # with both beside each other, and as a file
    plain = enlarge(image, zoom)
    title = f'{prior.count} masks, {100 * prior.coverage():.0f} % covered'
    path = Path(out) / f'{key}.png'
    write_png(path, side_by_side([(key, plain), (title, mask_overlay(image, prior, zoom))]))
    return str(path)


def side_by_side(panels: Sequence[tuple[str, RGB]]) -> RGB:
    """Returns images of one height beside each other, each under its title, on white.

    Args:
        panels: (title, image), images uint8 [H, W, 3] with one H.
    """
    height = max(image.shape[0] for _, image in panels)
    width = sum(image.shape[1] for _, image in panels) + _MARGIN * (len(panels) + 1)
    canvas = np.full((height + _TEXT_HEIGHT + 2 * _MARGIN, width, 3), 255, np.uint8)
    left = _MARGIN
    for title, image in panels:
        scale = _fitting_scale(title, image.shape[1])
        origin = (left, _MARGIN + _TEXT_HEIGHT - 9)
        cv2.putText(canvas, title, origin, cv2.FONT_HERSHEY_SIMPLEX, scale, _INK, 1, cv2.LINE_AA)
        top = _MARGIN + _TEXT_HEIGHT
        canvas[top : top + image.shape[0], left : left + image.shape[1]] = image
        left += image.shape[1] + _MARGIN
    return canvas


def stack(rows: Sequence[RGB]) -> RGB:
    """Returns pictures below each other, left-aligned, on white."""
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    return np.concatenate(padded, axis=0)


def _fitting_scale(title: str, width: int) -> float:
    for scale in (0.55, 0.5, 0.45, 0.4, 0.35):
        if cv2.getTextSize(title, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)[0][0] <= width:
            return scale
    return 0.3
