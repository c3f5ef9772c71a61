"""What an image is like inside each of its masks: the share that the mask takes, mean and spread of the pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

SHARE, MEAN = 0, slice(1, -1)  # columns of statistics; the last one is the spread
SPREAD = -1


@dataclass(frozen=True)
class CodeSums:
    """Sums over the pixels of each palette code. Codes do not overlap, so parts of an image can be added up.

    Attributes:
        counts: float64 [K], number of pixels.
        totals: float64 [K, C], sums of the values.
        squares: float64 [K, C], sums of their squares.
    """

    counts: Tensor
    totals: Tensor
    squares: Tensor

    @classmethod
    def of(cls, index: Tensor, codes: int, image: Tensor) -> CodeSums:
        """Returns the sums of an image.

        Args:
            index: int [B, H, W], the code of each pixel.
            codes: K.
            image: [B, C, H, W].
        """
        if image.device.type == 'mps':  # Apple's GPUs lack float64
            index, image = index.cpu(), image.cpu()
        channels = image.shape[1]
        values = image.double()
        rows = torch.cat([torch.ones_like(values[:, :1]), values, values.square()], dim=1).transpose(0, 1).flatten(1)
        pixels = index.reshape(-1).long().expand_as(rows)
        counts, totals, squares = (
            rows.new_zeros(len(rows), codes).scatter_add_(1, pixels, rows).split([1, channels, channels])
        )
        return cls(counts[0], totals.T, squares.T)

    def __add__(self, other: CodeSums) -> CodeSums:
        return CodeSums(self.counts + other.counts, self.totals + other.totals, self.squares + other.squares)

    def __sub__(self, other: CodeSums) -> CodeSums:
        return CodeSums(self.counts - other.counts, self.totals - other.totals, self.squares - other.squares)

    def with_noise(self, sigma: float, rng: np.random.Generator) -> CodeSums:
        """Returns the sums of the image with white Gaussian noise, without drawing that pixel by pixel.

        Of the noise n of the pixels x of a code only three numbers count, and they are independent: its part along
        (1, ..., 1), a ~ N(0, sigma^2); its part along x - mean(x), b ~ N(0, sigma^2); and the length of the rest,
        r ~ sigma^2 chi^2 with count - 2 degrees of freedom. So the result has the distribution of the real sums:

            sum(x + n) = sum(x) + a sqrt(count)
            sum((x + n)^2) = sum(x^2) + 2 (a mean(x) sqrt(count) + b |x - mean(x)|) + a^2 + b^2 + r

        Args:
            sigma: standard deviation, of the image's own range.
            rng: where the noise comes from.
        """
        counts, totals, squares = (t.numpy() for t in (self.counts[:, None], self.totals, self.squares))
        roots, shape = np.sqrt(counts), totals.shape
        centred = np.sqrt(np.maximum(squares - totals**2 / np.maximum(counts, 1), 0))
        a, b = sigma * rng.standard_normal((2, *shape))
        a, b = np.where(counts > 0, a, 0), np.where(counts > 1, b, 0)
        rest = 2 * sigma**2 * rng.standard_gamma(np.broadcast_to(np.maximum(counts - 2, 0) / 2, shape))
        cross = a * totals / np.maximum(roots, 1) + b * centred
        squared = squares + 2 * cross + a**2 + b**2 + rest
        return CodeSums(self.counts, torch.from_numpy(totals + a * roots), torch.from_numpy(squared))

    def statistics(self, members: Tensor, owner: Tensor, images: int) -> Tensor:
        """Returns share, mean and spread of each mask.

        Args:
            members: [K, N] of 0 and 1, which masks each code is inside.
            owner: int64 [K], which image each code belongs to.
            images: B.

        Returns:
            float32 [B, N, 2 + C]: the share of the image's pixels that the mask takes, 0..1; the mean of its pixels in
            each channel; the spread, which is the root of the variance averaged over the channels. 0 where a mask has
            no pixels.
        """
        rows = torch.cat([self.counts[:, None], self.totals, self.squares], dim=1)
        if images == 1:
            sums, pixels = (members.to(rows.dtype).T @ rows)[None], self.counts.sum()[None]
        else:
            sums = rows.new_zeros(images, members.shape[1], rows.shape[1])
            sums.index_add_(0, owner, members.to(rows.dtype)[:, :, None] * rows[:, None, :])
            pixels = rows.new_zeros(images).index_add_(0, owner, self.counts)
        areas = sums[..., :1]
        mean, square = (sums[..., 1:] / areas.clamp(min=1)).chunk(2, dim=-1)
        spread = (square - mean.square()).clamp(min=0).mean(dim=-1, keepdim=True).sqrt()
        return torch.cat([areas / pixels.clamp(min=1)[:, None, None], mean, spread], dim=-1).float()
