"""Stems: what turns the LQ image and its masks into S0, the prior representation that the first unit gets."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sptsr.core.registry import STEM_REGISTRY, register
from sptsr.core.values import Range
from sptsr.masks.batch import PriorBatch
from sptsr.masks.prior import MAX_MASKS


def layout_of(x: Tensor) -> torch.memory_format:
    """Returns the memory layout of [B, C, h, w]: channels-last, or contiguous."""
    plain = x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last)
    return torch.contiguous_format if plain else torch.channels_last


@register(STEM_REGISTRY, 'masks')
class MaskStem(nn.Sequential):
    """S0 = conv3x3(LeakyReLU(conv3x3([LQ, masks]))): each mask is a channel, the largest the first.

    Without gradients no dense masks are made. What they add to the first convolution at one pixel and one of its nine
    taps is a sum over the masks around that pixel, so it is one of K values, K the number of palette codes. These are
    computed once, [K, 9 width], and looked up nine times a pixel, in place of 9 N products. That takes 0.6 to 0.8 of
    the time on a CPU and, for an image of 2 megapixels, half a gigabyte less. In training crops are small, and the
    backward pass of the lookup costs more than it saves, so the convolution runs as it is. Both give the same values
    up to rounding.

    Args:
        in_channels: of the LQ image.
        num_masks: N.
        width: channels of S0.

    Attributes:
        uses_masks: whether a stem must be given masks.
    """

    uses_masks: ClassVar[bool] = True

    def __init__(self, in_channels: int, num_masks: int, width: int) -> None:
        first = nn.Conv2d(in_channels + num_masks, width, 3, padding=1)
        super().__init__(first, nn.LeakyReLU(0.1), nn.Conv2d(width, width, 3, padding=1))
        self.in_channels, self.num_masks, self.width = in_channels, num_masks, width

    def forward(self, lq: Tensor, masks: PriorBatch | None) -> Tensor:
        """Returns S0 [B, width, h, w] for [B, in_channels, h, w] and the codes of its masks."""
        assert masks is not None
        if torch.is_grad_enabled():
            return super().forward(torch.cat([lq, masks.expand(self.num_masks, lq.dtype)], dim=1))
        weight, bias = weight_and_bias(self[0])
        of_image = F.conv2d(lq, weight[:, : self.in_channels], bias, padding=1)
        taps = weight[:, self.in_channels :].permute(1, 2, 3, 0).flatten(1)  # [N, 9 width]
        sums = masks.table(self.num_masks, taps.dtype) @ taps
        sums = F.pad(sums, (0, 0, 1, 0)).unflatten(1, (9, -1))  # the first row is for what lies outside the image
        index = F.pad(masks.index + 1, (1, 1, 1, 1))
        height, width = lq.shape[-2:]
        of_masks = sum(
            (F.embedding(index[:, n // 3 : n // 3 + height, n % 3 : n % 3 + width], sums[:, n]) for n in range(9)),
            start=sums.new_zeros(()),
        )
        # In the memory layout of the image: a mixed one would slow down every layer behind it.
        of_masks = of_masks.permute(0, 3, 1, 2).contiguous(memory_format=layout_of(lq))
        return self[2](self[1](of_image + of_masks))


@register(STEM_REGISTRY, 'plain')
class PlainStem(MaskStem):
    """A `MaskStem` that reads intervals of the LQ image's grey level where the other reads masks.

    A comparison of units tells what masks give only if the control has as many parameters, a response of the same scale
    at the start, and the same change of it by one step of an optimiser. All three follow from what the first
    convolution reads: so many channels of 0 and 1, of which so many are 1 at a pixel. So channel n is 1 where the mean
    of the pixel's own colours lies in an interval; no neighbour plays a part, and nothing that is not in the pixel.
    There are groups of intervals, each four times as fine as the one before, as there are large and small masks.

    Args:
        in_channels, num_masks, width: as in `MaskStem`.
        density: in how many intervals a grey level lies on average, above 0 and at most 64: as many as the masks that
            a pixel is in, in the priors of the unit that this one is compared with (`sptsr prior info STORE`).

    Attributes:
        palette: int64 [256], in which intervals each grey level lies, as codes of `PriorBatch`; kept in the adapter.
    """

    uses_masks: ClassVar[bool] = False
    palette: Tensor

    def __init__(
        self, in_channels: int, num_masks: int, width: int, density: Annotated[float, Range(0.001, 64)] = 2.5
    ) -> None:
        if not 0 < density <= MAX_MASKS:
            raise ValueError(f'density must be above 0 and at most {MAX_MASKS}, got {density}')
        super().__init__(in_channels, num_masks, width)
        self.register_buffer('palette', _grey_codes(num_masks, density))

    def forward(self, lq: Tensor, masks: PriorBatch | None = None) -> Tensor:
        last = len(self.palette) - 1
        index = (lq.mean(dim=1) * last).round().clamp(0, last).int()
        return super().forward(lq, PriorBatch(self.palette, index))

    def as_of_old(self) -> RepeatedStem:
        """Returns the stem that 0.1 had in this one's place, with this one's layers."""
        stem = RepeatedStem(self.in_channels, self.num_masks, self.width)
        stem[0], stem[2] = self[0], self[2]
        return stem


class RepeatedStem(MaskStem):
    """What `PlainStem` was in 0.1: reads the LQ image's own channels again and again. For adapters of then only.

    A channel that is repeated meets the sum of its weights, 22 of them at 64 masks. So the response had a
    wider spread than a `MaskStem`'s at the start, and one step of Adam changed it several times as much.
    """

    def forward(self, lq: Tensor, masks: PriorBatch | None = None) -> Tensor:
        weight, bias = weight_and_bias(self[0])
        missing = -weight.shape[1] % self.in_channels
        repeated = F.pad(weight, (0, 0, 0, 0, 0, missing)).unflatten(1, (-1, self.in_channels))
        return self[2](self[1](F.conv2d(lq, repeated.sum(dim=1), bias, padding=1)))


def _grey_codes(count: int, density: float) -> Tensor:
    """Returns for each of 256 grey levels in which of `count` intervals it lies: int64 [256], bit n for interval n."""
    groups = min(count, math.ceil(density))
    share = min(density / groups, 1.0)  # of each interval's width that is inside
    parts: list[int] = []
    for n in range(groups - 1):
        left = count - sum(parts) - (groups - 1 - n)  # each later part has one at least
        parts.append(min(max(1, count * 4**n // ((4**groups - 1) // 3)), left))
    parts.append(count - sum(parts))
    grey = (torch.arange(256, dtype=torch.float64) + 0.5) / 256
    codes = torch.zeros(256, dtype=torch.int64)
    offset = 0
    for part in parts:
        place = grey * part
        number = place.floor()
        bit = torch.ones_like(codes) << (number.long() + offset)
        codes |= torch.where(place - number < share, bit, 0)
        offset += part
    return codes


def weight_and_bias(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Returns weight and bias of a layer that has both."""
    return cast(Tensor, layer.weight), cast(Tensor, layer.bias)
