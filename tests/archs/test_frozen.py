"""Frozen layers keep one copy of their weights in half precision."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from sptsr.archs.frozen import remember_less
from sptsr.archs.spt_arch import SPTNet
from tests.archs.cases import CASES, inputs
from tests.conftest import photograph


class _Casts(TorchDispatchMode):
    """Counts the tensors of given shapes that are turned to another type."""

    def __init__(self, shapes: set[torch.Size]) -> None:
        super().__init__()
        self.shapes, self.count = shapes, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ == '_to_copy' and args[0].shape in self.shapes:
            self.count += 1
        return func(*args, **(kwargs or {}))


def _net() -> nn.Module:
    convolutions = [nn.Conv2d(3, 8, 3, padding=1), nn.LeakyReLU(0.05), nn.Conv2d(8, 8, 3, padding=1, groups=4)]
    return nn.Sequential(*convolutions, nn.Conv2d(8, 5, 1), nn.Linear(160, 7)).requires_grad_(False)


def _run(net: nn.Module, image: torch.Tensor, seed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    image = image.clone().requires_grad_()
    with torch.autocast('cpu', torch.bfloat16):
        output = net(image)
    output.backward(seed.to(output.dtype))
    assert image.grad is not None
    return output.detach(), image.grad


def test_weights_are_turned_to_half_precision_once():
    image = torch.from_numpy(photograph('astronaut.png')).permute(2, 0, 1)[None] / 255
    seed = torch.randn(1, 5, 128, 7)
    net = _net()
    shapes = {parameter.shape for parameter in net.parameters()}
    expected = _run(copy.deepcopy(net), image, seed)
    assert remember_less(net) == 5
    plain = copy.deepcopy(net)
    with _Casts(shapes) as casts, torch.inference_mode(), torch.autocast('cpu', torch.bfloat16):  # a validation
        net(image)
    assert casts.count == 8
    with _Casts(shapes) as casts:
        found = [_run(net, image, seed) for _ in range(3)]
    assert casts.count == 0
    for output, gradient in found:
        assert output.dtype == torch.bfloat16
        assert torch.equal(output, expected[0])
        torch.testing.assert_close(gradient, expected[1], rtol=0.02, atol=0.02)
    assert net.state_dict().keys() == plain.state_dict().keys()
    assert all(value.dtype == torch.float32 for value in net.state_dict().values())
    torch.testing.assert_close(net(image), plain(image), rtol=0, atol=0)  # without autocast in fp32


@pytest.mark.parametrize('change', ['load', 'in place', 'replace', 'deepcopy'])
def test_other_weights_are_turned_anew(change: str):
    image, seed = torch.rand(1, 3, 8, 160), torch.ones(1, 5, 8, 7)
    net, other = _net(), _net()
    remember_less(net)
    before, _ = _run(net, image, seed)
    if change == 'load':
        net.load_state_dict(other.state_dict())
    elif change == 'in place':
        for mine, theirs in zip(net.parameters(), other.parameters(), strict=True):
            mine.copy_(theirs)
    elif change == 'replace':
        for mine, theirs in zip(net.parameters(), other.parameters(), strict=True):
            mine.data = theirs.data
    else:
        net = copy.deepcopy(net)
        net.load_state_dict(other.state_dict())
    assert torch.equal(_run(net, image, seed)[0], _run(other, image, seed)[0])
    assert not torch.equal(_run(net, image, seed)[0], before)


def test_merged_weights_are_seen_in_half_precision():
    net = SPTNet({'type': 'IMDN', **CASES['IMDN'][1]}, tune='lora').eval()
    for value in net.adapter_parameters().values():
        nn.init.normal_(value, std=0.1)
    remember_less(net.backbone)
    lq, _ = inputs(16, 24)

    @torch.no_grad()
    def half() -> torch.Tensor:
        with torch.autocast('cpu', torch.bfloat16):  # within one context torch keeps casts of weights that learn
            return net(lq)

    apart = half()
    net.merge()
    together = half()
    with net.units_off():
        frozen = half()
    net.train()
    assert torch.equal(half(), apart)
    assert (apart - frozen).norm() > 0
    assert (together - apart).norm() < 0.5 * (apart - frozen).norm()


def test_an_image_without_a_batch_has_gradients_too():
    layer = nn.Conv2d(2, 3, 3).requires_grad_(False)
    image = torch.rand(2, 6, 7, requires_grad=True)
    layer(image).sum().backward()
    expected, image.grad = image.grad, None
    remember_less(layer)
    layer(image).sum().backward()
    assert torch.equal(image.grad, expected)
