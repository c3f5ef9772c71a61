"""SPT units: the trainable parts that sit at the sites of a frozen backbone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from sptsr.archs.geometry import GeometryStem  # noqa: F401 (registers itself)
from sptsr.archs.modulation import modulate, sum_of_both
from sptsr.archs.pooling import SiteMasks
from sptsr.archs.stems import MaskStem, PlainStem, weight_and_bias  # noqa: F401 (plug-ins of 0.1 import MaskStem here)
from sptsr.core.registry import STEM_REGISTRY, UNIT_REGISTRY, lookup, register
from sptsr.core.values import Range


def stem_section(stem: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Returns name and options of a stem, given as its name or as `{type: NAME, ...}`."""
    if isinstance(stem, str):
        return stem, {}
    options = dict(stem)
    return str(options.pop('type', '')), options


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
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
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
        stem: name of a registered stem, or `{type: NAME, ...}` with its options; used by the unit at the first site.
        stem_of_old: the stem by rules 1 and 2 where nothing names one (see `RULES` in sptsr/core/version.py).
    """

    uses_masks: ClassVar[bool] = True
    uses_regions: ClassVar[bool] = False
    path: str = 'inline'
    stem: str | Mapping[str, Any] = 'masks'
    stem_of_old: ClassVar[str | Mapping[str, Any]] = 'masks'

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.channels = channels
        self.width = width

    def make_stem(self, in_channels: int, num_masks: int, width: int) -> nn.Module:
        """Returns the stem: LQ image [B, in_channels, h, w] and its masks to S0 [B, width, h, w]."""
        name, options = stem_section(self.stem)
        return lookup(STEM_REGISTRY, name)(in_channels, num_masks, width, **options)

    def forward(self, features: Tensor, prior: Tensor, regions: SiteMasks | None = None) -> tuple[Tensor, Tensor]:
        """Refines F [B, C, h, w] with S [B, width, h, w]; returns F' and S' of the same shapes."""
        raise NotImplementedError


def stem_by_rules(rules: int, unit: SPTUnit, section: Mapping[str, Any], in_channels: int, num_masks: int) -> nn.Module:
    """Returns the stem of a network by the rules of its units (see `RULES` in sptsr/core/version.py).

    Args:
        rules: their number.
        unit: at the first site.
        section: the unit's section.
        in_channels, num_masks: as in `SPTUnit.make_stem`.
    """
    named = unit.stem
    if rules < 3 and section.keys().isdisjoint(('stem', 'density')):
        unit.stem = unit.stem_of_old
    stem = unit.make_stem(in_channels, num_masks, unit.width)
    unit.stem = named  # rules may change again
    return stem.as_of_old() if rules < 2 and isinstance(stem, PlainStem) else stem


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
        stem: what makes S of the LQ image and its masks: `geometry` (what they mean), `masks` (each as a channel), or
            a section `{type: NAME, ...}` of one.
    """

    def __init__(
        self,
        channels: int,
        width: Annotated[int, Range(1, 4096)] = 16,
        path: Literal['inline', 'ladder'] = 'inline',
        stem: str | dict[str, Any] = 'geometry',
    ) -> None:
        super().__init__(channels, width)
        self.stem = stem
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
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, features: Tensor, prior: Tensor, regions: SiteMasks | None = None) -> tuple[Tensor, Tensor]:
        return self.modulate(features, prior + self.mixed(features, prior))

    def mixed(self, features: Tensor, prior: Tensor, query: Tensor | None = None) -> Tensor:
        """Returns g(concat(q(F), S)); `query` is q(F) where it is known.

        There is no non-linearity between q and the first layer of g, so their weights are multiplied instead of their
        outputs, and nothing is joined:

            W concat(Q F, S) = (W_F Q) F + W_S S
        """
        if query is not None and not torch.is_grad_enabled():
            return self.mix(torch.cat([query, prior], dim=1))
        first, act, last = self.mix
        (first_weight, first_bias), (query_weight, query_bias) = weight_and_bias(first), weight_and_bias(self.query)
        of_query, of_prior = first_weight.flatten(1).split(self.width, dim=1)
        weight = of_query @ query_weight.flatten(1)
        bias = torch.addmv(first_bias, of_query, query_bias)
        return last(act(sum_of_both(features, weight, prior, of_prior, bias)))

    def modulate(self, features: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
        """Returns F (1 + gamma) + beta and S', with gamma and beta read off S'; on a ladder, F and S'."""
        if self.path == 'ladder':
            return features, prior
        return modulate(features, self.act(prior), *weight_and_bias(self.out)), prior


@register(UNIT_REGISTRY)
class PlainUnit(ModulationUnit):
    """A control: a `ModulationUnit` that never sees a mask.

    Layers and numbers of parameters are those of `ModulationUnit`. Where its stem reads maps of the masks, this one's
    reads as many functions of the image's grey level, so that both start at the same scale and learn at the same
    speed: `GreyStem` stands for `GeometryStem`, and `PlainStem` for `MaskStem`. The first controls are the same unit on
    masks of other images and on random regions (docs/training.md): they differ from it in the masks alone.

    Args:
        channels, width, path: as in `ModulationUnit`.
        density: for a comparison with `stem: masks`: number of masks that a pixel is in on average, in the priors of
            that unit, above 0 and at most 64; `sptsr prior info STORE` prints it. Kept in the adapter, so that a test
            need not repeat it. Without it, the comparison is with `stem: geometry`.
    """

    uses_masks: ClassVar[bool] = False
    stem_of_old: ClassVar[str | Mapping[str, Any]] = {'type': 'plain', 'density': 2.5}

    def __init__(
        self,
        channels: int,
        width: Annotated[int, Range(1, 4096)] = 16,
        path: Literal['inline', 'ladder'] = 'inline',
        density: Annotated[float, Range(0.001, 64)] | None = None,
    ) -> None:
        stem: str | dict[str, Any] = 'grey' if density is None else {'type': 'plain', 'density': density}
        super().__init__(channels, width, path, stem)


@register(UNIT_REGISTRY)
class RegionUnit(PlainUnit):
    """A `PlainUnit` that also knows what the feature is like in the regions a pixel is in.

        P = paint(pool(q(F)))
        S' = S + g(concat(q(F), S + P))

    pool averages q(F) over each mask; paint gives each pixel the mean of its masks' averages (see `SiteMasks.pool`).
    The order of the masks plays no part. Layers and numbers of parameters are those of `PlainUnit`, so what it gains
    over that one, masks gave. Ours, not the paper's.

    With `spread` it is also told how much the feature varies there, with one weight a channel, a, that starts at zero:

        P = paint(pool(q(F))) + a sqrt(paint(pool(q(F)^2)) - paint(pool(q(F)))^2)

    An average is over what the network is given: a crop in training, the whole image at the test, tiled or not (see
    `sptsr.restoring.tiling`).

    Args:
        channels, width, path: as in `ModulationUnit`.
        density: as in `PlainUnit`, for its stem.
        stem: as in `ModulationUnit`, in place of `PlainUnit`'s; the unit is then told of the masks in two ways.
        spread: standard deviations of the regions beside their means; `width` parameters more.
    """

    uses_masks: ClassVar[bool] = True
    uses_regions: ClassVar[bool] = True

    def __init__(
        self,
        channels: int,
        width: Annotated[int, Range(1, 4096)] = 16,
        path: Literal['inline', 'ladder'] = 'inline',
        density: Annotated[float, Range(0.001, 64)] | None = None,
        stem: str | dict[str, Any] | None = None,
        spread: bool = False,
    ) -> None:
        super().__init__(channels, width, path, density)
        if stem is not None:
            self.stem = stem
        self.spread = nn.Parameter(torch.zeros(width)) if spread else None

    def forward(self, features: Tensor, prior: Tensor, regions: SiteMasks | None = None) -> tuple[Tensor, Tensor]:
        assert regions is not None
        query = self.query(features)
        return self.modulate(features, prior + self.mixed(features, prior + self._pooled(query, regions), query))

    def _pooled(self, query: Tensor, regions: SiteMasks) -> Tensor:
        if self.spread is None:
            return regions.pool(query)
        values = query.float()  # a difference of squares
        mean, square = regions.pool(torch.cat([values, values.square()], dim=1)).chunk(2, dim=1)
        deviation = ((square - mean.square()).clamp(min=0) + 1e-6).sqrt()  # 1e-6: its slope is infinite at 0
        return (mean + self.spread[:, None, None] * deviation).to(query.dtype)
