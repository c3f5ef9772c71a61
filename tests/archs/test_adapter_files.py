"""Adapter files from strangers: each is read, or refused by one line."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import sptsr
from sptsr.archs.adapter import read_adapter
from sptsr.archs.sites import check_patterns
from sptsr.archs.spt_arch import SPTNet
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


@pytest.mark.parametrize(
    'pattern',
    [
        're:((.|.|.|.)+)+!',
        're:(([A-Za-z0-9_.])+)+!',
        're:(?x)(.+) +!',
        're:.*.*.*.*.*!',
        're:(.|.)(.|.)(.|.)(.|.)(.|.)!',
    ],
)
@pytest.mark.parametrize('key', ['sites', 'lora_sites'])
def test_patterns_that_match_for_ever_are_refused(record: dict, key: str, pattern: str):
    lora = {'tune': 'adapter+lora'} if key == 'lora_sites' else {}
    network = record['network_g'] | lora | {key: [pattern]}
    save_file(load_file(OLD), 'x.safetensors', {FORMAT: json.dumps(record | {'network_g': network})})
    with pytest.raises(UserError, match=rf"^x\.safetensors: {key}: '{re.escape(pattern)}' may take for ever"):
        sptsr.load('x.safetensors', {'type': 'IMDN', 'nf': 16, 'upscale': 4})


def test_patterns_of_honest_adapters_are_taken():
    check_patterns(['IMDB*', r're:body\.\d*[13]', r're:(?:layers|body)\.[0-9]+\.conv[12]?', r're:IMDB(1|3|5)'])


def test_the_file_as_it_was(record: dict):
    shutil.copy(OLD, 'x.safetensors')
    assert read_adapter('x.safetensors').network_g == record['network_g']


@pytest.mark.parametrize('iteration', [1000.0, -1, True, 10**13])
def test_what_could_not_be_read_is_not_written(iteration: object, tmp_path: Path):
    net = sptsr.attach({'type': 'IMDN', 'nf': 16, 'upscale': 4}, num_masks=4, width=4)
    with pytest.raises(UserError, match='is not a whole number from 0 on'):
        sptsr.save(net, tmp_path / 'a.safetensors', iteration=iteration)
    assert list(tmp_path.iterdir()) == []


def test_arguments_of_attach_are_checked():
    for arguments, said in (
        ({'num_masks': 'x'}, 'num_masks'),
        ({'num_masks': 65}, 'num_masks'),
        ({'sites': 3}, 'sites'),
    ):
        with pytest.raises(UserError, match=said):
            sptsr.attach({'type': 'IMDN', 'nf': 16, 'upscale': 4}, **arguments)
    with pytest.raises(UserError, match='attach: a list is no network'):
        sptsr.attach([1])
    with pytest.raises(UserError, match='maps names none'):
        sptsr.attach({'type': 'IMDN', 'nf': 16, 'upscale': 4}, stem={'type': 'geometry', 'maps': []})


def test_sites_and_numbers_of_other_types_are_taken(tmp_path: Path):
    tiny = {'type': 'IMDN', 'nf': 16, 'upscale': 4}
    wanted = sptsr.attach(tiny, sites=['IMDB1', 'IMDB2'], num_masks=5)
    for sites in (('IMDB1', 'IMDB2'), (name for name in ('IMDB1', 'IMDB2')), {'IMDB1': 1, 'IMDB2': 2}.keys()):
        net = sptsr.attach(tiny, sites=sites, num_masks=np.int64(5))
        assert net.options == wanted.options
    sptsr.save(net, tmp_path / 'a.safetensors', iteration=np.int64(7))
    assert read_adapter(tmp_path / 'a.safetensors').iteration == 7


def test_a_unit_without_its_type_is_the_default_one():
    net = SPTNet({'type': 'IMDN', 'nf': 16, 'upscale': 4}, unit={'width': 4})
    assert net.options['unit'] == {'type': 'ModulationUnit', 'width': 4}
