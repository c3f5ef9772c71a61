"""Adapters, states, stores, option files and plug-ins of 0.1 (commit eff4d8f) go on working."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file

from sptsr.images.folder import ImageFolder
from tests.conftest import run_cli

OLD = Path(__file__).parent / 'old' / '0.1'


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with what 0.1 left behind."""
    folder = tmp_path / 'old'
    shutil.copytree(OLD, folder)
    monkeypatch.chdir(folder)
    return folder


def _test_with(adapter: str, unit: dict[str, object], key: str | None = None) -> dict[str, object]:
    options = yaml.safe_load(Path('test.yml').read_text())
    options['network_g']['unit'] = unit
    options['path'] = {'pretrain_network_g': adapter, 'param_key_g': key}
    Path('other.yml').write_text(yaml.safe_dump(options))
    result = run_cli('test', '-opt', 'other.yml')
    assert result.returncode == 0, result.stderr
    return json.loads(Path('results/old/metrics.json').read_text())


def _must_be_images_of(folder: str) -> None:
    images, expected = ImageFolder('results/old/visualization/photographs'), ImageFolder(folder)
    assert images.keys == ['chelsea', 'coffee']
    for key in images.keys:
        assert np.abs(images.read(key).astype(int) - expected.read(key)).max() <= 1


def test_a_plain_adapter_restores_the_same_images_by_the_rules_of_then(old):
    """0.1 made it with a learning rate of 0.01 and no average, and the images with it."""
    _test_with('plain.safetensors', {'type': 'PlainUnit', 'width': 4})
    _must_be_images_of('restored_plain')


@pytest.mark.parametrize('share', [0, 0.01, 0.5, 0.99])
def test_a_state_that_is_cut_off_is_refused_by_one_line(old, share):
    content = Path('2.state').read_bytes()
    Path('cut.state').write_bytes(content[: int(share * len(content))])
    before = sorted(Path().rglob('*'))
    result = run_cli('train', '-opt', 'train.yml', '--force_yml', 'path:resume_state=cut.state')
    assert result.returncode == 2
    assert re.fullmatch(r'sptsr: cut\.state: not a readable training state \(.*\); use an older one\n', result.stderr)
    assert sorted(Path().rglob('*')) == before


def test_an_adapter_and_a_store_restore_the_same_images(old):
    record = _test_with('adapter_4.safetensors', {'type': 'ModulationUnit', 'width': 4})
    before = json.loads((old / 'metrics.json').read_text())['datasets']['photographs']
    after = record['datasets']['photographs']
    for metric, tolerance in (('psnr', 0.01), ('ssim', 1e-4)):
        assert after[metric]['per_image'] == pytest.approx(before[metric]['per_image'], abs=tolerance)
    _must_be_images_of('restored')


@pytest.mark.parametrize(
    ('adapter', 'unit'),
    [
        ('ladder.safetensors', {'type': 'ModulationUnit', 'width': 4, 'path': 'ladder'}),
        ('region.safetensors', {'type': 'RegionUnit', 'width': 4}),
    ],
)
def test_adapters_of_other_units_are_read(old, adapter, unit):
    assert np.isfinite(_test_with(adapter, unit)['datasets']['photographs']['psnr']['mean'])


def test_the_last_values_and_the_average_of_one_adapter_are_tested(old):
    unit = {'type': 'ModulationUnit', 'width': 4}
    means = {}
    for key in ('params', 'params_ema', None):
        record = _test_with('adapter_4.safetensors', unit, key)
        means[key] = record['datasets']['photographs']['psnr']['mean']
        assert record['adapter']['entry'] == (key or 'params_ema')
        assert (record['adapter']['file'], record['adapter']['iteration']) == ('adapter_4.safetensors', 4)
        log = max(Path('results/old').glob('*.log'), key=lambda path: path.stat().st_mtime_ns).read_text()
        assert f'Adapter: {key or "params_ema"} of adapter_4.safetensors, iteration 4' in log
        # 0.1 averaged the untrained adapter too
        warned = 'ema_decay^iteration of its moving average is the untrained adapter' in log
        assert warned == (key != 'params')
    assert means['params'] != means['params_ema'] == means[None]


def test_a_state_goes_on_to_the_adapter_that_it_led_to(old):
    home = Path('experiments/old')
    (home / 'models').mkdir(parents=True)
    (home / 'training_states').mkdir()
    shutil.copy('adapter_2.safetensors', home / 'models' / 'net_g_2.safetensors')
    shutil.copy('2.state', home / 'training_states')
    result = run_cli('train', '-opt', 'train.yml')
    assert result.returncode == 0, result.stderr
    assert 'Going on from iteration 2' in result.stderr
    ended, expected = (load_file(path) for path in (home / 'models' / 'net_g_4.safetensors', 'adapter_4.safetensors'))
    assert ended.keys() == expected.keys()
    compared = [name for name in expected if name.startswith('params.')]
    assert len(compared) > 10
    for name in compared:
        np.testing.assert_allclose(ended[name].numpy(), expected[name].numpy(), atol=2e-6)


def test_a_store_is_described_and_verified(old):
    assert run_cli('prior', 'verify', 'set/prior', '-i', 'set/LRx4').returncode == 0
    assert 'felzenszwalb' in run_cli('prior', 'info', 'set/prior').stdout


def test_a_plug_in_with_the_imports_of_then_tunes_and_tests(old):
    options = yaml.safe_load(Path('train.yml').read_text())
    options['plugins'] = ['./plugin.py']
    options['network_g']['unit'] = {'type': 'CountUnit', 'width': 4}
    Path('count.yml').write_text(yaml.safe_dump(options))
    result = run_cli('train', '-opt', 'count.yml')
    assert result.returncode == 0, result.stderr
    assert Path('experiments/old/models/net_g_latest.safetensors').is_file()
