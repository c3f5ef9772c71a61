"""One step: what is kept in memory, what is added up, what is refused, at which learning rate."""

import copy
import math

import pytest
import torch
from torch import nn

from sptsr.archs.frozen import remember_less
from sptsr.archs.recipes import RECIPES
from sptsr.archs.spt_arch import SPTNet
from sptsr.archs.units import ModulationUnit
from sptsr.core.distributed import Ranks
from sptsr.core.errors import UserError
from sptsr.core.optim import optimizers, schedulers
from sptsr.core.registry import UNIT_REGISTRY, register
from sptsr.masks.batch import PriorBatch
from sptsr.options.keys import TRAIN_DEFAULTS
from sptsr.tuning.recompute import recompute_blocks
from sptsr.tuning.tuner import Batch, NotFinite, Tuner
from tests.archs.cases import CASES, inputs, make_net, trained

TRAIN = {
    **TRAIN_DEFAULTS,
    'optim_g': {'type': 'Adam', 'lr': 1e-2},
    'scheduler': {'type': 'MultiStepLR', 'milestones': [100]},
    'pixel_opt': {'type': 'L1Loss'},
}


def _tuner(net: SPTNet, **changes) -> Tuner:
    net.train()
    return Tuner(net, {**TRAIN, **changes}, Ranks())


def _batch(net: SPTNet, size: int = 4) -> Batch:
    lq, masks = inputs(16, 24, size)
    torch.manual_seed(5)
    gt = torch.rand_like(net(lq, PriorBatch.from_masks(masks)).detach())
    return Batch(lq, gt, PriorBatch.from_masks(masks))


def _run(net: SPTNet, channels: int) -> tuple[torch.Tensor, dict[str, torch.Tensor], int]:
    """Returns output, gradients of the adapter, and the bytes that were kept for the backward pass."""
    lq, masks = inputs(16, 24, channels=channels)
    kept = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = net(lq, masks)
    net.zero_grad()
    (output - 0.3).square().mean().backward()
    gradients = {name: p.grad.clone() for name, p in net.adapter_parameters().items() if p.grad is not None}
    return output.detach(), gradients, sum(kept.values())


def _channels(case: str) -> int:
    arch, arguments = CASES[case]
    return RECIPES[arch].resolve(arch, arguments).in_channels


@pytest.mark.parametrize('case', CASES)
def test_less_is_remembered_and_nothing_else_changes(case: str):
    net = trained(make_net(case), channels=_channels(case))
    keys = list(net.state_dict())
    output, gradients, kept = _run(net, _channels(case))
    slim = copy.deepcopy(net)
    assert remember_less(slim.backbone) > 0
    assert list(slim.state_dict()) == keys
    slim = copy.deepcopy(slim)  # as modules of a class of their own they can be copied
    new_output, new_gradients, new_kept = _run(slim, _channels(case))
    assert torch.equal(new_output, output)
    assert new_kept < kept or case == 'ECBSR'  # which computes its weights and calls functions with them
    assert new_gradients.keys() == gradients.keys() == net.adapter_parameters().keys()
    for name, gradient in gradients.items():
        scale = gradient.abs().max()
        torch.testing.assert_close(new_gradients[name], gradient, rtol=1e-3, atol=1e-5 * float(scale) + 1e-12)


@pytest.mark.parametrize('case', ['IMDN', 'EDSR', 'RCAN', 'RRDBNet x2', 'SwinIR pixelshuffle'])
def test_blocks_run_again_give_the_same_gradients(case: str):
    net = trained(make_net(case))
    output, gradients, kept = _run(net, 3)
    again = copy.deepcopy(net)
    assert recompute_blocks(again) >= len(net.sites)
    new_output, new_gradients, new_kept = _run(again, 3)
    assert torch.equal(new_output, output)
    assert new_kept < kept
    for name, gradient in gradients.items():
        assert torch.equal(new_gradients[name], gradient), name
    with torch.no_grad():
        assert torch.equal(again(*inputs(16, 24)), net(*inputs(16, 24)))


def test_single_layers_are_not_run_again():
    with pytest.raises(UserError, match='train.checkpoint: the sites of FFDNet are no blocks'):
        _tuner(make_net('FFDNet'), checkpoint=True)


