"""The best adapter of each set and metric: kept when it is the best, whenever that is."""

import math
from pathlib import Path

import pytest

from sptsr.archs.adapter import read_adapter
from sptsr.core.errors import UserError
from sptsr.tuning.adapter_files import adopt_best
from sptsr.tuning.model import SPTModel
from sptsr.tuning.states import read_state
from sptsr.tuning.training import train_pipeline
from tests.conftest import validated_options, write_options


@pytest.fixture
def options(photographs: Path, tiny_weights: Path) -> dict:
    options = validated_options(photographs, tiny_weights)
    options['train'] |= {'total_iter': 5, 'ema_decay': 0.0}
    options['logger'] |= {'save_checkpoint_freq': 4, 'keep_last': 1}
    return options


def test_it_is_kept_when_it_is_best_and_survives_a_cut(options: dict, tmp_path: Path):
    options['train']['optim_g']['lr'] = 0.03  # from the second iteration on it spoils the network
    path = write_options(tmp_path / 'x.yml', options)
    model = train_pipeline(path, tmp_path)
    home = tmp_path / 'experiments' / 'tiny'
    files = {metric: home / 'models' / f'net_g_best_a_set_{metric}.safetensors' for metric in ('psnr', 'ssim')}
    best = model.best_metric_results['a set']
    assert any(best[metric]['iter'] not in (4, 5) for metric in files)  # where nothing else is saved
    for metric, file in files.items():
        assert read_adapter(file).iteration == best[metric]['iter']
    assert {file.name for file in (home / 'models').iterdir()} == {
        'net_g_5.safetensors',
        'net_g_latest.safetensors',
        *(file.name for file in files.values()),
    }
    assert read_state(home / 'training_states' / '5.state')['best_metric_results'] == model.best_metric_results
    content = {metric: file.read_bytes() for metric, file in files.items()}
    again = train_pipeline(path, tmp_path, auto_resume=True, force=['train:total_iter=6', 'train:optim_g:lr=1.0'])
    assert again.best_metric_results == model.best_metric_results
    assert {metric: file.read_bytes() for metric, file in files.items()} == content
    _figures(again, home)


def test_two_sets_never_share_the_file_of_their_best(options: dict, tmp_path: Path):
    (phase,) = options['datasets'].keys() - {'train'}
    options['datasets'] |= {'val_2': {**options['datasets'][phase], 'name': 'a_set'}}
    with pytest.raises(UserError, match="the best adapters of 'a set' by psnr and 'a_set' by psnr would be one file"):
        train_pipeline(write_options(tmp_path / 'x.yml', options), tmp_path)
    del options['datasets']['val_2']
    options['val']['metrics'] |= {'psnr y': options['val']['metrics']['psnr']}
    options['val']['metrics'] |= {'psnr_y': options['val']['metrics']['psnr']}
    with pytest.raises(
        UserError, match="of 'a set' by psnr y and 'a set' by psnr_y would be one file; rename a set or"
    ):
        train_pipeline(write_options(tmp_path / 'x.yml', options), tmp_path)
    assert not (tmp_path / 'experiments').exists()


def _figures(model: SPTModel, home: Path) -> None:
    """Gives a trained model figures, as a validation would."""
    file = home / 'models' / 'net_g_best_other_psnr.safetensors'
    for value in (math.nan, math.inf, -math.inf):
        assert model._note_best('other', 'psnr', value, 1) is None
        assert not file.exists()
    metric = model.opt['val']['metrics']['psnr']
    first = {'better': 'higher', 'val': 20.0, 'iter': 2, 'arguments': dict(metric)}
    assert model._note_best('other', 'psnr', 20.0, 2) == first
    assert read_adapter(file).iteration == 2
    for value in (math.nan, math.inf, 19.0, 20.0):
        best = model._note_best('other', 'psnr', value, 3)
        assert best is not None
        assert best['iter'] == 2
    metric['better'] = 'lower'  # as if the file had been changed
    second = {'better': 'lower', 'val': 21.0, 'iter': 4, 'arguments': dict(metric)}
    assert model._note_best('other', 'psnr', 21.0, 4) == second
    model.best_metric_results['other']['psnr']['val'] = math.inf  # 0.1 had that for ever
    assert model._note_best('other', 'psnr', 30.0, 5) == {**second, 'val': 30.0, 'iter': 5}
    metric['crop_border'] = 3  # figures of other pixels
    assert model._note_best('other', 'psnr', 40.0, 6) == {**second, 'val': 40.0, 'iter': 6, 'arguments': dict(metric)}
    del model.best_metric_results['other']['psnr']['arguments']  # as versions before wrote it
    assert model._note_best('other', 'psnr', 50.0, 7)['iter'] == 6


def test_the_best_of_0_1_which_has_a_number_only_is_taken_over(options: dict, tmp_path: Path):
    options['train']['total_iter'] = 4
    path = write_options(tmp_path / 'x.yml', options)
    model = train_pipeline(path, tmp_path)
    models = tmp_path / 'experiments' / 'tiny' / 'models'
    for metric in ('psnr', 'ssim'):
        (models / f'net_g_best_a_set_{metric}.safetensors').unlink()
    model.best_metric_results['a set']['psnr']['iter'] = 4
    adopt_best(models, model.best_metric_results)
    best = models / 'net_g_best_a_set_psnr.safetensors'
    assert best.read_bytes() == (models / 'net_g_4.safetensors').read_bytes()
