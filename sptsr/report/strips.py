"""A picture for a paper: strips of LQ, masks, arms and GT, where the arms differ most."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sptsr.images.decode import RGB
from sptsr.masks.prior import Prior
from sptsr.report.crops import Window, difference, window_of
from sptsr.report.figures import COLUMN, PAGE, canvas, literal, write_figure
from sptsr.report.pictures import enlarge, mask_overlay

_SIDE = 64  # GT pixels
_BOX = '#D55E00'


@dataclass(frozen=True)
class Shown:
    """One image as all arms restored it.

    Attributes:
        name: of the image.
        lq: uint8 [h, w, 3].
        arms: the restored images by arm, uint8 [s h, s w, 3].
        gt: of that size, or None.
        prior: masks of the LQ image, or None.
        notes: written below an arm's crop, such as its PSNR.
    """

    name: str
    lq: RGB
    arms: Mapping[str, RGB]
    gt: RGB | None = None
    prior: Prior | None = None
    notes: Mapping[str, str] | None = None


def most_different(images: Sequence[Shown], count: int = 3, side: int = _SIDE) -> list[tuple[Shown, Window]]:
    """Returns the images whose arms differ most in one window, the largest difference first, with that window.

    Args:
        images: with at least two arms each.
        count: how many of them at most.
        side: of the window, in pixels of the restored image; less where an image is smaller.
    """
    found = []
    for shown in images:
        change = difference(list(shown.arms.values()))
        window = window_of(change, side * side, _scale(shown))
        found.append((float(np.square(window.of(change), dtype=np.float64).mean()), shown, window))
    found.sort(key=lambda entry: -entry[0])
    return [(shown, window) for _, shown, window in found[:count]]


def write_strips(
    chosen: Sequence[tuple[Shown, Window]], stem: str | os.PathLike[str], width: float | None = None, dpi: int = 400
) -> Path:
    """Writes a strip for each image, all below each other, as `STEM.png`, and returns its path.

    Columns: the whole image with the window marked, LQ, masks (where there are some), the arms, GT. Pixels are
    repeated, never smoothed.

    Args:
        chosen: images and windows, from `most_different`.
        stem: path without the ending.
        width: inches; by default a column of a paper, or its whole width for more than four panels.
        dpi: of the picture.

    Raises:
        UserError: matplotlib is not installed, or the file cannot be written.
    """
    rows = [_panels(shown, window) for shown, window in chosen]
    titles = list(dict.fromkeys(title for row in rows for title, _ in row))
    columns = len(titles) + 1
    width = width or (COLUMN if columns <= 4 else PAGE)
    cell = width / columns
    below = 0.27 if any(shown.notes for shown, _ in chosen) else 0.15  # inches: one or two lines of text
    with canvas(width, (cell + below) * len(rows)) as figure:
        figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.02)
        grid = figure.subplots(len(rows), columns, squeeze=False)
        for line, (shown, window), row in zip(grid, chosen, rows, strict=True):
            _whole(line[0], shown, window)
            for axes in line[1:]:
                axes.set_axis_off()
            for title, picture in row:
                axes = line[titles.index(title) + 1]
                axes.imshow(picture, interpolation='nearest')
                axes.set_axis_on()
                note = (shown.notes or {}).get(title)
                axes.set_xlabel(literal(f'{title}\n{note}' if note else title), labelpad=2, fontsize=6)
        for axes in grid.flat:
            axes.set(xticks=[], yticks=[])
            for spine in axes.spines.values():
                spine.set_visible(False)
        return write_figure(figure, stem, ('png',), dpi)[0]


def _whole(axes: Any, shown: Shown, window: Window) -> None:
    """Draws the whole image, with the window marked."""
    from matplotlib.patches import Rectangle

    image = shown.gt if shown.gt is not None else next(iter(shown.arms.values()))
    axes.imshow(image)
    square = Rectangle(
        (window.left - 0.5, window.top - 0.5), window.width, window.height, fill=False, color=_BOX, linewidth=1
    )
    axes.add_patch(square)
    axes.set_xlabel(literal(shown.name), labelpad=2, fontsize=6)


def _panels(shown: Shown, window: Window) -> list[tuple[str, RGB]]:
    """Returns the crops of an image by title."""
    scale = _scale(shown)
    panels = [('LQ', window.of(enlarge(shown.lq, scale)))]
    if shown.prior is not None:
        panels.append(('masks', window.of(mask_overlay(shown.lq, shown.prior, scale))))
    panels += [(name, window.of(image)) for name, image in shown.arms.items()]
    if shown.gt is not None:
        panels.append(('GT', window.of(shown.gt)))
    return panels


def _scale(shown: Shown) -> int:
    return next(iter(shown.arms.values())).shape[0] // shown.lq.shape[0]
