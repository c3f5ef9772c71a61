"""Finding sites in any network, and refusing those that cannot take a unit."""

import pytest
import torch
from torch import nn

import sptsr
from sptsr.archs.backbone import build_network
from sptsr.archs.recipes import RECIPES
from sptsr.archs.sites import match_sites
from sptsr.archs.spt_arch import SPTNet
from sptsr.core.errors import UserError
from sptsr.core.registry import ARCH_REGISTRY, lookup
from tests.archs.cases import inputs, trained


class Down(nn.Module):
    """A user's own network with a site at half resolution, one that returns a tuple, and one that is unused."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 8, 3, padding=1)
        self.down = nn.Conv2d(8, 12, 2, stride=2)
        self.up = nn.ConvTranspose2d(12, 8, 2, stride=2)
        self.tail = nn.Conv2d(8, 3, 3, padding=1)
        self.pair = nn.MaxPool2d(1, return_indices=True)
        self.unused = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        features, _ = self.pair(self.up(self.down(self.head(x))))
        return self.tail(features) + x


def test_sites_of_any_network_are_measured_and_the_prior_is_resized():
    torch.manual_seed(0)
    net = SPTNet(Down(), sites=['head', 'down', 're:u.'], unit={'type': 'ModulationUnit', 'width': 4}, num_masks=5)
    assert [(s.path, s.channels, s.grid.stride) for s in net.sites] == [('head', 8, 1), ('down', 12, 2), ('up', 8, 1)]
    assert net.scale == 1
    lq, masks = inputs(12, 14)
    assert torch.equal(net(lq, masks), net.backbone(lq))
    trained(net)
    assert not torch.equal(net(lq, masks), net.backbone(lq))


@pytest.mark.parametrize(
    ('sites', 'match'),
    [
        (['heat'], "'heat' matches no module of Down; did you mean 'head'"),
        (['head', 'tial'], "'tial' matches no module of Down; did you mean 'tail'"),
        (['qqqq'], 'its modules: head, down, up'),
        (['re:('], 'is no regular expression'),
        (['unused'], "'unused' is never called by Down"),
        (['pair'], "'pair' returns a tuple, not a feature map"),
        ([], 'the list is empty'),
        ('auto', "'auto' knows .*IMDN.*, not Down"),
    ],
)
def test_wrong_sites_name_the_closest_candidate(sites, match: str):
    with pytest.raises(UserError, match=match):
        SPTNet(Down(), sites=sites)


class Awkward(nn.Module):
    """Sites that cannot take a unit, each for another reason."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.Conv2d(8, 8, 3, padding=1)
        self.twice = nn.Conv2d(8, 8, 3, padding=1)
        self.still = nn.Conv2d(8, 8, 3, padding=1)
        self.vector = nn.AdaptiveAvgPool2d(1)
        self.gate = nn.Sigmoid()
        self.tail = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x):
        x = self.head(x)
        with torch.no_grad():
            x = x + self.still(x)
        small = self.twice(nn.functional.avg_pool2d(x, 2))
        x = self.twice(x) + nn.functional.interpolate(small, x.shape[-2:])
        x = self.body(x)
        gated = x * self.gate(self.vector(x))
        x.mul_(2)  # what the product before needs for its gradient
        return self.tail(gated + x)


@pytest.mark.parametrize(
    ('site', 'match'),
    [
        ('head', "no gradient reaches 'head' of Awkward|'head' and all others: Awkward runs them without gradients"),
        ('still', "'still'.*no_grad"),
        ('twice', r"'twice' is called with different shapes \(\[1, 8, 20, 40\] and \[1, 8, 40, 80\]\)"),
        ('vector', r"'vector' returns a tensor \[1, 8, 1, 1\] .* which is no feature map"),
        ('body', 'Awkward changes a feature in place that a unit needs'),
    ],
)
def test_sites_that_cannot_take_a_unit_are_refused(site: str, match: str):
    with pytest.raises(UserError, match=match):
        SPTNet(Awkward(), sites=[site], num_masks=5)
    assert SPTNet(Awkward(), sites=['tail'], num_masks=5).scale == 1


class InPlace(nn.Module):
    """Work in place on what a frozen convolution or a unit read, though no gradient that is wanted needs it.

    Args:
        alias: the site returns its input, which is changed when it has done its work; else a convolution reads the
            refined feature, and then an activation changes it.
        in_place: False for the same network without work in place.
    """

    def __init__(self, alias: bool, in_place: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head, self.site = nn.Conv2d(3, 8, 3, padding=1), nn.Identity() if alias else nn.Conv2d(8, 8, 3, padding=1)
        self.side, self.tail = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)
        self.act = nn.LeakyReLU(0.1, inplace=in_place and not alias)
        self.changes_input = alias and in_place

    def forward(self, image):
        first = self.head(image)
        x = self.site(first)
        y = self.side(x) + self.act(x)
        return self.tail(y + (first.mul_(0.5) if self.changes_input else first * 0.5))


