"""The masks of a batch as a palette and an index map of tensors: small to move, expanded where they are used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sptsr.masks.prior import MAX_MASKS, Prior
from sptsr.masks.tiles import Tile


@dataclass
class PriorBatch:
    """The masks of B images; a pixel's membership in N <= 64 masks is one 64-bit code.

    Attributes:
        palette: int64 [sum of K], the codes of all images one after the other; bit n means "inside mask n".
        index: int32 [B, H, W], which code of `palette` each pixel has.
        tile: where the batch is one tile of its images, else None.
    """

    palette: Tensor
    index: Tensor
    tile: Tile | None = None

    @classmethod
    def of(cls, priors: Sequence[Prior]) -> PriorBatch:
        """Makes the batch of priors of one size, on the CPU; raises ValueError when sizes differ."""
        sizes = {prior.size for prior in priors}
        if len(sizes) != 1:
            raise ValueError(f'priors of one batch must be of one size, got {sorted(sizes)}')
        offsets = np.cumsum([0] + [len(prior.palette) for prior in priors[:-1]])
        palette = np.concatenate([prior.palette for prior in priors]).view(np.int64)
        index = np.stack([prior.index.astype(np.int32) + off for prior, off in zip(priors, offsets, strict=True)])
        return cls(torch.from_numpy(palette), torch.from_numpy(index.astype(np.int32)))

    @classmethod
    def from_masks(cls, masks: Tensor) -> PriorBatch:
        """Makes codes of dense masks [B, N, H, W], where anything but 0 is inside."""
        if masks.ndim != 4 or not 1 <= masks.shape[1] <= MAX_MASKS:
            raise ValueError(f'masks must be [B, 1..{MAX_MASKS}, H, W], got {list(masks.shape)}')
        shifts = torch.arange(masks.shape[1], device=masks.device).view(1, -1, 1, 1)
        codes = ((masks != 0).long() << shifts).sum(dim=1)
        palettes, indices, offset = [], [], 0
        for image in codes:
            palette, index = image.unique(return_inverse=True)
            palettes.append(palette)
            indices.append(index.int() + offset)
            offset += len(palette)
        return cls(torch.cat(palettes), torch.stack(indices))

    @property
    def shape(self) -> tuple[int, int, int]:
        """B, H, W."""
        batch, height, width = self.index.shape
        return batch, height, width

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PriorBatch:
        """Returns the codes on a device."""
        palette, index = (tensor.to(device, non_blocking=non_blocking) for tensor in (self.palette, self.index))
        return replace(self, palette=palette, index=index)

    def pin_memory(self) -> PriorBatch:
        """Called by torch's DataLoader when `pin_memory` is on."""
        return PriorBatch(self.palette.pin_memory(), self.index.pin_memory())

    def rows(self, start: int, stop: int) -> PriorBatch:
        """Returns the codes of images start..stop of the batch, end excluded."""
        return PriorBatch(self.palette, self.index[start:stop])

    def crop(self, top: int, left: int, bottom: int, right: int) -> PriorBatch:
        """Returns the codes of rows top..bottom and columns left..right, ends excluded."""
        return PriorBatch(self.palette, self.index[:, top:bottom, left:right])

    def pad(self, right: int, bottom: int) -> PriorBatch:
        """Returns the codes padded at the right and bottom, as `restore_padded` pads the image."""
        _, height, width = self.shape
        rows, columns = (_padded(*sides, self.index.device) for sides in ((height, bottom), (width, right)))
        return replace(self, index=self.index[:, rows][:, :, columns])

    def table(self, num_masks: int = MAX_MASKS, dtype: torch.dtype = torch.float32) -> Tensor:
        """Returns which masks each code is inside, 0 and 1, [sum of K, num_masks]."""
        if not 1 <= num_masks <= MAX_MASKS:
            raise ValueError(f'num_masks must be 1..{MAX_MASKS}, got {num_masks}')
        shifts = torch.arange(num_masks, device=self.palette.device)
        return ((self.palette[:, None] >> shifts) & 1).to(dtype)

    def expand(self, num_masks: int = MAX_MASKS, dtype: torch.dtype = torch.float32) -> Tensor:
        """Returns the masks as 0 and 1, [B, num_masks, H, W], on the codes' device.

        The first (largest) `num_masks` of each image; channels beyond an image's own masks are 0.
        The memory layout is channels-last, which is how the lookup writes it.
        """
        return F.embedding(self.index, self.table(num_masks, dtype)).permute(0, 3, 1, 2)


def _padded(length: int, extra: int, device: torch.device) -> Tensor:
    """Returns positions that go on by reflection, and by the last of those where it ends."""
    positions = torch.arange(length + extra, device=device)
    last = length - 1
    return torch.where(positions > last, 2 * last - positions, positions).clamp(min=0)
