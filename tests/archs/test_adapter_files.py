"""Adapter files from strangers: each is read, or refused by one line."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sptsr.archs.adapter import read_adapter
from sptsr.core.errors import UserError

OLD = Path(__file__).parents[1] / 'old' / '0.1' / 'adapter_2.safetensors'
FORMAT = 'sptsr-adapter-1'


@pytest.fixture(scope='module')
def record() -> dict:
    with safe_open(OLD, framework='pt') as handle:
        record = json.loads(handle.metadata()[FORMAT])
    return {key: value for key, value in record.items() if key != 'sha256'}


HOSTILE = {
    'no JSON': 'text',
    'half of it': '{"network_g": {',
    'a list': '[]',
    'null': 'null',
    'a number': '17',
    'deep': '[' * 10_000 + ']' * 10_000,
    'deep inside': '{"network_g": ' + '{"a":' * 10_000 + '1' + '}' * 10_001,
}


@pytest.mark.parametrize('name', HOSTILE)
def test_metadata_that_is_no_record(name: str):
    save_file(load_file(OLD), 'x.safetensors', {FORMAT: HOSTILE[name]})
    with pytest.raises(
        UserError, match=r'^x\.safetensors: damaged \(its metadata is not( a)? JSON( object)?\); copy it'
    ):
        read_adapter('x.safetensors')


@pytest.mark.parametrize('value', ['absent', None, [], 1.5, True])
@pytest.mark.parametrize('key', ['network_g', 'backbone_sha256', 'iteration', 'sptsr'])
def test_a_record_that_lacks_something(record: dict, key: str, value: object):
    changed = {k: v for k, v in record.items() if k != key} if value == 'absent' else record | {key: value}
    save_file(load_file(OLD), 'x.safetensors', {FORMAT: json.dumps(changed)})
    with pytest.raises(UserError, match=rf"^x\.safetensors: damaged \(its metadata has no usable '{key}'\)"):
        read_adapter('x.safetensors')


@pytest.mark.parametrize('name', ['weight', 'others.weight', '.', ''])
def test_tensors_of_no_group(record: dict, name: str):
    save_file({**load_file(OLD), name: torch.zeros(1)}, 'x.safetensors', {FORMAT: json.dumps(record)})
    with pytest.raises(UserError, match=rf"^x\.safetensors: not an adapter \(a tensor is called '{name}'\)"):
        read_adapter('x.safetensors')


def test_the_file_as_it_was(record: dict):
    shutil.copy(OLD, 'x.safetensors')
    assert read_adapter('x.safetensors').network_g == record['network_g']
