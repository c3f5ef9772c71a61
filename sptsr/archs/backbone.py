"""Building a backbone, calling it, and finding out where units go in it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sptsr.archs.building import build, fault
from sptsr.archs.call import call_network, call_unguarded, takes_sigma
from sptsr.archs.recipes import ALL, RECIPES, Take, find_recipe
from sptsr.archs.sites import Site, match_sites, measure_sites, tile_step
from sptsr.archs.sizes import SizeRules, round_up
from sptsr.core.errors import UserError
from sptsr.core.registry import ARCH_REGISTRY, lookup
from sptsr.core.signatures import parameters
from sptsr.options.calling import Calling, split_calling

T = TypeVar('T')
_PROBE = 40  # height of the image that measures a network; no usual number of channels


@dataclass(frozen=True)
class Placement:
    """Where units go in a network, and what the network asks for.

    Attributes:
        sites: the sites, by the patterns or by the recipe.
        scale: size of the output over size of the LQ image.
        sizes: what it asks of the size of the LQ image.
        in_channels: of the LQ image.
        probe: the image [1, in_channels, h, 2 h] that this was measured on; None where a recipe declares it.
        units: which of the sites get a unit, by rules 4 on.
    """

    sites: list[Site]
    scale: int
    sizes: SizeRules
    in_channels: int
    probe: Tensor | None = None
    units: Take = ALL

    def sites_of_units(self, rules: int) -> list[Site]:
        """Returns the sites that get a unit by these rules (see `RULES` in sptsr/core/version.py)."""
        return self.sites[slice(*self.units)] if rules > 3 else self.sites


@dataclass(frozen=True)
class Found:
    """The state of a network before it was frozen.

    Attributes:
        training: the mode of each of its modules, in their order.
        learns: whether each of its parameters wanted a gradient, in their order.
        kinds: class of each of its modules, which `remember_less` may change.
    """

    training: list[bool]
    learns: list[bool]
    kinds: list[type[nn.Module]]

    @classmethod
    def of(cls, net: nn.Module) -> Found:
        """Records the state of a network."""
        modules = list(net.modules())
        learns = [p.requires_grad for p in net.parameters()]
        return cls([module.training for module in modules], learns, [type(module) for module in modules])

    def put_back(self, net: nn.Module) -> None:
        """Restores the recorded state of the network."""
        for module, training, kind in zip(net.modules(), self.training, self.kinds, strict=True):
            module.training = training
            module.__class__ = kind
        for parameter, learns in zip(net.parameters(), self.learns, strict=True):
            parameter.requires_grad_(learns)


def kind_of(net: nn.Module) -> dict[str, Any]:
    """Returns `device` and `dtype` of a network's first floating-point tensor; CPU and float32 where it has none."""
    for tensor in itertools.chain(net.parameters(), net.buffers()):
        if tensor.is_floating_point():
            return {'device': tensor.device, 'dtype': tensor.dtype}
    return {'device': torch.device('cpu'), 'dtype': torch.float32}


def build_network(section: Mapping[str, Any] | nn.Module) -> nn.Module:
    """Returns the network of a section `{type: NAME, ...}`, or the module itself."""
    if isinstance(section, nn.Module):
        return section
    if 'type' not in section:
        raise UserError("backbone: needs 'type', the name of a network")
    name = section['type']
    network = lookup(ARCH_REGISTRY, name)
    arguments, calling = split_calling(section, parameters(network))
    net = build(name, network, arguments)
    if calling != Calling():
        net.calling = calling
    return net


def size_rules(net: nn.Module, section: Mapping[str, Any] | None = None) -> SizeRules:
    """Returns what a network asks of the size of its input.

    It may say so itself: by an attribute `sizes` (`SizeRules`) or `size_multiple` (a number), or its section by
    `size_multiple`. Else its recipe does, for a module without a section as far as its attributes tell.
    """
    own = getattr(net, 'sizes', None)
    if isinstance(own, SizeRules):
        return own
    calling = getattr(net, 'calling', None)
    if isinstance(calling, Calling) and calling.size_multiple > 1:
        return SizeRules(calling.size_multiple)
    multiple = getattr(net, 'size_multiple', None)
    if isinstance(multiple, int):
        return SizeRules(multiple)
    name = section['type'] if section and 'type' in section else type(net).__name__
    recipe = find_recipe(name)
    if recipe is None:
        return SizeRules()
    return recipe.resolve(name, section).sizes if section else SizeRules(recipe.multiple_of(net))


