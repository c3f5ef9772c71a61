"""Option files as BasicSR's users have them."""

from pathlib import Path

from sptsr.options.load import load_options
from tests.conftest import base_options, write_options


def test_files_of_basicsr_are_read_as_they_are_written(photographs: Path, tmp_path: Path):
    options = base_options(photographs, trains=True)
    options['train'] |= {'total_iter': 6.0, 'perceptual_opt': None}
    options['train']['scheduler'] = {'type': 'MultiStepLR', 'milestones': [4.0]}
    options['val']['val_freq'] = 5e3
    options |= {'manual_seed': None}
    found = load_options(write_options(tmp_path / 'x.yml', options), True, tmp_path)
    train = found.opt['train']
    numbers = train['total_iter'], train['scheduler']['milestones'], found.opt['val']['val_freq']
    assert repr(numbers) == '(6, [4], 5000)'
    assert 'perceptual_opt' not in train
    assert found.opt['manual_seed'] == 0
