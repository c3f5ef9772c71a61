"""Images as people have them, read for restoring and written: any mode and depth, alpha, orientation, profile."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, UnidentifiedImageError

from sptsr.core.errors import UserError
from sptsr.core.files import write_bytes
from sptsr.images.decode import as_meant, in_8_bits, upright
from sptsr.images.headers import read_header, said_depth

Pixels = npt.NDArray[np.unsignedinteger]  # uint8 or uint16

FORMATS = ('png', 'jpg', 'webp', 'tif')
# What a file may be, whatever its suffix says. Others of Pillow do more than decode: PostScript starts Ghostscript.
_READ = ('PNG', 'JPEG', 'MPO', 'BMP', 'DIB', 'TIFF', 'WEBP', 'PPM', 'GIF', 'AVIF', 'JPEG2000', 'TGA')
_ORIENTATION = 0x0112  # EXIF tag


@dataclass(frozen=True)
class AnyImage:
    """A decoded image, upright.

    Attributes:
        colour: uint8 or uint16 [H, W, 3], RGB, or [H, W, 1], gray.
        alpha: [H, W] of the same type, or None.
        profile: ICC profile of the colours; None for sRGB or unknown.
        notes: what was done to read it, for people, such as `CMYK converted to RGB`.
    """

    colour: Pixels
    alpha: Pixels | None = None
    profile: bytes | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def white(self) -> int:
        """The largest value: 255 or 65535."""
        return int(np.iinfo(self.colour.dtype).max)

    def rgb8(self) -> npt.NDArray[np.uint8]:
        """Returns uint8 [H, W, 3]: what a source of masks looks at."""
        colour = self.colour if self.white == 255 else in_8_bits(self.colour)
        return np.ascontiguousarray(np.broadcast_to(colour, (*colour.shape[:2], 3)), dtype=np.uint8)


def read_any(path: str | os.PathLike[str], most_pixels: int) -> AnyImage:
    """Reads an image file of any kind that Pillow and OpenCV know.

    Of an animation the first frame is read. EXIF orientation is applied, whatever the format. Bytes after the image's
    end (motion photos) are passed over.

    Args:
        path: the file.
        most_pixels: a larger image is refused before it is decoded.

    Raises:
        UserError: not a regular file, unreadable, cut off, too large, or with pixels of more than 16 bits.
    """
    if not Path(path).is_file():
        raise UserError(f'{path}: no such file, or not a regular one')
    try:
        content = Path(path).read_bytes()
        image = _opened(content, path, most_pixels)
        frames = getattr(image, 'n_frames', 1)
        notes = [f'first of {frames} frames'] if frames > 1 else []
        said = int(image.getexif().get(_ORIENTATION, 1))
        image.load()
        profile = image.info.get('icc_profile')
        deep = _deep_pixels(image, content)
        if deep is not None:
            orientation, (colour, alpha) = 1 if image.format == 'TIFF' else said, deep  # OpenCV turns a TIFF
        else:
            orientation = int(image.getexif().get(_ORIENTATION, 1))  # Pillow turns a TIFF itself while it loads
            colour, alpha, profile = _plain_pixels(image, content, profile, notes)
    except UserError:
        raise
    except MemoryError as error:
        raise UserError(f'{path}: needs more memory than is free here; cut it into parts') from error
    except Exception as error:  # decoders of damaged files raise what they like, IndexError and TypeError too
        reason = str(error).partition('\n')[0] or type(error).__name__
        raise UserError(f'{path}: not a readable image ({reason}); convert it, copy or make it again') from error
    if 2 <= said <= 8:
        notes.append('turned upright')
    turned = None if alpha is None else upright(alpha, orientation)
    return AnyImage(upright(colour, orientation), turned, profile, notes)


def write_any(path: str | os.PathLike[str], image: AnyImage, quality: int = 95) -> list[str]:
    """Writes an image atomically, in the format of the path's suffix, with its alpha, depth and profile.

    Args:
        path: ends in .png, .jpg, .webp or .tif.
        image: what to write.
        quality: of JPEG and WebP, 1..100.

    Returns:
        what the format could not keep, for people.

    Raises:
        UserError: an image that the format cannot hold, or a folder that cannot be written.
    """
    suffix = Path(path).suffix.lower().lstrip('.')
    lost = []
    colour, alpha = image.colour, image.alpha
    if suffix in ('jpg', 'webp') and image.white != 255:
        colour, alpha = in_8_bits(colour), None if alpha is None else in_8_bits(alpha)
        lost.append('16 bits not kept')
    if suffix == 'jpg' and alpha is not None:
        alpha = None
        lost.append('alpha not kept')
    buffer = io.BytesIO()
    if colour.dtype == np.uint16:
        buffer.write(_encoded_deep(colour, alpha, suffix, image.profile, lost))
    else:
        planes = colour if alpha is None else np.concatenate([colour, alpha[:, :, None]], axis=2)
        picture = Image.fromarray(planes[:, :, 0] if planes.shape[2] == 1 else planes)
        options: dict[str, Any] = {'icc_profile': image.profile} if image.profile else {}
        if suffix in ('jpg', 'webp'):
            options['quality'] = quality
        if suffix == 'png':
            options['compress_level'] = 2  # a quarter of the time of 6, the default, for files that are 10 % larger
        try:
            picture.save(buffer, {'jpg': 'JPEG', 'tif': 'TIFF'}.get(suffix, suffix.upper()), **options)
        except (OSError, ValueError) as error:  # WebP has at most 16,383 pixels a side, JPEG 65,535
            raise UserError(f'{path}: cannot be written as {suffix} ({error}); choose another format') from error
    write_bytes(path, buffer.getvalue())
    return lost


def _opened(content: bytes, path: str | os.PathLike[str], most_pixels: int) -> Image.Image:
    if not content:
        raise UserError(f'{path}: an empty file; copy or make it again')
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', Image.DecompressionBombWarning)  # `most_pixels` is the bound here
            Image.init()
            image = Image.open(io.BytesIO(content), formats=[name for name in _READ if name in Image.OPEN])
    except Image.DecompressionBombError as error:
        pixels = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise UserError(f'{path}: more than {pixels} pixels, which are not read; cut it into parts') from error
    except UnidentifiedImageError as error:
        raise UserError(f'{path}: not an image that can be read; convert it to PNG') from error
    if image.width * image.height > most_pixels:
        raise UserError(f'{path}: {image.height}x{image.width} needs more memory than is free here; cut it into parts')
    return image


def _deep_pixels(image: Image.Image, content: bytes) -> tuple[Pixels, Pixels | None] | None:
    """Returns the pixels of a 16-bit file, which Pillow would cut to 8 bits; None for others."""
    if image.mode.startswith('I;16') and image.format not in ('PNG', 'TIFF', 'PPM'):  # JPEG 2000
        return np.asarray(image).astype(np.uint16)[:, :, None], None
    if image.format not in ('PNG', 'TIFF', 'PPM'):
        return None
    planes: Any = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if planes is None or planes.dtype != np.uint16:
        return None
    planes = as_meant(planes, read_header(content))
    if planes.ndim == 2:
        return planes[:, :, None], None
    if planes.shape[2] == 2:
        return planes[:, :, :1], planes[:, :, 1]
    alpha = planes[:, :, 3] if planes.shape[2] == 4 else None
    colour = np.ascontiguousarray(planes[:, :, 2::-1])
    gray_with_alpha = image.format == 'PNG' and content[25] == 4  # Pillow calls 16 bits of it RGBA
    if image.mode in ('LA', 'I;16', 'I') or gray_with_alpha:
        colour = colour[:, :, :1]
    return colour, alpha


def _plain_pixels(
    image: Image.Image, content: bytes, profile: bytes | None, notes: list[str]
) -> tuple[Pixels, Pixels | None, bytes | None]:
    """Returns 8-bit colour and alpha, and the profile that goes with them."""
    if image.mode in ('I', 'F'):
        raise ValueError(f'pixels of 32 bits (mode {image.mode}) are not read')
    if image.format in ('JPEG2000', 'AVIF') and said_depth(content) > 8:
        notes.append(f'{said_depth(content)} bits read as 8')
    if image.mode in ('CMYK', 'YCbCr', 'LAB', 'HSV'):
        notes.append(f'{image.mode} converted to RGB')
        if image.mode == 'CMYK' and profile:
            try:
                source, target = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile('sRGB')
                image = ImageCms.profileToProfile(image, source, target, outputMode='RGB') or image
            except (ImageCms.PyCMSError, OSError):  # damaged, or not of CMYK
                notes.append('colour profile not usable')
        image, profile = image.convert('RGB'), None
    transparent = image.mode in ('LA', 'La', 'PA', 'RGBA', 'RGBa') or 'transparency' in image.info
    gray = image.mode in ('1', 'L', 'LA', 'La')
    if image.mode in ('P', 'PA'):
        notes.append('palette converted to RGB')
    if transparent:
        planes = np.asarray(image.convert('RGBA'))
        return (planes[:, :, :1] if gray else planes[:, :, :3]), planes[:, :, 3], profile
    planes = np.asarray(image.convert('L' if gray else 'RGB'))
    return (planes[:, :, None] if gray else planes), None, profile


def _encoded_deep(colour: Pixels, alpha: Pixels | None, suffix: str, profile: bytes | None, lost: list[str]) -> bytes:
    """Returns a 16-bit PNG or TIFF; OpenCV writes the pixels, and a PNG takes the profile as a chunk."""
    if alpha is not None and colour.shape[2] == 1:
        colour = np.repeat(colour, 3, axis=2)  # OpenCV writes no gray with alpha
        lost += ['gray not kept'] + (['colour profile not kept'] if profile else [])
        profile = None  # of gray
    planes = colour[:, :, ::-1]
    if alpha is not None:
        planes = np.concatenate([planes, alpha[:, :, None]], axis=2)
    try:
        ok, encoded = cv2.imencode(f'.{suffix}', np.ascontiguousarray(planes))
    except cv2.error as error:
        raise UserError(f'cannot be written as {suffix} of 16 bits ({error.err}); choose another format') from error
    if not ok:
        raise UserError(f'cannot be written as {suffix} of 16 bits; choose another format')
    content = encoded.tobytes()
    if profile and suffix == 'png':
        return _with_profile(content, profile)
    if profile:
        lost.append('colour profile not kept')
    return content


def _with_profile(png: bytes, profile: bytes) -> bytes:
    """Returns a PNG with an iCCP chunk behind its header (PNG specification, 11.3.2.3)."""
    data = b'ICC profile\0\0' + zlib.compress(profile)
    chunk = struct.pack('>I', len(data)) + b'iCCP' + data + struct.pack('>I', zlib.crc32(b'iCCP' + data))
    end_of_header = 8 + 12 + 13
    return png[:end_of_header] + chunk + png[end_of_header:]