def tile_rules(net: nn.Module, sizes: SizeRules) -> SizeRules:
    """Returns the size rules with the grid of tiles, which is measured unless the network says its rules itself."""
    if isinstance(getattr(net, 'sizes', None), SizeRules):
        return sizes
    return replace(sizes, grid=math.lcm(sizes.grid, tile_step(net, probe_of(net, sizes))))


def place(net: nn.Module, section: Mapping[str, Any] | None, sites: str | Sequence[str] | None) -> Placement:
    """Finds sites, scale, size rules and channels of the LQ image.

    They are declared by the recipe where there is one and the network's section is known, else measured. Without
    sites (None), the rest is measured.

    Raises:
        UserError: `auto` without a recipe, sites that match nothing or give no feature map.
    """
    name = section['type'] if section else type(net).__name__
    recipe = find_recipe(name)
    if sites == 'auto' and recipe is None:
        known = ', '.join(RECIPES)
        raise UserError(
            f"sites: 'auto' knows {known}, not {name}; `sptsr sites` proposes sites for it, such as ['body.*']"
        )
    sizes = size_rules(net, section)
    if sites == 'auto' and recipe is not None and section is not None:
        record = recipe.resolve(name, section)
        found = _some(record.sites_of(net), name)
        return Placement(found, record.scale, sizes, record.in_channels, units=recipe.units)
    units = ALL
    if sites == 'auto' and recipe is not None:
        # A module whose arguments are unknown: the recipe's patterns, and measured numbers.
        try:
            take = recipe.take(vars(net)) if callable(recipe.take) else recipe.take
        except KeyError as error:
            raise UserError(
                f"sites: 'auto' knows a {name} built from its section, and this module keeps no {error}; name modules, "
                "such as ['body.*']"
            ) from error
        paths, units = _some(match_sites(net, recipe.sites)[slice(*take)], name), recipe.units
    else:
        paths = [] if sites is None else match_sites(net, [sites] if isinstance(sites, str) else list(sites))
    image = probe_of(net, sizes)
    measured, scale = measure_sites(net, paths, image)
    return Placement(measured, scale, tile_rules(net, sizes), image.shape[1], image, units)


def _some(sites: list[T], name: str) -> list[T]:
    if not sites:
        raise UserError(f"sites: 'auto' finds none in {name} of so few blocks; name modules, `sptsr sites` lists them")
    return sites


@torch.no_grad()
def out_channels(net: nn.Module, placement: Placement) -> int:
    """Returns the channels of what a network returns, by running it once."""
    image = placement.probe
    image = probe(placement.sizes, placement.in_channels).to(**kind_of(net)) if image is None else image
    return call_network(net, image).shape[1]


@torch.no_grad()
def probe_of(net: nn.Module, sizes: SizeRules) -> Tensor:
    """Returns an image that the network takes: colour, and if it takes none, gray, RGB with alpha, or two."""
    failure: Exception | None = None
    for channels in (3, 1, 4, 2):
        image = probe(sizes, channels).to(**kind_of(net))
        try:
            call_unguarded(net, image)
        except UserError:
            raise
        except Exception as error:
            failure = failure or error
            continue
        return image
    assert failure is not None
    height, width = image.shape[-2:]
    remedy = 'mend its forward, or say size_multiple in its section'
    if takes_sigma(net):
        remedy += ', and give sigma a default value if it has none: networks are tried without'
    raise fault(type(net).__name__, f'takes no image of {height}x{width}', failure, remedy) from failure


def probe(sizes: SizeRules, channels: int) -> Tensor:
    """Returns an image [1, channels, h, 2 h] in 0..1 that a network of these rules takes."""
    if sizes.square:
        raise UserError('backbone: a network that takes square images only cannot be measured; it takes no units')
    height = round_up(max(_PROBE, sizes.minimum), sizes.multiple)
    # Not constant: some networks divide by the spread of their input.
    return torch.linspace(0, 1, 2 * height * height).reshape(1, 1, height, 2 * height).repeat(1, channels, 1, 1)
