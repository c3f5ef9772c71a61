"""DnCNN and FFDNet: plain convolutional denoisers."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sptsr.core.registry import ARCH_REGISTRY, register
from sptsr.core.values import Range


def _plain(in_channels: int, width: int, out_channels: int, depth: int, batch_norm: bool) -> nn.Sequential:
    """Returns `depth` 3x3 convolutions with ReLU between them, flat, as the official files number them."""
    layers: list[nn.Module] = [nn.Conv2d(in_channels, width, 3, padding=1), nn.ReLU(inplace=True)]
    for _ in range(depth - 2):
        layers.append(nn.Conv2d(width, width, 3, padding=1))
        if batch_norm:
            layers.append(nn.BatchNorm2d(width, momentum=0.9, eps=1e-4))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers, nn.Conv2d(width, out_channels, 3, padding=1))


@register(ARCH_REGISTRY, replaceable=True)
class DnCNN(nn.Module):
    """Zhang et al., "Beyond a Gaussian Denoiser: Residual Learning of Deep CNN for Image Denoising", TIP 2017.

    Predicts the noise and subtracts it. Loads the authors' PyTorch files (`dncnn_25.pth`, ...)
    strictly; in those batch normalisation is merged into the convolutions.

    Args:
        in_nc, out_nc: image channels.
        nc: feature channels.
        nb: number of convolutions; 17, or 20 for the blind models.
        act_mode: `R` (merged), or `BR` with batch normalisation.

    Shapes: [B, in_nc, h, w] in 0..1 to [B, out_nc, h, w].
    """

    def __init__(
        self,
        in_nc: Annotated[int, Range(1, 64)] = 1,
        out_nc: Annotated[int, Range(1, 64)] = 1,
        nc: Annotated[int, Range(1, 4096)] = 64,
        nb: Annotated[int, Range(2, 1024)] = 17,
        act_mode: Literal['R', 'BR'] = 'R',
    ) -> None:
        super().__init__()
        if act_mode not in ('R', 'BR'):
            raise ValueError(f"act_mode must be 'R' or 'BR', got '{act_mode}'")
        self.act_mode = act_mode
        self.model = _plain(in_nc, nc, out_nc, nb, act_mode == 'BR')

    def forward(self, lq: Tensor) -> Tensor:
        return lq - self.model(lq)


@register(ARCH_REGISTRY, replaceable=True)
class FFDNet(nn.Module):
    """Zhang et al., "FFDNet: Toward a Fast and Flexible Solution for CNN based Image Denoising", TIP 2018.

    Works at half resolution on the pixel-unshuffled image and a map of the noise level. Loads the
    authors' `ffdnet_color.pth` (the defaults) and `ffdnet_gray.pth` (in_nc and out_nc 1, nc 64,
    nb 15) strictly. Odd sizes are padded by their last row and column.

    Args:
        in_nc, out_nc: image channels.
        nc: feature channels.
        nb: number of convolutions.
        sigma: noise level where `forward` is given none, of 255.

    Shapes: [B, in_nc, h, w] in 0..1 and the noise level [B] in 0..1 (sigma / 255) to [B, out_nc, h, w].
    """

    def __init__(
        self,
        in_nc: Annotated[int, Range(1, 64)] = 3,
        out_nc: Annotated[int, Range(1, 64)] = 3,
        nc: Annotated[int, Range(1, 4096)] = 96,
        nb: Annotated[int, Range(2, 1024)] = 12,
        sigma: Annotated[float, Range(0, 255)] = 25.0,
    ) -> None:
        super().__init__()
        self.sigma = sigma
        self.model = _plain(4 * in_nc + 1, nc, 4 * out_nc, nb, batch_norm=False)

    def forward(self, lq: Tensor, sigma: Tensor | None = None) -> Tensor:
        height, width = lq.shape[-2:]
        padded = F.pad(lq, (0, width % 2, 0, height % 2), mode='replicate')
        x = F.pixel_unshuffle(padded, 2)
        if sigma is None:
            sigma = lq.new_full((len(lq),), self.sigma / 255)
        level = sigma.to(x.dtype).view(-1, 1, 1, 1).expand(len(lq), 1, *x.shape[-2:])
        return F.pixel_shuffle(self.model(torch.cat([x, level], dim=1)), 2)[..., :height, :width]
