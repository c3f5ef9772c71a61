"""CARN and CARN-M: cascading residual networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sptsr.core.registry import ARCH_REGISTRY, register
from sptsr.core.values import Range

_RGB_MEAN = (0.4488, 0.4371, 0.4040)  # of DIV2K, as in the official code


class MeanShift(nn.Module):
    """Adds `sign` times the mean colour; a 1x1 convolution, since the official files hold it as one."""

    def __init__(self, sign: int) -> None:
        super().__init__()
        self.shifter = nn.Conv2d(3, 3, 1)
        with torch.no_grad():
            self.shifter.weight.copy_(torch.eye(3).view(3, 3, 1, 1))
            assert self.shifter.bias is not None
            self.shifter.bias.copy_(sign * torch.tensor(_RGB_MEAN))

    def forward(self, x: Tensor) -> Tensor:
        return self.shifter(x)


class ConvReLU(nn.Module):
    """A 1x1 convolution and ReLU, which fuses what a cascade has collected."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Residual(nn.Module):
    """Two 3x3 convolutions and a skip; with groups, a 1x1 convolution mixes them again (CARN-M, section 3.3)."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv2d(channels, channels, 3, padding=1, groups=groups),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1, groups=groups),
        ]
        if groups > 1:
            layers += [nn.ReLU(inplace=True), nn.Conv2d(channels, channels, 1)]
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + x)


class Cascade(nn.Module):
    """Three residual blocks, each fused with all that came before it; with `shared` one block does all three."""

    def __init__(self, channels: int, groups: int, shared: bool) -> None:
        super().__init__()
        self.b1 = Residual(channels, groups)
        if not shared:
            self.b2 = Residual(channels, groups)
            self.b3 = Residual(channels, groups)
        for number in (1, 2, 3):
            self.add_module(f'c{number}', ConvReLU((number + 1) * channels, channels))
        self.shared = shared

    def forward(self, x: Tensor) -> Tensor:
        blocks = [self.b1] * 3 if self.shared else [self.b1, self.b2, self.b3]
        return _cascade(x, blocks, self)


class PixelShuffleBlock(nn.Module):
    """x2, x3 or x4 (twice x2) by convolution, ReLU and pixel shuffle."""

    def __init__(self, channels: int, scale: int, groups: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for factor in (2, 2) if scale == 4 else (scale,):
            layers += [nn.Conv2d(channels, channels * factor**2, 3, padding=1, groups=groups), nn.ReLU(inplace=True)]
            layers.append(nn.PixelShuffle(factor))
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Upsampling(nn.Module):
    """One head (`up`), or one for each scale (`up2`, `up3`, `up4`) of which one is used."""

    def __init__(self, channels: int, scale: int, multi_scale: bool, groups: int) -> None:
        super().__init__()
        for factor in (2, 3, 4) if multi_scale else (scale,):
            self.add_module(f'up{factor}' if multi_scale else 'up', PixelShuffleBlock(channels, factor, groups))
        self.used = f'up{scale}' if multi_scale else 'up'

    def forward(self, x: Tensor) -> Tensor:
        return self.get_submodule(self.used)(x)


@register(ARCH_REGISTRY, replaceable=True)
class CARN(nn.Module):
    """Ahn et al., "Fast, Accurate, and Lightweight Super-Resolution with Cascading Residual Network", ECCV 2018.

    Loads the official `carn.pth` strictly (one file for all scales).

    Args:
        upscale: 2, 3 or 4.
        multi_scale: the file holds a head for each scale, as the official ones do.
        nf: feature channels.
        groups: of the 3x3 convolutions.
        shared: one residual block does the work of three (CARN-M).

    Shapes: [B, 3, h, w] in 0..1 to [B, 3, upscale h, upscale w].
    """

    def __init__(
        self,
        upscale: Literal[2, 3, 4] = 4,
        multi_scale: bool = True,
        nf: Annotated[int, Range(1, 4096)] = 64,
        groups: Annotated[int, Range(1, 4096)] = 1,
        shared: bool = False,
    ) -> None:
        super().__init__()
        if upscale not in (2, 3, 4):
            raise ValueError(f'upscale must be 2, 3 or 4, got {upscale}')
        self.sub_mean = MeanShift(-1)
        self.add_mean = MeanShift(1)
        self.entry = nn.Conv2d(3, nf, 3, padding=1)
        for number in (1, 2, 3):
            self.add_module(f'b{number}', Cascade(nf, groups, shared))
            self.add_module(f'c{number}', ConvReLU((number + 1) * nf, nf))
        self.upsample = Upsampling(nf, upscale, multi_scale, groups)
        self.exit = nn.Conv2d(nf, 3, 3, padding=1)

    def forward(self, lq: Tensor) -> Tensor:
        x = self.entry(self.sub_mean(lq))
        x = _cascade(x, [self.get_submodule(f'b{number}') for number in (1, 2, 3)], self)
        return self.add_mean(self.exit(self.upsample(x)))


@register(ARCH_REGISTRY, replaceable=True)
class CARN_M(CARN):
    """CARN-M of the same paper: grouped convolutions and shared residual blocks.

    Loads the official `carn_m.pth` strictly.

    Args:
        upscale, multi_scale, nf, groups: as in `CARN`.
    """

    def __init__(
        self,
        upscale: Literal[2, 3, 4] = 4,
        multi_scale: bool = True,
        nf: Annotated[int, Range(1, 4096)] = 64,
        groups: Annotated[int, Range(1, 4096)] = 4,
    ) -> None:
        super().__init__(upscale, multi_scale, nf, groups, shared=True)


def _cascade(x: Tensor, blocks: Sequence[nn.Module], owner: nn.Module) -> Tensor:
    """Runs blocks in a row; before each next one `c1`, `c2`, `c3` of `owner` fuse all outputs so far."""
    collected = x
    for number, block in enumerate(blocks, 1):
        collected = torch.cat([collected, block(x)], dim=1)
        x = owner.get_submodule(f'c{number}')(collected)
    return x
