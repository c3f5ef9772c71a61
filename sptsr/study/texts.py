"""The cells of a study's table as texts, for all forms of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from sptsr.study.cells import Cell
from sptsr.study.results import PARTS, Against, Block, Part
from sptsr.study.study_file import Study

PARTS_LEGEND = (
    'Differences with 95 % intervals. PSNR of the pixels up to 3 pixels from boundaries of masks, and of the others; '
    'of those whose smallest mask has up to 1 %, up to 10 % and more of the image; and of whole images in thirds by '
    'the figures of the frozen network (of the control where there is none).'
)
_ENGLISH = {'psnr': 'PSNR', 'ssim': 'SSIM', 'niqe': 'NIQE', 'lpips': 'LPIPS'}


def metric_name(metric: str) -> str:
    """Returns what a metric is called in tables."""
    return _ENGLISH.get(metric, metric)


def digits(metric: str) -> int:
    """Returns the decimals that a metric is shown with."""
    return 3 if 'psnr' in metric.lower() else 4


def shown(cell: Cell, metric: str) -> str:
    """Returns mean and standard deviation of a cell as plain text; `-` where there is no result."""
    if cell.mean is None:
        return '-'
    return f'{cell.mean:.{digits(metric)}f}'


def cost_columns(group: Sequence[Block]) -> list[str]:
    """Returns the columns of costs of rows that stand in one table."""
    return list(dict.fromkeys(name for block in group for costs in block.costs.values() for name in costs))


def cost_text(costs: Mapping[str, float] | None, column: str) -> str:
    """Returns a cost with three digits, or all before the point; `-` where there is none."""
    value = (costs or {}).get(column)
    if value is None:
        return '-'
    decimals = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f'{value:.{decimals}f}'


def groups(blocks: Iterable[Block]) -> list[list[Block]]:
    """Returns the rows in tables: those next to each other that have the same columns stand in one."""
    found: list[list[Block]] = []
    for block in blocks:
        if found and found[-1][0].columns == block.columns:
            found[-1].append(block)
        else:
            found.append([block])
    return found


def legend(study: Study, best: str, second: str, spread: str, published: str) -> str:
    """Returns what the marks of a table mean; the arguments are the words and signs as the form marks them."""
    seeds = len(study.seeds)
    several = f'Means over {seeds} training seeds, {spread} their standard deviation.'
    parts = [
        several if seeds > 1 else 'One training seed.',
        f'Best {best}, second {second}; where the 95 % interval of the paired difference between the first two holds '
        '0, nothing is bold and both are underlined.',
        *([f'{published} in brackets.'] if study.published else []),
    ]
    return ' '.join(parts)


def against_rows(block: Block) -> list[tuple[list[str], list[str]]]:
    """Returns a line for each column and arm: dataset, metric and arm; and what it gains over the control."""
    return [
        ([column[0], metric_name(column[1]), one.arm], _against_cells(one))
        for column in block.columns
        for one in block.against.get(column, ())
    ]


def parts_rows(block: Block) -> list[tuple[list[str], list[str]]]:
    """Returns a line for each dataset, metric and arm: these three; and the differences in `PARTS`."""
    found: dict[tuple[str, str, str], dict[str, Part]] = {}
    for part in block.parts:
        found.setdefault((part.dataset, part.metric, part.arm), {})[part.part] = part
    return [
        ([dataset, metric_name(metric), arm], [_part_cell(parts.get(part)) for part in PARTS])
        for (dataset, metric, arm), parts in found.items()
    ]


def _part_cell(part: Part | None) -> str:
    """Returns the difference in a part with the half width of its interval as text."""
    if part is None:
        return '-'
    half = '' if part.interval is None else f' ± {(part.interval[1] - part.interval[0]) / 2:.4f}'
    return f'{part.difference:+.4f}{half}'


def _against_cells(one: Against) -> list[str]:
    """Returns difference, interval, k of n, p and corrected p of an arm as texts."""
    figures = one.row.figures
    interval = '-' if figures.interval is None else '{:+.4f} to {:+.4f}'.format(*figures.interval)
    return [
        f'{figures.difference:+.4f}',
        interval,
        f'{figures.better} of {figures.images}',
        f'{figures.p:.3g}',
        f'{one.p_holm:.3g}',
    ]
