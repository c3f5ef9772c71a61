"""What an encoded image says of itself before it is decoded: its size, how it is turned, whether its end is there."""

from __future__ import annotations

import os
import re
import struct
from dataclasses import dataclass

from sptsr.core.errors import UserError

_DEFAULT_MAX_PIXELS = 1 << 27
_VARIABLE = 'SPTSR_MAX_PIXELS'
_PNG = b'\x89PNG\r\n\x1a\n'
_BETWEEN = rb'(?:\s|#[^\n]*\n)+'
_PPM = re.compile(rb'P([1-6])' + _BETWEEN + rb'(\d{1,9})' + _BETWEEN + rb'(\d{1,9})(?=\s)')
_PPM_WHITE = re.compile(_BETWEEN + rb'(\d{1,5})\s')
_LONGEST_HEAD = 1 << 20  # bytes in which the depth of samples is looked for
_WHOLE = {1: 'B', 3: 'H', 4: 'I', 6: 'B', 8: 'H', 9: 'I', 16: 'Q', 17: 'Q'}  # kinds of whole numbers in a TIFF
_PHOTOMETRIC = 262  # TIFF tag; 0: white is 0
_PLANAR = 284  # TIFF tag; 2: all red, then all green, then all blue
_EXTRA_SAMPLES = 338  # TIFF tag; 1: colour is multiplied by alpha


@dataclass(frozen=True)
class Header:
    """What is known of an encoded image.

    Attributes:
        width, height: in pixels, before it is turned; 0 where the file does not tell.
        orientation: EXIF's, 1..8 (1: as stored). Always 1 for TIFF, which OpenCV turns itself.
        is_jpeg: whether it is a JPEG.
        is_whole: whether the end of a PNG or JPEG is there; what follows it (motion photos) does not matter.
            True for other formats, whose decoder notices.
        white: value of white of a PNM that OpenCV does not bring to its type's; 0 where it does.
        is_tiff: whether it is a TIFF.
        is_negative: whether white is 0, in a TIFF.
        is_planar: whether each colour is a plane of its own, in a TIFF.
        is_premultiplied: whether colour is multiplied by alpha, in a TIFF.
    """

    width: int = 0
    height: int = 0
    orientation: int = 1
    is_jpeg: bool = False
    is_whole: bool = True
    white: int = 0
    is_tiff: bool = False
    is_negative: bool = False
    is_planar: bool = False
    is_premultiplied: bool = False


