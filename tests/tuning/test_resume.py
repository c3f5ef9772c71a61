"""A run goes on with the arguments of its option file and the progress of its state."""

import copy

import pytest
import torch

from sptsr.archs.spt_arch import SPTNet
from sptsr.core.distributed import Ranks
from sptsr.core.errors import UserError
from sptsr.core.optim import schedulers
from sptsr.options.keys import TRAIN_DEFAULTS
from sptsr.tuning.training import train_pipeline
from sptsr.tuning.tuner import Tuner
from tests.archs.cases import make_net
from tests.conftest import base_options, write_options
from tests.tuning.test_tuner import _batch

TRAIN = {
    **TRAIN_DEFAULTS,
    'optim_g': {'type': 'Adam', 'lr': 1e-2},
    'scheduler': {'type': 'MultiStepLR', 'milestones': [3], 'gamma': 0.5},
    'pixel_opt': {'type': 'L1Loss'},
}
# Arguments of a run, and those that it goes on with.
CHANGES = {
    'MultiStepLR': ({'milestones': [3, 9], 'gamma': 0.5}, {'milestones': [4, 8], 'gamma': 0.3}),
    'MultiStepRestartLR': (
        {'milestones': [4]},
        {'milestones': [2, 9], 'gamma': 0.2, 'restarts': [0, 7], 'restart_weights': [1, 0.5]},
    ),
    'CosineAnnealingRestartLR': (
        {'periods': [6], 'restart_weights': [1]},
        {'periods': [9, 9], 'restart_weights': [1, 0.5], 'eta_min': 1e-5},
    ),
    'StepLR': ({'step_size': 3}, {'step_size': 2, 'gamma': 0.7}),
    'ConstantLR': ({}, {'factor': 0.5, 'total_iters': 8}),
    'LinearLR': ({}, {'start_factor': 0.1, 'total_iters': 9}),
    'PolynomialLR': ({'total_iters': 6}, {'total_iters': 20, 'power': 2.0}),
    'ExponentialLR': ({'gamma': 0.9}, {'gamma': 0.8}),
    'CosineAnnealingLR': ({'T_max': 6}, {'T_max': 12, 'eta_min': 1e-4}),
    'CosineAnnealingWarmRestarts': ({'T_0': 4}, {'T_0': 3, 'T_mult': 2}),
    'CyclicLR': (
        {'base_lr': 1e-4, 'max_lr': 1e-2, 'cycle_momentum': False},
        {'base_lr': 1e-3, 'max_lr': 2e-2, 'step_size_up': 3, 'cycle_momentum': False},
    ),
    'OneCycleLR': ({'max_lr': 1e-2, 'total_steps': 20}, {'max_lr': 2e-2, 'total_steps': 14}),
}


@pytest.fixture(scope='module')
def net() -> SPTNet:
    return make_net('IMDN')


def _tuner(net: SPTNet, **changes: object) -> Tuner:
    return Tuner(net, {**TRAIN, **changes}, Ranks())


def _rates(tuner: Tuner, first: int, last: int) -> list[tuple[float, object]]:
    """Returns the learning rate and what takes the place of momentum (OneCycleLR changes it too) of iterations."""
    found = []
    for iteration in range(first, last + 1):
        tuner.set_rates(iteration)
        group = tuner.optimizer.param_groups[0]
        found.append((group['lr'], group['betas']))
        tuner.optimizer.step()
    return found


def test_every_scheduler_is_walked():
    assert set(schedulers()) == set(CHANGES)


@pytest.mark.parametrize('warmup', [-1, 4])
@pytest.mark.parametrize('name', CHANGES)
def test_rates_are_those_of_an_unbroken_run_with_the_arguments_of_the_file(net: SPTNet, name: str, warmup: int):
    before, after = ({'scheduler': {'type': name, **arguments}} for arguments in CHANGES[name])
    after |= {'warmup_iter': warmup, 'optim_g': {'type': 'Adam', 'lr': 3e-2, 'weight_decay': 0.1, 'betas': [0.8, 0.9]}}
    whole = _rates(_tuner(net, **after), 1, 12)
    for cut in (1, 2, 5, 6):
        tuner, again = _tuner(net, **before), _tuner(net, **after)
        _rates(tuner, 1, cut)
        again.load(copy.deepcopy(tuner.state()), 'state')
        assert _rates(again, cut + 1, 12) == whole[cut:], cut
        assert again.optimizer.param_groups[0]['weight_decay'] == 0.1


