"""Runs that go back to an earlier state, or on from what a kill, a damaged file or a longer training left."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sptsr.archs.adapter import read_adapter
from sptsr.tuning.adapter_files import best_file, latest_file
from sptsr.tuning.training import train_pipeline
from tests.conftest import validated_options, write_options


@pytest.fixture
def path(photographs: Path, tiny_weights: Path, tmp_path: Path) -> str:
    options = validated_options(photographs, tiny_weights)
    options['train'] |= {'total_iter': 6, 'ema_decay': 0.0}
    options['logger'] |= {'save_checkpoint_freq': 2}
    return write_options(tmp_path / 'x.yml', options)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / 'experiments' / 'tiny'


def test_the_best_and_the_latest_of_a_run_that_is_left_are_put_aside(path: str, tmp_path: Path, home: Path):
    model = train_pipeline(path, tmp_path)
    ((dataset, by_metric),) = model.best_metric_results.items()
    files = {name: best_file(home / 'models', dataset, name) for name in by_metric}
    later = [name for name in files if by_metric[name]['iter'] > 2]
    assert later  # the training gets better
    spoiled = [f'path:resume_state={home}/training_states/2.state', 'train:optim_g:lr=3']
    records = train_pipeline(path, tmp_path, force=[*spoiled, 'train:total_iter=3']).best_metric_results[dataset]
    for name, file in files.items():
        assert file.is_file() == (name in records)
        assert name not in records or read_adapter(file).iteration == records[name]['iter'] <= 3
    assert read_adapter(latest_file(home / 'models')).iteration == 3
    aside = {file.name for file in home.glob('models_archived_*/*')}
    assert aside >= {files[name].name for name in later} | {'net_g_latest.safetensors', 'net_g_6.safetensors'}


def test_a_damaged_state_is_not_kept_in_place_of_what_was_just_saved(path: str, tmp_path: Path, home: Path):
    train_pipeline(path, tmp_path, force=['train:total_iter=4'])
    damaged = home / 'training_states' / '4.state'
    damaged.write_bytes(damaged.read_bytes()[:-500])
    train_pipeline(path, tmp_path, auto_resume=True, force=['train:total_iter=3', 'logger:keep_last=1'])
    assert [file.name for file in (home / 'training_states').iterdir()] == ['3.state']
    assert (home / 'models' / 'net_g_3.safetensors').is_file()


def test_a_longer_training_that_was_killed_at_its_end_goes_on(path: str, tmp_path: Path, home: Path):
    latest = latest_file(home / 'models')
    train_pipeline(path, tmp_path)
    before, longer = latest.read_bytes(), ['train:total_iter=8']
    train_pipeline(path, tmp_path, auto_resume=True, force=longer)
    latest.write_bytes(before)  # killed behind 8.state
    train_pipeline(path, tmp_path, force=longer)
    assert read_adapter(latest).iteration == 8
    assert [f.name for f in home.parent.iterdir() if f.name[0] != '.'] == ['tiny']  # nothing was begun anew


def test_states_without_adapters_are_put_aside_with_their_run(path: str, tmp_path: Path, home: Path):
    train_pipeline(path, tmp_path)
    shutil.rmtree(home / 'models')
    train_pipeline(path, tmp_path, force=['train:total_iter=4', 'train:optim_g:lr=1e-4'])
    assert sorted(file.name for file in (home / 'training_states').iterdir()) == ['2.state', '4.state']
    assert len(list(home.parent.glob('tiny_archived_*/training_states/6.state'))) == 1
