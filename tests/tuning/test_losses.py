"""Which losses a step can call, and with what."""

import urllib.error
from pathlib import Path

import pytest
import torch
from torch import nn

from sptsr.archs.call import call_network
from sptsr.archs.spt_arch import SPTNet
from sptsr.core.distributed import Ranks
from sptsr.core.errors import UserError
from sptsr.core.losses import find_loss, takes_target
from sptsr.core.registry import LOSS_REGISTRY
from sptsr.masks.batch import PriorBatch
from sptsr.options.keys import TRAIN_DEFAULTS
from sptsr.options.schema import check
from sptsr.options.tune import WAYS
from sptsr.tuning.train_section import losses_of
from sptsr.tuning.tuner import Batch, Tuner
from tests.archs.cases import CASES, LADDER, inputs, make_net

CPU = torch.device('cpu')


def test_total_variation_is_that_of_the_prediction():
    """As a weight, a GT that is black would hide all noise: WeightedTVLoss(pred, gt) is 0 there."""
    losses = losses_of({'pixel_opt': {'type': 'L1Loss'}, 'tv_opt': {'type': 'WeightedTVLoss'}}, CPU)
    noise, black = torch.rand(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)
    expected = noise.diff(dim=2).abs().mean() + noise.diff(dim=3).abs().mean()
    assert losses['l_tv'](noise, black) == pytest.approx(float(expected))
    assert losses['l_pix'](noise, black) == pytest.approx(float(noise.mean()))


def test_every_registered_loss_is_called_rightly_or_refused():
    refused = {'GANLoss', 'MultiScaleGANLoss'}
    for name in refused:
        with pytest.raises(UserError, match=f'{name} is called with .* choose another loss, such as L1Loss$'):
            find_loss(name)
    called = {name: takes_target(find_loss(name)) for name in set(LOSS_REGISTRY.keys()) - refused}
    assert called == {name: name != 'WeightedTVLoss' for name in called}
    assert len(called) >= 5


@pytest.mark.parametrize('name', ['GANLoss', 'MultiScaleGANLoss'])
def test_a_loss_that_needs_more_is_named_by_the_check(name: str):
    problems = check({'train': {'pixel_opt': {'type': 'L1Loss'}, 'gan_opt': {'type': name, 'gan_type': 'hinge'}}}, True)
    (message,) = [text for path, text in problems if path[:2] == ('train', 'gan_opt')]
    assert message.startswith(f'train.gan_opt: {name} is called with (input, target_is_real)')


def test_losses_of_a_plug_in_are_called_by_what_their_forward_takes():
    class Two(nn.Module):
        def forward(self, x, y):
            return x - y

    class Reference(nn.Module):
        def forward(self, x, reference=None):
            return x if reference is None else x - reference

    class One(nn.Module):
        def forward(self, x):
            return x

    assert [takes_target(kind) for kind in (Two, Reference, One)] == [True, True, False]


def test_sections_of_one_short_name_are_both_logged():
    l1 = {'type': 'L1Loss'}
    assert list(losses_of({'pixel_opt': l1, 'percep_opt': l1}, CPU)) == ['l_pix', 'l_percep']
    assert list(losses_of({'pixel_opt': l1, 'pix_opt': l1}, CPU)) == ['l_pixel', 'l_pix']
    assert list(losses_of({'pixel_opt': l1, 'chann_opt': l1, 'channel_opt': l1}, CPU)) == [
        'l_pix',
        'l_chann',
        'l_channel',
    ]


def test_a_loss_without_a_mean_is_refused():
    with pytest.raises(UserError, match='train.pixel_opt: reduction: none gives a value a pixel; set reduction: mean'):
        losses_of({'pixel_opt': {'type': 'L1Loss', 'reduction': 'none'}}, CPU)
    loss = losses_of({'pixel_opt': {'type': 'L1Loss'}}, CPU)['l_pix']
    loss.args[1].reduction = 'none'
    with pytest.raises(UserError, match=r'train.pixel_opt: gives \[1, 3, 4, 4\] values instead of one; set reduction'):
        loss(torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4))


