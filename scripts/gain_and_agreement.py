"""Draws what masks give against how well they agree with those of human annotators, one point a source of masks.

    python scripts/gain_and_agreement.py -o STEM --arm SPT --point SERIES LABEL TABLE ROW SET AGREEMENT [--point ...]

TABLE is a `table.csv` of `sptsr table`: the gain is the difference in PSNR of an arm from the control of its row, with
its 95 % interval as a bar. AGREEMENT is boundary F: the JSON file that `sptsr prior compare HUMANS STORE` writes, or a
number that it printed; `1` stands for the human masks themselves. Points of one agreement are drawn side by side.
Writes STEM.pdf, STEM.svg and STEM.csv.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sptsr.core.errors import UserError
from sptsr.core.files import read_json
from sptsr.report.figures import PAGE, Point, write_scatter
from sptsr.study.outputs import read_differences

APART = 0.02  # of boundary F, between points that are drawn side by side


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('-o', '--out', required=True, metavar='STEM')
    parser.add_argument('--arm', required=True)
    parser.add_argument('--point', nargs=6, action='append', required=True, dest='points')
    options = parser.parse_args()
    points = []
    for series, label, table, row, dataset, compared in options.points:
        gain, low, high = read_differences(Path(table), row, options.arm)[dataset]['psnr']
        points.append(Point(label, agreement(compared), gain, series, spread=(high - low) / 2))
    write_scatter(
        side_by_side(points),
        options.out,
        'boundary F against human masks (1: they themselves, side by side)',
        'gain over masks of other images (dB)',
        width=PAGE,
        height=3.2,
    )
    with open(f'{options.out}.csv', 'w', newline='', encoding='utf-8') as stream:
        lines = csv.writer(stream, lineterminator='\n')
        lines.writerow(['series', 'masks', 'boundary_f', 'gain', 'half_interval'])
        for point in points:
            lines.writerow([point.series, point.label, f'{point.x:.3f}', f'{point.y:.4f}', f'{point.spread:.4f}'])


def side_by_side(points: Sequence[Point]) -> list[Point]:
    """Returns the points in their order, those of one x moved apart around it."""
    moved = []
    for number, point in enumerate(points):
        before = sum(other.x == point.x for other in points[:number])
        after = sum(other.x == point.x for other in points[number + 1 :])
        moved.append(replace(point, x=point.x + APART * (before - after) / 2))
    return moved


def agreement(compared: str) -> float:
    """Returns a number from 0 to 1 as it is, and of a file the mean boundary F of the comparison.

    Raises:
        UserError: a number outside of that range, or a file that cannot be read.
    """
    try:
        number = float(compared)
    except ValueError:
        number = None
    if number is not None:
        if not 0 <= number <= 1:
            raise UserError(f'{compared}: boundary F lies between 0 and 1')
        return number
    return float(read_json(Path(compared), 'sptsr prior compare writes it')['mean']['boundary_f'])


if __name__ == '__main__':
    try:
        main()
    except UserError as error:
        sys.exit(f'gain_and_agreement: {error}')
