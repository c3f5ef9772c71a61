"""Numbers of the command line that mean nothing: one line, exit code 2."""

from pathlib import Path

import pytest
import yaml

from tests.conftest import run_cli, write_options

SHOW = ['prior', 'show', 'set/prior', 'rocket', '-i', 'set/LRx4', '-o', 'out', '--zoom']


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (['prior', 'verify', 'set/prior', '-i', 'set/LRx4', '--sample', '-5'], '--sample -5: must be 0 (all) or above'),
        ([*SHOW, '-1'], '--zoom -1: must be in 0..64'),
        ([*SHOW, '1000000'], '--zoom 1000000: must be in 0..64'),
        (['prior', 'shuffle', 'set/prior', '-o', 'out', '--seed', '-1'], '--seed -1: must be 0 or above'),
        (
            ['test', '-opt', 'test.yml', '--force_yml', 'datasets:test:name=[1]'],
            "'name' of PriorPairedImageDataset must be text",
        ),
        (
            ['cost', '-opt', 'small.yml', '--rounds', '1', '--size', '16', '16'],
            'gt_size: 3 is less than a pixel of the LQ',
        ),
    ],
)
def test_one_line(here: Path, arguments: list[str], said: str):
    options = yaml.safe_load(Path('train.yml').read_text())
    options['datasets']['train']['gt_size'] = 3
    write_options(Path('small.yml'), options)
    done = run_cli(*arguments)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert 'Traceback' not in done.stderr
    assert not (here / 'out').exists()
