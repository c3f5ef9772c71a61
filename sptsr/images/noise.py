"""Gaussian noise: fresh for training, or fixed draws of an image, which masks can be made from."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from sptsr.images.decode import RGB


def fixed_rng(key: str, seed: int, draw: int = 0) -> np.random.Generator:
    """Returns the generator of a fixed noise: a function of the image's key, the seed and the number of the draw."""
    # Draw 0 is the one noise an image that 0.1 knew: a number 0 at the end would change it.
    return np.random.default_rng([seed, *hashlib.sha256(key.encode()).digest(), *([draw] if draw else [])])


def add_noise(image: npt.NDArray[np.generic], sigma: float, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Adds white Gaussian noise to an image.

    Args:
        image: uint8 [H, W, C], 0..255.
        sigma: standard deviation, of 255.
        rng: where the noise comes from.

    Returns:
        float32 [H, W, C], 0..1 plus noise, neither clipped nor rounded.
    """
    return _sum(image, sigma, rng.standard_normal(image.shape, dtype=np.float32))


def add_noise_to_window(
    window: npt.NDArray[np.uint8], top: int, left: int, width: int, sigma: float, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Returns the window of what `add_noise` makes of the whole image, without making the rows below it.

    Args:
        window: uint8 [h, w, C], the pixels of the image at (top, left).
        top, left: of the window, in pixels.
        width: of the whole image.
        sigma: standard deviation, of 255.
        rng: as `add_noise` is given it for the whole image.
    """
    rows, columns, channels = window.shape
    noise = rng.standard_normal((top + rows, width, channels), dtype=np.float32)
    return _sum(window, sigma, noise[top:, left : left + columns])


def to_8_bit(noisy: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Returns an image of 0..1 plus noise, clipped and rounded to 0..255."""
    return np.clip(np.rint(noisy * 255), 0, 255).astype(np.uint8)


def noisy_image(image: RGB, key: str, sigma: float, seed: int, draw: int = 0) -> npt.NDArray[np.uint8]:
    """Returns the image [H, W, C] with a fixed noise, clipped and rounded to uint8: what a prior is made from."""
    return to_8_bit(add_noise(image, sigma, fixed_rng(key, seed, draw)))


def _sum(image: npt.NDArray[np.generic], sigma: float, noise: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    noise *= np.float32(sigma / 255)
    noise += image.astype(np.float32) / np.float32(255)
    return noise
