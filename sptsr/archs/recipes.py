"""Recipes: where units go in the networks we know, and what those networks ask for."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sptsr.registry import ARCH_REGISTRY, lookup


@dataclass(frozen=True)
class Recipe:
    """What is known of a network; a test checks each record against a real forward pass.

    Attributes:
        sites: patterns of module paths (see `sptsr.archs.sites`).
        channels: constructor argument that holds the channels of the feature at a site.
        in_channels: constructor argument that holds the channels of the LQ image.
        scale: constructor argument that holds the upscaling; None for a scale of 1.
        stride: size of the LQ image over size of the feature at a site.
        multiple: height and width of the LQ image must be multiples of this.
    """

    sites: tuple[str, ...]
    channels: str
    in_channels: str
    scale: str | None = 'upscale'
    stride: int = 1
    multiple: int = 1

    def resolve(self, arch: str, arguments: Mapping[str, Any]) -> ResolvedRecipe:
        """Returns the record for one network, its arguments completed by the constructor's defaults."""
        parameters = inspect.signature(lookup(ARCH_REGISTRY, arch)).parameters

        def value(name: str) -> int:
            return int(arguments.get(name, parameters[name].default))

        return ResolvedRecipe(
            sites=self.sites,
            channels=value(self.channels),
            in_channels=value(self.in_channels),
            scale=value(self.scale) if self.scale else 1,
            stride=self.stride,
            multiple=self.multiple,
        )


@dataclass(frozen=True)
class ResolvedRecipe:
    """A `Recipe` with the numbers of one network."""

    sites: tuple[str, ...]
    channels: int
    in_channels: int
    scale: int
    stride: int
    multiple: int


# EDSR and MSRResNet: a unit after every second residual block keeps the adapter under 3 % of the network.
_EVERY_SECOND = (r're:body\.\d*[13579]',)

RECIPES: Mapping[str, Recipe] = {
    'IMDN': Recipe(sites=('IMDB*',), channels='nf', in_channels='in_nc'),
    'EDSR': Recipe(sites=_EVERY_SECOND, channels='num_feat', in_channels='num_in_ch'),
    'MSRResNet': Recipe(sites=_EVERY_SECOND, channels='num_feat', in_channels='num_in_ch'),
}
