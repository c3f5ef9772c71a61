import numpy as np
import pytest

from sptsr.commands.demo import WEIGHTS, run_demo
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
    assert text.strip() in capsys.readouterr().out
    again = run_demo(tmp_path / 'demo', iterations=3)
    assert again == results
    assert not list((tmp_path / 'demo').rglob('*archived*'))


def test_the_shipped_weights_are_small():
    assert WEIGHTS.stat().st_size <= 400_000


def test_doctor_is_well_where_the_tests_run():
    lines, well = diagnose()
    assert well, lines
    assert sum(line.startswith('ok ') for line in lines) == 7


def test_a_demo_that_is_stopped_does_not_go_on_with_the_next_arm(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr('sptsr.tuning.training.train_pipeline', lambda path, *_, **__: started.append(path))
    result = run_cli('demo', '-o', tmp_path / 'demo', '--iterations', 2)
    assert result.returncode == 130
    assert len(started) == 1
