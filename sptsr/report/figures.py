"""Figures for papers: quality against cost, and training curves. matplotlib is imported when one is drawn."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sptsr.core.errors import UserError
from sptsr.core.files import write_bytes
from sptsr.report.scalars import Curve

COLUMN = 3.3  # inches, of a column of a paper with two
PAGE = 6.9
# Okabe and Ito, "Color Universal Design" (2008): colours that colour-blind readers tell apart.
PALETTE = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000', '#F0E442')
_MARKERS = 'osD^vPX*'
_STYLES = ('-', '--', '-.', ':')
_POINTS = 7  # of text
_GAP = 4  # points between a marker and its label
_SETTINGS = {
    'font.size': _POINTS,
    'font.family': 'DejaVu Sans',  # comes with matplotlib, so a figure is the same everywhere
    'axes.titlesize': _POINTS,
    'legend.fontsize': _POINTS - 0.5,
    'legend.frameon': False,
    'axes.linewidth': 0.6,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'xtick.major.width': 0.6,
    'ytick.major.width': 0.6,
    'lines.linewidth': 1.0,
    'grid.color': '0.9',
    'grid.linewidth': 0.5,
    'axes.axisbelow': True,
    'pdf.fonttype': 42,  # embedded as TrueType: many publishers refuse type 3
    'svg.fonttype': 'none',  # text stays text
    'svg.hashsalt': 'sptsr',  # equal data give equal bytes
}
_NO_DATE: dict[str, dict[str, Any]] = {'pdf': {'CreationDate': None}, 'svg': {'Date': None}, 'png': {}}


@dataclass(frozen=True)
class Point:
    """One network in a scatter plot.

    Attributes:
        label: written beside it; of several points with one label beside the highest. '' for none.
        x, y: cost and quality.
        series: colour and marker; points of one series are joined, in the order of x. Named in a legend where it is not
            the label of its only point.
        spread: half the length of a bar along y, or None.
    """

    label: str
    x: float
    y: float
    series: str
    spread: float | None = None


def literal(text: str) -> str:
    """Returns a text as matplotlib shows it: `$` alone, where two would enclose a formula."""
    return text.replace('$', r'\$')


def _in_legend(name: str) -> str:
    return literal(f' {name}' if name.startswith('_') else name)  # a legend leaves out what begins with `_`


@contextmanager
def canvas(width: float, height: float) -> Iterator[Any]:
    """Yields an empty figure of a size in inches; raises UserError where matplotlib is not installed."""
    try:
        import matplotlib as mpl
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("figures: need matplotlib; pip install 'sptsr[figures]'") from error
    settings: Any = {**mpl.rcParamsDefault, **_SETTINGS, 'backend': mpl.rcParams['backend']}
    with mpl.rc_context(settings):
        figure = Figure(figsize=(width, height), layout='constrained')
        FigureCanvasAgg(figure)
        yield figure


def write_figure(figure: Any, stem: str | os.PathLike[str], kinds: Sequence[str], dpi: int = 300) -> list[Path]:
    """Writes `STEM.KIND` for each of pdf, svg and png, atomically, and returns their paths."""
    paths = []
    for kind in kinds:
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, metadata=_NO_DATE[kind], dpi=dpi)
        paths.append(Path(f'{os.fspath(stem)}.{kind}'))
        write_bytes(paths[-1], buffer.getvalue())
    return paths


def write_scatter(
    points: Sequence[Point],
    stem: str | os.PathLike[str],
    x_label: str,
    y_label: str,
    width: float = COLUMN,
    height: float | None = None,
) -> list[Path]:
    """Writes quality against cost as `STEM.pdf` and `STEM.svg`, and returns their paths.

    The x axis is logarithmic where the largest cost is more than twenty times the smallest.

    Args:
        points: at least one.
        stem: path without the ending.
        x_label, y_label: with units, such as `parameters (K)` and `PSNR on Set5 (dB)`.
        width, height: inches; the height follows the width unless it is given.

    Raises:
        UserError: matplotlib is not installed, or the files cannot be written.
    """
    series = list(dict.fromkeys(point.series for point in points))
    with canvas(width, height or 0.75 * width) as figure:
        axes = figure.add_subplot()
        for number, name in enumerate(series):
            own = sorted((point for point in points if point.series == name), key=lambda point: point.x)
            colour = PALETTE[number % len(PALETTE)]
            x, y = [point.x for point in own], [point.y for point in own]
            axes.plot(x, y, color=colour, linewidth=0.7, alpha=0.5, zorder=1)
            axes.scatter(
                x, y, s=18, color=colour, marker=_MARKERS[number % len(_MARKERS)], label=_in_legend(name), zorder=3
            )
            for point in own:
                if point.spread:
                    axes.errorbar(point.x, point.y, point.spread, color=colour, linewidth=0.7, capsize=1.5, zorder=2)
        smallest = min(point.x for point in points)
        if smallest > 0 and max(point.x for point in points) > 20 * smallest:
            axes.set_xscale('log')
        axes.set(xlabel=literal(x_label), ylabel=literal(y_label))
        axes.margins(0.15)
        axes.grid(True)
        if series != [point.label for point in points]:
            axes.legend(loc='best')
        highest = {point.label: point for point in sorted(points, key=lambda point: point.y) if point.label}
        _label(figure, axes, points, list(highest.values()), series)
        return write_figure(figure, stem, ('pdf', 'svg'))


def write_curves(
    arms: Mapping[str, Sequence[Curve]],
    stem: str | os.PathLike[str],
    y_label: str,
    width: float = COLUMN,
    height: float | None = None,
) -> list[Path]:
    """Writes the training curves of all arms in one plot, as `STEM.pdf` and `STEM.svg`, and returns their paths.

    The line of an arm is the mean over its runs at the iterations that all of them have; where there are several, each
    run is a thin line too.

    Args:
        arms: the curves of the runs (training seeds) of each arm.
        stem: path without the ending.
        y_label: what is drawn, such as `PSNR on Set5 (dB)`.
        width, height: inches; the height follows the width unless it is given.

    Raises:
        UserError: matplotlib is not installed, or the files cannot be written.
    """
    with canvas(width, height or 0.7 * width) as figure:
        axes = figure.add_subplot()
        for number, (name, curves) in enumerate(arms.items()):
            look = {'color': PALETTE[number % len(PALETTE)], 'linestyle': _STYLES[number % len(_STYLES)]}
            for curve in curves if len(curves) > 1 else ():
                axes.plot(curve.steps, curve.values, alpha=0.3, linewidth=0.5, **look)
            steps, values = mean_curve(curves)
            look |= {'label': _in_legend(name), 'marker': '.' if len(steps) < 20 else '', 'markersize': 3}
            axes.plot(steps, values, **look)
        axes.set(xlabel='iteration', ylabel=literal(y_label))
        axes.grid(True)
        axes.legend(loc='best', handlelength=2.4)
        return write_figure(figure, stem, ('pdf', 'svg'))


def mean_curve(curves: Sequence[Curve]) -> tuple[list[int], list[float]]:
    """Returns the iterations that all curves have, and the mean of their values there."""
    known = [dict(zip(curve.steps, curve.values, strict=True)) for curve in curves]
    steps = sorted(set.intersection(*(set(values) for values in known))) if known else []
    return steps, [float(np.mean([values[step] for values in known])) for step in steps]


def _label(figure: Any, axes: Any, points: Sequence[Point], labelled: Sequence[Point], series: Sequence[str]) -> None:
    """Writes labels where they cover neither each other nor a point with its bar, with a line where they lie far."""
    figure.canvas.draw()  # fixes the axes, so that positions in pixels hold
    figure.set_layout_engine('none')
    renderer = figure.canvas.get_renderer()
    unit = figure.dpi / 72
    frame = axes.get_window_extent(renderer)
    at = {id(point): axes.transData.transform((point.x, point.y)) for point in points}
    taken: list[Box] = [(x - 3 * unit, y - 3 * unit, x + 3 * unit, y + 3 * unit) for x, y in at.values()]
    for point in points:
        ends = [axes.transData.transform((point.x, point.y + sign * (point.spread or 0))) for sign in (-1, 1)]
        taken.append((ends[0][0] - 2 * unit, ends[0][1], ends[1][0] + 2 * unit, ends[1][1]))
    legend = axes.get_legend()
    if legend is not None:
        taken.append(legend.get_window_extent(renderer).extents)
    for point in labelled:
        colour = PALETTE[series.index(point.series) % len(PALETTE)]
        text = axes.annotate(
            literal(point.label),
            (point.x, point.y),
            xytext=(0, 0),
            textcoords='offset points',
            va='center',
            color=colour,
        )
        size = text.get_window_extent(renderer)
        x, y = at[id(point)]
        best = min(
            _places(size.width / unit, size.height / unit),
            key=lambda place: _badness(_box(x, y, place, size, unit), taken, frame.extents) + 0.02 * math.hypot(*place),
        )
        text.set_position(best)
        text.set_horizontalalignment('center')
        taken.append(_box(x, y, best, size, unit))
        if math.hypot(best[0] / max(1, size.width / unit / 2 + _GAP), best[1] / (size.height / unit / 2 + _GAP)) > 1.6:
            end = (best[0], best[1] - math.copysign(size.height / unit / 2, best[1]))
            axes.annotate(
                '',
                (point.x, point.y),
                xytext=end,
                textcoords='offset points',
                arrowprops={'arrowstyle': '-', 'color': colour, 'linewidth': 0.4, 'shrinkA': 0, 'shrinkB': 2},
            )


def _places(width: float, height: float) -> Iterator[tuple[float, float]]:
    """Yields where the middle of a label may be, in points from its point: right, left, above, below, then farther."""
    for step in range(6):
        far = _GAP + step * height * 0.9
        across, up = width / 2 + far, height / 2 + far
        for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)):
            yield dx * (across if not dy else width / 2 + _GAP / 2), dy * (up if not dx else height / 2 + far / 2)


Box = Sequence[float]


def _box(x: float, y: float, place: tuple[float, float], size: Any, unit: float) -> Box:
    left, bottom = x + place[0] * unit - size.width / 2, y + place[1] * unit - size.height / 2
    return left, bottom, left + size.width, bottom + size.height


def _badness(box: Box, taken: Sequence[Box], frame: Box) -> float:
    """Returns how many pixels of a label are covered by others or lie outside the frame."""
    inside = _overlap(box, frame)
    outside = (box[2] - box[0]) * (box[3] - box[1]) - inside
    return 10 * outside + sum(10 * _overlap(box, other) for other in taken)


def _overlap(one: Box, other: Box) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)
