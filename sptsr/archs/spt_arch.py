"""SPTNet: a frozen backbone with SPT units at its sites."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Annotated, Any, Literal, cast

import torch
from torch import Tensor, nn

from sptsr.archs.backbone import Found, build_network, kind_of, out_channels, place
from sptsr.archs.call import call_network
from sptsr.archs.call_state import Call, EnterBackbone, RefineSite, Token, current
from sptsr.archs.checks import checked_prior, checked_refined, codes_of, make_trainable
from sptsr.archs.learned import Learned
from sptsr.archs.pooling import SiteMasks
from sptsr.archs.recipes import find_recipe
from sptsr.archs.sites import Grid
from sptsr.archs.to_site import CarriedPrior, has_several_strides, regions_to_site
from sptsr.archs.units import LadderHead, SPTUnit, stem_by_rules
from sptsr.archs.weights import StateDigest, load_strictly, read_weights
from sptsr.core.errors import UserError
from sptsr.core.registry import ARCH_REGISTRY, UNIT_REGISTRY, lookup, register
from sptsr.core.values import Range
from sptsr.core.version import RULES
from sptsr.masks.batch import PriorBatch
from sptsr.masks.prior import MAX_MASKS
from sptsr.options.tune import RANK, WITH_UNITS, tune_problems, tuned_as

# Images that go through a backbone together while a ladder is tuned on a CPU: fewer take longer, more take more memory.
_LADDER_BATCH = 2


@register(ARCH_REGISTRY)
class SPTNet(nn.Module):
    """A pretrained network, frozen and always in eval mode, refined by trainable units.

    The backbone is not edited: its module keeps its own state-dict keys (below `backbone.`), and
    called alone it gives its own results. Until they are trained, the units change nothing, bit for bit.

    Other ways to tune change the backbone itself. Then "adapter" means what was tuned of it (see `Learned`), with
    `adapter+lora` beside the units, and else without units or masks.

    Args:
        backbone: a module, or a section `{type: NAME, ...}` of a network in `ARCH_REGISTRY`.
        backbone_weights: its checkpoint, loaded strictly; None keeps the weights as they are.
        backbone_key: entry of the checkpoint that holds the tensors (see `read_weights`).
        sites: `auto` (needs a recipe), or patterns of module paths (see `match_sites`). `auto` puts units behind every
            second block of IMDN, and LoRA into all.
        unit: section `{type: NAME, width: 16, ...}` of a unit in `UNIT_REGISTRY`.
        num_masks: masks that the network is given, 1..64.
        tune: what learns: `adapter` (the units), `all` (every weight of the backbone), `bias` (its biases and
            normalisation layers), `lora` (LoRA in the layers of the blocks that `sites` name) or `adapter+lora`.
        rank: of LoRA, 1..256; 4 where nothing is said.
        rules: which rules the units follow (see `RULES` in sptsr/core/version.py); older ones go on with what an older
            sptsr began.
        lora_sites: patterns of the modules that get LoRA with `adapter+lora`; those of `sites` where nothing is said.

    The state of a call is kept by the thread that made it: several threads, shallow and deep copies and the replicas of
    `torch.nn.DataParallel` may run at once. Stem and units have the backbone's device and dtype.

    Attributes:
        options: the arguments as a section `{type: SPTNet, ...}`; a backbone given as a module is only named in it.
        scale: size of the output over size of the LQ image.
        sizes: what the backbone asks of the size of the LQ image.
        in_channels: of the LQ image.
        sites: the sites, in the order of the backbone's modules; none with `all` and `bias` where no recipe tells them.
        uses_masks: whether it must be given masks.
        learned: what learns of the backbone; None with `tune: adapter`.
        trained_with: what the adapter that was loaded says of its training (see `Adapter`).
        rules: which rules the units follow.

    Raises:
        UserError: sites that match nothing or give no feature map, weights of another network, and
            units that no gradient can reach.
    """

    @torch.inference_mode(False)
    def __init__(
        self,
        backbone: Mapping[str, Any] | nn.Module,
        backbone_weights: str | None = None,
        backbone_key: str | None = None,
        sites: str | Sequence[str] = 'auto',
        unit: Mapping[str, Any] | None = None,
        num_masks: Annotated[int, Range(1, 64)] = MAX_MASKS,
        tune: Literal['adapter', 'adapter+lora', 'all', 'lora', 'bias'] = 'adapter',
        rank: int | None = None,
        rules: Annotated[int, Range(1, 4)] = RULES,
        lora_sites: str | Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        given = {'sites': sites, 'unit': unit, 'num_masks': num_masks, 'rank': rank, 'lora_sites': lora_sites}
        usual = {'sites': 'auto', 'num_masks': MAX_MASKS}
        for _, problem in tune_problems({'tune': tune, **{k: v for k, v in given.items() if v != usual.get(k)}}):
            raise UserError(problem)
        if not 1 <= num_masks <= MAX_MASKS:
            raise UserError(f'num_masks: {num_masks} is not in 1..{MAX_MASKS}')
        self.options = {
            'type': 'SPTNet',
            'backbone': dict(backbone) if isinstance(backbone, Mapping) else {'module': type(backbone).__qualname__},
            'backbone_weights': backbone_weights,
            'backbone_key': backbone_key,
            'sites': sites if isinstance(sites, str) else list(sites),
            'unit': {'type': 'ModulationUnit', **(unit or {})},
            'num_masks': num_masks,
        }
        if lora_sites is not None:
            self.options['lora_sites'] = lora_sites if isinstance(lora_sites, str) else list(lora_sites)
        if tune != 'adapter':
            self.options = tuned_as(self.options, tune, rank)
        self.tune = tune
        self.backbone = build_network(backbone)
        self.found = next((hook.found for hook in StateDigest.of(self.backbone)), None) or Found.of(self.backbone)
        if backbone_weights is not None:
            load_strictly(self.backbone, read_weights(backbone_weights, backbone_key), backbone_weights)
        self.backbone.requires_grad_(False).eval()
        self.digest = StateDigest(self.backbone, self.found, fixed=tune != 'adapter')
        described = backbone if isinstance(backbone, Mapping) else None
        known = find_recipe(described['type'] if described else '') is not None
        placement = place(self.backbone, described, sites if known or tune not in ('all', 'bias') else None)
        self.sites, self.scale, self.sizes = placement.sites, placement.scale, placement.sizes
        self.in_channels, self.placement = placement.in_channels, replace(placement, probe=None)
        self.num_masks, self.rules = num_masks, rules
        self.trained_with: dict[str, Any] = {}
        self.enabled = True
        self.copies = False  # whether units work on copies of the backbone's features in training
        self.token = Token()
        self.hooks = [self.backbone.register_load_state_dict_post_hook(self.digest)]
        self.learned: Learned | None = None
        if tune != 'adapter':
            self.learned = Learned(self.backbone, tune, RANK if rank is None else rank, placement.sites, lora_sites)
        self.units = nn.ModuleList()
        self.uses_masks = self.uses_regions = self.ladder = False
        if tune in WITH_UNITS:
            self._add_units()
            if placement.probe is not None:
                make_trainable(self, placement.probe)

    def _add_units(self) -> None:
        """Makes stem and units, and the hooks that run them, in place of those there are."""
        for hook in self.hooks[1:]:
            hook.remove()
        self.hooks = self.hooks[:1]
        self.sites = self.placement.sites_of_units(self.rules)
        arguments = dict(self.options['unit'])
        unit_class: type[SPTUnit] = lookup(UNIT_REGISTRY, arguments.pop('type'))
        self.units = nn.ModuleList(unit_class(site.channels, **arguments) for site in self.sites)
        self.stem = self._stem()
        self.ladder = self._unit(0).path == 'ladder'
        if self.ladder and self.learned:
            raise UserError('unit.path: ladder: no gradient reaches LoRA in the backbone; set path: inline')
        if self.ladder:
            last = self.sites[-1].grid
            plain = last.border == 0 and last.stride >= 1 and last.stride == int(last.stride)
            self.rung = Grid(last.stride) if plain else Grid()  # where the pixels of S lie when it is joined
            factor = self.scale * int(self.rung.stride)
            self.join = LadderHead(self._unit(0).width, out_channels(self.backbone, self.placement), factor)
        self.uses_regions = unit_class.uses_regions
        self.uses_masks = unit_class.uses_masks and (self.uses_regions or getattr(self.stem, 'uses_masks', True))
        self.hooks.append(self.backbone.register_forward_pre_hook(EnterBackbone(self.token)))
        for number, site in enumerate(self.sites):
            module = self.backbone.get_submodule(site.path)
            self.hooks.append(module.register_forward_hook(RefineSite(self.token, number), with_kwargs=True))
        for part in self.adapter_parts():
            part.to(**kind_of(self.backbone)).train(self.training)

    def forward(self, lq: Tensor, masks: Tensor | PriorBatch | None = None, sigma: Tensor | None = None) -> Tensor:
        """Restores an image.

        Args:
            lq: [B, C, h, w] in 0..1.
            masks: [B, num_masks, h, w] of 0 and 1, or their codes for the same B, h, w, on that grid or a finer one;
                None where the unit uses no masks.
            sigma: noise level [B] in 0..1 (sigma / 255), for backbones that take one.

        Returns:
            [B, C', scale h, scale w].

        Raises:
            ValueError: masks of another size or number.
        """
        if not self.enabled or not self.units:
            return call_network(self.backbone, lq, sigma)
        codes = codes_of(lq, masks, self.num_masks) if self.uses_masks else None
        if not (self.ladder and torch.is_grad_enabled() and lq.device.type == 'cpu'):
            return self._restore(lq, codes, sigma)
        # Nothing of the backbone is kept for a backward pass, so its batch need not be there at once.
        parts = []
        for n in range(0, len(lq), _LADDER_BATCH):
            end = n + _LADDER_BATCH
            own = None if codes is None else codes.rows(n, end)
            parts.append(self._restore(lq[n:end], own, None if sigma is None else sigma[n:end]))
        return torch.cat(parts)

    def _restore(self, lq: Tensor, codes: PriorBatch | None, sigma: Tensor | None) -> Tensor:
        keeps_detail = self.rules > 1 and has_several_strides(self.sites)
        coarse = None if codes is None else codes.at(1)
        prior = checked_prior(self.stem(lq, coarse if self.fine == 1 else codes), lq, self._unit(0).width)
        carried = CarriedPrior(prior, keeps_detail)
        regions = SiteMasks.of(coarse, self.num_masks) if self.uses_regions and coarse is not None else None
        size = (lq.shape[-2], lq.shape[-1])
        outer = current.set(Call(self, size, carried, regions, torch.is_grad_enabled()))
        try:
            if not self.ladder:
                return call_network(self.backbone, lq, sigma)
            with torch.no_grad():
                output = call_network(self.backbone, lq, sigma)
        finally:
            current.reset(outer)
        step = int(self.rung.stride)
        prior = carried.at((-(-size[0] // step), -(-size[1] // step)), self.rung)
        return output + self.join(prior)[..., : output.shape[-2], : output.shape[-1]]

    def train(self, mode: bool = True) -> SPTNet:
        """Sets the mode of stem and units; the backbone stays in eval mode. Training undoes `merge`."""
        super().train(mode)
        self.backbone.eval()
        if mode and self.learned:
            self.learned.unmerge()
        return self

    def merge(self) -> SPTNet:
        """Adds LoRA to the weights of its layers, for inference: it then costs nothing. Elsewhere nothing is done."""
        if self.learned:
            self.learned.merge()
        return self

    @contextmanager
    def unmerged(self) -> Iterator[SPTNet]:
        """Within it LoRA is beside its layers, where its values may be changed."""
        merged = self.learned is not None and self.learned.merged
        if self.learned and merged:
            self.learned.unmerge()
        try:
            yield self
        finally:
            if merged:
                self.merge()

    @contextmanager
    def units_off(self) -> Iterator[SPTNet]:
        """Within it the network is its backbone, as it was before it was tuned; so it is for other threads."""
        before, self.enabled = self.enabled, False
        try:
            with self.learned.as_found() if self.learned and before else nullcontext():
                yield self
        finally:
            self.enabled = before

    def adapter_parts(self) -> list[nn.Module]:
        """Returns the modules that are not the backbone: stem, units, and the head of a ladder."""
        return [module for name, module in self.named_children() if name != 'backbone']

    def adapter_parameters(self) -> dict[str, nn.Parameter]:
        """Returns the trainable tensors by name: `stem.…`, `units.…`, `join.…` of a ladder; else `backbone.…`."""
        own = {name: p for name, p in self.named_parameters() if not name.startswith('backbone.')}
        return own | (self.learned.parameters() if self.learned else {})

    def adapter_state(self) -> dict[str, Tensor]:
        """Returns tensors and buffers of the adapter by name."""
        own = {name: value for name, value in self.state_dict().items() if not name.startswith('backbone.')}
        return own | {n: p.detach() for n, p in (self.learned.parameters() if self.learned else {}).items()}

    @property
    def uses_statistics(self) -> bool:
        """Whether masks of a crop should come with the statistics of the whole image."""
        return bool(self.units) and getattr(self.stem, 'uses_statistics', False)

    @property
    def fine(self) -> int:
        """How many times as fine as the image's the grid of masks is that the stem reads."""
        return getattr(self.stem, 'fine', 1) if self.units else 1

    @torch.inference_mode(False)
    def use_rules(self, rules: int) -> None:
        """Makes the units follow the rules an adapter was trained by; what was of another kind starts untrained."""
        self.rules = rules
        if self.units and self.placement.sites_of_units(rules) != self.sites:
            self._add_units()
        elif self.units:
            stem = self._stem()
            if type(stem) is not type(self.stem):
                self.stem = stem.to(**kind_of(self.backbone))

    def _stem(self) -> nn.Module:
        return stem_by_rules(self.rules, self._unit(0), self.options['unit'], self.in_channels, self.num_masks)

    def backbone_digest(self) -> str:
        """Returns sha256 over all tensors and buffers of the backbone as they were loaded.

        Some networks compute tensors from others while they run (SPAN), and a change of dtype changes all of them.
        """
        return self.digest.value

    def _unit(self, number: int) -> SPTUnit:
        return cast(SPTUnit, self.units[number])

    def refine(self, number: int, call: Call, output: Any, given: list[Any]) -> Tensor | None:
        """Returns the refined output of a site, or None to leave it unchanged. The hook of the site calls it."""
        with torch.set_grad_enabled(call.learns):
            return self._refined(number, call, output, given)

    def _refined(self, number: int, call: Call, output: Any, given: list[Any]) -> Tensor | None:
        site, unit = self.sites[number], self._unit(number)
        features = site.to_map(output, given, call.size)
        if self.copies and call.learns:
            features = features.clone()
        size = (features.shape[-2], features.shape[-1])
        given_to: list[Any] = [features, call.prior.at(size, site.grid)]
        if call.regions is not None:
            place = size, site.grid
            if place not in call.at_site:
                call.at_site[place] = regions_to_site(call.regions, *place)
            given_to.append(call.at_site[place])
        features, prior = checked_refined(unit(*given_to), features, unit.width, type(unit).__name__)
        call.prior.leave(prior, site.grid)
        return None if self.ladder else site.from_map(features)
