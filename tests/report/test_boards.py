import sys
import types
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sptsr.tuning.training import train_pipeline
from tests.conftest import base_options, write_options


@pytest.fixture
def options(photographs: Path) -> dict:
    options = base_options(photographs, trains=True)
    data = options['datasets']['train']
    options['datasets']['val'] = {k: v for k, v in data.items() if k[:8] in ('dataroot', 'type')} | {'name': 'holdout'}
    options['val']['val_freq'] = 3
    options['logger'] |= {'use_tb_logger': True, 'tb_pictures': 2, 'print_freq': 2}
    return options


def test_tensorboard_gets_figures_pictures_and_masks(options: dict, tmp_path: Path):
    options['name'] = 'debug'  # BasicSR writes no losses of such a run
    train_pipeline(write_options(tmp_path / 'x.yml', options), tmp_path)
    events = EventAccumulator(str(tmp_path / 'tb_logger' / 'debug'))
    events.Reload()
    scalars = events.Tags()['scalars']
    assert {'lr', 'losses/l_pix', 'metrics/holdout/psnr', 'metrics/holdout/ssim'} <= set(scalars)
    assert [e.step for e in events.Scalars('metrics/holdout/psnr')] == [3, 6]
    assert [e.step for e in events.Scalars('lr')] == [2, 4, 6]
    assert sorted(events.Tags()['images']) == ['holdout/astronaut', 'holdout/chelsea']
    import cv2

    picture = cv2.imdecode(np.frombuffer(events.Images('holdout/chelsea')[0].encoded_image_string, np.uint8), 1)
    assert picture.shape[1] > 4 * 148  # LQ, restored, GT and masks side by side
    assert picture[60:-20].std() > 30


def test_wandb_takes_up_what_tensorboard_gets(options: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    calls = []
    fake = types.ModuleType('wandb')
    fake.__spec__ = types.SimpleNamespace(name='wandb')  # type: ignore[assignment]
    run = types.SimpleNamespace(finish=lambda: calls.append('finish'))
    fake.init = lambda **given: calls.append(given) or run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, 'wandb', fake)
    options['logger']['wandb'] = {'project': 'tests'}
    train_pipeline(write_options(tmp_path / 'x.yml', options), tmp_path)
    assert calls[0]['project'] == 'tests'
    assert calls[0]['sync_tensorboard'] is True
    assert calls[0]['name'] == 'tiny'
    assert calls[1:] == ['finish']
