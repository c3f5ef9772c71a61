"""The state of a call lives in the call: threads, copies, replicas and re-entrant calls give right results or raise."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

import sptsr
from sptsr.archs.spt_arch import SPTNet
from sptsr.core.errors import UserError
from tests.archs.cases import make_net, trained


@pytest.fixture
def net() -> SPTNet:
    return trained(make_net('IMDN'))


def pair(seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, 3, 20, 24, generator=generator), (torch.rand(2, 5, 20, 24, generator=generator) < 0.4).float()


@torch.no_grad()
def test_threads_do_not_mix_their_priors(net):
    pairs = [pair(seed) for seed in range(4)]
    expected = [net(*pair) for pair in pairs]
    assert not torch.equal(expected[0], expected[1])

    def many(number: int) -> bool:
        with torch.no_grad():
            return all(torch.equal(net(*pairs[number]), expected[number]) for _ in range(6))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(many, range(4))) == [True] * 4


@torch.no_grad()
@pytest.mark.parametrize(
    'duplicate',
    [copy.copy, copy.deepcopy, lambda net: net._replicate_for_data_parallel()],
    ids=['copy', 'deepcopy', 'replica'],
)
def test_copies_are_refined_like_the_original(net, duplicate):
    lq, masks = pair()
    other = duplicate(net)
    assert torch.equal(other(lq, masks), net(lq, masks))
    with net.units_off():
        assert not torch.equal(other(lq, masks), net(lq, masks))


@torch.no_grad()
def test_a_deep_copy_has_units_of_its_own(net):
    lq, masks = pair()
    before = net(lq, masks)
    other = copy.deepcopy(net)
    for parameter in other.adapter_parameters().values():
        parameter.zero_()
    assert torch.equal(net(lq, masks), before)
    with net.units_off():
        assert torch.equal(other(lq, masks), net(lq, masks))


@torch.no_grad()
def test_two_adapters_sit_on_one_backbone(net):
    lq, masks = pair()
    first = net(lq, masks)
    second = _changed(SPTNet(net.backbone, sites=['IMDB*'], unit={'type': 'ModulationUnit', 'width': 4}, num_masks=5))
    with net.units_off():
        frozen = net(lq, masks)
    assert torch.equal(net(lq, masks), first)
    assert not torch.equal(second(lq, masks), first)
    assert torch.equal(net.backbone(lq), frozen)
    sptsr.detach(second)
    assert torch.equal(net(lq, masks), first)


def _changed(net: SPTNet) -> SPTNet:
    """The network with units that do something."""
    for parameter in net.adapter_parameters().values():
        nn.init.normal_(parameter, std=0.1)
    return net


@torch.no_grad()
def test_another_network_may_run_inside_a_call(net):
    lq, masks = pair()
    other = _changed(make_net('IMDN', seed=7))
    expected = net(lq, masks), other(lq, masks)
    inner = []

    def run_other(*_: object) -> None:
        inner.append(other(lq, masks))

    handle = net.backbone.get_submodule(net.sites[0].path).register_forward_hook(run_other)
    assert torch.equal(net(lq, masks), expected[0])
    handle.remove()
    assert torch.equal(inner[0], expected[1])


@torch.no_grad()
def test_a_backbone_called_during_its_own_call_is_refused(net):
    lq, masks = pair()
    expected = net(lq, masks)

    def call_again(*_: object) -> None:
        net.backbone(lq)

    handle = net.backbone.get_submodule(net.sites[0].path).register_forward_hook(call_again)
    with pytest.raises(UserError, match='called again'):
        net(lq, masks)
    handle.remove()
    assert torch.equal(net(lq, masks), expected)  # nothing is left of the call that failed


class _Recursive(nn.Module):
    """Restores a flipped copy by calling itself."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1))

    def forward(self, x: torch.Tensor, again: bool = True) -> torch.Tensor:
        return self.body(x) + (self(x.flip(3), again=False).flip(3) if again else 0)


def test_a_network_that_calls_itself_is_refused_when_it_is_built():
    with pytest.raises(UserError, match='_Recursive is called again'):
        SPTNet(_Recursive(), sites=['body.0'])


@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
def test_units_have_the_dtype_of_the_backbone(dtype):
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1)).to(dtype)
    net = sptsr.attach(backbone, sites=['1'], width=4)
    assert {p.dtype for p in net.adapter_parameters().values()} == {dtype}
    lq = torch.rand(1, 3, 16, 12, dtype=dtype)
    assert net(lq, torch.zeros(1, 64, 16, 12)).dtype == dtype


@pytest.mark.cuda
def test_units_are_on_the_device_of_the_backbone():
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1)).cuda()
    net = sptsr.attach(backbone, sites=['1'], width=4)
    assert {p.device.type for p in net.adapter_parameters().values()} == {'cuda'}
