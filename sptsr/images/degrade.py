"""Degraded copies of images, to make priors from: `sptsr prior degrade`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from sptsr.core.errors import UserError
from sptsr.core.progress import bar
from sptsr.images.bicubic import imresize
from sptsr.images.decode import RGB
from sptsr.images.folder import ImageFolder
from sptsr.images.noise import noisy_image
from sptsr.images.prepare import DiskFolder


def degradation(kind: str, amount: float, seed: int = 0) -> Callable[[RGB, str], RGB]:
    """Returns a function of an image (uint8 RGB [H, W, 3]) and its key that gives the degraded image.

    Args:
        kind: `noise` (Gaussian, `amount` its sigma of 255; the fixed noise of `PriorDenoisingDataset`),
            `blur` (Gaussian, `amount` its sigma in pixels), `jpeg` (`amount` the quality, 1..100), or
            `downsample` (MATLAB's bicubic, `amount` a whole factor; the image is cut to a multiple).
        amount: how much.
        seed: of the noise.

    Raises:
        UserError: an amount that makes no sense.
    """
    limits = {'noise': (0, 255), 'blur': (0, 100), 'jpeg': (1, 100), 'downsample': (1, 64)}
    low, high = limits[kind]
    if not low <= amount <= high or (kind in ('jpeg', 'downsample') and amount != int(amount)):
        whole = 'a whole number ' if kind in ('jpeg', 'downsample') else ''
        raise UserError(f'prior degrade: --{kind} {amount:g} must be {whole}in {low}..{high}')
    return {
        'noise': lambda image, key: noisy_image(image, key, amount, seed),
        'blur': lambda image, _: _blurred(image, amount),
        'jpeg': lambda image, _: _compressed(image, int(amount)),
        'downsample': lambda image, key: _smaller(image, int(amount), key),
    }[kind]


def degrade(images: ImageFolder, out: str | os.PathLike[str], kind: str, amount: float, seed: int = 0) -> int:
    """Writes the degraded images of a folder as PNG, with the same keys; what is there and the same is kept.

    Args:
        images: clean images.
        out: folder for the degraded ones.
        kind, amount, seed: see `degradation`.

    Returns:
        number of images.

    Raises:
        UserError: an amount that makes no sense, an unreadable image, or other images in `out`.
    """
    make = degradation(kind, amount, seed)
    folder = DiskFolder(Path(out))
    with bar(len(images), 'degrade') as progress:
        for key in images.keys:
            degraded = make(images.read(key), key)
            if not folder.holds(key, degraded):
                folder.put(key, degraded)
            progress.update()
    return len(images)


def _blurred(image: RGB, sigma: float) -> RGB:
    return cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT).astype(np.uint8) if sigma else image


def _compressed(image: RGB, quality: int) -> RGB:
    ok, content = cv2.imencode('.jpg', image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not ok:
        raise RuntimeError('OpenCV could not encode a JPEG')
    decoded = cv2.imdecode(content, cv2.IMREAD_COLOR)
    assert decoded is not None
    return np.ascontiguousarray(decoded[:, :, ::-1]).astype(np.uint8)


def _smaller(image: RGB, factor: int, key: str) -> RGB:
    height, width = (side - side % factor for side in image.shape[:2])
    if min(height, width) == 0:
        raise UserError(f'{key}: {image.shape[0]}x{image.shape[1]} is smaller than --downsample {factor}; remove it')
    return imresize(image[:height, :width], 1 / factor)
