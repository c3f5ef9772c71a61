"""Release files of adapters: `scripts/ship_adapter.py`, and the files that the repository holds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sptsr.archs.adapter import read_adapter, save_adapter
from sptsr.archs.spt_arch import SPTNet
from sptsr.commands.demo import NETWORK, WEIGHTS
from sptsr.study.outputs import read_differences

ROOT = Path(__file__).parents[2]
KEYS = ('difference', 'low', 'high')
SHIPPED = sorted((ROOT / 'docs' / 'results' / 'adapters').glob('*.safetensors'))


def ship(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / 'scripts' / 'ship_adapter.py'), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_a_release_file_holds_the_average_and_the_figures_of_the_first_seed(tmp_path):
    runs = []
    for seed in (1, 0):
        _write_adapter(tmp_path / f'{seed}.safetensors', seed)
        metrics = {'datasets': {'B100': {'psnr': {'mean': 27.5 + seed, 'per_image': {}}}}}
        (tmp_path / f'{seed}.json').write_text(json.dumps(metrics))
        cell = {'row': 'IMDN', 'arm': 'SPT', 'seed': seed, 'metrics': f'{seed}.json'}
        runs.append({'adapter': f'{seed}.safetensors', 'cells': [cell]})
    runs.append({'adapter': None, 'cells': [{'row': 'IMDN', 'arm': 'frozen', 'seed': None, 'metrics': '0.json'}]})
    record = {'title': 'T', 'commit': 'abc', 'study_sha256': 'def', 'runs': runs}
    (tmp_path / 'runs.json').write_text(json.dumps(record))
    (tmp_path / 'table.csv').write_text(
        'row,arm,dataset,metric,mean,difference,low,high\nIMDN,other,B100,psnr,27,,,\nIMDN,SPT,B100,psnr,27,0.5,0.4,0.6\n'
        'IMDN,SPT,B100,psnr boundary,,0.9,0.8,1.0\n'
    )
    done = ship('.', 'IMDN', 'SPT', '-o', 'out.safetensors', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    source, made = read_adapter(tmp_path / '0.safetensors'), read_adapter(tmp_path / 'out.safetensors')
    assert made.params_ema is None
    assert source.params_ema is not None
    assert all(torch.equal(made.params[name], value) for name, value in source.params_ema.items())
    assert made.trained_with['seed'] == 0
    assert made.trained_with['metrics'] == {'B100': {'psnr': 27.5}}
    assert made.trained_with['study'] == {
        'title': 'T', 'commit': 'abc', 'study_sha256': 'def', 'row': 'IMDN', 'arm': 'SPT', 'seed': 0,
        'differences': {'B100': {'psnr': {'difference': 0.5, 'low': 0.4, 'high': 0.6}}},
    }  # fmt: skip
    for words, said in ((('X', 'SPT'), "no run of row 'X'"), (('IMDN', 'frozen'), 'frozen trains nothing')):
        failed = ship('.', *words, '-o', 'no.safetensors', cwd=tmp_path)
        assert failed.returncode == 1
        assert said in failed.stderr
        assert not (tmp_path / 'no.safetensors').exists()


def _write_adapter(path: Path, seed: int) -> None:
    torch.manual_seed(seed)
    section = {'backbone': NETWORK, 'backbone_weights': str(WEIGHTS), 'unit': {'type': 'ModulationUnit'}}
    net = SPTNet(**section)
    average = {name: value + 0.01 for name, value in net.adapter_state().items()}
    save_adapter(path, net, {'type': 'SPTNet', **section}, 10, average, trained_with={'seed': seed})


@pytest.mark.parametrize('path', SHIPPED, ids=lambda path: path.stem)
def test_shipped_adapters_are_small_and_say_what_the_table_says(path):
    assert path.stat().st_size < 400_000
    said = read_adapter(path).trained_with
    study = said['study']
    notes = (ROOT / 'docs' / 'results').glob('*/runs.json')
    (folder,) = (note.parent for note in notes if json.loads(note.read_text())['study_sha256'] == study['study_sha256'])
    told = read_differences(folder / 'table.csv', study['row'], study['arm'])
    assert study['differences'].keys() == told.keys()
    for name, metrics in study['differences'].items():
        assert {metric: tuple(each[key] for key in KEYS) for metric, each in metrics.items()} == told[name]
    assert not Path(said['prior']['params'].get('dir', '')).is_absolute()


def test_adapters_are_shipped():
    assert len(SHIPPED) >= 2
