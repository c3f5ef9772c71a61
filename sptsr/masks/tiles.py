"""Averages inside the masks of whole images, for a network that sees one tile of them at a time."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

# Means of two passes that differ by less than this share of their size count as equal. What that leaves in the image is
# far below one level of 8 bits (tests/restoring/test_tiling.py).
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class RegionSums:
    """Sums of a feature over the pixels of each mask.

    Attributes:
        totals: float32 [B, N, c].
        areas: pixels of each mask, float32 [B, N].
    """

    totals: Tensor
    areas: Tensor

    def __add__(self, other: RegionSums) -> RegionSums:
        return RegionSums(self.totals + other.totals, self.areas + other.areas)

    def means(self) -> Tensor:
        """Returns the mean of each mask, [B, N, c]; 0 where a mask has no pixels."""
        return self.totals / self.areas.clamp(min=1)[:, :, None]


@dataclass
class TiledSums:
    """What one pass over all tiles of a batch adds up, and what the pass before did.

    A network averages inside masks at several sites, one after the other, and each average depends on those before it.
    So pass p uses the averages of the whole image at the first p - 1 of them, and approximations at the others.

    Attributes:
        known: sums that are used in this pass, one for each average that a call takes; none in the first pass.
        found: sums over the tiles of this pass.
    """

    known: list[RegionSums] = field(default_factory=list)
    found: list[RegionSums] = field(default_factory=list)

    def settled(self) -> bool:
        """Returns whether the pass used the means that it found."""
        if len(self.known) != len(self.found):
            return False
        pairs = ((old.means(), new.means()) for old, new in zip(self.known, self.found, strict=True))
        return all(bool((old - new).abs().max() <= _TOLERANCE * new.square().mean().sqrt()) for old, new in pairs)

    def next_pass(self) -> None:
        """Makes the sums that were found the known ones."""
        self.known, self.found = self.found, []


@dataclass
class Tile:
    """One tile in one call of a network: which of its pixels count, and where their sums go.

    A pixel counts in the tile that is kept of it, not in the margins of others. A side at the edge of the image is
    infinite, so that what a network pads there counts as it does untiled.

    Attributes:
        sums: shared by all tiles.
        top, bottom, left, right: of what is kept, in LQ pixels from the corner of the tile.
        number: averages taken so far in this call.
    """

    sums: TiledSums
    top: float
    bottom: float
    left: float
    right: float
    number: int = 0

    def counted(self, size: tuple[int, int], stride: float, border: float, device: torch.device) -> Tensor:
        """Returns which pixels of a feature map count, bool [h, w]: those whose middle is in what is kept."""
        rows, columns = ((torch.arange(side, device=device) + 0.5) * stride - border for side in size)
        inside_rows = (rows >= self.top) & (rows < self.bottom)
        return inside_rows[:, None] & ((columns >= self.left) & (columns < self.right))

    def exchange(self, own: RegionSums) -> RegionSums | None:
        """Adds the sums of the counted pixels, and returns those of the whole image where they are known."""
        number, self.number = self.number, self.number + 1
        found, known = self.sums.found, self.sums.known
        if number < len(found):
            found[number] = found[number] + own
        else:
            found.append(own)
        return known[number] if number < len(known) else None
