"""SPT units: the trainable parts that sit at the sites of a frozen backbone."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sptsr.archs.modulation import modulate
from sptsr.archs.pooling import SiteMasks
from sptsr.core.registry import UNIT_REGISTRY, register
from sptsr.masks.batch import PriorBatch
from sptsr.masks.prior import MAX_MASKS


def layout_of(x: Tensor) -> torch.memory_format:
    """Returns the memory layout of [B, C, h, w]: channels-last, or contiguous."""
    plain = x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last)
    return torch.contiguous_format if plain else torch.channels_last


class MaskStem(nn.Sequential):
    """S0 = conv3x3(LeakyReLU(conv3x3([LQ, masks]))).

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
    """

    def __init__(self, in_channels: int, num_masks: int, width: int) -> None:
        first = nn.Conv2d(in_channels + num_masks, width, 3, padding=1)
        super().__init__(first, nn.LeakyReLU(0.1), nn.Conv2d(width, width, 3, padding=1))
        self.in_channels, self.num_masks, self.width = in_channels, num_masks, width

    def forward(self, lq: Tensor, masks: PriorBatch | None) -> Tensor:
        """Returns S0 [B, width, h, w] for [B, in_channels, h, w] and the codes of its masks."""
        assert masks is not None
        if torch.is_grad_enabled():
            return super().forward(torch.cat([lq, masks.expand(self.num_masks, lq.dtype)], dim=1))
        weight, bias = _weight_and_bias(self[0])
        of_image = F.conv2d(lq, weight[:, : self.in_channels], bias, padding=1)
        taps = weight[:, self.in_channels :].permute(1, 2, 3, 0).flatten(1)  # [N, 9 width]
        sums = masks.table(self.num_masks, taps.dtype) @ taps
        sums = F.pad(sums, (0, 0, 0, 1)).unflatten(1, (9, -1))  # the last row is for what lies outside the image
        index = F.pad(masks.index, (1, 1, 1, 1), value=len(masks.palette))
        height, width = lq.shape[-2:]
        of_masks = sum(
            (F.embedding(index[:, n // 3 : n // 3 + height, n % 3 : n % 3 + width], sums[:, n]) for n in range(9)),
            start=sums.new_zeros(()),
        )
        # In the memory layout of the image: a mixed one would slow down every layer behind it.
        of_masks = of_masks.permute(0, 3, 1, 2).contiguous(memory_format=layout_of(lq))
        return self[2](self[1](of_image + of_masks))


class PlainStem(MaskStem):
    """A `MaskStem` that reads intervals of the LQ image's grey level where the other reads masks.

    A comparison of units tells what masks give only if the control has as many parameters, a response of the same scale
    at the start, and the same change of it by one step of an optimiser. All three follow from what the first
    convolution reads: so many channels of 0 and 1, of which so many are 1 at a pixel. So channel n is 1 where the mean
    of the pixel's own colours lies in an interval; no neighbour plays a part, and nothing that is not in the pixel.
    There are groups of intervals, each four times as fine as the one before, as there are large and small masks.

    Args:
        in_channels, num_masks, width: as in `MaskStem`.
        density: in how many intervals a grey level lies on average; as many as the masks that a pixel is in.

    Attributes:
        palette: int64 [256], in which intervals each grey level lies, as codes of `PriorBatch`; kept in the adapter.
    """

    palette: Tensor

    def __init__(self, in_channels: int, num_masks: int, width: int, density: float) -> None:
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

    A channel that is repeated meets the sum of its weights, 22 of them at 64 masks. So the response had 1.3 to 1.5
    times the spread of a `MaskStem`'s at the start, and one step of Adam changed it 6 times as much.
    """

    def forward(self, lq: Tensor, masks: PriorBatch | None = None) -> Tensor:
        weight, bias = _weight_and_bias(self[0])
        missing = -weight.shape[1] % self.in_channels
        repeated = F.pad(weight, (0, 0, 0, 0, 0, missing)).unflatten(1, (-1, self.in_channels))
        return self[2](self[1](F.conv2d(lq, repeated.sum(dim=1), bias, padding=1)))


