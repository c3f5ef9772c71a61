"""Training states from strangers."""

import shutil
import zipfile
from pathlib import Path

import pytest

from sptsr.core.errors import UserError
from sptsr.tuning.states import read_state

OLD = Path(__file__).parents[1] / 'old' / '0.1' / '2.state'


def test_a_state_that_unpacks_to_more_than_it_is():
    """Nothing of it is unpacked: a gigabyte of zeros takes a megabyte, and minutes to look through."""
    shutil.copy(OLD, 'x.state')
    assert read_state(Path('x.state'))['iter'] == 2
    with zipfile.ZipFile('x.state', 'a', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('archive/data/999', bytes(1 << 24))
    with pytest.raises(UserError, match=r'x\.state: not a readable training state \(it is compressed'):
        read_state(Path('x.state'))
