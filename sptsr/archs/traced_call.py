"""The call of an `SPTNet` as a module of tensors alone, for `torch.export`: masks as tensors, units folded."""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sptsr.archs.call import call_network, takes_sigma
from sptsr.archs.call_state import Call, Token, current
from sptsr.archs.pooling import SiteMasks
from sptsr.archs.spt_arch import SPTNet
from sptsr.archs.stems import weight_and_bias
from sptsr.archs.to_site import CarriedPrior, has_several_strides, regions_to_site
from sptsr.archs.units import ModulationUnit
from sptsr.masks.batch import PriorBatch, padded_positions
from sptsr.masks.prior import MAX_MASKS
from sptsr.masks.tiles import RegionSums


class TracedCall(nn.Module):
    """What a network with units does with one image, as a function of tensors.

    Runs the same modules in the same order as `SPTNet.forward`, and pads the image as `restore_padded` does, so that
    an image of any size is taken. Differs only in what cannot be traced or need not be computed: nothing is looked up
    by the size of a map, and units are folded (see `FoldedUnit`).

    Args:
        net: the network; a copy is taken, on the CPU, in eval mode and in float32.

    Attributes:
        input_names: of `forward`'s arguments that the network takes, in their order: `lq`; `index` and `palette` where
            its units use masks; `sigma` where the backbone takes a noise level.
        smallest: height and width that an image must have at least.
    """

    def __init__(self, net: SPTNet) -> None:
        super().__init__()
        self.net = copy.deepcopy(net).to('cpu', torch.float32).eval().merge().requires_grad_(False)
        self.token: Token = self.net.token  # hooks of the copied network belong to this call
        for number, unit in enumerate(self.net.units):
            if isinstance(unit, ModulationUnit) and FoldedUnit.takes(unit):
                self.net.units[number] = FoldedUnit(unit)
        for module in self.net.backbone.modules():
            if hasattr(module, 'calculate_mask') and hasattr(module, 'input_resolution'):
                # Swin blocks keep the mask of one size; at that size a traced one would be another program.
                vars(module)['input_resolution'] = (0, 0)
        masks = ['index', 'palette'] if net.uses_masks else []
        self.input_names = ['lq', *masks, *(['sigma'] if takes_sigma(net.backbone) else [])]
        # One more than the multiple, so that no side of what the network sees is a single window.
        self.smallest = max(2, net.sizes.minimum, net.sizes.multiple + 1)

    def forward(
        self,
        lq: Tensor,
        index: Tensor | None = None,
        palette: Tensor | None = None,
        sigma: Tensor | None = None,
    ) -> Tensor:
        """Restores an image.

        Args:
            lq: float32 [1, C, h, w] in 0..1.
            index: int64 [1, fine h, fine w], which row of `palette` each pixel has.
            palette: uint8 [K, num_masks] of 0 and 1, which masks a pixel with this row is in.
            sigma: float32 [1], noise level in 0..1 (sigma / 255).

        Returns:
            float32 [1, C', scale h, scale w], not clipped.
        """
        net = self.net
        height, width = lq.shape[-2:]
        masks = None
        if index is not None and palette is not None:
            torch._check(index.shape[1] == net.fine * height)  # one symbol each, not two
            torch._check(index.shape[2] == net.fine * width)
            masks = PaletteBits.of_bits(palette, index, net.fine)
            if net.uses_statistics:
                masks = masks.describe(lq)  # of the image, not of what it is padded to
        if net.sizes.multiple > 1 or net.sizes.minimum > 1:
            right, bottom = net.sizes.padding(height, width)
            rows = padded_positions(height, bottom, 1, lq.device)
            columns = padded_positions(width, right, 1, lq.device)
            lq = lq[..., rows, :][..., columns]
            masks = None if masks is None else masks.pad(right, bottom)
        output = self._refined(lq, masks, sigma) if len(net.units) > 0 else call_network(net.backbone, lq, sigma)
        return output[..., : height * net.scale, : width * net.scale]

    def _refined(self, lq: Tensor, masks: PriorBatch | None, sigma: Tensor | None) -> Tensor:
        net, size = self.net, (lq.shape[-2], lq.shape[-1])
        carried = CarriedPrior(net.stem(lq, masks), net.rules > 1 and has_several_strides(net.sites))
        carried.seen = _ByText()
        regions = None
        if net.uses_regions and masks is not None:
            regions = _TracedMasks.of(masks.at(1), net.num_masks)
        outer = current.set(Call(self, size, carried, regions, learns=False))
        try:
            output = call_network(net.backbone, lq, sigma)
        finally:
            current.reset(outer)
        if not net.ladder:
            return output
        step = int(net.rung.stride)
        prior = carried.at(((size[0] + step - 1) // step, (size[1] + step - 1) // step), net.rung)
        return output + net.join(prior)[..., : output.shape[-2], : output.shape[-1]]

    def refine(self, number: int, call: Call, output: Any, given: list[Any]) -> Tensor | None:
        """Returns the refined output of a site, or None to leave it unchanged. The hook of the site calls it."""
        site, unit = self.net.sites[number], self.net.units[number]
        features = site.to_map(output, given, call.size)
        size = (features.shape[-2], features.shape[-1])
        prior = call.prior.at(size, site.grid)
        if call.regions is None:
            features, prior = unit(features, prior)
        else:
            features, prior = unit(features, prior, regions_to_site(call.regions, size, site.grid))
        call.prior.leave(prior, site.grid)
        return None if self.net.ladder else site.from_map(features)


class FoldedUnit(nn.Module):
    """A `ModulationUnit` for inference: its linear layers merged.

    There is no non-linearity between q and the first layer of g, so their weights are multiplied, and the 1 of
    F (1 + gamma) goes into the bias of o:

        S' = S + g'((W_F Q) F + W_S S)
        scale, shift = split(o'(LeakyReLU(S')))
        F' = F scale + shift
    """

    of_features: Tensor
    of_prior: Tensor
    bias: Tensor

    def __init__(self, unit: ModulationUnit) -> None:
        super().__init__()
        first, self.act, self.last = unit.mix
        (first_weight, first_bias), (query_weight, query_bias) = weight_and_bias(first), weight_and_bias(unit.query)
        of_query, of_prior = first_weight.detach().flatten(1).split(unit.width, dim=1)
        of_features = of_query @ query_weight.detach().flatten(1)
        self.register_buffer('of_features', of_features[..., None, None])
        self.register_buffer('of_prior', of_prior[..., None, None].clone())
        self.register_buffer('bias', of_query @ query_bias.detach() + first_bias.detach())
        self.inline = unit.path == 'inline'
        if self.inline:
            self.out_act, self.out = unit.act, copy.deepcopy(unit.out)
            with torch.no_grad():
                weight_and_bias(self.out)[1][: unit.channels] += 1

    @staticmethod
    def takes(unit: ModulationUnit) -> bool:
        """Returns whether a unit computes what its base class does, and not something of its own."""
        return all(
            getattr(type(unit), name) is getattr(ModulationUnit, name) for name in ('forward', 'mixed', 'modulate')
        )

    def forward(self, features: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
        """Refines F [B, C, h, w] with S [B, width, h, w]; returns F' and S' of the same shapes."""
        mixed = F.conv2d(features, self.of_features, self.bias) + F.conv2d(prior, self.of_prior)
        prior = prior + self.last(self.act(mixed))
        if not self.inline:
            return features, prior
        scale, shift = self.out(self.out_act(prior)).chunk(2, dim=1)
        return features * scale + shift, prior


@dataclass
class PaletteBits(PriorBatch):
    """A `PriorBatch` whose codes are written out as bits: few runtimes shift 64-bit integers.

    Attributes:
        bits: uint8 [K, N] of 0 and 1.
    """

    bits: Tensor | None = None

    @classmethod
    def of_bits(cls, bits: Tensor, index: Tensor, fine: int = 1) -> PaletteBits:
        """Makes the batch; what only a stem that reads codes needs of them is not computed for another."""
        codes = (bits.long() << torch.arange(bits.shape[1])).sum(dim=1)
        return cls(codes, index, fine=fine, bits=bits)

    def table(self, num_masks: int = MAX_MASKS, dtype: torch.dtype = torch.float32) -> Tensor:
        assert self.bits is not None
        return F.pad(self.bits[:, :num_masks].to(dtype), (0, max(0, num_masks - self.bits.shape[1])))

    @functools.cached_property
    def _differences(self) -> Tensor:
        bits = self.table()
        each = bits.sum(dim=1)
        return (each[:, None] + each - 2 * bits @ bits.T).reshape(-1, 1)  # of each two codes, [K^2, 1]

    def apart(self, first: Tensor, second: Tensor) -> Tensor:
        return F.embedding(first * self.palette.shape[0] + second, self._differences)[..., 0]

    def _between(self) -> tuple[Tensor, Tensor]:
        across = self.apart(self.index[:, :, 1:], self.index[:, :, :-1])
        return across, self.apart(self.index[:, 1:], self.index[:, :-1])


class _TracedMasks(SiteMasks):
    """`SiteMasks` of one image, which are summed by operators that every runtime has."""

    @classmethod
    def of(cls, codes: PriorBatch, num_masks: int) -> _TracedMasks:
        bits = codes.table(num_masks)
        return cls(bits, torch.zeros_like(bits[:, 0], dtype=torch.int64), codes.index.long())

    def _sums(self, features: Tensor, pixels: Tensor) -> RegionSums:
        counted = torch.cat([features, torch.ones_like(features[:, :1])], dim=1)
        # not `index_add`: its translation to ONNX gives other sums (torch 2.14)
        sums = counted.new_zeros(self.members.shape[0], counted.shape[1], dtype=torch.float64)
        sums = sums.scatter_add(0, pixels[:, None].expand_as(counted), counted.double())
        sums = self.members.t() @ sums.to(counted.dtype)
        return RegionSums(sums[None, :, :-1], sums[None, :, -1])


class _ByText(dict[Any, Tensor]):
    """A dictionary by the text of its keys: sides are symbols while a network is traced, and those have no hash."""

    def get(self, key: Any, default: Any = None) -> Any:
        return super().get(str(key), default)

    def __setitem__(self, key: Any, value: Tensor) -> None:
        super().__setitem__(str(key), value)
