"""IMDN: information multi-distillation network."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn

from sptsr.core.registry import ARCH_REGISTRY, register
from sptsr.core.values import Range


class ContrastAttention(nn.Module):
    """Contrast-aware channel attention (section 3.3 of the paper): mean plus standard deviation, then a gate."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.conv_du = nn.Sequential(
            nn.Conv2d(channels, channels // reduction, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels // reduction, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=(2, 3), keepdim=True)
        contrast = (x - mean).pow(2).mean(dim=(2, 3), keepdim=True).sqrt()
        return x * self.conv_du(contrast + mean)


class DistillationBlock(nn.Module):
    """IMDB: three splits keep a quarter of the channels each and refine the rest (section 3.2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.distilled = channels // 4
        self.remaining = channels - self.distilled
        self.c1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.c2 = nn.Conv2d(self.remaining, channels, 3, padding=1)
        self.c3 = nn.Conv2d(self.remaining, channels, 3, padding=1)
        self.c4 = nn.Conv2d(self.remaining, self.distilled, 3, padding=1)
        self.act = nn.LeakyReLU(0.05, inplace=True)
        self.c5 = nn.Conv2d(channels, channels, 1)
        self.cca = ContrastAttention(self.distilled * 4)

    def forward(self, x: Tensor) -> Tensor:
        split = [self.distilled, self.remaining]
        kept1, rest = torch.split(self.act(self.c1(x)), split, dim=1)
        kept2, rest = torch.split(self.act(self.c2(rest)), split, dim=1)
        kept3, rest = torch.split(self.act(self.c3(rest)), split, dim=1)
        distilled = torch.cat([kept1, kept2, kept3, self.c4(rest)], dim=1)
        return self.c5(self.cca(distilled)) + x


@register(ARCH_REGISTRY, replaceable=True)
class IMDN(nn.Module):
    """Hui et al., "Lightweight Image Super-Resolution with Information Multi-distillation Network", ACM MM 2019.

    Six blocks whose outputs are fused by a 1x1 convolution; one pixel shuffle at the end.
    Loads the official `IMDN_x2.pth`, `IMDN_x3.pth`, `IMDN_x4.pth` strictly.

    Args:
        in_nc: channels of the LQ image.
        nf: feature channels; a multiple of 16.
        num_modules: number of blocks.
        out_nc: channels of the output.
        upscale: factor of the super-resolution.

    Shapes: [B, in_nc, h, w] in 0..1 to [B, out_nc, upscale h, upscale w].
    """

    def __init__(
        self,
        in_nc: Annotated[int, Range(1, 64)] = 3,
        nf: Annotated[int, Range(16, 4096)] = 64,
        num_modules: Annotated[int, Range(1, 1024)] = 6,
        out_nc: Annotated[int, Range(1, 64)] = 3,
        upscale: Annotated[int, Range(1, 64)] = 4,
    ) -> None:
        super().__init__()
        self.num_modules = num_modules
        self.fea_conv = nn.Conv2d(in_nc, nf, 3, padding=1)
        for number in range(1, num_modules + 1):
            self.add_module(f'IMDB{number}', DistillationBlock(nf))
        self.c = nn.Sequential(nn.Conv2d(nf * num_modules, nf, 1), nn.LeakyReLU(0.05, inplace=True))
        self.LR_conv = nn.Conv2d(nf, nf, 3, padding=1)
        self.upsampler = nn.Sequential(nn.Conv2d(nf, out_nc * upscale**2, 3, padding=1), nn.PixelShuffle(upscale))

    def forward(self, lq: Tensor) -> Tensor:
        first = self.fea_conv(lq)
        outputs = [first]
        for number in range(1, self.num_modules + 1):
            outputs.append(self.get_submodule(f'IMDB{number}')(outputs[-1]))
        fused = self.LR_conv(self.c(torch.cat(outputs[1:], dim=1))) + first
        return self.upsampler(fused)
