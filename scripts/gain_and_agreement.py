"""Draws what masks give against how well they agree with those of human annotators, one point a source of masks.

    python scripts/gain_and_agreement.py -o STEM --arm SPT --point SERIES LABEL TABLE ROW SET COMPARED [--point ...]

TABLE is a `table.csv` of `sptsr table`: the gain is the difference in PSNR of an arm from the control of its row, with
its 95 % interval as a bar. COMPARED is the JSON file that `sptsr prior compare HUMANS STORE` writes; `1` stands for the
human masks themselves. The agreement is boundary F. Writes STEM.pdf, STEM.svg and STEM.csv.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

from sptsr.core.errors import UserError
from sptsr.core.files import read_json
from sptsr.report.figures import Point, write_scatter
from sptsr.study.outputs import read_differences


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
        points, options.out, 'boundary F against human masks', 'gain over masks of other images (dB)', height=2.8
    )
    with open(f'{options.out}.csv', 'w', newline='', encoding='utf-8') as stream:
        lines = csv.writer(stream, lineterminator='\n')
        lines.writerow(['series', 'masks', 'boundary_f', 'gain', 'half_interval'])
        for point in points:
            lines.writerow([point.series, point.label, f'{point.x:.3f}', f'{point.y:.4f}', f'{point.spread:.4f}'])


def agreement(compared: str) -> float:
    """Returns the mean boundary F of a comparison."""
    if compared == '1':
        return 1.0
    return float(read_json(Path(compared), 'sptsr prior compare writes it')['mean']['boundary_f'])


if __name__ == '__main__':
    try:
        main()
    except UserError as error:
        sys.exit(f'gain_and_agreement: {error}')