def _grey_codes(count: int, density: float) -> Tensor:
    """Returns for each of 256 grey levels in which of `count` intervals it lies: int64 [256], bit n for interval n."""
    groups = min(count, math.ceil(density))
    share = min(density / groups, 1.0)  # of each interval's width that is inside
    parts = [max(1, count * 4**n // ((4**groups - 1) // 3)) for n in range(groups - 1)]
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


def _weight_and_bias(layer: nn.Module) -> tuple[Tensor, Tensor]:
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor)
    assert isinstance(bias, Tensor)
    return weight, bias


class LadderHead(nn.Sequential):
    """Ends a ladder: the last S becomes a correction of the restored image, and starts as none.

        correction = shuffle(conv3x3(LeakyReLU(S)))

    Args:
        width: channels of S.
        out_channels: of the restored image.
        factor: size of the restored image over size of S, a whole number.
    """

    def __init__(self, width: int, out_channels: int, factor: int) -> None:
        last = nn.Conv2d(width, out_channels * factor**2, 3, padding=1)
        nn.init.zeros_(last.weight)
        assert last.bias is not None
        nn.init.zeros_(last.bias)
        super().__init__(nn.LeakyReLU(0.1), last, nn.PixelShuffle(factor))


class SPTUnit(nn.Module):
    """What every unit is: refines a feature with the prior representation.

    A subclass takes `channels` (of the feature at its site) and `width` first, its own
    options after them by keyword, and registers itself in `UNIT_REGISTRY`.

    Attributes:
        uses_masks: whether the network must be given masks.
        uses_regions: whether `forward` is given the masks at the site's resolution as a third argument.
        path: `inline`, where F' goes on through the backbone; or `ladder`, where only S' counts: it ends in
            a correction of the restored image (see `LadderHead`), and nothing is back-propagated through the backbone.
    """

    uses_masks: ClassVar[bool] = True
    uses_regions: ClassVar[bool] = False
    path: str = 'inline'

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.channels = channels
        self.width = width

    def make_stem(self, in_channels: int, num_masks: int, width: int) -> nn.Module:
        """Returns the stem: LQ image [B, in_channels, h, w] and its masks to S0 [B, width, h, w]."""
        return MaskStem(in_channels, num_masks, width)

    def forward(self, features: Tensor, prior: Tensor, regions: SiteMasks | None = None) -> tuple[Tensor, Tensor]:
        """Refines F [B, C, h, w] with S [B, width, h, w]; returns F' and S' of the same shapes."""
        raise NotImplementedError


@register(UNIT_REGISTRY)
class ModulationUnit(SPTUnit):
    """The default unit: a scale and a shift for each pixel and channel.

        S' = S + g(concat(q(F), S))
        gamma, beta = split(o(LeakyReLU(S')))
        F' = F (1 + gamma) + beta

    with q a 1x1 convolution to `width` channels, g a 1x1 convolution, LeakyReLU and a depthwise
    3x3 convolution, and o a 1x1 convolution to 2C channels that starts at zero, so that an
    untrained unit changes nothing, bit for bit.

    The idea is that of "A Dive into SAM Prior in Image Restoration" (arXiv 2305.13620): a light,
    plug-in unit, the only trainable part, fed with the masks that SAM finds in the LQ image. Its
    published text does not fix every layer; this arrangement of layers is ours, not the paper's.

    Args:
        channels: C, of the feature at the site.
        width: channels of the prior representation.
        path: see `SPTUnit`; on a `ladder` there is no o, and F stays as it is.
    """

    def __init__(self, channels: int, width: int = 16, path: Literal['inline', 'ladder'] = 'inline') -> None:
        super().__init__(channels, width)
        if path not in ('inline', 'ladder'):
            raise ValueError(f"path must be inline or ladder, not '{path}'")
        self.path = path
        self.query = nn.Conv2d(channels, width, 1)
        self.mix = nn.Sequential(
            nn.Conv2d(2 * width, width, 1),
            nn.LeakyReLU(0.1, inplace=True),
            nn.Conv2d(width, width, 3, padding=1, groups=width),
        )
        if path == 'ladder':
            return
        self.act = nn.LeakyReLU(0.1)
        self.out = nn.Conv2d(width, 2 * channels, 1)
        nn.init.zeros_(self.out.weight)
        assert self.out.bias is not None
        nn.init.zeros_(self.out.bias)

    def forward(self, features: Tensor, prior: Tensor, regions: SiteMasks | None = None) -> tuple[Tensor, Tensor]:
        del regions
        return self.modulate(features, prior + self.mixed(features, prior))

    def mixed(self, features: Tensor, prior: Tensor, query: Tensor | None = None) -> Tensor:
        """Returns g(concat(q(F), S)); `query` is q(F) where it is known.

        Nothing bends between q and the first layer of g, so in training their weights are multiplied, not
        their outputs: that takes less time and memory in the backward pass, and more in the forward one.

            W concat(Q F, S) = (W_F Q) F + W_S S
        """
        if not torch.is_grad_enabled():
            return self.mix(torch.cat([self.query(features) if query is None else query, prior], dim=1))
        first, act, last = self.mix
        assert isinstance(first, nn.Conv2d)
        assert self.query.bias is not None
        assert first.bias is not None
        of_query, of_prior = first.weight.flatten(1).split(self.width, dim=1)
        weight = of_query @ self.query.weight.flatten(1)
        bias = of_query @ self.query.bias + first.bias
        mixed = F.conv2d(features, weight[..., None, None], bias) + F.conv2d(prior, of_prior[..., None, None])
        return last(act(mixed))

    def modulate(self, features: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
        """Returns F (1 + gamma) + beta and S', with gamma and beta read off S'; on a ladder, F and S'."""
        if self.path == 'ladder':
            return features, prior
        assert self.out.bias is not None
        return modulate(features, self.act(prior), self.out.weight, self.out.bias), prior


@register(UNIT_REGISTRY)
class PlainUnit(ModulationUnit):
    """A control: a `ModulationUnit` that never sees a mask.

    Layers and numbers of parameters are those of `ModulationUnit`. Where its stem reads the masks, this one's reads as
    many intervals of the image's grey level (see `PlainStem`), so that both start at the same scale and learn at the
    same speed. The first controls are the same unit on masks of other images and on random regions (docs/training.md):
    they differ from it in the masks alone.

    Args:
        channels, width, path: as in `ModulationUnit`.
        density: number of masks that a pixel is in on average, in the priors of the unit that this one is compared
            with, above 0 and at most 64; `sptsr prior info STORE` prints it. Kept in the adapter, so that a test need
            not repeat it.
    """

    uses_masks: ClassVar[bool] = False

    def __init__(
        self,
        channels: int,
        width: int = 16,
        path: Literal['inline', 'ladder'] = 'inline',
        density: float = 2.5,
    ) -> None:
        super().__init__(channels, width, path)
        if not 0 < density <= MAX_MASKS:
            raise ValueError(f'density must be above 0 and at most {MAX_MASKS}, got {density}')
        self.density = density

    def make_stem(self, in_channels: int, num_masks: int, width: int) -> nn.Module:
        return PlainStem(in_channels, num_masks, width, self.density)


@register(UNIT_REGISTRY)
class RegionUnit(PlainUnit):
    """A `PlainUnit` that also knows what the feature is like in the regions a pixel is in.

        P = paint(pool(q(F)))
        S' = S + g(concat(q(F), S + P))

    pool averages q(F) over each mask; paint gives each pixel the mean of its masks' averages (see `SiteMasks.pool`).
    The order of the masks plays no part. Layers and numbers of parameters are those of `PlainUnit`, so what it gains
    over that one, masks gave. Ours, not the paper's.

    An average is over what the network is given: a crop in training, the whole image at the test, tiled or not (see
    `sptsr.restoring.tiling`).

    Args:
        channels, width, path, density: as in `PlainUnit`.
    """

    uses_masks: ClassVar[bool] = True
    uses_regions: ClassVar[bool] = True

    def forward(self, features: Tensor, prior: Tensor, regions: SiteMasks | None = None) -> tuple[Tensor, Tensor]:
        assert regions is not None
        query = self.query(features)
        return self.modulate(features, prior + self.mixed(features, prior + regions.pool(query), query))
