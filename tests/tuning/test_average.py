"""How much of which iteration, and of the untrained adapter, a moving average holds: measured by known values."""

import pytest
import torch

from sptsr.archs.adapter import load_adapter, read_adapter, save_adapter
from sptsr.core.distributed import Ranks
from sptsr.core.errors import UserError
from sptsr.masks.batch import PriorBatch
from sptsr.options.keys import TRAIN_DEFAULTS
from sptsr.tuning.average import Average, plain_progress
from sptsr.tuning.tuner import Batch, Tuner
from tests.archs.cases import inputs, make_net, trained


def _weights(iterations: int, decay: float, cut: int = 0) -> torch.Tensor:
    """Returns what each iteration's values count in the average, [iterations + 1]; entry 0 is the untrained adapter.

    The average is linear, so unit vectors as values give the weights. `cut`: goes on in another average from there.
    """
    unit = torch.eye(iterations + 1, dtype=torch.float64)
    values = {'w': unit[0].clone()}
    average = Average(values, decay)
    for iteration in range(1, iterations + 1):
        values['w'].copy_(unit[iteration])
        average.update()
        if iteration == cut:
            other = Average(values, decay)
            other.load(average.tensors, average.progress())
            average = other
    assert average.untrained == average.tensors['w'][0]
    return average.tensors['w']


@pytest.mark.parametrize('decay', [0.5, 0.99, 0.999])
@pytest.mark.parametrize('iterations', [1, 20, 1000])
def test_nothing_of_the_untrained_adapter_is_left(decay: float, iterations: int):
    weights = _weights(iterations, decay)
    assert weights[0] == 0  # 0.1 had decay^iterations: 0.98 after 20 iterations of 0.999
    assert weights.sum() == pytest.approx(1)
    assert weights.min() >= 0
    assert (weights.diff() >= 0).all()  # later iterations count more
    if iterations == 20:
        assert weights[-4:].sum() > 0.5


def test_a_long_run_has_the_decay_that_was_asked_for():
    weights = _weights(600, 0.9)
    assert weights[-1] == pytest.approx(0.1)
    assert weights[-50] == pytest.approx(0.1 * 0.9**49)


def test_an_average_that_was_cut_goes_on_to_the_bit():
    assert torch.equal(_weights(60, 0.95, cut=31), _weights(60, 0.95))


def test_the_plain_average_of_old_states_goes_on_and_what_is_untrained_in_it_is_known():
    # entry 0 is the share of the untrained adapter, entry 1 that of the trained one
    values = {'w': torch.tensor([0.0, 1.0], dtype=torch.float64)}
    average = Average(values, 0.999)
    average.load({'w': torch.tensor([0.999**100, 1 - 0.999**100])}, plain_progress(100, 0.999))
    assert average.untrained == pytest.approx(0.905, abs=1e-3)
    for _ in range(100):
        average.update()
    assert average.untrained == pytest.approx(float(average.tensors['w'][0]))
    assert average.untrained < 0.01


def test_steps_take_the_adapter_into_the_average():
    net = make_net('IMDN')
    for value in net.adapter_state().values():
        value.fill_(1.0)
    train = {**TRAIN_DEFAULTS, 'ema_decay': 0.999, 'pixel_opt': {'type': 'L1Loss'}}
    train |= {'optim_g': {'type': 'SGD', 'lr': 0.0}, 'scheduler': {'type': 'StepLR', 'step_size': 9}}
    tuner = Tuner(net, train, Ranks())
    lq, masks = inputs(16, 24, 2)
    for value in net.adapter_state().values():
        value.fill_(0.25)  # a learning rate of 0 keeps it
    gt = torch.rand_like(net(lq, masks).detach())
    tuner.step(Batch(lq, gt, PriorBatch.from_masks(masks)))
    assert tuner.average is not None
    assert tuner.average.untrained == 0
    assert all((value == 0.25).all() for value in tuner.average.tensors.values())


def test_either_of_the_two_adapters_of_a_file_is_loaded(tmp_path):
    net = trained(make_net('IMDN'))
    own = {name: value.clone() for name, value in net.adapter_state().items()}
    average = {name: value + 1 for name, value in own.items()}
    both, one = tmp_path / 'both.safetensors', tmp_path / 'one.safetensors'
    save_adapter(both, net, {'backbone': {'type': 'IMDN'}}, 9, average, untrained=0.25)
    save_adapter(one, net, {'backbone': {'type': 'IMDN'}}, 9)
    assert (read_adapter(both).untrained, read_adapter(one).untrained) == (0.25, None)
    for key, expected in ((None, average), ('params', own), ('params_ema', average)):
        load_adapter(net, both, key)
        assert all(torch.equal(value, expected[name]) for name, value in net.adapter_state().items()), key
    load_adapter(net, one)
    assert all(torch.equal(value, own[name]) for name, value in net.adapter_state().items())
    with pytest.raises(UserError, match="no entry 'params_ema'; it has params$"):
        load_adapter(net, one, 'params_ema')
    with pytest.raises(UserError, match="no entry 'ema'; it has params, params_ema"):
        load_adapter(net, both, 'ema')
