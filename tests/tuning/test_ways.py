"""Runs that tune the backbone itself, from the option file to the restored image."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from sptsr.archs.adapter import read_adapter
from sptsr.archs.frozen import remember_less
from sptsr.archs.spt_arch import SPTNet
from sptsr.core.distributed import Ranks
from sptsr.images.decode import decode_rgb
from sptsr.options.keys import TRAIN_DEFAULTS
from sptsr.options.load import load_options
from sptsr.options.tune import tuned_as
from sptsr.tuning.tuner import Batch, Tuner
from tests.archs.cases import CASES, inputs
from tests.conftest import run_cli, write_options

TUNES = ('all', 'bias', 'lora', 'adapter+lora')
WITHOUT_MASKS = {'adapter+lora': {'unit': {'type': 'PlainUnit'}}}


def _options(name: str, tune: str) -> dict:
    options = yaml.safe_load(Path(f'{name}.yml').read_text())
    options['network_g'] = tuned_as(options['network_g'], tune, 2 if 'lora' in tune else None)
    return options


@pytest.mark.parametrize('tune', TUNES)
def test_a_run_goes_on_exactly_and_its_file_is_tested_and_restores(here: Path, tune: str):
    train = _options('train', tune)
    train['train']['total_iter'] = 4
    write_options(here / 'x.yml', train)
    models = [here / where / 'experiments' / 'tiny' / 'models' / 'net_g_latest.safetensors' for where in ('1', '2')]
    assert run_cli('train', '-opt', 'x.yml', '--root', '1').returncode == 0
    assert run_cli('train', '-opt', 'x.yml', '--root', '2').returncode == 0
    home = models[1].parents[1]
    for file in (home / 'training_states' / '4.state', models[1].with_name('net_g_4.safetensors'), models[1]):
        file.unlink()
    done = run_cli('train', '-opt', 'x.yml', '--root', '2')  # from iteration 2 on
    assert 'Going on from iteration 2' in done.stderr
    assert models[0].read_bytes() == models[1].read_bytes()
    adapter = read_adapter(models[0])
    assert adapter.tune == tune
    assert adapter.params_ema is not None
    assert any(not torch.equal(adapter.params[n], adapter.params_ema[n]) for n in adapter.params)

    test = _options('test', tune)
    test['path'] = {'pretrain_network_g': str(models[0])}
    test['val']['save_img'] = True
    write_options(here / 'y.yml', test)
    assert run_cli('test', '-opt', 'y.yml').returncode == 0
    record = json.loads((here / 'results' / 'tiny' / 'metrics.json').read_text())
    assert record['adapter']['entry'] == 'params_ema'
    assert record['params']['trainable'] == sum(value.numel() for value in adapter.params.values())
    done = run_cli('restore', '-i', 'set/LRx4', '-o', 'out', '-a', models[0])
    assert done.returncode == 0, done.stderr
    images = sorted((here / 'results' / 'tiny' / 'visualization' / 'photographs').glob('*.png'))
    assert len(images) == 4
    for image in images:
        one, other = (decode_rgb(path.read_bytes(), path.name) for path in (image, here / 'out' / image.name))
        assert np.array_equal(one, other)


def test_mistakes_are_named_with_their_lines(here: Path):
    options = yaml.safe_load(Path('train.yml').read_text())
    options['network_g'].update(tune='al')
    path = write_options(here / 'x.yml', options)
    done = run_cli('train', '-opt', path)
    assert done.returncode == 2
    line = path.read_text().splitlines().index('  tune: al') + 1
    assert f"x.yml:{line}: network_g.tune: there is no way 'al'; did you mean 'all'?" in done.stderr
    options['network_g'].update(tune='all', rank=4)
    done = run_cli('train', '-opt', write_options(here / 'x.yml', options))
    assert '4 mistakes' in done.stderr
    for key in ('sites', 'unit', 'num_masks'):
        assert f'network_g.{key}: tune: all has no' in done.stderr
    assert 'network_g.rank: only tune: lora and adapter+lora have a rank; remove it' in done.stderr
    options['network_g'].update(tune='lora', rank='4')
    done = run_cli('train', '-opt', write_options(here / 'x.yml', options))
    assert "'rank' of SPTNet must be" in done.stderr
    assert not (here / 'experiments').exists()


def test_a_section_is_turned_into_another_way(here: Path):
    section = load_options('train.yml', True).opt['network_g']
    for tune, keys in (('all', {'tune'}), ('lora', {'tune', 'rank', 'sites'}), ('adapter', {'tune', 'sites', 'unit'})):
        found = tuned_as(section, tune, 8 if tune == 'lora' else None)
        assert found.keys() - {'num_masks'} == {'type', 'backbone', 'backbone_weights'} | keys
        SPTNet(**{key: value for key, value in found.items() if key != 'type'})
    assert tuned_as(tuned_as(section, 'lora', 8), 'bias').keys() == {'type', 'backbone', 'backbone_weights', 'tune'}


@pytest.mark.parametrize('case', ['IMDN', 'DnCNN BR', 'SwinIR pixelshuffledirect'])
@pytest.mark.parametrize('tune', TUNES)
def test_what_is_not_kept_changes_no_gradient(case: str, tune: str):
    arch, arguments = CASES[case]
    found = []
    for less in (False, True):
        torch.manual_seed(0)
        net = SPTNet({'type': arch, **arguments}, tune=tune, **WITHOUT_MASKS.get(tune, {}))
        if less:
            assert remember_less(net.backbone) > 2
        lq = inputs(16, 24)[0]
        (net(lq) - 0.3).square().mean().backward()
        found.append({name: p.grad for name, p in net.adapter_parameters().items()})
    assert found[0].keys() == found[1].keys()
    some = 0
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-7)
        some += gradient is not None and bool(gradient.any())
    # LoRA's A has none as long as B is zero, and of a unit only o
    assert some > (0.2 if tune == 'adapter+lora' else 0.4) * len(found[0])


@pytest.mark.parametrize('option', [{'precision': 'bf16'}, {'checkpoint': True}, {'accumulate': 2}])
@pytest.mark.parametrize('tune', TUNES)
def test_options_of_a_step(tune: str, option: dict):
    results = []
    for options in ({}, option):
        torch.manual_seed(0)
        net = SPTNet({'type': 'IMDN', **CASES['IMDN'][1]}, tune=tune, **WITHOUT_MASKS.get(tune, {})).train()
        lq = inputs(16, 24, 4)[0]
        train = {
            **TRAIN_DEFAULTS,
            'optim_g': {'type': 'SGD', 'lr': 1e-2},
            'scheduler': {'type': 'MultiStepLR', 'milestones': [9]},
            'pixel_opt': {'type': 'L1Loss'},
            **options,
        }
        tuner = Tuner(net, train, Ranks())
        before = torch.cat([p.detach().flatten().clone() for p in net.adapter_parameters().values()])
        gt = torch.full_like(net(lq).detach(), 0.5)
        for iteration in (1, 2):
            tuner.set_rates(iteration)
            tuner.step(Batch(lq, gt))
        results.append(torch.cat([p.detach().flatten() for p in net.adapter_parameters().values()]) - before)
    exact, other = results
    assert exact.any()
    distance = (exact - other).norm() / exact.norm()
    assert distance < (0.2 if 'precision' in option else 1e-3)
