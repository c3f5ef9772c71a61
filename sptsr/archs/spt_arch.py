"""SPTNet: a frozen backbone with SPT units at its sites."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sptsr.archs.recipes import RECIPES
from sptsr.archs.sites import Site, feature_map, match_sites, measure_sites
from sptsr.archs.units import SPTUnit
from sptsr.archs.weights import load_strictly, read_weights, state_digest
from sptsr.errors import UserError
from sptsr.registry import ARCH_REGISTRY, UNIT_REGISTRY, lookup, register

_PROBE = 64  # side of the input that measures sites where no recipe is known


@register(ARCH_REGISTRY)
class SPTNet(nn.Module):
    """A pretrained network, frozen and always in eval mode, refined by trainable units.

    The backbone is not edited: its module keeps its own state-dict keys (below `backbone.`), and
    called by itself it is what it was. Until they are trained, the units change nothing, bit for bit.

    Args:
        backbone: a module, or a section `{type: NAME, ...}` of a network in `ARCH_REGISTRY`.
        backbone_weights: its checkpoint, loaded strictly; None keeps the weights as they are.
        backbone_key: entry of the checkpoint that holds the tensors (see `read_weights`).
        sites: `auto` (needs a recipe), or patterns of module paths (see `match_sites`).
        unit: section `{type: NAME, width: 16, ...}` of a unit in `UNIT_REGISTRY`.
        num_masks: masks that the network is given, 1..64.

    Attributes:
        scale: size of the output over size of the LQ image.
        multiple: height and width of the LQ image must be multiples of this.
        sites: the sites, in the order of the backbone's modules.

    Shapes: `forward(lq, masks)` takes [B, C, h, w] in 0..1 and [B, num_masks, h, w] of 0 and 1
    (or None where the unit uses no masks) and returns [B, C', scale h, scale w].
    """

    def __init__(
        self,
        backbone: Mapping[str, Any] | nn.Module,
        backbone_weights: str | None = None,
        backbone_key: str | None = None,
        sites: str | Sequence[str] = 'auto',
        unit: Mapping[str, Any] | None = None,
        num_masks: int = 64,
    ) -> None:
        super().__init__()
        if not 1 <= num_masks <= 64:
            raise UserError(f'num_masks: {num_masks} is not in 1..64')
        self.backbone = _build(backbone)
        if backbone_weights is not None:
            load_strictly(self.backbone, read_weights(backbone_weights, backbone_key), backbone_weights)
        self.backbone.requires_grad_(False).eval()
        self.sites, self.scale, self.multiple, in_channels = _place(self.backbone, backbone, sites)

        unit_arguments = dict(unit or {'type': 'ModulationUnit'})
        unit_class: type[SPTUnit] = lookup(UNIT_REGISTRY, unit_arguments.pop('type'))
        self.units = nn.ModuleList(unit_class(site.channels, **unit_arguments) for site in self.sites)
        self.num_masks = num_masks
        self.stem = unit_class.make_stem(in_channels, num_masks, self._unit(0).width)
        self.uses_masks = unit_class.uses_masks
        self.enabled = True
        self._prior: Tensor | None = None  # S between two sites; lives for one call
        for number, site in enumerate(self.sites):
            # A partial of a bound method survives deepcopy; a closure would keep pointing here.
            self.backbone.get_submodule(site.path).register_forward_hook(functools.partial(self._refine, number))

    def forward(self, lq: Tensor, masks: Tensor | None = None) -> Tensor:
        """Restores `lq`; raises ValueError for masks of another size or number."""
        if not self.enabled:
            return self.backbone(lq)
        if self.uses_masks:
            expected = (lq.shape[0], self.num_masks, *lq.shape[-2:])
            if masks is None or masks.shape != expected:
                got = 'none' if masks is None else list(masks.shape)
                raise ValueError(f'masks must be {list(expected)} for this input, got {got}')
        self._prior = self.stem(self._unit(0).stem_input(lq, masks, self.num_masks))
        try:
            return self.backbone(lq)
        finally:
            self._prior = None

    def train(self, mode: bool = True) -> SPTNet:
        """Sets the mode of stem and units; the backbone stays in eval mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    @contextmanager
    def units_off(self) -> Iterator[SPTNet]:
        """Within it the network is its backbone."""
        before, self.enabled = self.enabled, False
        try:
            yield self
        finally:
            self.enabled = before

    def adapter_parameters(self) -> dict[str, nn.Parameter]:
        """Returns the trainable tensors by name (`stem.…`, `units.…`)."""
        return {name: p for name, p in self.named_parameters() if not name.startswith('backbone.')}

    def adapter_state(self) -> dict[str, Tensor]:
        """Returns tensors and buffers of stem and units by name."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith('backbone.')}

    def backbone_digest(self) -> str:
        """Returns sha256 over all tensors and buffers of the backbone."""
        return state_digest(self.backbone)

    def _unit(self, number: int) -> SPTUnit:
        unit = self.units[number]
        assert isinstance(unit, SPTUnit)
        return unit

    def _refine(self, number: int, _module: nn.Module, _inputs: Any, output: Any) -> Tensor | None:
        if self._prior is None:  # units are off, or the backbone was called by itself
            return None
        features = feature_map(output, self.sites[number].path)
        prior = _resize(self._prior, features.shape[-2:])
        features, self._prior = self.units[number](features, prior)
        return features


def _build(backbone: Mapping[str, Any] | nn.Module) -> nn.Module:
    if isinstance(backbone, nn.Module):
        return backbone
    arguments = dict(backbone)
    if 'type' not in arguments:
        raise UserError("backbone: needs 'type', the name of a network")
    return lookup(ARCH_REGISTRY, arguments.pop('type'))(**arguments)


def _place(
    net: nn.Module, backbone: Mapping[str, Any] | nn.Module, sites: str | Sequence[str]
) -> tuple[list[Site], int, int, int]:
    """Returns sites, scale, size multiple and channels of the LQ image.

    They are declared by the recipe where there is one and the arguments are known, else measured.
    """
    name = backbone['type'] if isinstance(backbone, Mapping) else type(net).__name__
    record = RECIPES.get(name)
    if sites == 'auto':
        if record is None:
            raise UserError(f"sites: 'auto' knows {', '.join(RECIPES)}, not {name}; name the sites: ['body.*']")
        if isinstance(backbone, Mapping):
            recipe = record.resolve(name, backbone)
            found = [Site(path, recipe.channels, recipe.stride) for path in match_sites(net, recipe.sites)]
            return found, recipe.scale, recipe.multiple, recipe.in_channels
        sites = record.sites
    measured, scale, channels = _measure(net, match_sites(net, _as_list(sites)))
    return measured, scale, record.multiple if record else 1, channels


def _measure(net: nn.Module, paths: Sequence[str]) -> tuple[list[Site], int, int]:
    """Runs the network once: on a colour image, and if it takes none, on a gray one."""
    failure = ''
    for channels in (3, 1):
        try:
            measured, scale = measure_sites(net, paths, torch.zeros(1, channels, _PROBE, _PROBE))
        except RuntimeError as error:
            failure = failure or str(error).splitlines()[0]
            continue
        return measured, scale, channels
    raise UserError(f'backbone: {type(net).__name__} takes no image of {_PROBE}x{_PROBE} ({failure}); mend its forward')


def _as_list(sites: str | Sequence[str]) -> list[str]:
    return [sites] if isinstance(sites, str) else list(sites)


def _resize(prior: Tensor, size: torch.Size) -> Tensor:
    """Brings S to a site's resolution: area average down, nearest up."""
    if prior.shape[-2:] == size:
        return prior
    mode = 'area' if size[0] <= prior.shape[-2] and size[1] <= prior.shape[-1] else 'nearest'
    return F.interpolate(prior, size=tuple(size), mode=mode)
