"""The figures of a column: means over the images that all arms have, and which arm is the best."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sptsr.evaluation.comparison import Run as Measured
from sptsr.evaluation.comparison import paired_by_seed
from sptsr.evaluation.statistics import paired_interval

Column = tuple[str, str]  # dataset, metric
_NAMED = 3


@dataclass(frozen=True)
class Cell:
    """A figure of the table.

    Attributes:
        means: of each run over the images.
        mean: over the runs; None where there is none, or where a run has none.
        sd: standard deviation over the runs; None for fewer than two.
        mark: `best`, `second`, or nothing.
        published: figure that was published for it; None where the study names none.
        images: number of images that the means are of.
    """

    means: tuple[float, ...]
    mean: float | None
    sd: float | None
    mark: str
    published: float | None
    images: int = 0


def cells_of(
    arms: Mapping[str, Sequence[Measured]],
    column: Column,
    higher: bool,
    unranked: Collection[str],
    published: Mapping[str, float | None],
) -> tuple[dict[str, Cell], list[str]]:
    """Computes a column of a row.

    All arms are averaged over the same images: those with a finite value in every run. A run without any finite value
    takes no images from the others; its arm has no mean.

    Args:
        arms: runs by arm; each has the column.
        column: dataset and metric.
        higher: a greater value is the better one.
        unranked: arms that are neither best nor second.
        published: figures by arm.

    Returns:
        cells by arm, and what has to be said of the column.
    """
    values = {arm: [one.datasets[column[0]][column[1]].values for one in found] for arm, found in arms.items()}
    tables = [table for several in values.values() for table in several]
    some = [table for table in tables if _has_any(table)]
    common = [key for key in some[0] if all(_is_finite(table, key) for table in some)] if some else []
    means = {
        arm: tuple(statistics.fmean(table[key] for key in common) for table in several)
        if common and several and all(map(_has_any, several))
        else ()
        for arm, several in values.items()
    }
    ranked = {arm: found for arm, found in arms.items() if means[arm] and arm not in unranked}
    marks = _marks(ranked, means, column, higher, common)
    cells = {
        arm: Cell(
            of_arm,
            statistics.fmean(of_arm) if of_arm else None,
            statistics.stdev(of_arm) if len(of_arm) > 1 else None,
            marks.get(arm, ''),
            published.get(arm),
            len(common) if of_arm else 0,
        )
        for arm, of_arm in means.items()
    }
    where = ', '.join(column)
    none = [arm for arm, several in values.items() if several and not all(map(_has_any, several))]
    notes = [f'{where}: {arm} has no mean, since a run of it has no image with a finite value' for arm in none]
    every = list(dict.fromkeys(itertools.chain.from_iterable(some)))
    lost = [key for key in every if key not in set(common)]
    if lost:
        named = ', '.join(lost[:_NAMED]) + (f' and {len(lost) - _NAMED} more' if len(lost) > _NAMED else '')
        notes.append(f'{where}: {len(lost)} of {len(every)} images are in no mean, not finite in every run: {named}')
    return cells, notes


def gain(
    a: Sequence[Measured], b: Sequence[Measured], column: Column, keys: Collection[str] | None = None
) -> tuple[int, float, tuple[float, float] | None] | None:
    """Returns number of images, mean of B - A and its 95 % interval; None where no image has a value in all runs.

    Args:
        a, b: the runs of two arms; those of common seeds are paired.
        column: dataset and metric.
        keys: images that are taken; None for all.
    """
    a, b = of_common_seeds(a, b)
    same_seeds, b = paired_by_seed(a, b)
    tables = [[one.datasets[column[0]][column[1]].values for one in arm] for arm in (a, b)]
    every = [table for arm in tables for table in arm]
    wanted = every[0] if keys is None else keys
    common = [key for key in wanted if all(_is_finite(table, key) for table in every)]
    if not common:
        return None
    first, second = (np.array([[table[key] for key in common] for table in arm]) for arm in tables)
    return len(common), *paired_interval(first, second, same_seeds)


def of_common_seeds(a: Sequence[Measured], b: Sequence[Measured]) -> tuple[Sequence[Measured], Sequence[Measured]]:
    """Returns the runs of the seeds that both arms have; all runs where they have none in common."""
    common = {one.seed for one in a} & {one.seed for one in b} - {None}
    if not common:
        return a, b
    return [one for one in a if one.seed in common], [one for one in b if one.seed in common]


def _marks(
    arms: Mapping[str, Sequence[Measured]],
    means: Mapping[str, Sequence[float]],
    column: Column,
    higher: bool,
    keys: Collection[str],
) -> dict[str, str]:
    """Returns which arm is the best and which the second.

    There is no best where the 95 % interval of the difference between the first two holds 0; both are then `second`.
    """
    order = sorted(arms, key=lambda arm: statistics.fmean(means[arm]), reverse=higher)
    if len(order) < 2:
        return {}
    first, second = order[:2]
    found = gain(arms[second], arms[first], column, keys)
    interval = None if found is None else found[2]
    apart = interval is not None and (interval[0] > 0 if higher else interval[1] < 0)
    return {first: 'best' if apart else 'second', second: 'second'}


def _has_any(table: Mapping[str, float]) -> bool:
    return any(map(math.isfinite, table.values()))


def _is_finite(table: Mapping[str, float], key: str) -> bool:
    return math.isfinite(table.get(key, math.nan))
