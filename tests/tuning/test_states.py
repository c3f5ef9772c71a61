"""Training states from strangers."""

import shutil
import zipfile
from pathlib import Path

import pytest

from sptsr.core.errors import UserError
from sptsr.tuning.states import prune, put_aside_later, read_state

OLD = Path(__file__).parents[1] / 'old' / '0.1' / '2.state'


def test_a_state_that_unpacks_to_more_than_it_is():
    """Nothing of it is unpacked: a gigabyte of zeros takes a megabyte, and minutes to look through."""
    shutil.copy(OLD, 'x.state')
    assert read_state(Path('x.state'))['iter'] == 2
    with zipfile.ZipFile('x.state', 'a', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('archive/data/999', bytes(1 << 24))
    with pytest.raises(UserError, match=r'x\.state: not a readable training state \(it is compressed'):
        read_state(Path('x.state'))


def _folders(tmp_path: Path) -> tuple[Path, Path]:
    states, models = tmp_path / 'training_states', tmp_path / 'models'
    for folder, names in ((states, '{}.state'), (models, 'net_g_{}.safetensors')):
        folder.mkdir()
        for number in (300, 400, 500):
            (folder / names.format(number)).touch()
    return states, models


def test_what_lies_beyond_the_state_that_is_named_is_put_aside(tmp_path: Path):
    """It would be taken for the newest of the run: kept in place of what was just saved, and gone on from."""
    states, models = _folders(tmp_path)
    put_aside_later(states, models, 300, True)
    assert [path.name for path in states.iterdir()] == ['300.state']
    assert [path.name for path in models.iterdir()] == ['net_g_300.safetensors']
    assert {path.name for path in tmp_path.glob('training_states_archived_*/*')} == {'400.state', '500.state'}
    assert len(list(tmp_path.glob('models_archived_*/*'))) == 2


def test_the_state_that_is_named_stays(tmp_path: Path):
    states, models = _folders(tmp_path)
    prune(states, models, 1, str(states / '300.state'))
    assert sorted(path.name for path in states.iterdir()) == ['300.state', '500.state']
    assert [path.name for path in models.iterdir()] == ['net_g_500.safetensors']
