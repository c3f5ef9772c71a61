from pathlib import Path

import pytest

from sptsr.core.errors import UserError, nearest, one_of
from sptsr.core.files import remove_temporaries, write_atomic, write_json, write_text


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    target = tmp_path / 'a.txt'
    write_text(target, 'old')

    def fail(temporary: str) -> None:
        Path(temporary).write_text('half')
        raise RuntimeError('stop')

    with pytest.raises(RuntimeError):
        write_atomic(target, fail)
    assert target.read_text() == 'old'
    assert [p.name for p in tmp_path.iterdir()] == ['a.txt']


def test_an_unwritable_place_is_a_user_error(tmp_path: Path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match='cannot write it'):
        write_text(tmp_path / 'file' / 'below', 'x')


def test_leftovers_of_killed_writers_are_removed(tmp_path: Path):
    (tmp_path / '.tmp-abc.state').write_text('half')
    (tmp_path / '10.state').write_text('whole')
    remove_temporaries(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ['10.state']


def test_json_refuses_nan(tmp_path: Path):
    with pytest.raises(ValueError, match='JSON'):
        write_json(tmp_path / 'x.json', {'a': float('nan')})
    assert not list(tmp_path.iterdir())


def test_nearest_names():
    assert nearest('ModulatonUnit', ['ModulationUnit', 'PlainUnit']) == "; did you mean 'ModulationUnit'?"
    assert nearest('zzz', ['ModulationUnit']) == ''
    assert one_of('zzz', ['b', 'a']) == '; known: a, b'