def test_moments_come_from_the_state_and_arguments_from_the_file():
    one, other = make_net('IMDN'), make_net('IMDN', seed=5)
    tuner, batch = _tuner(one), _batch(one)
    tuner.set_rates(1)
    tuner.step(batch)
    again = _tuner(other, optim_g={'type': 'Adam', 'lr': 5e-3, 'weight_decay': 0.2, 'betas': [0.5, 0.7]})
    again.load(copy.deepcopy(tuner.state()), 'state')
    group = again.optimizer.param_groups[0]
    assert (group['lr'], group['initial_lr'], group['weight_decay'], list(group['betas'])) == (
        5e-3,
        5e-3,
        0.2,
        [0.5, 0.7],
    )
    moments, expected = again.optimizer.state_dict()['state'], tuner.optimizer.state_dict()['state']
    assert len(moments) == len(expected) > 10
    for key, entry in expected.items():
        assert (moments[key]['exp_avg'] == entry['exp_avg']).all()
        assert moments[key]['step'] == 1
    assert any(entry['exp_avg'].abs().max() > 0 for entry in expected.values())


@pytest.mark.parametrize(
    ('changes', 'match'),
    [
        ({'optim_g': {'type': 'AdamW', 'lr': 1e-2}}, r'train.optim_g: AdamW, but x.state was made with Adam; say Adam'),
        (
            {'scheduler': {'type': 'CosineAnnealingLR', 'T_max': 9}},
            'train.scheduler: CosineAnnealingLR, but x.state was made with MultiStepLR',
        ),
        (
            {'optim_g': {'type': 'Adam', 'lr': 1e-2, 'amsgrad': True}},
            r'needs max_exp_avg_sq.*True \(was False\)',
        ),
        ({'ema_decay': 0.9}, 'train.ema_decay: 0.9, but x.state was made with no moving average'),
        ({'precision': 'fp16'}, 'train.precision: fp16, but x.state was made with fp32 or bf16'),
    ],
)
def test_what_cannot_go_on_is_refused_with_both_values(changes: dict, match: str):
    net = make_net('IMDN')
    tuner = _tuner(net)
    tuner.set_rates(1)
    tuner.step(_batch(net))
    with pytest.raises(UserError, match=match) as caught:
        _tuner(net, **changes).load(tuner.state(), 'x.state')
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ('key', 'value'),
    [
        ('params', 3),
        ('params_ema', {}),
        ('params_ema', 'one'),
        ('params_ema', 'other'),
        ('ema', {'updates': 'x', 'untrained': 0}),
        ('scheduler', {}),
        ('optimizer', 'moments'),
    ],
)
def test_a_state_of_other_content_is_refused(net: SPTNet, key: str, value: object):
    tuner = _tuner(net, ema_decay=0.9)
    tuner.step(_batch(net))
    state = copy.deepcopy(tuner.state())
    if value == 'one':  # of a shape that could be spread over the right one
        value = {**state[key], 'stem.0.bias': torch.zeros(1)}
    elif value == 'other':
        value = {name + '_': tensor for name, tensor in state[key].items()}
    elif value == 'moments':
        value = copy.deepcopy(state[key])
        value['state'][0]['exp_avg'] = torch.zeros(1)
    with pytest.raises(UserError, match=r'^(x\.state: not a state of such a network|train\.ema_decay: ).*--fresh'):
        _tuner(net, ema_decay=0.9).load({**state, key: value}, 'x.state')


def test_a_scheduler_that_ends_before_the_state_is_refused(net: SPTNet):
    tuner = _tuner(net, scheduler={'type': 'OneCycleLR', 'max_lr': 1e-2, 'total_steps': 20})
    _rates(tuner, 1, 9)
    short = _tuner(net, scheduler={'type': 'OneCycleLR', 'max_lr': 1e-2, 'total_steps': 5})
    with pytest.raises(UserError, match='OneCycleLR with these arguments does not reach iteration 9, which'):
        short.load(tuner.state(), 'x.state')


def test_another_name_of_one_scheduler_goes_on(net: SPTNet):
    tuner = _tuner(net)
    _rates(tuner, 1, 2)
    _tuner(net, scheduler={'type': 'MultiStepRestartLR', 'milestones': [3]}).load(tuner.state(), 'state')


def test_a_longer_run_with_longer_periods_goes_on(photographs, tiny_weights, tmp_path):
    options = base_options(photographs, trains=True)
    options['network_g']['backbone_weights'] = str(tiny_weights)
    options['train']['scheduler'] = {'type': 'CosineAnnealingRestartLR', 'periods': [4], 'eta_min': 1e-6}
    options['train']['total_iter'] = 4
    train_pipeline(write_options(tmp_path / 'x.yml', options), tmp_path)
    options['train'] |= {'total_iter': 7, 'optim_g': {'type': 'Adam', 'lr': 2e-3}}
    options['train']['scheduler']['periods'] = [8]
    path = write_options(tmp_path / 'x.yml', options)
    model = train_pipeline(path, tmp_path, auto_resume=True)
    whole = Tuner(make_net('IMDN'), {**TRAIN_DEFAULTS, **options['train']}, Ranks())
    assert model.tuner.iteration == 7
    assert model.get_current_learning_rate() == [rate for rate, _ in _rates(whole, 1, 7)[-1:]]
