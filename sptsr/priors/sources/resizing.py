"""Bilinear resizing of logits: the values of `F.interpolate`, in about half of its time on a CPU."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

_IMAGE = 3  # channels for which torch, with one thread, takes a loop for images, which rounds differently
_SMALL = 256  # height + width; where both are at most 128, torch takes another loop, which rounds differently


class Resizer:
    """Resizes logits as `F.interpolate(mode='bilinear', align_corners=False)` does, to the bit.

    On a CPU, results lie in memory that the next call uses again, since allocating memory of their size takes about
    as long as filling it. They are valid until then, and threads must not share a `Resizer`.
    """

    def __init__(self) -> None:
        self._memory: dict[str, Tensor] = {}

    def enlarge(self, logits: Tensor, factor: int) -> Tensor:
        """Returns logits [M, h * factor, w * factor].

        With a power of two on a CPU, only the rows are widened by torch's own loop. Down the columns all pixels of an
        output row have the same two weights, so a row is a product and a product that is added: two vector
        operations, which round as that loop does (`_rounds_as_torch` checks this).

        Args:
            logits: float32 [M, h, w], without gradients.
            factor: a whole number.
        """
        usual = factor * sum(logits.shape[1:]) > _SMALL and len(logits) != _IMAGE
        if usual and logits.device.type == 'cpu' and factor in (2, 4, 8) and _rounds_as_torch():
            return self._by_rows(logits, factor)
        return self._by_torch(logits, (logits.shape[1] * factor, logits.shape[2] * factor), 'enlarged')

    def resize(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Returns logits [M, *size] of float32 [M, h, w], without gradients."""
        return self._by_torch(logits, size, 'resized')

    def _by_torch(self, logits: Tensor, size: tuple[int, int], name: str) -> Tensor:
        if logits.device.type != 'cpu':
            return F.interpolate(logits[None], size, mode='bilinear', align_corners=False)[0]
        out = self._buffer(name, (1, len(logits), *size))
        return torch.ops.aten.upsample_bilinear2d.out(logits[None], size, False, None, None, out=out)[0]

    def _by_rows(self, logits: Tensor, factor: int) -> Tensor:
        count, height, width = logits.shape
        wide = self._buffer('wide', (count, height, width * factor))
        torch.ops.aten.upsample_linear1d.out(logits, [width * factor], False, None, out=wide)
        out, half = self._buffer('enlarged', (count, height * factor, width * factor)), factor // 2
        out[:, :half] = wide[:, :1]  # above the middle of the first row
        between = out[:, half:-half].unflatten(1, (height - 1, factor))
        for step in range(factor):
            weight = (step + 0.5) / factor  # exact, as 1 - weight is
            _mix(wide[:, :-1], wide[:, 1:], weight, between[:, :, step])
            if step < half:  # below the middle of the last row, which torch mixes with itself
                _mix(wide[:, -1], wide[:, -1], weight, out[:, step - half])
        return out

    def _buffer(self, name: str, shape: tuple[int, ...]) -> Tensor:
        buffer = self._memory.get(name)
        if buffer is None or buffer.shape != shape:
            with torch.inference_mode(False):  # else it could not be written outside of that mode
                buffer = self._memory[name] = torch.empty(shape)
        return buffer


def _mix(upper: Tensor, lower: Tensor, weight: float, out: Tensor) -> None:
    torch.mul(lower, weight, out=out)
    out.add_(upper, alpha=1 - weight)


@functools.cache
def _rounds_as_torch() -> bool:
    """Returns whether this build of torch gives the same bits either way on this processor."""
    noise = torch.randn(2, 9, 133, generator=torch.Generator().manual_seed(0))
    resizer = Resizer()
    return torch.equal(resizer._by_rows(noise, 4), resizer.resize(noise, (36, 532)))
