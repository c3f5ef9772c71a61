"""A plug-in as it was written for 0.1: its imports, and a unit with a stem of its own."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from sptsr.archs.regions import RegionMap
from sptsr.codes import MAX_MASKS, MaskCodes
from sptsr.data.base import CheckedDataset, to_tensor
from sptsr.errors import UserError
from sptsr.priors.prior import Prior
from sptsr.priors.regions import Regions
from sptsr.priors.sources.base import Source
from sptsr.sizing import SizeRules
from torch import nn

from sptsr.archs.units import MaskStem, ModulationUnit
from sptsr.images import RGB, ImageFolder
from sptsr.registry import SOURCE_REGISTRY, UNIT_REGISTRY, register

USED = (RegionMap, CheckedDataset, to_tensor, UserError, ImageFolder, SizeRules, MAX_MASKS)


class CountStem(MaskStem):
    """Reads the number of masks instead of the masks."""

    def forward(self, lq: torch.Tensor, masks: MaskCodes | None) -> torch.Tensor:
        assert isinstance(masks, MaskCodes)
        count = masks.expand(64, lq.dtype).sum(1, keepdim=True) / 8
        return nn.Sequential.forward(self, torch.cat([lq, F.avg_pool2d(count, 1)], 1))


@register(UNIT_REGISTRY)
class CountUnit(ModulationUnit):
    """A unit of 0.1 with `CountStem`."""

    uses_masks: ClassVar[bool] = True

    @classmethod
    def make_stem(cls, in_channels: int, num_masks: int, width: int) -> CountStem:
        return CountStem(in_channels, 1, width)


@register(SOURCE_REGISTRY, 'whole')
class Whole(Source):
    """One mask, the whole image."""

    def __init__(self) -> None:
        self.params = {}

    def __call__(self, image: RGB, key: str, max_masks: int) -> Prior:
        import numpy as np

        regions = Regions.from_masks(np.ones((1, *image.shape[:2]), np.bool_))
        return Prior.from_regions(regions.select(max_masks))
