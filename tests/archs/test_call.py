"""Networks that were not written for sptsr: another range, a mean, several outputs, a size multiple, from a section."""

import pytest
import torch
from torch import Tensor, nn

from sptsr.archs.backbone import build_network, size_rules
from sptsr.archs.call import call_network
from sptsr.archs.spt_arch import SPTNet
from sptsr.core.errors import UserError
from sptsr.core.registry import ARCH_REGISTRY
from sptsr.options.schema import check_network
from tests.archs.cases import inputs

MEAN = [111.0, 113.0, 103.0]


class _Plain(nn.Module):
    """The images in 0..1 that all others must give."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(*[nn.Conv2d(3, 3, 3, padding=1, bias=False) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Foreign255(_Plain):
    """Works in 0..255, on images whose mean was taken away, and returns a side output first."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        assert x.shape[-1] % 8 == 0
        assert x.abs().max() > 2
        return x.mean(), self.body(x)


class ForeignOutput(_Plain):
    """Has an argument of the name of one of our keys."""

    def __init__(self, output: int = 3) -> None:
        super().__init__()
        self.said = output


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    for network in (Foreign255, ForeignOutput):
        monkeypatch.setitem(ARCH_REGISTRY._obj_map, network.__name__, network)


SECTION = {'type': 'Foreign255', 'input': {'range': 255, 'mean': MEAN}, 'output': 1, 'size_multiple': 8}


def test_range_mean_and_output_are_those_of_the_section():
    torch.manual_seed(0)
    net, plain, lq = build_network(SECTION), _Plain(), torch.rand(1, 3, 16, 24)
    plain.load_state_dict(net.state_dict())
    mean = torch.tensor(MEAN).view(-1, 1, 1) / 255
    assert torch.allclose(call_network(net, lq), plain(lq - mean) + mean, atol=1e-6)
    assert size_rules(net, SECTION).multiple == 8


def test_units_go_into_it_unedited():
    net = SPTNet(SECTION, sites=['body.*'], unit={'type': 'ModulationUnit', 'width': 4}, num_masks=5)
    lq, masks = inputs(16, 24)
    assert torch.equal(net(lq, masks), call_network(net.backbone, lq))
    assert net.sizes.multiple == 8
    assert net.scale == 1


def test_an_argument_of_the_network_stays_its_argument():
    assert build_network({'type': 'ForeignOutput', 'output': 7}).said == 7
    assert check_network({'type': 'ForeignOutput', 'output': 7}) == []


def test_several_outputs_are_refused_with_the_remedy():
    with pytest.raises(UserError, match='returns 2 things in a tuple; say which is the image, for example output: 0'):
        SPTNet({key: value for key, value in SECTION.items() if key != 'output'}, sites=['body.*'])
    with pytest.raises(UserError, match='returns 2 things, and output is 2'):
        SPTNet({**SECTION, 'output': 2}, sites=['body.*'])


@pytest.mark.parametrize(
    ('change', 'expected'),
    [
        ({'input': 255}, 'input: 255 is not a section'),
        ({'input': {'rnage': 255}}, "did you mean 'range'"),
        ({'input': {'range': 0}}, 'range 0 is not a number above 0'),
        ({'input': {'range': float('nan')}}, 'range nan is not a number above 0'),
        ({'input': {'mean': 'grey'}}, "mean \\['grey'\\] is not a number"),
        ({'output': 'first'}, "output: 'first' is not a whole number in -64..64"),
        ({'output': True}, 'output: True is not a whole number'),
        ({'size_multiple': 0}, 'size_multiple: 0 is not a whole number in 1..1024'),
    ],
)
def test_what_makes_no_sense_is_refused(change, expected):
    section = {**SECTION, **change}
    with pytest.raises(UserError, match=expected):
        build_network(section)
    (problem,) = check_network({'type': 'SPTNet', 'backbone': section})
    assert problem[0] == ('network_g', 'backbone')


def test_they_belong_to_the_backbone_not_to_sptnet():
    (problem,) = check_network({'type': 'SPTNet', 'backbone': SECTION, 'output': 1})
    assert "SPTNet takes no 'output'" in problem[1]
