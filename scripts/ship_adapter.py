"""Makes a release file of an adapter that a study trained, with the study's figures in its metadata.

    python scripts/ship_adapter.py OUT ROW ARM -o ADAPTER.safetensors

OUT is the folder of `sptsr table STUDY.yml -o OUT`, read from where that command ran. Taken is the run of the first
seed, not of the best, and of its adapter the moving average, which is what the table measured. The metadata gains
`trained_with.metrics`, the means of that run by set and metric, and `trained_with.study`: title, commit and digest of
the study, row, arm, seed, and the arm's differences from its control with their 95 % intervals.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import sptsr
from sptsr.archs.adapter import read_adapter, save_adapter
from sptsr.core.errors import UserError
from sptsr.core.files import read_json
from sptsr.study.outputs import read_differences


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', type=Path, metavar='OUT')
    parser.add_argument('row')
    parser.add_argument('arm')
    parser.add_argument('-o', '--adapter', type=Path, required=True, metavar='FILE')
    options = parser.parse_args()
    record = read_json(options.out / 'runs.json', 'run sptsr table first')
    run, cell = first_run(record, options.row, options.arm)
    if run['adapter'] is None:
        raise UserError(f'{options.arm} trains nothing')
    adapter = read_adapter(run['adapter'])
    net = sptsr.load(run['adapter'])
    datasets = read_json(Path(cell['metrics']), 'run sptsr table again')['datasets']
    metrics = {name: {key: value['mean'] for key, value in each.items()} for name, each in datasets.items()}
    study = {key: record[key] for key in ('title', 'commit', 'study_sha256')}
    commits = run.get('commits', [str(record['commit'])])  # of who trained; older files say only who printed
    study['commit'] = ', '.join(commits) or 'not known'
    study |= {key: cell[key] for key in ('row', 'arm', 'seed')}
    study['differences'] = {
        name: {metric: dict(zip(('difference', 'low', 'high'), values, strict=True)) for metric, values in each.items()}
        for name, each in read_differences(options.out / 'table.csv', options.row, options.arm).items()
    }
    trained_with = {**adapter.trained_with, 'metrics': metrics, 'study': study}
    save_adapter(options.adapter, net, adapter.network_g, adapter.iteration, trained_with=trained_with)
    size = options.adapter.stat().st_size / 1000
    print(f'{options.adapter}: {size:.0f} kB, seed {cell["seed"]}, {adapter.iteration} iterations')


def first_run(record: dict[str, Any], row: str, arm: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the run of the first seed of an arm, and its cell."""
    cells = [(run, cell) for run in record['runs'] for cell in run['cells'] if (cell['row'], cell['arm']) == (row, arm)]
    if not cells:
        raise UserError(f"no run of row '{row}' and arm '{arm}' in runs.json")
    return min(cells, key=lambda pair: -1 if pair[1]['seed'] is None else pair[1]['seed'])


if __name__ == '__main__':
    try:
        main()
    except UserError as error:
        sys.exit(f'ship_adapter: {error}')
