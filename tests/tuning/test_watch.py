"""A backbone that writes into its own tensors is noticed; one that computes some of them is not refused."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from sptsr.archs.adapter import is_backbone_of, load_adapter, save_adapter
from sptsr.archs.spt_arch import SPTNet
from sptsr.archs.weights import read_weights, state_digest
from sptsr.core.errors import UserError
from sptsr.tuning.watch import Watch
from tests.archs.cases import inputs, make_net

UNIT = {'type': 'ModulationUnit', 'width': 4}


class Learning(nn.Module):
    """A network whose normalisation goes on learning although the network is in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=1) for _ in range(3)))
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.norm.train()
        return self.norm(self.body(x))


class Drifting(nn.Module):
    """A network that scales a weight behind the back of version counters."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=1) for _ in range(3)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.body[1].weight.data.mul_(0.999)
        return self.body(x)


@pytest.mark.parametrize(('kind', 'tensor'), [(Learning, 'norm.num_batches_tracked'), (Drifting, 'body.1.weight')])
def test_a_backbone_that_learns_is_named(kind: type[nn.Module], tensor: str):
    net = SPTNet(kind(), sites=['body.0'], unit=UNIT, num_masks=5)
    watch = Watch(net)
    watch.check()
    net(*inputs(16, 24))
    with pytest.raises(UserError, match=f"{kind.__name__} writes into its tensor '{tensor}' while it runs"):
        watch.check()


def test_a_frozen_backbone_is_not(tmp_path: Path):
    net = make_net('IMDN')
    digest = net.backbone_digest()
    assert digest == state_digest(net.backbone)
    watch = Watch(net)
    net(*inputs(16, 24))
    watch.check()
    assert watch.computed == set()
    half = copy.deepcopy(net).to(torch.bfloat16)
    assert half.backbone_digest() == digest
    other = make_net('IMDN', seed=7)
    assert not is_backbone_of(other, digest)
    other.backbone.load_state_dict(net.backbone.state_dict())
    assert other.backbone_digest() == digest
    copied = copy.deepcopy(other)
    copied.backbone.load_state_dict(make_net('IMDN', seed=7).backbone.state_dict())
    assert copied.backbone_digest() != digest == other.backbone_digest()


def test_a_network_that_fuses_its_weights_while_it_runs(tmp_path: Path):
    spandrel = pytest.importorskip('spandrel', reason='spandrel is not installed (pip install sptsr[spandrel])')
    torch.manual_seed(0)
    span = spandrel.architectures.SPAN.SPAN(num_in_ch=3, num_out_ch=3, feature_channels=8, upscale=2).eval()
    torch.save({'params': span.state_dict()}, tmp_path / 'span.pth')
    section = {'type': 'spandrel', 'path': str(tmp_path / 'span.pth')}

    def make() -> SPTNet:
        return SPTNet(section, sites=['net.block_*.c3_r'], unit=UNIT, num_masks=5)

    net = make()
    before = net.backbone_digest()
    loaded = {f'net.{name}': value for name, value in read_weights(tmp_path / 'span.pth').items()}
    assert before == state_digest(_Holder(loaded))
    assert before != state_digest(net.backbone)  # it has run since
    watch = Watch(net)
    with torch.autocast('cpu', torch.bfloat16):
        net(*inputs(16, 24))
    watch.check()
    assert watch.computed
    assert all('eval_conv' in name for name in watch.computed)
    net(*inputs(16, 24))
    watch.check()
    save_adapter(tmp_path / 'a.safetensors', net, {'backbone': section}, 1)
    again = make().to(memory_format=torch.channels_last)
    with torch.autocast('cpu', torch.bfloat16):
        again(*inputs(16, 24))
    load_adapter(again, tmp_path / 'a.safetensors')
    assert is_backbone_of(make(), state_digest(make().backbone))  # what 0.1 wrote


class _Holder(nn.Module):
    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.tensors = tensors

    def state_dict(self, *_: object, **__: object) -> dict[str, torch.Tensor]:
        return self.tensors
