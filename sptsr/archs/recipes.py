"""Recipes: where units go in the networks we know, and what those networks ask for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from sptsr.archs.sites import Grid, Layout, Site, match_sites
from sptsr.archs.sizes import SizeRules
from sptsr.core.registry import ARCH_REGISTRY, lookup
from sptsr.core.version import RULES
from sptsr.options.tune import WITH_UNITS

# A number, the constructor argument that holds it, or a function of all arguments.
Value = int | str | Callable[[Mapping[str, Any]], int]


Take = tuple[int | None, int | None, int]
ALL: Take = (None, None, 1)


@dataclass(frozen=True)
class Recipe:
    """What is known of a network; a test checks each record against a real forward pass.

    Attributes:
        sites: patterns of module paths (see `sptsr.archs.sites`).
        channels: of the feature at a site.
        in_channels: of the LQ image.
        scale: size of the output over size of the LQ image.
        stride: size of the LQ image over size of the feature at a site.
        multiple: height and width of the LQ image must be multiples of this.
        layout: of the feature at a site.
        take: start, stop and step of the matched modules that become sites, as in a slice.
        units: the same, of the sites that get a unit when `sites` is `auto`, by rules 4 on; LoRA goes into all of them.
        usual: arguments of a usual network of this kind; for those without defaults of their own.
    """

    sites: tuple[str, ...]
    channels: Value
    in_channels: Value
    scale: Value = 'upscale'
    stride: Value = 1
    multiple: Value = 1
    layout: Layout = 'NCHW'
    take: Take | Callable[[Mapping[str, Any]], Take] = ALL
    units: Take = ALL
    usual: Mapping[str, Any] = field(default_factory=dict)

    def resolve(self, arch: str, arguments: Mapping[str, Any]) -> ResolvedRecipe:
        """Returns the record for one network, its arguments completed by the constructor's defaults."""
        defaults = {name: p.default for name, p in inspect.signature(lookup(ARCH_REGISTRY, arch)).parameters.items()}
        complete = defaults | dict(arguments)

        def number(value: Value) -> int:
            if callable(value):
                return value(complete)
            return int(complete[value]) if isinstance(value, str) else value

        return ResolvedRecipe(
            sites=self.sites,
            take=self.take(complete) if callable(self.take) else self.take,
            layout=self.layout,
            channels=number(self.channels),
            in_channels=number(self.in_channels),
            scale=number(self.scale),
            stride=number(self.stride),
            sizes=SizeRules(number(self.multiple), grid=number(self.stride)),
        )

    def multiple_of(self, net: nn.Module) -> int:
        """Returns `multiple` for a module whose arguments are not known, from its attributes; 1 where they say none."""
        if isinstance(self.multiple, str):
            found = [getattr(module, self.multiple, 1) for module in net.modules()]
            return max(value for value in found if isinstance(value, int))
        try:
            return self.multiple(vars(net)) if callable(self.multiple) else self.multiple
        except (KeyError, TypeError):  # of a network of one's own with its name
            return 1


@dataclass(frozen=True)
class ResolvedRecipe:
    """A `Recipe` with the numbers of one network."""

    sites: tuple[str, ...]
    take: Take
    layout: Layout
    channels: int
    in_channels: int
    scale: int
    stride: int
    sizes: SizeRules

    def sites_of(self, net: Any) -> list[Site]:
        """Returns the sites of a network, as declared."""
        paths = match_sites(net, self.sites)[slice(*self.take)]
        return [Site(path, self.channels, Grid(self.stride), self.layout) for path in paths]


def find_recipe(arch: str) -> Recipe | None:
    """Returns the recipe of a network in `ARCH_REGISTRY`, or None."""
    return RECIPES.get(arch.removesuffix('_basicsr'))  # BasicSR registers SRVGGNetCompact under such a name


