"""The masks of a batch as a palette and an index map of tensors: small to move, expanded where they are used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from sptsr.masks.mask_statistics import CodeSums
from sptsr.masks.prior import MAX_MASKS, Prior
from sptsr.masks.tiles import Tile


@dataclass
class PriorBatch:
    """The masks of B images; a pixel's membership in N <= 64 masks is one 64-bit code.

    Attributes:
        palette: int64 [sum of K], the codes of all images one after the other; bit n means "inside mask n".
        index: int32 [B, k H, k W], which code of `palette` each pixel of the grid has.
        tile: where the batch is one tile of its images, else None.
        fine: k: the grid of the masks is so many times as fine as that of the images (see `Prior.fine`).
        statistics: float32 [B, 64, 2 + C], what the whole LQ image is like inside each mask: the share of its pixels,
            0..1, the mean in each of C channels, and the spread (see `CodeSums.statistics`). Crops and tiles keep it.
            None where it is not known; whoever needs it then takes `describe`.
    """

    palette: Tensor
    index: Tensor
    tile: Tile | None = None
    statistics: Tensor | None = None
    fine: int = 1

    @classmethod
    def of(cls, priors: Sequence[Prior]) -> PriorBatch:
        """Makes the batch of priors of one size, on the CPU; raises ValueError when sizes differ."""
        sizes = {(*prior.size, prior.fine) for prior in priors}
        if len(sizes) != 1:
            raise ValueError(f'priors of one batch must be of one size and equally fine, got {sorted(sizes)}')
        offsets = np.cumsum([0] + [len(prior.palette) for prior in priors[:-1]])
        palette = np.concatenate([prior.palette for prior in priors]).view(np.int64)
        index = np.stack([prior.index.astype(np.int32) + off for prior, off in zip(priors, offsets, strict=True)])
        return cls(
            torch.from_numpy(palette),
            torch.from_numpy(index.astype(np.int32)),
            statistics=_joined(priors),
            fine=priors[0].fine,
        )

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
        """B, H, W of the images."""
        batch, height, width = self.index.shape
        return batch, height // self.fine, width // self.fine

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PriorBatch:
        """Returns the codes on a device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> PriorBatch:
        """Called by torch's DataLoader when `pin_memory` is on."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> PriorBatch:
        statistics = None if self.statistics is None else change(self.statistics)
        return replace(self, palette=change(self.palette), index=change(self.index), statistics=statistics)

    def rows(self, start: int, stop: int) -> PriorBatch:
        """Returns the codes of images start..stop of the batch, end excluded."""
        statistics = None if self.statistics is None else self.statistics[start:stop]
        return replace(self, index=self.index[start:stop], statistics=statistics)

    def crop(self, top: int, left: int, bottom: int, right: int) -> PriorBatch:
        """Returns the codes of rows top..bottom and columns left..right of the images, ends excluded."""
        top, left, bottom, right = (side * self.fine for side in (top, left, bottom, right))
        return replace(self, index=self.index[:, top:bottom, left:right])

    def pad(self, right: int, bottom: int) -> PriorBatch:
        """Returns the codes padded at the right and bottom, as `restore_padded` pads the image."""
        _, height, width = self.shape
        sides = ((height, bottom), (width, right))
        rows, columns = (padded_positions(*side, self.fine, self.index.device) for side in sides)
        return replace(self, index=self.index[:, rows][:, :, columns])

    def describe(self, lq: Tensor, table: Tensor | None = None) -> PriorBatch:
        """Returns the codes with `statistics`; those that they have stay, else they are taken of these images.

        Args:
            lq: [B, C, H, W], the images that the masks belong to, whole.
            table: `table()`, where it is known.
        """
        if self.statistics is not None:
            return self
        sums = CodeSums.of(self.at(1).index, self.palette.shape[0], lq)
        where = sums.counts.device
        members = (self.table() if table is None else table).to(where)
        statistics = sums.statistics(members, self.owners().to(where), len(self.index))
        return replace(self, statistics=statistics.to(lq.device))

    def at(self, fine: int) -> PriorBatch:
        """Returns the codes on a grid `fine` times as fine as the images' (see `Prior.at`)."""
        if fine == self.fine:
            return self
        # `grid_positions`, by operators that can be traced
        rows, columns = (
            (2 * torch.arange(side * fine, device=self.index.device) + 1) * self.fine // (2 * fine)
            for side in self.shape[1:]
        )
        return replace(self, index=self.index[:, rows][:, :, columns], fine=fine)

    def owners(self) -> Tensor:
        """Returns which image of the batch each code belongs to, int64 [sum of K]."""
        owner = torch.zeros(self.palette.shape[0], dtype=torch.int64, device=self.index.device)
        if len(self.index) == 1:
            return owner
        images = torch.arange(len(self.index), device=self.index.device).view(-1, 1, 1).expand_as(self.index)
        return owner.scatter_(0, self.index.reshape(-1).long(), images.reshape(-1))

    def changes(self) -> Tensor:
        """Returns how many masks end between a pixel of the grid and its four neighbours, added up, int64 [B, kH, kW].

        Two neighbours differ in as many masks as their codes differ in bits. Beyond the edges nothing ends.
        """
        across, down = self._between()
        sides = F.pad(across, (1, 0)) + F.pad(across, (0, 1))
        return sides + F.pad(down, (0, 0, 1, 0)) + F.pad(down, (0, 0, 0, 1))

    def _between(self) -> tuple[Tensor, Tensor]:
        """Returns in how many masks neighbours in rows and in columns differ, [B, kH, kW - 1] and [B, kH - 1, kW]."""
        codes = self.look_up(self.palette)
        across, down = codes[:, :, 1:] ^ codes[:, :, :-1], codes[:, 1:] ^ codes[:, :-1]
        bits = popcount(torch.cat([across.flatten(), down.flatten()]))
        return bits[: across.numel()].view_as(across), bits[across.numel() :].view_as(down)

    def apart(self, first: Tensor, second: Tensor) -> Tensor:
        """Returns in how many masks codes differ; both are positions in `palette`, of shapes that broadcast."""
        return popcount(self.palette[first.long()] ^ self.palette[second.long()])

    def look_up(self, values: Tensor) -> Tensor:
        """Returns for each pixel of the grid the value of its code: [B, k H, k W] for [sum of K]."""
        return values.index_select(0, self.index.reshape(-1).long()).view(self.index.shape)

    def table(self, num_masks: int = MAX_MASKS, dtype: torch.dtype = torch.float32) -> Tensor:
        """Returns which masks each code is inside, 0 and 1, [sum of K, num_masks]."""
        if not 1 <= num_masks <= MAX_MASKS:
            raise ValueError(f'num_masks must be 1..{MAX_MASKS}, got {num_masks}')
        shifts = torch.arange(num_masks, device=self.palette.device)
        bits = torch.ones_like(shifts) << shifts  # a CPU shifts one 64-bit number at a time, and compares many
        return (self.palette[:, None] & bits).ne(0).to(dtype)

    def expand(self, num_masks: int = MAX_MASKS, dtype: torch.dtype = torch.float32) -> Tensor:
        """Returns the masks as 0 and 1, [B, num_masks, k H, k W], on the codes' device.

        The first (largest) `num_masks` of each image; channels beyond an image's own masks are 0.
        The memory layout is channels-last, which is how the lookup writes it.
        """
        return F.embedding(self.index, self.table(num_masks, dtype)).permute(0, 3, 1, 2)


