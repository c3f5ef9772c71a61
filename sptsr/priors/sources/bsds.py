"""Segmentations of BSDS: MATLAB files, read with a bound on what they unpack to."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.io

from sptsr.core.errors import UserError
from sptsr.images.headers import pixel_bound

_HEADER_BYTES = 128
_COMPRESSED = 15  # miCOMPRESSED, type of an element
_BYTES_A_PIXEL = 16  # all segmentations and boundaries of an image of the largest size
_LEAST_BYTES = 1 << 26  # BSDS's take 3 to 6 MB
_STEP = 1 << 20


def read_bsds(path: Path) -> list[npt.NDArray[np.integer]]:
    """Returns the segmentations [H, W] of a `.mat` file of BSDS, in its order.

    Raises:
        UserError: no such file, or one that unpacks to far more than labels of the largest image take.
    """
    most = max(_LEAST_BYTES, _BYTES_A_PIXEL * pixel_bound())
    if path.stat().st_size > most:
        raise UserError(f'{path}: of more than {most} bytes; reduce the labels')
    content = path.read_bytes()
    if _unpacks_to_more(content, most):
        raise UserError(f'{path}: unpacks to more than {most} bytes; reduce the labels')
    found: dict[str, Any] = scipy.io.loadmat(io.BytesIO(content))
    if 'groundTruth' not in found:
        raise UserError(f"{path}: no 'groundTruth' inside, so not a BSDS segmentation; use .npy or .png")
    return [entry['Segmentation'][0, 0] for entry in found['groundTruth'][0]]


def _unpacks_to_more(content: bytes, most: int) -> bool:
    """Returns whether the elements of a MATLAB file (level 5) take more bytes than `most`; nothing of them is kept."""
    order = '<' if content[_HEADER_BYTES - 2 : _HEADER_BYTES] == b'IM' else '>'
    at = _HEADER_BYTES
    while at + 8 <= len(content):
        kind, length = struct.unpack_from(f'{order}II', content, at)
        at += 8
        if kind == _COMPRESSED:
            most -= _unpacked(content[at : at + length], most)
            if most < 0:
                return True
        at += length
    return False


def _unpacked(packed: bytes, most: int) -> int:
    """Returns how many bytes are packed, or more than `most` as soon as they are more."""
    inflate, count = zlib.decompressobj(), 0
    try:
        while packed and count <= most and not inflate.eof:
            count += len(inflate.decompress(packed, _STEP))
            packed = inflate.unconsumed_tail
    except zlib.error:
        pass  # scipy says what is wrong with it
    return count
