"""SPT units: the trainable parts that sit at the sites of a frozen backbone."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sptsr.archs.modulation import modulate
from sptsr.archs.pooling import SiteMasks
from sptsr.core.registry import UNIT_REGISTRY, register
from sptsr.masks.batch import PriorBatch


def layout_of(x: Tensor) -> torch.memory_format:
    """Returns the memory layout of [B, C, h, w]: channels-last, or contiguous."""
    plain = x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last)
    return torch.contiguous_format if plain else torch.channels_last


class MaskStem(nn.Sequential):
    """S0 = conv3x3(LeakyReLU(conv3x3([LQ, masks]))).

    Without gradients the masks are never made: on one pixel of one tap the first convolution adds up
    the weights of the masks around it, which is one of K sums, K the number of palette codes. So the
    sums are made once, [K, 9 width], and looked up nine times a pixel, instead of 9 N products. That
    takes 0.6 to 0.8 of the time on a CPU and, for an image of 2 megapixels, half a gigabyte less.
    Training looks at small crops, and the lookup's backward pass costs more than it saves; there the
    convolution is run as it is. Values agree but for the order of additions.

    Args:
        in_channels: of the LQ image.
        num_masks: N.
        width: channels of S0.
    """

    def __init__(self, in_channels: int, num_masks: int, width: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels + num_masks, width, 3, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(width, width, 3, padding=1),
        )
        self.in_channels, self.num_masks = in_channels, num_masks

    def forward(self, lq: Tensor, masks: PriorBatch | None) -> Tensor:
        """Returns S0 [B, width, h, w] for [B, in_channels, h, w] and the codes of its masks."""
        assert masks is not None
        first = self[0]
        assert isinstance(first, nn.Conv2d)
        if torch.is_grad_enabled():
            return super().forward(torch.cat([lq, masks.expand(self.num_masks, lq.dtype)], dim=1))
        weight, bias = first.weight, first.bias
        seen = F.conv2d(lq, weight[:, : self.in_channels], bias, padding=1)
        taps = weight[:, self.in_channels :].permute(1, 2, 3, 0).flatten(1)  # [N, 9 width]
        sums = masks.table(self.num_masks, taps.dtype) @ taps
        sums = F.pad(sums, (0, 0, 0, 1)).unflatten(1, (9, -1))  # the last row is for what lies outside
        index = F.pad(masks.index, (1, 1, 1, 1), value=len(masks.palette))
        height, width = lq.shape[-2:]
        added = sum(
            F.embedding(index[:, n // 3 : n // 3 + height, n % 3 : n % 3 + width], sums[:, n]) for n in range(9)
        )
        assert isinstance(added, Tensor)
        # In the image's own memory layout: a mixed one would slow down every layer behind it.
        return self[2](self[1](seen + added.permute(0, 3, 1, 2).contiguous(memory_format=layout_of(lq))))


class PlainStem(MaskStem):
    """A `MaskStem` that reads the LQ image's own channels over and over where the other reads masks.

    A repeated channel meets the sum of its weights, so the weights are added up, not the channel repeated.
    """

    def forward(self, lq: Tensor, masks: PriorBatch | None = None) -> Tensor:
        del masks
        first = self[0]
        assert isinstance(first, nn.Conv2d)
        weight, bias = first.weight, first.bias
        whole = -weight.shape[1] % self.in_channels
        repeated = F.pad(weight, (0, 0, 0, 0, 0, whole)).unflatten(1, (-1, self.in_channels))
        return self[2](self[1](F.conv2d(lq, repeated.sum(dim=1), bias, padding=1)))


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

    @classmethod
    def make_stem(cls, in_channels: int, num_masks: int, width: int) -> nn.Module:
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
    """The control: a `ModulationUnit` that never sees a mask.

    Layers and parameter count are exactly those of `ModulationUnit`. Where the stem would
    read the masks it reads the LQ image's own channels over and over, so every weight is alive
    and none knows of a region. What a `ModulationUnit` gains over it, masks gave.
    """

    uses_masks: ClassVar[bool] = False

    @classmethod
    def make_stem(cls, in_channels: int, num_masks: int, width: int) -> nn.Module:
        return PlainStem(in_channels, num_masks, width)


@register(UNIT_REGISTRY)
class RegionUnit(PlainUnit):
    """A `PlainUnit` that also knows what the feature is like in the regions a pixel is in.

        P = paint(pool(q(F)))
        S' = S + g(concat(q(F), S + P))

    pool averages q(F) over each mask; paint gives each pixel the mean of its masks' averages (see
    `SiteMasks.pool`). Independent of the masks' order. Layers and parameter count are exactly
    those of `PlainUnit`, so what it gains over that one, masks gave. Ours, not the paper's.
    """

    uses_masks: ClassVar[bool] = True
    uses_regions: ClassVar[bool] = True

    def forward(self, features: Tensor, prior: Tensor, regions: SiteMasks | None = None) -> tuple[Tensor, Tensor]:
        assert regions is not None
        query = self.query(features)
        return self.modulate(features, prior + self.mixed(features, prior + regions.pool(query), query))
