"""A tiny study from its file to its table: shared runs, kills, several at a time."""

import csv
import json
import os
import re
import shutil
import time
from pathlib import Path

import pytest
import yaml

from sptsr.study.digests import digest_of_store
from sptsr.study.estimate import shown_time
from sptsr.study.handmade import take_over
from sptsr.study.steps import Slot
from sptsr.study.table import make_plan, run_plan, write_table
from tests.conftest import run_cli
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
    stores = [
        sorted(path for path in (tmp_path / name / 'runs' / 'priors').iterdir() if path.is_dir())
        for name in ('one', 'two')
    ]
    assert [path.name for path in stores[0]] == [path.name for path in stores[1]]
    assert len(stores[0]) == 1
    assert digest_of_store(str(stores[0][0])) == digest_of_store(str(stores[1][0]))

    # another study that has some of the runs, under other names, trains only what is new
    study['arms'] = {'plain': study['arms']['plain'], 'ours': study['arms']['SPT']}
    study['rows'] = {'IMDN again': {}, 'twice': {'logger': {'print_freq': 1}}}  # what is shown makes no other run
    other = make_plan(write_study(tmp_path, study), tmp_path / 'one' / 'runs')
    assert len(other.runs) == 4
    assert all(run.trained for run in other.runs)


def test_a_dry_run_lists_the_runs_with_an_estimate_and_writes_nothing(study, tmp_path):
    study['arms']['of the GT'] = {'prior': 'oracle'}
    file = write_study(tmp_path, study)
    words = ['table', file, '--runs', tmp_path / 'runs', '--dry-run', '--jobs', '4']
    done = run_cli(*words)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 9 + 2
    assert all(re.match(r'[0-9a-f]{16}  about \d+ s +IMDN, ', line) for line in lines[:9])
    assert re.fullmatch(r'9 of 9 runs are missing; about \d+ s, 4 at a time', lines[9])
    assert lines[10] == 'prior stores that are made first, and are not in the estimate: 2'
    assert {path.name for path in (tmp_path / 'runs').iterdir()} == {'digests.json'}
    assert not (tmp_path / 'results').exists()


@pytest.mark.parametrize(
    ('seconds', 'text'), [(40, '40 s'), (90, '2 min'), (3600, '60 min'), (12600, '3.5 h'), (200000, '2.3 days')]
)
def test_times_are_said_as_people_say_them(seconds, text):
    assert shown_time(seconds) == text


def test_a_training_made_by_hand_is_taken_over(study, tmp_path):
    study['arms'] = {'SPT': {}, 'plain': study['arms']['plain']}
    study['seeds'] = [5]
    file = write_study(tmp_path, study)
    options = tmp_path / 'options' / 'train.yml'
    time.sleep(1.1)  # logs are named by seconds
    done = run_cli('train', '-opt', options, '--force_yml', 'manual_seed=5', 'name=mine', 'logger:print_freq=1')
    assert done.returncode == 0, done.stderr
    mine = tmp_path / 'experiments' / 'mine' / 'models' / 'net_g_latest.safetensors'

    def taken() -> list[str]:
        plan = make_plan(file, tmp_path / 'runs')
        found = take_over(plan.runs, tmp_path / 'experiments', plan.stores.digests)
        assert all(run.adapter.read_bytes() == mine.read_bytes() for run, _ in found)
        return [run.name for run, _ in found]

    # what it trained with is newer than its start
    weights = next((tmp_path / 'options').glob('*.yml'))
    weights = Path(yaml.safe_load(weights.read_text())['network_g']['backbone_weights'])
    times = weights.stat().st_atime, weights.stat().st_mtime
    os.utime(weights)
    assert taken() == []
    os.utime(weights, times)
    assert taken() == ['IMDN, SPT, seed 5']
    assert taken() == []  # it has it now

    # gone on with by other options, it is no run of the study
    shutil.rmtree(tmp_path / 'runs')
    for total, rate in ((4, 1e-2), (6, 1e-3)):
        force = [f'train:total_iter={total}', f'train:optim_g:lr={rate}', 'manual_seed=5', 'name=mine']
        words = ['--fresh'] if total == 4 else ['--auto_resume']
        assert run_cli('train', '-opt', options, *words, '--force_yml', *force).returncode == 0
    for archived in tmp_path.glob('experiments/mine_archived_*'):  # the first one, which would do
        shutil.rmtree(archived)
    assert taken() == []