@pytest.mark.parametrize('alias', [False, True])
@pytest.mark.parametrize('path', ['inline', 'ladder'])
def test_networks_that_work_in_place_get_right_gradients(alias: bool, path: str):
    lq, masks = inputs(9, 12)
    found = []
    for in_place in (True, False):
        backbone = InPlace(alias, in_place)
        section = {'type': 'ModulationUnit', 'width': 4, 'path': path}
        torch.manual_seed(1)
        net = SPTNet(backbone, sites=['site'], unit=section, num_masks=5).double()
        for name, value in net.adapter_parameters().items():
            if 'out' in name or 'join' in name:
                nn.init.normal_(value, std=0.3, generator=torch.Generator().manual_seed(2))
        result = net(lq.double(), masks)
        found.append([result, *torch.autograd.grad(result.square().sum(), list(net.adapter_parameters().values()))])
    for ours, plain in zip(*found, strict=True):
        assert torch.allclose(ours, plain, atol=1e-8)
        assert ours.abs().max() > 0


def test_a_site_whose_output_is_changed_under_another_name_is_refused():
    class Renamed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.site, self.tail = nn.Conv2d(3, 8, 1), nn.Identity(), nn.Conv2d(8, 3, 1)

        def forward(self, image):
            first = self.head(image)
            x = self.site(first)
            first.mul_(0.5)  # and with it x
            return self.tail(x)

    with pytest.raises(UserError, match=r'sites: Renamed changes the output of a site .* under another name'):
        SPTNet(Renamed(), sites=['site'], num_masks=5)


def test_a_network_that_works_in_place_is_given_back_as_it_was():
    backbone = InPlace(alias=False)
    classes = [type(module) for module in backbone.modules()]
    net = sptsr.attach(backbone, sites=['site'])
    assert [type(module) for module in backbone.modules()] != classes
    sptsr.detach(net)
    assert [type(module) for module in backbone.modules()] == classes


def test_a_module_that_is_called_again_is_refined_again():
    class Recursive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.tail = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)
            self.body = nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x):
            x = self.head(x)
            for _ in range(3):
                x = x + self.body(x)
            return self.tail(x)

    net = SPTNet(Recursive(), sites=['body'], unit={'type': 'ModulationUnit', 'width': 4}, num_masks=5)
    calls = []
    net.units[0].register_forward_hook(lambda *_: calls.append(1))
    lq, masks = inputs(9, 10)
    assert torch.equal(net(lq, masks), net.backbone(lq))
    assert len(calls) == 3


def test_globs_do_not_cross_dots():
    net = lookup(ARCH_REGISTRY, 'EDSR')(3, 3, num_feat=8, num_block=3)
    assert match_sites(net, ['body.*']) == ['body.0', 'body.1', 'body.2']
    assert match_sites(net, ['body.?.conv1', 'body']) == ['body', 'body.0.conv1', 'body.1.conv1', 'body.2.conv1']


def test_a_module_of_unknown_arguments_is_measured():
    net = SPTNet(lookup(ARCH_REGISTRY, 'IMDN')(in_nc=1, out_nc=1, nf=32, upscale=2), num_masks=5)
    assert [(s.path, s.channels) for s in net.sites] == [(f'IMDB{n}', 32) for n in (1, 3, 5)]
    assert net.scale == 2
    lq, masks = torch.rand(1, 1, 8, 9), torch.rand(1, 5, 8, 9)
    assert torch.equal(net(lq, masks), net.backbone(lq))


class DnCNN(nn.Module):
    """A network of one's own with the name of another one."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1))

    def forward(self, image, sigma):
        return self.model(image) + sigma.view(-1, 1, 1, 1)


def test_a_network_of_ones_own_with_a_name_that_is_known():
    with pytest.raises(UserError, match=r"'auto' knows a DnCNN built from its section.*'act_mode'; name modules"):
        sptsr.attach(DnCNN(), sites='auto')


def test_a_noise_level_without_a_default_is_said():
    with pytest.raises(UserError, match=r"missing .* 'sigma'.*give sigma a default value"):
        sptsr.attach(DnCNN(), sites=['model.1'])


def test_a_module_of_a_known_kind_says_its_multiple():
    section = {'type': 'SwinIR', **RECIPES['SwinIR'].usual, 'embed_dim': 12, 'depths': [2], 'num_heads': [2]}
    assert sptsr.attach(build_network(section), sites='auto').sizes.multiple == 8