def read_header(content: bytes) -> Header:
    """Returns what an encoded image says of itself; damaged parts count as not there."""
    try:
        if content[:8] == _PNG:
            return _png(content)
        if content[:2] == b'\xff\xd8':
            return _jpeg(content)
        if content[:4] == b'RIFF' and content[8:12] == b'WEBP':
            return _webp(content)
        if content[:4] in (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+'):
            tags = _tiff_tags(content)
            return Header(
                tags.get(256, 0),
                tags.get(257, 0),
                is_tiff=True,
                is_negative=tags.get(_PHOTOMETRIC) == 0,
                is_planar=tags.get(_PLANAR) == 2,
                is_premultiplied=tags.get(_EXTRA_SAMPLES) == 1,
            )
        if content[:2] == b'BM':
            length = struct.unpack_from('<I', content, 14)[0]
            if length == 12 or length >= 36:  # 12: OS/2's; of others OpenCV reads none
                width, height = struct.unpack_from('<HH' if length == 12 else '<ii', content, 18)
                return Header(abs(width), abs(height))
        if match := _PPM.match(content):
            found = _PPM_WHITE.match(content, match.end()) if match[1] in b'2356' else None
            white = int(found[1]) if found else 0
            is_known = match[1] in b'23' and white <= 255  # of text with small values OpenCV knows what is white
            return Header(int(match[2]), int(match[3]), white=0 if is_known else white)
    except struct.error:
        return Header(is_jpeg=content[:2] == b'\xff\xd8', is_whole=False)
    return Header()


def said_depth(content: bytes) -> int:
    """Returns the bits of a sample that a JPEG 2000 or AVIF file says it has; 8 for others, or where it says nothing.

    Markers SIZ of ISO/IEC 15444-1 (A.5.1) and property `pixi` of ISO/IEC 23008-12 (6.5.6).
    """
    for mark, before in ((b'\xff\x4f\xff\x51', 42), (b'pixi', 9)):
        at = content.find(mark, 0, _LONGEST_HEAD)
        if at >= 0 and at + before < len(content):
            bits = content[at + before] & 0x7F
            return bits + 1 if mark != b'pixi' else bits
    return 8


def pixel_bound() -> int:
    """Returns how many pixels an image may have."""
    text = os.environ.get(_VARIABLE, '')
    return int(text) if text.isdecimal() else _DEFAULT_MAX_PIXELS


def check_pixels(header: Header, name: object) -> None:
    """Raises UserError for an image of more pixels than the bound, before memory is taken for them."""
    bound = pixel_bound()
    if header.width * header.height > bound:
        raise UserError(
            f'{name}: {header.height}x{header.width} (height x width) are more than {bound} pixels; make it smaller, '
            f'or set {_VARIABLE}={header.width * header.height} in the environment'
        )


def _png(content: bytes) -> Header:
    width, height = struct.unpack_from('>II', content, 16)
    orientation, at = 1, 8
    while at + 12 <= len(content):
        length, kind = struct.unpack_from('>I4s', content, at)
        if kind == b'eXIf':
            orientation = _orientation(content[at + 8 : at + 8 + length])
        at += 12 + length
        if kind == b'IEND':
            return Header(width, height, orientation, is_whole=at <= len(content))
    return Header(width, height, orientation, is_whole=False)


def _jpeg(content: bytes) -> Header:
    width = height = 0
    orientation, at = 1, 2
    while at + 4 <= len(content):
        mark, marker, length = struct.unpack_from('>BBH', content, at)
        if mark != 0xFF:  # filling between segments, which decoders pass over
            at = content.find(b'\xff', at)
            if at < 0:
                break
            continue
        if marker in (0x01, 0xFF) or 0xD0 <= marker <= 0xD8:  # padding, and markers without content
            at += 1 if marker == 0xFF else 2
            continue
        if marker == 0xDA:  # the pixels, in which FF is followed by 00 or a restart marker: the next FF D9 is the end
            is_whole = content.find(b'\xff\xd9', at + 2 + length) >= 0
            return Header(width, height, orientation, is_jpeg=True, is_whole=is_whole)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a frame, not tables
            height, width = struct.unpack_from('>HH', content, at + 5)
        elif marker == 0xE1 and content[at + 4 : at + 10] == b'Exif\0\0':
            orientation = _orientation(content[at + 10 : at + 2 + length])
        at += 2 + length
    return Header(width, height, orientation, is_jpeg=True, is_whole=False)


def _webp(content: bytes) -> Header:
    width = height = 0
    orientation, at = 1, 12
    while at + 8 <= len(content):
        kind, length = struct.unpack_from('<4sI', content, at)
        body = at + 8
        if kind == b'VP8X':
            sides = struct.unpack_from('<IHB', content, body + 4)
            wide, high = sides[0] & 0xFFFFFF, (sides[0] >> 24) | (sides[1] << 8)
            width, height = wide + 1, (high & 0xFFFFFF) + 1
        elif kind == b'VP8 ' and not width:
            width, height = (side & 0x3FFF for side in struct.unpack_from('<HH', content, body + 6))
        elif kind == b'VP8L' and not width:
            bits = struct.unpack_from('<I', content, body + 1)[0]
            width, height = (bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1
        elif kind == b'EXIF':
            exif = content[body : body + length]
            orientation = _orientation(exif.removeprefix(b'Exif\0\0'))
        at = body + length + length % 2
    return Header(width, height, orientation)


def _orientation(exif: bytes) -> int:
    try:
        found = _tiff_tags(exif).get(274, 1)
    except struct.error:
        return 1
    return found if 1 <= found <= 8 else 1


def _tiff_tags(content: bytes) -> dict[int, int]:
    """Returns the tags of the first directory of a TIFF that hold one whole number."""
    order = '<' if content[:2] == b'II' else '>'
    if content[2:4] in (b'+\0', b'\0+'):  # BigTIFF: 64-bit offsets
        offset = struct.unpack_from(order + 'Q', content, 8)[0]
        count = struct.unpack_from(order + 'Q', content, offset)[0]
        first, entry, value_at = offset + 8, 20, 12
    else:
        offset = struct.unpack_from(order + 'I', content, 4)[0]
        count = struct.unpack_from(order + 'H', content, offset)[0]
        first, entry, value_at = offset + 2, 12, 8
    tags: dict[int, int] = {}
    for at in range(first, min(first + count * entry, len(content) - entry + 1), entry):
        tag, kind = struct.unpack_from(order + 'HH', content, at)
        if kind in _WHOLE and struct.calcsize('=' + _WHOLE[kind]) <= entry - value_at:
            value = struct.unpack_from(order + _WHOLE[kind], content, at + value_at)[0]
            tags.setdefault(tag, value)  # of two the first counts
    return tags
