"""What is refused or said before a training makes its first step."""

from pathlib import Path

import pytest

from sptsr.core.errors import UserError
from sptsr.tuning.training import train_pipeline
from tests.conftest import base_options, write_options


@pytest.fixture
def options(photographs: Path, tiny_weights: Path) -> dict:
    options = base_options(photographs, trains=True)
    options['network_g']['backbone_weights'] = str(tiny_weights)
    return options


def test_training_a_bare_network_is_refused(options: dict, tmp_path: Path):
    options['network_g'] = options['network_g']['backbone']
    with pytest.raises(UserError, match='only an SPTNet is tuned'):
        train_pipeline(write_options(tmp_path / 'x.yml', options), tmp_path)
    assert not (tmp_path / 'experiments').exists()


@pytest.mark.parametrize('phase', ['train', 'val'])
def test_a_unit_with_masks_needs_priors(options: dict, tmp_path: Path, phase: str):
    options['datasets']['val'] = {**options['datasets']['train'], 'name': 'val'}
    options['datasets'][phase].pop('dataroot_prior')
    path = write_options(tmp_path / 'x.yml', options)
    with pytest.raises(UserError, match=f'datasets.{phase}: the unit uses masks, and this set has none'):
        train_pipeline(path, tmp_path / 'a')
    assert not (tmp_path / 'a').exists()
    train_pipeline(path, tmp_path / 'b', force=['network_g:unit:type=PlainUnit'])


def test_a_process_works_on_one_gpu(options: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr('torch.cuda.is_available', lambda: True)
    monkeypatch.setattr('torch.cuda.device_count', lambda: 4)
    options['num_gpu'] = 4
    with pytest.raises(UserError, match=r'num_gpu: 4, but a process works on one GPU; start one for each \(torchrun'):
        train_pipeline(write_options(tmp_path / 'x.yml', options), tmp_path)
    assert not (tmp_path / 'experiments').exists()


def test_a_backbone_without_weights_is_said(options: dict, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    del options['network_g']['backbone_weights']
    train_pipeline(write_options(tmp_path / 'x.yml', options), tmp_path, quiet=True)
    assert 'network_g.backbone_weights is not set: unless IMDN reads its weights itself' in capfd.readouterr().err