_RGB = {'num_in_ch': 3, 'num_out_ch': 3}
# EDSR and MSRResNet: a unit after every third residual block keeps the adapter under 3 % of the network, and its cost
# under 8 % of the time (benchmarks/inference.py).
_EVERY_THIRD = (0, None, 3)
# IMDN: a unit behind every second block, from the first. To one behind each it loses 0.0004 dB in domain, 0.0081 out of
# it (docs/results/odd_units/ and odd_units_lora/).
_ODD = (0, None, 2)
# RRDBNet for x2 and x1 works on a pixel-unshuffled image.
_UNSHUFFLED = {1: 4, 2: 2}

RECIPES: Mapping[str, Recipe] = {
    'IMDN': Recipe(('IMDB*',), 'nf', 'in_nc', units=_ODD),
    'EDSR': Recipe(('body.*',), 'num_feat', 'num_in_ch', take=_EVERY_THIRD, usual=_RGB),
    'MSRResNet': Recipe(('body.*',), 'num_feat', 'num_in_ch', take=_EVERY_THIRD),
    'RCAN': Recipe(('body.*',), 'num_feat', 'num_in_ch', usual=_RGB),
    'RRDBNet': Recipe(
        ('body.*',),
        'num_feat',
        'num_in_ch',
        scale='scale',
        stride=lambda given: _UNSHUFFLED.get(given['scale'], 1),
        multiple=lambda given: _UNSHUFFLED.get(given['scale'], 1),
        take=(1, None, 3),
        usual=_RGB,
    ),
    'SwinIR': Recipe(
        ('layers.*',),
        'embed_dim',
        'in_chans',
        # Without an upsampler (denoising) `upscale` plays no part.
        scale=lambda given: given['upscale'] if given['upsampler'] else 1,
        multiple='window_size',
        layout='NLC',
        usual={
            'window_size': 8,
            'img_size': 64,
            'embed_dim': 60,
            'depths': [6, 6, 6, 6],
            'num_heads': [6, 6, 6, 6],
            'mlp_ratio': 2,
            'upscale': 4,
            'upsampler': 'pixelshuffledirect',
        },
    ),
    # Activations behind every fourth convolution of the body; the last module is the head.
    'SRVGGNetCompact': Recipe(('body.*',), 'num_feat', 'num_in_ch', take=(3, -1, 8)),
    # The first block lifts the image to features, the last one brings them to the output's channels.
    'ECBSR': Recipe(
        ('backbone.*',),
        'num_channel',
        'num_in_ch',
        scale='scale',
        take=(1, -1, 1),
        usual={**_RGB, 'num_block': 4, 'num_channel': 16, 'with_idt': False, 'act_type': 'prelu', 'scale': 4},
    ),
    'RIDNet': Recipe(
        ('body.*',),
        'mid_channels',
        'in_channels',
        scale=1,
        usual={'in_channels': 3, 'mid_channels': 64, 'out_channels': 3, 'img_range': 1.0},
    ),
    'CARN': Recipe(('b?',), 'nf', lambda _: 3),
    'CARN_M': Recipe(('b?',), 'nf', lambda _: 3),
    # Works on a pixel-unshuffled image, and pads odd sizes itself. Activations behind every third convolution.
    'FFDNet': Recipe(('model.*',), 'nc', 'in_nc', scale=1, stride=2, take=(5, -1, 6)),
    # The same; with batch normalisation a convolution is followed by two modules.
    'DnCNN': Recipe(
        ('model.*',),
        'nc',
        'in_nc',
        scale=1,
        take=lambda given: (7, -1, 9) if given['act_mode'] == 'BR' else (5, -1, 6),
    ),
}


def rules_told(network_g: Mapping[str, Any]) -> int:
    """Returns the oldest rules that mean what those of an `SPTNet` do, for a digest of what decides a run.

    Rules 4 differ from 3 in where `auto` puts units, and not for most networks.
    """
    backbone = network_g.get('backbone')
    recipe = find_recipe(str(backbone['type'])) if isinstance(backbone, Mapping) and 'type' in backbone else None
    fewer = recipe is not None and recipe.units != ALL and network_g.get('sites', 'auto') == 'auto'
    rules = network_g.get('rules', RULES)
    return rules if fewer and network_g.get('tune', 'adapter') in WITH_UNITS else min(rules, 3)