def test_a_ladder_sends_nothing_back_through_the_backbone():
    net = trained(make_net('IMDN', 'ModulationUnit ladder'))
    seen = []
    for module in net.backbone.modules():
        module.register_full_backward_hook(lambda *_: seen.append(1))
    *_, kept = _run(net, 3)
    assert seen == []
    *_, inline = _run(trained(make_net('IMDN')), 3)
    assert kept < 0.5 * inline


def test_accumulated_batches_are_one_large_batch():
    one, parts = make_net('IMDN'), make_net('IMDN')
    batch = _batch(one)
    sgd = {'optim_g': {'type': 'SGD', 'lr': 1.0}}
    losses = _tuner(one, **sgd).step(batch)
    assert _tuner(parts, accumulate=2, **sgd).step(batch) == pytest.approx(losses, rel=1e-5)
    moved = 0
    for name, value in one.adapter_state().items():
        torch.testing.assert_close(parts.adapter_state()[name], value, rtol=1e-4, atol=1e-6)
        moved += not torch.equal(value, make_net('IMDN').adapter_state()[name])
    assert moved > 0


def test_the_gradient_is_clipped():
    net = trained(make_net('IMDN'))
    before = {name: value.clone() for name, value in net.adapter_state().items()}
    _tuner(net, clip_grad_norm=1e-3, optim_g={'type': 'SGD', 'lr': 1.0}).step(_batch(net))
    moves = [(value - before[name]).square().sum() for name, value in net.adapter_state().items()]
    assert math.sqrt(sum(moves)) == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize('bad', ['loss', 'gradient'])
def test_what_is_not_finite_ends_the_step_before_anything_is_changed(bad: str):
    net = trained(make_net('IMDN'))
    tuner, batch = _tuner(net), _batch(net)
    before = {name: value.clone() for name, value in net.adapter_state().items()}
    if bad == 'loss':
        batch.gt[0, 0, 0, 0] = math.nan
    else:  # the loss stays a number
        next(iter(net.adapter_parameters().values())).register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(NotFinite, match='l_pix is nan' if bad == 'loss' else 'the gradient is not finite'):
        tuner.step(batch)
    assert all(torch.equal(value, before[name]) for name, value in net.adapter_state().items())


def test_a_gradient_that_no_scale_makes_finite_ends_the_run():
    net = make_net('IMDN')
    tuner, batch = _tuner(net, precision='fp16', ema_decay=0.9), _batch(net)
    next(iter(net.adapter_parameters().values())).register_hook(lambda gradient: gradient * math.nan)
    before = {name: value.clone() for name, value in net.adapter_state().items()}
    with pytest.raises(NotFinite, match='the gradient is not finite, however small the scale of fp16'):
        for _ in range(20):  # 2^16 is halved with each
            tuner.step(batch)
    assert all(torch.equal(value, before[name]) for name, value in net.adapter_state().items())
    assert tuner.average.untrained == 1  # steps that were passed over count in no average


def test_too_little_memory_for_a_step_is_one_line():
    net = make_net('IMDN')
    tuner, batch = _tuner(net), _batch(net)

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError('CUDA out of memory')

    tuner.losses = {'l_pix': full}
    with pytest.raises(UserError, match='needs more memory than the GPU has free; lower batch_size_per_gpu'):
        tuner.step(batch)


def test_every_optimiser_makes_a_step_and_goes_on_from_its_state():
    walked = 0
    for name in sorted(optimizers()):
        net, other = make_net('IMDN'), make_net('IMDN')
        section = {'type': name} if name == 'Adafactor' else {'type': name, 'lr': 1e-3}
        tuner, again = _tuner(net, optim_g=section), _tuner(other, optim_g=section)
        batch = _batch(net)
        tuner.step(batch)
        again.load({key: copy.deepcopy(value) for key, value in tuner.state().items()}, 'state')
        for t in (tuner, again):
            t.set_rates(2)
            t.step(batch)
        states = net.adapter_state(), other.adapter_state()
        assert all(torch.equal(value, states[1][key]) for key, value in states[0].items()), name
        assert not all(torch.equal(v, make_net('IMDN').adapter_state()[k]) for k, v in states[0].items()), name
        walked += 1
    assert walked >= 10


