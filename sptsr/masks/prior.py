"""The prior of one image: up to 64 masks as a palette and an index map."""

from __future__ import annotations

import struct
import threading
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import zstandard

from sptsr.core.errors import UserError
from sptsr.masks.regions import BoolArray, Regions, unique_of_map

MAX_MASKS = 64
MAX_FINE = 4

_HEADER = struct.Struct('<4sBBHIII')  # magic, version, bytes of an index, masks, palette size, height, width
_MAGIC = b'SPTP'
_VERSION = 2
_FINE = struct.Struct('<B')  # follows the header of version 2; version 1, in which it is 1, is still written
_LARGEST = 1 << 30  # bytes of an unpacked prior: 16384 x 16384 pixels of four bytes
_STORED = {1: '<u1', 2: '<u2', 4: '<u4'}  # types of an index map by bytes a pixel


@dataclass(frozen=True)
class Prior:
    """The masks of one LQ image, ordered by area, largest first.

    A pixel's membership in N masks is an N-bit code; K distinct codes occur.

    Attributes:
        palette: uint64 [K], the codes; bit n set means "inside mask n".
        index: uint16 (uint32 when K > 65536) [k H, k W], which code each pixel of the grid has.
        count: N, 0..64.
        fine: k, 1..4: the masks lie on a grid k times as fine as the image's, and `index` is [k H, k W].
        statistics: float32 [N, 2 + C], what the whole image is like inside each mask (see
            `sptsr.masks.batch.PriorBatch.statistics`); a crop keeps it. None where it was not computed; not stored.
    """

    palette: npt.NDArray[np.uint64]
    index: npt.NDArray[np.unsignedinteger]
    count: int
    statistics: npt.NDArray[np.float32] | None = None
    fine: int = 1

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image that the masks belong to, in its pixels."""
        return self.index.shape[0] // self.fine, self.index.shape[1] // self.fine

    @classmethod
    def encode(cls, masks: BoolArray, max_masks: int = MAX_MASKS) -> Prior:
        """Makes a prior of bool masks [N, H, W]: ordered by area, empty ones dropped, the largest kept."""
        return cls.from_regions(Regions.from_masks(masks).select(max_masks))

    @classmethod
    def from_regions(cls, regions: Regions) -> Prior:
        """Makes a prior of regions already selected and ordered (see `Regions.select`)."""
        count = regions.count
        if count > MAX_MASKS:
            raise ValueError(f'a prior holds at most {MAX_MASKS} masks, got {count}')
        shifts = np.arange(count, dtype=np.uint64)
        codes = (regions.members.astype(np.uint64) << shifts).sum(axis=1, dtype=np.uint64)
        palette, inverse = np.unique(codes, return_inverse=True)
        index = inverse.reshape(-1)[regions.index]
        return cls(palette, index.astype(_index_dtype(len(palette))), count)

    @classmethod
    def from_codes(cls, codes: npt.NDArray[np.uint64], count: int) -> Prior:
        """Makes a prior of codes uint64 [H, W], bit n set inside mask n; masks ordered by area, none empty."""
        palette, index = unique_of_map(codes.reshape(-1))
        return cls(palette, index.reshape(codes.shape).astype(_index_dtype(len(palette))), count)

    def decode(self) -> BoolArray:
        """Returns the masks on their own grid, bool [N, k H, k W]."""
        shifts = np.arange(self.count, dtype=np.uint64)
        bits = ((self.palette[:, None] >> shifts) & np.uint64(1)).astype(np.bool_)
        return np.moveaxis(bits[self.index], -1, 0)

    def emptied(self) -> Prior:
        """Returns the prior of the same size and grid that has no masks."""
        none = None if self.statistics is None else self.statistics[:0]
        return Prior(np.zeros(1, np.uint64), np.zeros(self.index.shape, np.uint16), 0, none, self.fine)

    def areas(self) -> npt.NDArray[np.int64]:
        """Returns the area of each mask in pixels of the grid, int64 [N]."""
        sizes = np.bincount(self.index.reshape(-1), minlength=len(self.palette)).astype(np.int64)
        shifts = np.arange(self.count, dtype=np.uint64)
        return sizes @ ((self.palette[:, None] >> shifts) & np.uint64(1)).astype(np.int64)

    def coverage(self) -> float:
        """Returns the share of pixels inside at least one mask, 0..1."""
        return float((self.palette != 0)[self.index].mean())

    def crop(self, top: int, left: int, height: int, width: int) -> Prior:
        """Returns the prior of a window, in pixels of the image.

        Masks keep their numbers, also those that became empty.
        """
        full_height, full_width = self.size
        if top < 0 or left < 0 or top + height > full_height or left + width > full_width:
            raise ValueError(f'window {height}x{width} at ({top}, {left}) leaves {full_height}x{full_width}')
        top, bottom, left, right = (side * self.fine for side in (top, top + height, left, left + width))
        return replace(self, index=self.index[top:bottom, left:right])

    def flip(self, axis: int) -> Prior:
        """Returns the prior of the image flipped along an axis: 0 vertically, 1 horizontally."""
        return replace(self, index=np.flip(self.index, axis))

    def transpose(self) -> Prior:
        """Returns the prior of the image with height and width exchanged."""
        return replace(self, index=self.index.T)

    def rotate(self, quarters: int = 1) -> Prior:
        """Returns the prior of the image rotated counter-clockwise by quarters of a turn."""
        return replace(self, index=np.rot90(self.index, quarters))

    def at(self, fine: int) -> Prior:
        """Returns the prior on a grid `fine` times as fine as the image's.

        A pixel of the new grid is inside the masks that the one under its middle is inside; where the middle lies
        between pixels, the lower right one of them is taken. Masks keep their numbers, and nothing is ordered anew.
        """
        if fine == self.fine:
            return self
        rows, columns = (grid_positions(side, self.fine, fine) for side in self.size)
        return replace(self, index=self.index[rows][:, columns], fine=fine)

    def resized(self, height: int, width: int) -> Prior:
        """Returns the prior of an image of another size, nearest, on a grid as fine as before.

        Masks that vanish are left out, and the rest is ordered anew.
        """
        sides = zip((height, width), self.index.shape, strict=True)
        rows, columns = (
            ((np.arange(new * self.fine) + 0.5) * old / (new * self.fine)).astype(np.int64) for new, old in sides
        )
        moved = replace(self, index=self.index[rows][:, columns])
        areas = moved.areas()
        order = [int(n) for n in np.argsort(-areas, kind='stable') if areas[n] > 0]
        codes = np.zeros_like(self.palette)
        for new, old in enumerate(order):
            codes |= ((self.palette >> np.uint64(old)) & np.uint64(1)) << np.uint64(new)
        return replace(Prior.from_codes(codes[moved.index], len(order)), fine=self.fine)

    def on_grid_of(self, other: Prior) -> Prior:
        """Returns the prior at the size of another one and on a grid as fine."""
        moved = self if self.size == other.size else self.resized(*other.size)
        return moved.at(other.fine)

    def to_bytes(self) -> bytes:
        """Returns one checksummed zstd frame: header, palette, index map, all little-endian.

        The index map takes one byte a pixel where the palette has at most 256 codes. Measured on human masks
        at LR 120x80, the plain layout (sorted palette, then indices) packs smaller than predicted or
        byte-split ones.
        """
        height, width = self.index.shape
        itemsize = 1 if len(self.palette) <= 256 else _index_dtype(len(self.palette))().itemsize
        header = _HEADER.pack(
            _MAGIC, 1 if self.fine == 1 else 2, itemsize, self.count, len(self.palette), height, width
        )
        header += b'' if self.fine == 1 else _FINE.pack(self.fine)
        content = header + self.palette.astype('<u8').tobytes() + self.index.astype(_STORED[itemsize]).tobytes()
        return _ZSTD.compressor.compress(content)

    @classmethod
    def from_bytes(cls, content: bytes) -> Prior:
        """Reads what `to_bytes` wrote; raises UserError when it is damaged or of a newer version."""
        try:
            if not 0 <= zstandard.frame_content_size(content) <= _LARGEST:
                raise UserError('damaged entry (no prior is so large); extract the priors again')
            raw = _ZSTD.decompressor.decompress(content)
            magic, version, itemsize, count, codes, height, width = _HEADER.unpack_from(raw)
            fine, start = (1, _HEADER.size) if version < 2 else (raw[_HEADER.size], _HEADER.size + _FINE.size)
        except (zstandard.ZstdError, struct.error, IndexError, MemoryError) as error:
            raise UserError(f'damaged entry ({error}); extract the priors again') from error
        if magic != _MAGIC or itemsize not in _STORED or count > MAX_MASKS:
            raise UserError('not a prior; extract the priors again')
        if version > _VERSION:
            raise UserError(f'a prior of version {version}, newer than {_VERSION}; update sptsr')
        if not 1 <= fine <= MAX_FINE or height % fine or width % fine:
            raise UserError('damaged entry (no grid is like this); extract the priors again')
        if len(raw) != start + codes * 8 + height * width * itemsize:
            raise UserError('damaged entry (its length is wrong); extract the priors again')
        palette = np.frombuffer(raw, '<u8', codes, start).astype(np.uint64)
        stored = np.frombuffer(raw, _STORED[itemsize], height * width, start + codes * 8)
        if not stored.size or stored.max() >= codes:
            raise UserError('damaged entry (an index leaves its palette); extract the priors again')
        if count < MAX_MASKS and (palette >> np.uint64(count)).any():
            raise UserError('damaged entry (a code names a mask that is not there); extract the priors again')
        return cls(palette, stored.astype(_index_dtype(codes)).reshape(height, width), count, fine=fine)


def grid_positions(side: int, old: int, new: int) -> npt.NDArray[np.int64]:
    """Returns which row of a grid `old` times as fine as an image's lies under each row of one `new` times as fine.

    Args:
        side: rows (or columns) of the image.
        old, new: how fine the grids are.
    """
    return (2 * np.arange(side * new, dtype=np.int64) + 1) * old // (2 * new)


class _Zstd(threading.local):
    """A compressor and a decompressor of each thread: making one takes longer than a small prior does."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=19, write_checksum=True)
        self.decompressor = zstandard.ZstdDecompressor()


_ZSTD = _Zstd()


def _index_dtype(codes: int) -> type[np.uint16] | type[np.uint32]:
    return np.uint16 if codes <= 1 << 16 else np.uint32
