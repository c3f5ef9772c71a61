"""Malformed input of every kind: one line that names it and the remedy, exit code 2, no traceback, nothing written."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.conftest import run_cli
from tests.malformed_files import (
    ADAPTERS,
    COMMANDS,
    FORCED,
    FROM_LABELS,
    IN_THE_DATA,
    LABELS,
    STORES,
    WEIGHTS,
    changed_options,
    changed_text,
    weights_file,
)
from tests.options.test_load import BAD_YAML, MISTAKES

NOTHING = lambda root: None  # noqa: E731 (one of many rows)
TRAIN, TEST = 'train -opt train.yml', 'test -opt test.yml'
ROWS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    **{f'train, {make.__name__}': (make, TRAIN, match) for make, match in IN_THE_DATA.items()},
    **{f'test, {make.__name__}': (make, TEST, match) for make, match in IN_THE_DATA.items()},
    **{f'force {x}': (NOTHING, f'{TEST} --force_yml {shlex.quote(x)}', match) for x, match in FORCED.items()},
    **{words: (NOTHING, words, match) for words, match in COMMANDS.items()},
    **{f'option {name}': (changed_options(change), TRAIN, match) for name, (change, match) in MISTAKES.items()},
    **{
        f'yaml {n}': (changed_text(t), TRAIN, match.replace(r'x\.', r'train\.'))
        for n, (t, match) in enumerate(BAD_YAML)
    },
    **{f'labels, {name}': (make, FROM_LABELS, match) for name, (make, match) in LABELS.items()},
    **{f'store, {name}': (make, TEST, match) for name, (make, match) in STORES.items()},
    **{
        f'weights, {name}': (make, f'{TEST} --force_yml network_g:backbone_weights=bad.pth', match)
        for name, (make, match) in WEIGHTS.items()
    },
    **{
        f'adapter, {name}': (make, f'{TEST} --force_yml path:pretrain_network_g=bad.safetensors', match)
        for name, (make, match) in ADAPTERS.items()
    },
    'state, text': (NOTHING, f'{TRAIN} --force_yml path:resume_state=test.yml', 'not a readable training state'),
    'state, none': (NOTHING, f'{TRAIN} --force_yml path:resume_state=no.state', 'no such file'),
    'launcher': (NOTHING, f'{TRAIN} --launcher mpi', "invalid choice: 'mpi'"),
    'sam checkpoint': (
        weights_file(lambda p: torch.save({'a': torch.zeros(1)}, p)),
        'prior extract -i set/LRx4 -o new --source sam --set checkpoint=bad.pth',
        r'bad\.pth: ',
    ),
}


@pytest.mark.parametrize('case', ROWS)
def test_malformed_input(here: Path, case: str):
    if 'num_gpu=9' in case and torch.cuda.is_available():
        pytest.skip('this machine has a GPU')
    spoil, command, match = ROWS[case]
    spoil(here)
    before = _files(here)
    done = run_cli(*shlex.split(command), cwd=here)
    assert done.returncode == 2, done.stderr
    assert 'Traceback' not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith('sptsr')]
    assert re.search(match, done.stderr if line.endswith(' mistakes') else line), done.stderr
    # what an image says comes out by reading it
    begun = {'.log', '.yml'} if case.split(', ')[0] == 'train' else {'.log'}
    assert not {path for path in _files(here) - before if path.suffix not in begun}


def _files(root: Path) -> set[Path]:
    """Returns the files below a folder; LMDB's lock files hold nothing."""
    return {path for path in root.rglob('*') if path.is_file() and path.name not in ('writer.lock', 'lock.mdb')}


def test_there_are_a_hundred_cases():
    assert len(ROWS) >= 100