ARGUMENTS: dict[str, dict] = {
    'MultiStepLR': {'milestones': [4, 7]},
    'MultiStepRestartLR': {'milestones': [4]},
    'StepLR': {'step_size': 3},
    'CosineAnnealingRestartLR': {'periods': [9, 9], 'restart_weights': [1, 0.5]},
    'ConstantLR': {},
    'LinearLR': {},
    'PolynomialLR': {},
    'ExponentialLR': {'gamma': 0.9},
    'CosineAnnealingLR': {'T_max': 9},
    'CosineAnnealingWarmRestarts': {'T_0': 4},
    'CyclicLR': {'base_lr': 1e-4, 'max_lr': 1e-2, 'cycle_momentum': False},
    'OneCycleLR': {'max_lr': 1e-2, 'total_steps': 20},
}


@pytest.mark.parametrize('warmup', [-1, 4])
def test_every_scheduler_gives_the_same_rates_when_resumed(warmup: int):
    walked = 0
    for name in sorted(schedulers()):
        if name not in ARGUMENTS:
            continue
        changes = {'scheduler': {'type': name, **ARGUMENTS[name]}, 'warmup_iter': warmup}

        def rates(tuner: Tuner, first: int, last: int) -> list[float]:
            found = []
            for iteration in range(first, last + 1):
                tuner.set_rates(iteration)
                found.append(tuner.optimizer.param_groups[0]['lr'])
                tuner.optimizer.step()
            return found

        whole = rates(_tuner(make_net('IMDN'), **changes), 1, 12)
        for cut in (2, 3, 5):
            tuner, again = (_tuner(make_net('IMDN'), **changes) for _ in range(2))
            rates(tuner, 1, cut)
            again.load(copy.deepcopy(tuner.state()), 'state')
            assert rates(again, cut + 1, 12) == whole[cut:], (name, cut)
        plain = rates(_tuner(make_net('IMDN'), **{**changes, 'warmup_iter': -1}), 1, 12)
        assert whole[4:] == plain[4:], name  # the schedule went on beneath the warm-up
        if warmup > 0:
            initial = _tuner(make_net('IMDN'), **changes).optimizer.param_groups[0]['initial_lr']
            assert whole[:3] == pytest.approx([initial * n / 4 for n in (1, 2, 3)])
        walked += 1
    assert walked >= 11
    assert set(schedulers()) - set(ARGUMENTS) == set()


@pytest.mark.parametrize('precision', ['bf16', 'fp16'])
def test_halves_compute_and_whole_numbers_learn(precision: str):
    net = trained(make_net('IMDN'))
    tuner = _tuner(net, precision=precision, ema_decay=0.5, channels_last=True)
    batch = _batch(net)
    losses = [tuner.step(batch)['l_pix'] for _ in range(8)]
    assert losses[-1] < losses[0]
    assert all(value.dtype == torch.float32 for value in net.adapter_state().values())
    state = tuner.state()
    assert bool(state['scaler']) == (precision == 'fp16')
    with pytest.raises(UserError, match='train.precision: .* was made with'):
        _tuner(make_net('IMDN'), ema_decay=0.5, precision='fp32' if precision == 'fp16' else 'fp16').load(state, 'x')


def test_several_losses_are_added():
    net = make_net('IMDN')
    batch = _batch(net)
    alone = _tuner(net).step(batch)
    both = _tuner(make_net('IMDN'), edge_opt={'type': 'CharbonnierLoss', 'loss_weight': 2.0}).step(batch)
    assert set(both) == {'l_pix', 'l_edge'}
    assert both['l_pix'] == alone['l_pix']


def test_the_moving_average_has_the_buffers_too():
    if 'CountingUnit' not in UNIT_REGISTRY:

        @register(UNIT_REGISTRY)
        class CountingUnit(ModulationUnit):
            """A unit with buffers."""

            def __init__(self, channels: int, width: int = 16) -> None:
                super().__init__(channels, width)
                self.norm = nn.BatchNorm2d(channels)

            def forward(self, features, prior, regions=None):
                self.norm(features)
                return super().forward(features, prior)

    net = make_net('IMDN', 'CountingUnit')
    try:
        tuner, batch = _tuner(net, ema_decay=0.5), _batch(net)
        for _ in range(2):
            tuner.step(batch)
        assert tuner.average is not None
        averages = tuner.average.tensors
        means = [name for name in averages if name.endswith('running_mean')]
        assert len(means) == 2
        for name in means:
            own, average = net.adapter_state()[name], averages[name]
            assert average.abs().max() > 0
            assert not torch.equal(own, average)
            assert averages[name.replace('running_mean', 'num_batches_tracked')] == 3
    finally:
        del UNIT_REGISTRY._obj_map['CountingUnit']
