"""How much memory an image takes, and the tile that fits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sptsr.archs.backbone import kind_of, probe
from sptsr.archs.call import call_network
from sptsr.archs.sizes import SizeRules
from sptsr.core.free_memory import free_bytes
from sptsr.restoring.restorer import OVERLAP

_SMALLEST_TILE = 64
_LARGEST_TILE = 1024  # larger tiles are not faster
# Times what goes into a module and comes out of it: that is alive at once, and what lies between or is kept beside.
_ALIVE = 2.5
_SHARE = 0.5  # of the free memory


@torch.no_grad()
def bytes_a_pixel(backbone: nn.Module, sizes: SizeRules, channels: int) -> float:
    """Returns about how many bytes a forward pass takes at once for each LQ pixel.

    `_ALIVE` times the most that goes into a module of the network and comes out of it, for a small image. What goes in
    counts since it may be joined of the outputs of several modules, and be the largest map of all (IMDN, dense blocks).

    Args:
        backbone: a network without units.
        sizes: what it asks of the size of its input.
        channels: of its input.
    """
    lq = probe(sizes, channels).to(**kind_of(backbone))
    largest = 0

    def note(_module: nn.Module, given: tuple[object, ...], output: object) -> None:
        nonlocal largest
        maps = [each for each in (*given, output) if isinstance(each, Tensor)]
        largest = max(largest, sum(each.numel() * each.element_size() for each in maps))

    hooks = [module.register_forward_hook(note) for module in backbone.modules()]
    try:
        call_network(backbone, lq)
    finally:
        for hook in hooks:
            hook.remove()
    return _ALIVE * largest / (lq.shape[-2] * lq.shape[-1])


def fitting_tile(height: int, width: int, cost: float, free: int) -> int | None:
    """Returns the side of the tile to restore an image by; None for the whole image at once.

    Args:
        height, width: of the LQ image.
        cost: from `bytes_a_pixel`.
        free: bytes of memory that are free.
    """
    pixels = _SHARE * free / cost
    if height * width <= pixels:
        return None
    side = int(pixels**0.5) - 2 * OVERLAP
    return max(_SMALLEST_TILE, min(_LARGEST_TILE, side // 32 * 32))


def most_pixels(scale: int) -> int:
    """Returns how many LQ pixels an image may have, so that it and its result fit into the free memory of the host."""
    # float32 RGB of the image and of the result, and both once more as they are read and written
    bytes_each = 3 * (4 + 2) * (1 + scale**2)
    return int(_SHARE * free_bytes() / bytes_each)
