"""A tiny study from its file to its table: shared runs, kills, several at a time."""

import csv
import json
from pathlib import Path

from sptsr.study.pool import Slot
from sptsr.study.table import make_plan, run_plan, write_table
from tests.study.conftest import write_study
from tests.study.forks import start_fork


def run_study(file: Path, folder: Path, jobs: int = 1) -> dict[str, bytes]:
    """Runs a study in `folder`, each step in a fork; returns the files of its table."""
    plan = make_plan(file, folder / 'runs')
    assert run_plan(plan, [Slot()] * jobs, start=start_fork, quiet=True) == []
    write_table(plan, folder / 'out')
    return {path.name: path.read_bytes() for path in (folder / 'out').iterdir()}


def test_a_study_from_its_file_to_its_table(study, tmp_path):
    file = write_study(tmp_path, study)
    files = run_study(file, tmp_path / 'one')
    rows = list(csv.DictReader(files['table.csv'].decode().splitlines()))
    cells = {(row['arm'], row['metric']): row for row in rows}
    assert cells['frozen', 'psnr']['runs'] == '1'
    assert cells['SPT', 'psnr']['runs'] == '2'
    assert cells['SPT', 'psnr']['sd'] != cells['frozen', 'psnr']['sd'] == ''
    assert cells['plain', 'psnr']['p_holm'] == ''  # the control
    assert float(cells['SPT', 'psnr']['low']) < float(cells['SPT', 'psnr']['difference'])
    per_image = list(csv.DictReader(files['per_image.csv'].decode().splitlines()))
    values = [float(r['value']) for r in per_image if (r['arm'], r['metric'], r['seed']) == ('SPT', 'psnr', '1')]
    assert len(values) == 4
    record = json.loads(files['runs.json'])
    assert len(record['runs']) == 7  # frozen, and three arms with two seeds
    assert all(run['done'] for run in record['runs'])
    text = files['table.md'].decode()
    assert text.startswith('# Tiny\n')
    assert 'masks of other images' in text
    # two at a time give the same table, byte for byte
    twice = run_study(file, tmp_path / 'two', jobs=2)
    assert twice['table.csv'] == files['table.csv']
    assert twice['per_image.csv'] == files['per_image.csv']

    # another study that has some of the runs, under other names, trains only what is new
    study['arms'] = {'plain': study['arms']['plain'], 'ours': study['arms']['SPT']}
    study['rows'] = {'IMDN again': {}, 'twice': {'logger': {'print_freq': 1}}}  # what is shown makes no other run
    other = make_plan(write_study(tmp_path, study), tmp_path / 'one' / 'runs')
    assert len(other.runs) == 4
    assert all(run.trained for run in other.runs)
