import os
from pathlib import Path

import pytest

from sptsr.core.errors import UserError, nearest, one_of, shortened
from sptsr.core.files import (
    parse_json,
    read_bounded,
    remove_temporaries,
    sha256_file,
    write_atomic,
    write_json,
    write_text,
)
from sptsr.priors.one_image import make_prior
from sptsr.tuning.states import read_state


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


def test_special_files_are_not_opened(tmp_path: Path):
    """A pipe without a writer would be waited for, and /dev/zero never ends."""
    os.mkfifo(tmp_path / 'pipe')
    for path in (tmp_path / 'pipe', '/dev/zero'):
        with pytest.raises(UserError, match='not a regular file but a folder, pipe or device'):
            read_bounded(path, 9)
        with pytest.raises(UserError, match='is a (FIFO|device), not a file'):
            sha256_file(path)
        with pytest.raises(UserError, match='is a (FIFO|device), not a file'):
            read_state(Path(path))
        with pytest.raises(UserError, match='is a (FIFO|device), not a file'):
            make_prior(path)


def test_what_is_read_has_a_bound(tmp_path: Path):
    (tmp_path / 'x').write_bytes(bytes(10))
    assert read_bounded(tmp_path / 'x', 10) == bytes(10)
    with pytest.raises(UserError, match='x: 10 bytes, and at most 9 are read; leave it'):
        read_bounded(tmp_path / 'x', 9, 'leave it')
    for name in ('none', 'a\0b', '\ud800', 'n' * 5000):
        with pytest.raises(UserError, match='cannot read it'):
            read_bounded(tmp_path / name, 9)


@pytest.mark.parametrize(
    'text', ['NaN', '-Infinity', '1e999', '[' * 100_000, '{"a": 1, "a": 2}', '9' * 5000, '', b'\xff', '{']
)
def test_json_of_strangers(text: str | bytes):
    with pytest.raises(ValueError):  # noqa: PT011 (of any text)
        parse_json(text)


def test_long_lines_are_cut_for_a_terminal():
    assert shortened('a\nb') == 'a\nb'
    cut = shortened('x' * 10_000 + '; do this\nshort')
    assert len(cut) < 1100
    assert cut.endswith('; do this\nshort')