def test_a_loss_that_gives_nothing_is_named():
    loss = losses_of({'pixel_opt': {'type': 'L1Loss'}}, CPU)['l_pix']
    loss.args[1].forward = lambda *_: (None, None)  # BasicSR's PerceptualLoss with both weights 0
    with pytest.raises(UserError, match='train.pixel_opt: gives nothing; set one of its weights above 0'):
        loss(torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4))


def _with_stay(net: SPTNet, weight: float, **options) -> tuple[Tuner, Batch]:
    train = {
        **TRAIN_DEFAULTS,
        'optim_g': {'type': 'Adam', 'lr': 1e-3},
        'scheduler': {'type': 'MultiStepLR', 'milestones': [99]},
        'pixel_opt': {'type': 'L1Loss'},
        'stay_opt': {'type': 'L1Loss', 'loss_weight': weight},
        **options,
    }
    lq, masks = inputs(16, 24, 4)
    with torch.no_grad():
        gt = 0.5 * call_network(net.backbone, lq) + 0.3
    return Tuner(net.train(), train, Ranks()), Batch(lq, gt, PriorBatch.from_masks(masks) if net.uses_masks else None)


@pytest.mark.parametrize('way', [*WAYS, LADDER])
def test_the_stay_loss_is_the_distance_to_the_frozen_network(way: str):
    arch, arguments = CASES['IMDN']
    torch.manual_seed(0)
    net = SPTNet({'type': arch, **arguments}, tune=way) if way in WAYS else make_net('IMDN', LADDER)
    lq = inputs(16, 24, 4)[0]
    with torch.no_grad():
        frozen = call_network(net.backbone, lq)
    for options in ({}, {'accumulate': 2}):
        tuner, batch = _with_stay(net, 2.0, **options)
        before = None
        for iteration in (1, 2, 3):
            tuner.set_rates(iteration)
            with torch.no_grad():
                before = net(batch.lq, batch.masks)
            losses = tuner.step(batch)
            assert losses['l_stay'] == pytest.approx(float(2 * (before - frozen).abs().mean()), rel=1e-4, abs=1e-6)
            assert losses['l_pix'] == pytest.approx(float((before - batch.gt).abs().mean()), rel=1e-4)
        assert losses['l_stay'] > 0


def test_the_stay_loss_holds_an_adapter_back():
    moved = []
    for weight in (0.0, 4.0):
        net = make_net('IMDN')
        tuner, batch = _with_stay(net, weight)
        for iteration in range(1, 9):
            tuner.set_rates(iteration)
            tuner.step(batch)
        with torch.no_grad():
            after = net(batch.lq, batch.masks)
            with net.units_off():
                moved.append(float((after - net(batch.lq)).abs().mean()))
    assert moved[1] < 0.5 * moved[0]


def test_a_stay_loss_that_compares_with_nothing_is_refused():
    with pytest.raises(UserError, match='train.stay_opt: WeightedTVLoss compares with nothing; choose another'):
        losses_of({'pixel_opt': {'type': 'L1Loss'}, 'stay_opt': {'type': 'WeightedTVLoss'}}, CPU)


def test_a_loss_whose_weights_cannot_be_downloaded_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def no_network(url: str, *_: object, **__: object) -> None:
        raise urllib.error.URLError(f'no network for {url}')

    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setattr(torch.hub, 'download_url_to_file', no_network)
    section = {'type': 'PerceptualLoss', 'layer_weights': {'conv5_4': 1.0}}
    with pytest.raises(
        UserError, match=r'^train.percep_opt: PerceptualLoss cannot read or download its weights .*get them first$'
    ) as caught:
        losses_of({'pixel_opt': {'type': 'L1Loss'}, 'percep_opt': section}, CPU)
    assert len(str(caught.value).splitlines()) == 1
