"""`sptsr options`: the whole file, where each value comes from, and the schema for editors."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from sptsr.core.yaml_io import read_yaml
from sptsr.options.load import load_options
from tests.conftest import base_options, run_cli, write_options

OPTIONS = Path(__file__).parents[2] / 'options'


def test_the_whole_file_with_the_origin_of_each_value(here: Path):
    write_options(here / 'top.yml', {'base': 'train.yml', 'name': 'other', 'train': {'ema_decay': 0.5}})
    done = run_cli('options', '-opt', 'top.yml', '--force_yml', 'train:total_iter=9', cwd=here)
    assert done.returncode == 0, done.stderr
    shown = yaml.safe_load(done.stdout)
    complete = load_options(here / 'top.yml', True, '.', ['train:total_iter=9']).opt
    assert shown == json.loads(json.dumps(complete))
    origins = {}
    for line in done.stdout.splitlines():
        key, origin = re.fullmatch(r' *([^:]+):.*?(?:  # (.*))?', line).groups()  # type: ignore[union-attr]
        origins.setdefault(key, origin)
    lines = (here / 'top.yml').read_text().splitlines()
    assert origins['name'] == f'top.yml:{lines.index("name: other") + 1}'
    assert origins['ema_decay'].startswith('top.yml:')
    assert origins['batch_size_per_gpu'].startswith('train.yml:')
    assert origins['total_iter'] == '--force_yml'
    assert origins['precision'] == origins['keep_last'] == origins['tile'] == 'default'
    assert origins['phase'] == origins['models'] == 'derived'
    test = yaml.safe_load(run_cli('options', '-opt', 'test.yml', cwd=here).stdout)
    assert test['is_train'] is False
    assert not (here / 'experiments').exists()


def test_mistakes_are_reported_as_in_training(here: Path):
    done = run_cli('options', '-opt', 'train.yml', '--force_yml', 'train:ema_decy=1', 'logger:print_frq=2', cwd=here)
    assert done.returncode == 2
    assert 'train.yml: 2 mistakes' in done.stderr
    assert done.stdout == ''


def test_the_schema_has_no_options_to_override():
    done = run_cli('options', '--schema', '--force_yml', 'name=x')
    assert (done.returncode, done.stdout) == (2, '')
    assert 'leave one of it and --force_yml out' in done.stderr


@pytest.fixture(scope='module')
def schema() -> dict:
    """What `sptsr options --schema` prints."""
    done = run_cli('options', '--schema')
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_schema_says_what_each_argument_means_and_may_be(schema: dict):
    named = {}
    for rule in schema['definitions']['dataset']['allOf'] + schema['definitions']['network']['allOf']:
        named[rule['if']['properties']['type']['const']] = rule['then']['properties']
    paired = named['PriorPairedImageDataset']
    assert paired['gt_size']['description'] == 'side of a training crop, in GT pixels.'
    assert paired['use_rot'] == {'type': 'boolean', 'default': False, 'description': 'rotate by quarters at random.'}
    (modulation,) = [
        rule['then']['properties']
        for rule in named['SPTNet']['unit']['allOf']
        if rule['if']['properties']['type']['const'] == 'ModulationUnit'
    ]
    assert modulation['path']['enum'] == ['inline', 'ladder']
    assert modulation['width']['default'] == 16
    assert 'channels' not in modulation
    assert 'Patch size' in named['SwinIR']['patch_size']['description']


def test_the_schema_knows_right_from_wrong(photographs: Path, schema: dict):
    jsonschema.Draft7Validator.check_schema(schema)
    validator = jsonschema.Draft7Validator(schema)
    files = sorted([*OPTIONS.glob('train/*.yml'), *OPTIONS.glob('test/*.yml')])
    assert len(files) >= 20
    for path in files:
        assert list(validator.iter_errors(read_yaml(path)[0])) == [], path
    assert list(validator.iter_errors(base_options(photographs, trains=True))) == []
    for keys, value in (
        (('nam',), 'x'),
        (('train', 'ema_decy'), 0.9),
        (('train', 'optim_g', 'lrr'), 0.1),
        (('train', 'pixel_opt', 'los_weight'), 1),
        (('train', 'precision'), 'fp8'),
        (('network_g', 'unit', 'widht'), 3),
        (('network_g', 'backbone', 'upscal'), 3),
        (('network_g', 'num_mask'), 3),
        (('datasets', 'train', 'use_hflp'), True),
        (('val', 'metrics', 'psnr', 'test_y_chanel'), True),
        (('logger', 'print_freq'), 'often'),
    ):
        options = base_options(photographs, trains=True)
        options['train']['pixel_opt'] = dict(options['train']['pixel_opt'])
        section = options
        for key in keys[:-1]:
            section = section[key]
        section[keys[-1]] = value
        assert list(validator.iter_errors(options)), keys


def test_a_network_may_say_how_it_is_called(photographs: Path, schema: dict):
    options = base_options(photographs, trains=True)
    options['network_g']['backbone'] |= {'input': {'range': 255}, 'output': 0, 'size_multiple': 4}
    assert list(jsonschema.Draft7Validator(schema).iter_errors(options)) == []


@pytest.mark.parametrize('name', ['MyOwnNet', 'SomeUnit'])
def test_names_of_plugins_are_left_alone(photographs: Path, schema: dict, name: str):
    options = base_options(photographs, trains=True)
    options['plugins'] = ['my.py']
    options['network_g']['backbone'] = {'type': name, 'anything': 3}
    assert list(jsonschema.Draft7Validator(schema).iter_errors(options)) == []
