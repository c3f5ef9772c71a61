"""Gaussian noise: fresh for training, fixed for tests and for the images that priors are made from."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from sptsr.images.decode import RGB


def fixed_rng(key: str, seed: int) -> np.random.Generator:
    """Returns the generator of the one fixed noise of an image, drawn from its key and a seed."""
    return np.random.default_rng([seed, *hashlib.sha256(key.encode()).digest()])


def add_noise(image: npt.NDArray[np.uint8], sigma: float, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Returns uint8 [H, W, C] with white Gaussian noise, float32, of 0..1, neither clipped nor rounded.

    Args:
        image: 0..255.
        sigma: standard deviation, of 255.
        rng: where the noise comes from.
    """
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    noise *= np.float32(sigma / 255)
    noise += image.astype(np.float32) / np.float32(255)
    return noise


def noisy_image(image: RGB, key: str, sigma: float, seed: int) -> RGB:
    """Returns the image with its fixed noise, clipped and rounded to uint8: what a prior is made from."""
    noisy = add_noise(image, sigma, fixed_rng(key, seed))
    return np.clip(np.rint(noisy * 255), 0, 255).astype(np.uint8)
