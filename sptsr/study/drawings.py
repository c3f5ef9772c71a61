"""Figures of a study for papers: quality against cost, training curves, and strips of crops."""

from __future__ import annotations

import heapq
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

from sptsr.core.errors import UserError
from sptsr.images.decode import RGB, decode_rgb
from sptsr.report.figures import Point, write_curves, write_scatter
from sptsr.report.page import Picture
from sptsr.report.scalars import Curve, read_curves
from sptsr.report.strips import Shown, most_different, write_strips
from sptsr.study.gallery import Gallery
from sptsr.study.results import Block
from sptsr.study.runs import Run
from sptsr.study.texts import cost_columns, digits, metric_name

_SEEN = 12  # images whose figures differ most, of which the strips are chosen


def write_drawings(folder: Path, blocks: Sequence[Block], runs: Sequence[Run], gallery: Gallery) -> list[Path]:
    """Writes the figures of each row below a folder, as far as there is something to draw; returns their paths.

    Raises:
        UserError: matplotlib is not installed, or the files cannot be written.
    """
    found: list[Path] = []
    stems: dict[str, int] = {}
    for block in blocks:
        name = re.sub(r'[^\w.+-]+', '_', block.name)
        stems[name] = stems.get(name, 0) + 1
        stem = folder / (name if stems[name] == 1 else f'{name}_{stems[name]}')
        found += _scatters(block, stem)
        curves = {arm: several for arm in block.lines if (several := list(_curves(block.name, arm, runs)))}
        if curves:
            found += write_curves(curves, f'{stem}_loss', 'training loss')
        chosen = most_different([_shown(picture, gallery) for picture in _differing(block, gallery)])
        if chosen:
            found.append(write_strips(chosen, f'{stem}_crops'))
    return found


def _scatters(block: Block, stem: Path) -> Iterator[Path]:
    """Writes the first metric against each cost."""
    for cost, column in itertools.product(cost_columns([block]), block.columns[:1]):
        cells = {arm: cells[column] for arm, cells in block.lines.items()}
        points = [
            Point(arm, block.costs[arm][cost], cell.mean, arm, cell.sd)
            for arm, cell in cells.items()
            if cell.mean is not None and cost in block.costs.get(arm, {})
        ]
        if len(points) > 1:
            name = re.sub(r'\W+', '_', cost).strip('_')
            yield from write_scatter(points, f'{stem}_{name}', cost, f'{metric_name(column[1])} on {column[0]}')


def _curves(row: str, arm: str, runs: Sequence[Run]) -> Iterator[Curve]:
    """Yields the curve of the first loss of each run of an arm."""
    for run in runs:
        if run.train is not None and any((use.row, use.arm) == (row, arm) for use, _ in run.uses):
            try:
                curves = read_curves(run.states.parent, run.home / 'tb_logger' / run.id)
            except UserError:  # taken over without its log
                continue
            loss = next((name for name in curves if name.startswith('losses/')), None)
            if loss is not None:
                yield curves[loss]


def _differing(block: Block, gallery: Gallery) -> list[Picture]:
    """Returns the images of a row on which the figures of the arm and of the control differ most."""

    def gap(picture: Picture) -> float:
        of_metric = next(iter(picture.figures.values()), {})
        values = [of_metric.get(arm, math.nan) for arm in (gallery.tuned, gallery.reference or '')]
        found = abs(values[0] - values[1])
        return found if math.isfinite(found) else 0.0

    pictures = (picture for picture in gallery.pictures(block.name) if len(picture.arms) > 1 and picture.lq is not None)
    return heapq.nlargest(_SEEN, pictures, key=gap)


def _shown(picture: Picture, gallery: Gallery) -> Shown:
    """Returns an image for a strip, with the first metric below the crops."""
    arms = {arm: decode_rgb(Path(str(file)).read_bytes(), str(file)) for arm, file in picture.arms.items()}
    metric, values = next(iter(picture.figures.items()), ('', {}))
    notes = {arm: f'{values[arm]:.{digits(metric)}f}' for arm in arms if arm in values}
    lq, gt = cast('tuple[RGB, RGB | None]', (picture.lq, picture.gt))  # the gallery gives pixels
    return Shown(picture.name, lq, arms, gt, picture.prior, notes)
