"""Crop, flip and rotation that move LQ, GT and prior together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sptsr.masks.prior import Prior

Pixels = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Sample:
    """One aligned training or test example.

    Attributes:
        lq: [h, w, C]: uint8, or float32 of 0..1 (plus noise).
        gt: [scale h, scale w, C], likewise.
        prior: of `lq`, [h, w]; None where no prior is used.
    """

    lq: Pixels
    gt: Pixels
    prior: Prior | None

    def crop(self, top: int, left: int, height: int, width: int, scale: int) -> Sample:
        """Returns the window of these LQ coordinates, in LQ pixels."""
        return Sample(
            self.lq[top : top + height, left : left + width],
            self.gt[top * scale : (top + height) * scale, left * scale : (left + width) * scale],
            self.prior.crop(top, left, height, width) if self.prior else None,
        )

    def flip(self, axis: int) -> Sample:
        """Flips along an axis: 0 vertically, 1 horizontally."""
        prior = self.prior.flip(axis) if self.prior else None
        return Sample(np.flip(self.lq, axis), np.flip(self.gt, axis), prior)

    def transpose(self) -> Sample:
        """Exchanges height and width."""
        prior = self.prior.transpose() if self.prior else None
        return replace(self, lq=self.lq.transpose(1, 0, 2), gt=self.gt.transpose(1, 0, 2), prior=prior)


def random_crop(sample: Sample, lq_size: int, scale: int, rng: np.random.Generator) -> Sample:
    """Cuts a square of `lq_size` LQ pixels; the image must be at least that large."""
    top, left = random_window(sample.lq.shape[:2], lq_size, rng)
    return sample.crop(top, left, lq_size, lq_size, scale)


def random_window(size: tuple[int, ...], side: int, rng: np.random.Generator) -> tuple[int, int]:
    """Returns top and left of a square of `side` pixels in an image of height and width `size`."""
    height, width = size
    return int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))


def random_turn(hflip: bool, rotate: bool, rng: np.random.Generator) -> Callable[[Sample], Sample]:
    """Returns what flips horizontally, and rotates by quarters (as a vertical flip and a transposition), each at 1/2.

    The draws are made whatever the switches are, so one switch does not move the other's outcome.
    """
    draws = rng.random(3) < 0.5

    def turn(sample: Sample) -> Sample:
        if hflip and draws[0]:
            sample = sample.flip(1)
        if rotate and draws[1]:
            sample = sample.flip(0)
        if rotate and draws[2]:
            sample = sample.transpose()
        return sample

    return turn


def augment(sample: Sample, hflip: bool, rotate: bool, rng: np.random.Generator) -> Sample:
    """Turns a sample at random (see `random_turn`)."""
    return random_turn(hflip, rotate, rng)(sample)


def drop_masks(sample: Sample, probability: float, rng: np.random.Generator) -> Sample:
    """Takes all masks of a sample away with a probability; the last draw of a sample, so no other one moves."""
    if sample.prior is None or not probability or rng.random() >= probability:
        return sample
    return replace(sample, prior=sample.prior.emptied())
