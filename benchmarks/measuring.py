"""What the benchmarks share: masks to try with. Times and peaks of memory are those of `sptsr.evaluation.cost`."""

from __future__ import annotations

import torch
from torch import Tensor


def rectangles(count: int, height: int, width: int) -> Tensor:
    """Returns random rectangles as masks [1, count, height, width]."""
    masks = torch.zeros(1, count, height, width, dtype=torch.bool)
    for n in range(count):
        top, left = int(torch.randint(height - 8, ())), int(torch.randint(width - 8, ()))
        masks[0, n, top : top + int(torch.randint(8, height, ())), left : left + int(torch.randint(8, width, ()))] = (
            True
        )
    return masks
