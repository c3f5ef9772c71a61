import shlex
from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest

import sptsr
from sptsr.archs.spt_arch import SPTNet
from sptsr.commands.demo import NETWORK, WEIGHTS, run_demo
from sptsr.commands.doctor import diagnose
from sptsr.images.folder import ImageFolder
from tests.conftest import run_cli


def test_demo_runs_twice_and_leaves_what_it_says(tmp_path, capsys: pytest.CaptureFixture[str]):
    results = run_demo(tmp_path / 'demo', iterations=3)
    assert list(results) == ['frozen', 'PlainUnit', 'ModulationUnit']
    # the figure of the shipped weights: scripts/pretrain_demo_net.py made them
    assert results['frozen']['psnr']['mean'] == pytest.approx(30.179, abs=0.01)
    pictures = ImageFolder(tmp_path / 'demo', include=['masks', 'before_after'])
    assert all(np.ptp(pictures.read(key)) == 255 for key in pictures.keys)
    assert len(pictures) == 2
    text = (tmp_path / 'demo' / 'report.txt').read_text()
    said = capsys.readouterr().out
    assert text.strip() in said
    words = shlex.split(said.splitlines()[-1])
    assert words[:2] == ['sptsr', 'restore']
    photo = tmp_path / 'demo' / 'data' / 'test' / 'LRx4' / 'chelsea.png'
    restored = run_cli(*(photo if word == 'PHOTOS' else word for word in words[1:]))
    assert restored.returncode == 0, restored.stderr
    assert 'was trained with' not in restored.stderr
    by_test = ImageFolder(tmp_path / 'demo' / 'results' / 'demo_ModulationUnit' / 'visualization' / 'photographs')
    difference = ImageFolder('restored').read('chelsea').astype(int) - by_test.read('chelsea')
    assert np.abs(difference).max() <= 1
    again = run_demo(tmp_path / 'demo', iterations=3)
    assert again == results
    assert not list((tmp_path / 'demo').rglob('*archived*'))


def test_doctor_says_that_sptsr_is_not_installed(monkeypatch):
    def absent(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr('sptsr.commands.doctor.requires', absent)
    lines, well = diagnose()
    assert not well
    assert any('not installed' in line and 'pip install -e .' in line for line in lines)


def test_the_shipped_weights_are_small():
    assert WEIGHTS.stat().st_size <= 400_000


def test_doctor_is_well_where_the_tests_run():
    lines, well = diagnose()
    assert well, lines
    assert sum(line.startswith('ok ') for line in lines) == 8


def test_a_demo_that_is_stopped_does_not_go_on_with_the_next_arm(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr('sptsr.tuning.training.train_pipeline', lambda path, *_, **__: started.append(path))
    result = run_cli('demo', '-o', tmp_path / 'demo', '--iterations', 2)
    assert result.returncode == 130
    assert len(started) == 1


def test_an_adapter_of_the_demo_finds_the_shipped_weights_on_another_machine(tmp_path):
    net = SPTNet(NETWORK, backbone_weights=str(WEIGHTS), unit={'type': 'PlainUnit'})
    net.options['backbone_weights'] = f'/somewhere/else/{WEIGHTS.name}'
    sptsr.save(net, tmp_path / 'a.safetensors')
    assert sptsr.load(tmp_path / 'a.safetensors').backbone_digest() == net.backbone_digest()
