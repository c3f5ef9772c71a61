"""Degraded copies of images, to make priors from: `sptsr prior degrade`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from sptsr.core.errors import UserError
from sptsr.core.progress import bar
from sptsr.images.bicubic import imresize
from sptsr.images.chain import DegradationChain, read_degradation, write_degradation
from sptsr.images.decode import RGB
from sptsr.images.draws import Degradation
from sptsr.images.folder import ImageFolder
from sptsr.images.prepare import DiskFolder


def degrade(images: ImageFolder, out: str | os.PathLike[str], degradation: Degradation | DegradationChain) -> int:
    """Writes the degraded images of a folder as PNG files, and `degradation.json` beside them.

    Equal images of an earlier run are kept, so an interrupted run continues.

    Args:
        images: clean images.
        out: folder for the degraded ones.
        degradation: what to do to them.

    Returns:
        number of degraded images.

    Raises:
        UserError: an unreadable image, other images in `out`, or `out` below the clean ones.
    """
    images.refuse_within(out)
    noted = read_degradation(out)
    if noted not in (None, degradation):
        raise UserError(f'{out}: holds images degraded otherwise ({noted}); choose another folder')
    for key in images.keys:  # a mistake in the last one must not leave half a folder
        height, width = images.read(key).shape[:2]
        if isinstance(degradation, DegradationChain):
            degradation.check_size(height, width, key)
        elif degradation.kind == 'downsample':
            _check_size(height, width, int(degradation.low), images.name(key))
    folder = DiskFolder(Path(out))
    count = 0
    with bar(len(images), 'degrade') as progress:
        for clean_key in images.keys:
            for key, image in degraded(images.read(clean_key), clean_key, degradation):
                if not folder.holds(key, image):
                    folder.put(key, image)
                count += 1
                if noted is None:  # after the first image, which showed that the folder does not hold other images
                    write_degradation(out, degradation)
                    noted = degradation
            progress.update()
    return count


def degraded(image: RGB, key: str, degradation: Degradation | DegradationChain) -> Iterator[tuple[str, RGB]]:
    """Yields key and pixels (uint8 RGB) of each degraded copy of an image; one for each draw.

    Args:
        image: uint8 RGB [H, W, 3].
        key: of the image.
        degradation: what to do to it.

    Raises:
        UserError: an image smaller than the factor that it is to be downsampled by.
    """
    if isinstance(degradation, DegradationChain):
        for draw in range(degradation.draws):
            yield degradation.key(key, draw), degradation.stored(image, key, draw)
    elif degradation.kind == 'noise':
        for draw in range(degradation.draws):
            yield degradation.key(key, draw), degradation.noisy(image, key, draw)
    elif degradation.kind == 'blur':
        yield key, _blurred(image, degradation.low)
    elif degradation.kind == 'jpeg':
        yield key, _compressed(image, int(degradation.low))
    else:
        yield key, _downsampled(image, int(degradation.low), key)


def _blurred(image: RGB, sigma: float) -> RGB:
    return cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT).astype(np.uint8) if sigma else image


def _compressed(image: RGB, quality: int) -> RGB:
    ok, content = cv2.imencode('.jpg', image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not ok:
        raise UserError(f'--jpeg: {image.shape[0]}x{image.shape[1]} (height x width) is too large; cut it')
    decoded = cv2.imdecode(content, cv2.IMREAD_COLOR)
    assert decoded is not None
    return np.ascontiguousarray(decoded[:, :, ::-1]).astype(np.uint8)


def _downsampled(image: RGB, factor: int, key: str) -> RGB:
    _check_size(image.shape[0], image.shape[1], factor, key)
    height, width = (side - side % factor for side in image.shape[:2])
    return imresize(image[:height, :width], 1 / factor)


def _check_size(height: int, width: int, factor: int, name: str) -> None:
    if min(height, width) < factor:
        raise UserError(f'{name}: {height}x{width} is smaller than --downsample {factor}; remove it')
