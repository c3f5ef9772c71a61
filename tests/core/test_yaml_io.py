"""YAML from strangers: bounded in depth, size and time, and plain values only."""

import os
from pathlib import Path

import pytest

from sptsr.core.errors import UserError
from sptsr.core.yaml_io import read_scalar, read_yaml

BAD = {
    'deep lists': 'a: ' + '[' * 5000 + ']' * 5000,
    'deep sections': 'a: ' + '{b: ' * 5000 + '1' + '}' * 5000,
    'many values': 'a: [' + '1, ' * 100_000 + '1]',
    'large': '# ' + 'x' * 3_000_000 + '\na: 1',
    'huge number': 'a: ' + '9' * 6000,
    'more than 64 bits': 'a: 9223372036854775808',
    'no number': 'a: .nan',
    'NUL': 'a: "x\\0y"',
    'control character': 'a: "x\\x07y"',
    'raw control character': 'a: x\x01y',
    'surrogate': 'a: "\\ud800"',
    'key with NUL': '"a\\0": 1',
    'key that is a list': '? [1, 2]\n: 3',
    'binary': 'a: !!binary aGVsbG8=',
    'set': 'a: !!set {b, c}',
    'date tag': 'a: !!timestamp 2001-99-99',
    'tag of another kind': 'a: !!bool foo',
    'empty number': 'a: !!int ""',
    'number that is none': 'a: !!float x',
    'self-containing list': 'a: &a [*a, 1]',
    'self-containing section': 'a: &a {b: *a}',
}


@pytest.mark.parametrize('case', BAD)
def test_a_bad_value_is_one_line(tmp_path: Path, case: str):
    path = tmp_path / 'x.yml'
    path.write_text(BAD[case])
    with pytest.raises(UserError, match=r'x\.yml') as caught:
        read_yaml(path)
    assert '\n' not in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(path))


@pytest.mark.parametrize('case', sorted(set(BAD) - {'large', 'many values', 'key that is a list', 'key with NUL'}))
def test_a_bad_value_of_the_command_line_is_one_line(case: str):
    with pytest.raises(UserError, match='not readable as a YAML value') as caught:
        read_scalar(BAD[case].removeprefix('a: '))
    assert len(str(caught.value)) < 300


def test_dates_and_signs_are_text(tmp_path: Path):
    path = tmp_path / 'x.yml'
    path.write_text('a: 2001-99-99\nb: 2001-12-14\nc: =\n1: d\n')
    assert read_yaml(path)[0] == {'a': '2001-99-99', 'b': '2001-12-14', 'c': '=', '1': 'd'}
    assert read_scalar('{1: {}}') == {'1': {}}


def test_numbers_are_those_of_yaml_1_2():
    for text in ('4:00:00', '12:30', '0010', '012', '1_000', '+1_0.5', '0b11', '1.2.3', '4:00.5'):
        assert read_scalar(text) == text
    numbers = {
        '0': 0,
        '-3': -3,
        '+5': 5,
        '0x1F': 31,
        '1e-4': 1e-4,
        '2E3': 2000.0,
        '.5': 0.5,
        '-1.': -1.0,
        '1.5e+2': 150.0,
    }
    for text, value in numbers.items():
        assert read_scalar(text) == value
        assert type(read_scalar(text)) is type(value)


def test_sections_that_merge_one_section_again_and_again(tmp_path: Path):
    """PyYAML before 6.0.4 keeps each key as often as it is merged: ten times as much memory a level."""
    inner = '{' + ', '.join(f'k{n}: 1' for n in range(10)) + '}'
    for level in range(12):
        inner = f'{{<<: [&a{level} {inner}, {", ".join([f"*a{level}"] * 9)}]}}'
    (tmp_path / 'x.yml').write_text(f'x: {inner}\n')
    assert read_yaml(tmp_path / 'x.yml')[0] == {'x': {f'k{n}': 1 for n in range(10)}}


def test_files_that_are_no_files(tmp_path: Path):
    os.mkfifo(tmp_path / 'pipe.yml')
    (tmp_path / 'bytes.yml').write_bytes(b'a: \xff\xfe')
    for path in (tmp_path / 'pipe.yml', tmp_path, '/dev/zero', '/dev/stdin'):
        with pytest.raises(UserError, match='not a regular file|cannot read it'):
            read_yaml(path)
    with pytest.raises(UserError, match='not UTF-8'):
        read_yaml(tmp_path / 'bytes.yml')
    with pytest.raises(UserError, match=r"^'a.x00b': cannot read it"):
        read_yaml('a\0b')


def test_an_alias_of_a_section_that_overrides_what_it_merges(tmp_path: Path):
    text = 'common: &c {flip: true, size: 96}\ntrain: &t\n  <<: *c\n  size: 192\nval: *t\n'
    (tmp_path / 'a.yml').write_text(text)
    content, _ = read_yaml(tmp_path / 'a.yml')
    assert content['train'] == content['val'] == {'flip': True, 'size': 192}
    (tmp_path / 'a.yml').write_text(text.replace('  size: 192\n', '  size: 192\n  size: 128\n'))
    with pytest.raises(UserError, match="'size' stands twice"):
        read_yaml(tmp_path / 'a.yml')


def test_aliases_do_not_nest_deeper_than_what_is_written(tmp_path: Path):
    path, deep = tmp_path / 'x.yml', '[' * 40
    path.write_text(f'a: &a {deep}1{deep.replace("[", "]")}\nb: &b {deep}*a{deep.replace("[", "]")}\n')
    with pytest.raises(UserError, match=r'x\.yml:1: nested more than 50 deep'):
        read_yaml(path)