def sums_of(prior: Prior, image: Tensor) -> CodeSums:
    """Returns the sums of an image [C, H, W] over the codes of its prior."""
    index = torch.from_numpy(prior.at(1).index.astype(np.int64))
    return CodeSums.of(index, len(prior.palette), image[None])


def statistics_of(prior: Prior, image: Tensor | CodeSums) -> npt.NDArray[np.float32]:
    """Returns what an image is like inside each of its masks: `Prior.statistics`, float32 [N, 2 + C].

    Args:
        prior: the masks.
        image: [C, H, W], or its sums.
    """
    sums = image if isinstance(image, CodeSums) else sums_of(prior, image)
    shifts = np.arange(prior.count, dtype=np.uint64)
    members = torch.from_numpy(((prior.palette[:, None] >> shifts) & np.uint64(1)).astype(np.float64))
    return sums.statistics(members, torch.zeros(len(members), dtype=torch.int64), 1)[0].numpy()


def padded_positions(length: int, extra: int, fine: int, device: torch.device) -> Tensor:
    """Returns positions on the grid that go on by reflection, and by the last of those where it ends.

    The image is reflected about the middle of its last pixel, so the grid is, too.
    """
    positions = torch.arange((length + extra) * fine, device=device)
    mirrored = (2 * length - 1) * fine - 1 - positions
    return torch.where(positions >= length * fine, mirrored, positions).clamp(min=0)


def popcount(bits: Tensor) -> Tensor:
    """Returns how many of the 64 bits of each number are 1: int64 for int64.

    The sum of neighbouring groups of 1, 2 and 4 bits, then of all bytes (Warren, "Hacker's Delight", 5-1).
    """
    bits = bits - ((bits >> 1) & 0x5555555555555555)
    bits = (bits & 0x3333333333333333) + ((bits >> 2) & 0x3333333333333333)
    bits = (bits + (bits >> 4)) & 0x0F0F0F0F0F0F0F0F
    return (bits * 0x0101010101010101) >> 56


def _joined(priors: Sequence[Prior]) -> Tensor | None:
    """Returns the statistics of priors, [B, 64, 2 + C]; None unless all have them."""
    rows = [prior.statistics for prior in priors if prior.statistics is not None]
    if len(rows) < len(priors):
        return None
    joined = np.zeros((len(rows), MAX_MASKS, rows[0].shape[1]), np.float32)
    for row, own in zip(joined, rows, strict=True):
        row[: len(own)] = own
    return torch.from_numpy(joined)
