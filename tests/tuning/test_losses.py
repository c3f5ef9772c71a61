"""Which losses a step can call, and with what."""

import pytest
import torch
from torch import nn

from sptsr.core.errors import UserError
from sptsr.core.losses import find_loss, takes_target
from sptsr.core.registry import LOSS_REGISTRY
from sptsr.options.schema import check
from sptsr.tuning.tuner import _losses

CPU = torch.device('cpu')


def test_total_variation_is_that_of_the_prediction():
    """As a weight, a GT that is black would hide all noise: WeightedTVLoss(pred, gt) is 0 there."""
    losses = _losses({'pixel_opt': {'type': 'L1Loss'}, 'tv_opt': {'type': 'WeightedTVLoss'}}, CPU)
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
    assert list(_losses({'pixel_opt': l1, 'percep_opt': l1}, CPU)) == ['l_pix', 'l_percep']
    assert list(_losses({'pixel_opt': l1, 'pix_opt': l1}, CPU)) == ['l_pixel', 'l_pix']
    assert list(_losses({'pixel_opt': l1, 'chann_opt': l1, 'channel_opt': l1}, CPU)) == [
        'l_pix',
        'l_chann',
        'l_channel',
    ]


def test_a_loss_without_a_mean_is_refused():
    loss = _losses({'pixel_opt': {'type': 'L1Loss', 'reduction': 'none'}}, CPU)['l_pix']
    with pytest.raises(UserError, match=r'train.pixel_opt: gives \[1, 3, 4, 4\] values instead of one; set reduction'):
        loss(torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4))
