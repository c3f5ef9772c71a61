"""A column of a table: what its means are of, and which arm is the best."""

from __future__ import annotations

import math

from sptsr.evaluation.comparison import Record
from sptsr.evaluation.comparison import Run as Measured
from sptsr.study.cells import Cell, cells_of

COLUMN = ('Set5', 'psnr')
OTHER = 30.0, 30.0, 30.1, 30.1


def _runs(*values: tuple[float, ...]) -> list[Measured]:
    return [
        Measured('x', seed, {'Set5': {'psnr': Record({f'image_{n}': v for n, v in enumerate(row)}, {})}}, {})
        for seed, row in enumerate(values)
    ]


def _cells(higher: bool = True, **arms: list[Measured]) -> tuple[dict[str, Cell], list[str]]:
    return cells_of(arms, COLUMN, higher, (), {'B': 29.0})


def test_all_arms_are_averaged_over_the_images_that_all_have():
    """A is better on every image; the mean of its own finite ones would be the lower."""
    cells, notes = _cells(A=_runs((math.inf, 30.10, 30.12, 30.20)), B=_runs((60.0, 30.0, 30.0, 30.1)))
    assert round(cells['A'].mean or 0, 4) == 30.14
    assert round(cells['B'].mean or 0, 4) == 30.0333
    assert (cells['A'].mark, cells['B'].mark) == ('best', 'second')
    assert cells['B'].published == 29.0
    assert notes == ['Set5, psnr: 1 of 4 images are in no mean, not finite in every run: image_0']


def test_the_best_is_told_in_the_direction_of_the_metric():
    low, high = _runs((1.0, 1.1, 1.2, 1.3)), _runs((2.0, 2.1, 2.2, 2.3))
    assert [cell.mark for cell in _cells(A=low, B=high)[0].values()] == ['second', 'best']
    assert [cell.mark for cell in _cells(False, A=low, B=high)[0].values()] == ['best', 'second']


def test_an_arm_with_a_run_without_a_finite_value_has_no_mean():
    cells, notes = _cells(A=_runs(OTHER, (math.nan,) * 4), B=_runs(OTHER, OTHER))
    assert (cells['A'].means, cells['A'].mean, cells['A'].sd, cells['A'].mark) == ((), None, None, '')
    assert cells['B'].mean == 30.05
    assert notes == ['Set5, psnr: A has no mean, since a run of it has no image with a finite value']


def test_where_no_image_is_finite_in_all_runs_nothing_has_a_mean():
    cells, notes = _cells(A=_runs((math.inf, 30.0)), B=_runs((30.0, math.nan)), C=[])
    assert {cell.mean for cell in cells.values()} == {None}
    assert notes == ['Set5, psnr: 2 of 2 images are in no mean, not finite in every run: image_0, image_1']
