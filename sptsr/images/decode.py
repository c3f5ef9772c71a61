"""Encoded images to RGB and back: one decoder for all that reads images."""

from __future__ import annotations

import hashlib
import io
import os
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from sptsr.core.errors import UserError
from sptsr.core.files import write_bytes
from sptsr.images.headers import Header, check_pixels, read_header

RGB = npt.NDArray[np.uint8]

cv2.setNumThreads(0)  # workers are processes; OpenCV's own threads only get in their way


def decode_rgb(content: bytes, name: str, to_rgb: bool = False) -> RGB:
    """Decodes an image file to RGB.

    Args:
        content: the bytes of a PNG, JPEG, BMP, TIFF, WebP or PPM file. EXIF's orientation is applied.
        name: what to call it in a message.
        to_rgb: convert what is not 8-bit RGB: gray is repeated, alpha is dropped,
            16 bit becomes round(value / 257).

    Returns:
        uint8 [H, W, 3], RGB, 0..255.

    Raises:
        UserError: empty, cut off or corrupt, of too many pixels (see `check_pixels`), or not 8-bit RGB while
            `to_rgb` is false.
    """
    if not content:
        raise UserError(f'{name}: the file is empty; copy or make it again')
    header = read_header(content)
    if not header.is_whole:  # OpenCV fills the rest of such a JPEG with gray and says nothing
        raise UserError(f'{name}: not a readable image (cut off); copy or make it again')
    if not header.width * header.height:  # what OpenCV may read besides has no bound
        kinds = 'a PNG, JPEG, BMP, TIFF, WebP or PNM'
        raise UserError(f'{name}: not a readable image (corrupt, or not {kinds}); copy or make it again')
    check_pixels(header, name)
    # UNCHANGED keeps alpha and 16 bits, and never turns. A JPEG has neither; ANYCOLOR converts its CMYK.
    flag = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_IGNORE_ORIENTATION if header.is_jpeg else cv2.IMREAD_UNCHANGED
    try:
        image: Any = cv2.imdecode(np.frombuffer(content, np.uint8), flag)
    except cv2.error:
        image = None
    if image is None:
        raise UserError(f'{name}: not a readable image (corrupt); copy or make it again')
    if header.is_tiff and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 4:
        image = _tiff_with_alpha(content, name)
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    try:
        image = as_meant(image, header)
    except ValueError as error:
        raise UserError(f'{name}: {error}') from error
    image = upright(image, header.orientation)
    if not to_rgb:
        kind = _unusual_kind(image)
        if kind:
            raise UserError(
                f'{name}: {kind}, but 8-bit RGB is needed; convert it, or say so with to_rgb: true (--to-rgb)'
            )
    if image.dtype == np.uint16:
        image = in_8_bits(image)
    elif image.dtype != np.uint8:
        raise UserError(f'{name}: {image.dtype} pixels cannot be read; convert it to 8 or 16 bit')
    if image.ndim == 2:
        return np.repeat(image[:, :, None], 3, axis=2)
    if image.shape[2] == 3:
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)  # type: ignore[return-value]  # faster than a copy of the view
    return np.ascontiguousarray(image[:, :, 2::-1])


def in_8_bits(image: npt.NDArray[np.unsignedinteger]) -> npt.NDArray[np.uint8]:
    """Returns uint16 pixels as uint8: round(value / 257)."""
    return ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)


def as_meant(image: Any, header: Header) -> Any:
    """Returns pixels as OpenCV decodes them, uint8 or uint16, with the white that the file means.

    OpenCV leaves values of a PNM as they are whatever its largest one, makes a negative of 16-bit TIFFs whose white is
    0, and leaves colours of 16 bits multiplied by alpha. Other types are returned as they are.

    Raises:
        ValueError: 16 bits in planes of their own, which OpenCV and Pillow do not read as they are.
    """
    if image.dtype not in (np.uint8, np.uint16):
        return image
    if header.is_planar and image.dtype == np.uint16 and image.ndim == 3:
        raise ValueError('16 bits in a plane for each colour (PlanarConfiguration 2) are not read; convert it to PNG')
    if header.is_premultiplied and image.dtype == np.uint16 and image.ndim == 3 and image.shape[2] == 4:
        image = _divided_by_alpha(image)
    white = int(np.iinfo(image.dtype).max)
    if header.white not in (0, white):
        values = np.minimum(image, header.white).astype(np.int64)
        image = ((values * white + header.white // 2) // header.white).astype(image.dtype)
    return white - image if header.is_negative and image.dtype == np.uint16 and image.ndim == 2 else image


def _tiff_with_alpha(content: bytes, name: str) -> Any:
    """Returns BGRA of 8 bits as Pillow reads it: OpenCV multiplies colour by alpha. Both turn a TIFF upright."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=['TIFF']) as image:
            return np.asarray(image.convert('RGBA'))[:, :, [2, 1, 0, 3]]
    except Exception as error:  # decoders of damaged files raise what they like
        raise UserError(f'{name}: not a readable image ({error}); copy or make it again') from error


def _divided_by_alpha(image: Any) -> Any:
    """Returns BGRA whose colour is not multiplied by alpha any more, rounded down as Pillow does it."""
    white = int(np.iinfo(image.dtype).max)
    colour, alpha = image[:, :, :3].astype(np.int64), image[:, :, 3:].astype(np.int64)
    plain = np.minimum(colour * white // np.maximum(alpha, 1), white)
    plain = np.where(alpha == 0, colour, plain)  # nothing is known of them
    return np.concatenate([plain, alpha], axis=2).astype(image.dtype)


def upright(image: Any, orientation: int) -> Any:
    """Returns [H, W] or [H, W, C] turned by EXIF's orientation, as Pillow's `exif_transpose` turns it.

    An orientation outside of 1..8 changes nothing.
    """
    if not 2 <= orientation <= 8:
        return image
    if orientation >= 5:  # rows and columns exchanged
        image = image.swapaxes(0, 1)
    # Which axes of the outcome run backwards.
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def _unusual_kind(image: npt.NDArray[np.generic]) -> str:
    kinds = []
    if image.ndim == 2:
        kinds.append('gray')
    elif image.shape[2] == 4:
        kinds.append('RGBA')
    elif image.shape[2] != 3:
        kinds.append(f'{image.shape[2]} channels')
    if image.dtype != np.uint8:
        kinds.append('16-bit' if image.dtype == np.uint16 else str(image.dtype))
    return ', '.join(kinds)


def write_png(path: str | os.PathLike[str], image: RGB) -> None:
    """Writes uint8 RGB [H, W, 3] as PNG, atomically."""
    write_bytes(path, encode_png(image))


def encode_png(image: RGB, level: int = 3) -> bytes:
    """Returns uint8 RGB [H, W, 3] as the bytes of a PNG; `level` is zlib's, 0..9."""
    ok, content = cv2.imencode('.png', image[:, :, ::-1], [cv2.IMWRITE_PNG_COMPRESSION, level])
    if not ok:
        raise RuntimeError('OpenCV could not encode a PNG')
    return content.tobytes()


def luminance(image: RGB) -> npt.NDArray[np.uint8]:
    """Returns the luminance (ITU-R BT.601) of RGB [H, W, 3], rounded to uint8 [H, W, 1], 0..255."""
    return cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)[:, :, None]  # type: ignore[return-value]


def image_digest(image: RGB) -> bytes:
    """Returns sha256 (32 bytes) over height, width and RGB bytes: the same for PNG and LMDB copies."""
    height, width = image.shape[:2]
    return hashlib.sha256(f'{height}x{width}:'.encode() + np.ascontiguousarray(image).tobytes()).digest()
