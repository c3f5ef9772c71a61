"""Reading images: one decoder, one key rule, folders and BasicSR LMDBs alike."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from sptsr.core.errors import UserError
from sptsr.core.files import write_bytes
from sptsr.core.lmdb_env import open_reader

IMAGE_SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp', '.ppm')
RGB = npt.NDArray[np.uint8]

cv2.setNumThreads(0)  # workers are processes; OpenCV's own threads only get in their way


def decode_rgb(content: bytes, name: str, to_rgb: bool = False) -> RGB:
    """Decodes an image file to RGB.

    Args:
        content: the bytes of a PNG, JPEG, BMP, TIFF, WebP or PPM file. EXIF rotation of a JPEG is applied.
        name: what to call it in a message.
        to_rgb: convert what is not 8-bit RGB: gray is repeated, alpha is dropped,
            16 bit becomes round(value / 257).

    Returns:
        uint8 [H, W, 3], RGB, 0..255.

    Raises:
        UserError: empty or corrupt, or not 8-bit RGB while `to_rgb` is false.
    """
    if not content:
        raise UserError(f'{name}: the file is empty; copy or make it again')
    if _is_cut_off(content):
        raise UserError(f'{name}: not a readable image (cut off); copy or make it again')
    # JPEG has neither alpha nor 16 bit; ANYCOLOR keeps gray apart and applies EXIF, which UNCHANGED does not.
    flag = cv2.IMREAD_ANYCOLOR if content[:2] == b'\xff\xd8' else cv2.IMREAD_UNCHANGED
    try:
        image: Any = cv2.imdecode(np.frombuffer(content, np.uint8), flag)
    except cv2.error:
        image = None
    if image is None:
        raise UserError(f'{name}: not a readable image (corrupt); copy or make it again')
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    if not to_rgb:
        kind = _unusual_kind(image)
        if kind:
            raise UserError(
                f'{name}: {kind}, but 8-bit RGB is needed; convert it, or say so with to_rgb: true (--to-rgb)'
            )
    if image.dtype == np.uint16:
        image = ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    elif image.dtype != np.uint8:
        raise UserError(f'{name}: {image.dtype} pixels cannot be read; convert it to 8 or 16 bit')
    if image.ndim == 2:
        return np.repeat(image[:, :, None], 3, axis=2)
    if image.shape[2] == 3:
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)  # type: ignore[return-value]  # faster than a copy of the view
    return np.ascontiguousarray(image[:, :, 2::-1])


def _is_cut_off(content: bytes) -> bool:
    """Whether a PNG or JPEG lacks its end. OpenCV fills the rest of such a JPEG with gray and says nothing."""
    tail = content[-4096:]
    if content[:8] == b'\x89PNG\r\n\x1a\n':
        return b'IEND' not in tail
    return content[:2] == b'\xff\xd8' and b'\xff\xd9' not in tail


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


def image_digest(image: RGB) -> bytes:
    """Returns sha256 (32 bytes) over height, width and RGB bytes: the same for PNG and LMDB copies."""
    height, width = image.shape[:2]
    return hashlib.sha256(f'{height}x{width}:'.encode() + np.ascontiguousarray(image).tobytes()).digest()


def image_key(relative: str | os.PathLike[str]) -> str:
    """Returns the key of an image: its path relative to the folder, without the last suffix.

    `a.0.png` has the key `a.0`; a name is never cut at its first dot.
    """
    return PurePosixPath(Path(relative).as_posix()).with_suffix('').as_posix()


class ImageFolder:
    """The images below a folder, or in a BasicSR LMDB (`*.lmdb`), in sorted order.

    Args:
        root: folder of images (read recursively) or LMDB with its `meta_info.txt`.
        to_rgb: see `decode_rgb`.
        include: keep only keys that match one of these globs (`train/*`).

    Raises:
        UserError: missing or empty, two images of one key, or no key matches.
    """

    def __init__(self, root: str | os.PathLike[str], to_rgb: bool = False, include: Sequence[str] = ()) -> None:
        self.root = Path(root)
        self.to_rgb = to_rgb
        self.is_lmdb = self.root.suffix == '.lmdb'
        if not self.root.is_dir():
            raise UserError(f'{root}: no such folder; check the path')
        self._files = self._scan_lmdb() if self.is_lmdb else self._scan_disk()
        if include:
            self._files = {k: v for k, v in self._files.items() if any(fnmatchcase(k, glob) for glob in include)}
            if not self._files:
                raise UserError(f'{root}: no image matches {", ".join(include)}; keys look like train/0001')
        self.keys = sorted(self._files)

    def __len__(self) -> int:
        return len(self.keys)

    def __contains__(self, key: str) -> bool:
        return key in self._files

    def name(self, key: str) -> str:
        """Returns what to call the image in a message: its path, or LMDB and key."""
        return f'{self.root}[{key}]' if self.is_lmdb else self._path(key)

    def read(self, key: str) -> RGB:
        """Returns uint8 RGB [H, W, 3]; raises UserError with the file's name."""
        return decode_rgb(self.read_bytes(key), self.name(key), self.to_rgb)

    def read_bytes(self, key: str) -> bytes:
        """Returns the encoded file."""
        if key not in self._files:
            raise UserError(f"{self.root}: no image '{key}'; copy or make it again")
        if self.is_lmdb:
            with open_reader(self.root).begin() as transaction:
                content = transaction.get(key.encode())
            if content is None:
                raise UserError(f"{self.root}: no entry '{key}' though meta_info.txt lists it; make the LMDB again")
            return content
        try:
            with open(self._path(key), 'rb') as file:
                return file.read()
        except OSError as error:
            raise UserError(f'{self.name(key)}: cannot read it ({error.strerror}); check the file') from error

    def _path(self, key: str) -> str:
        return os.path.join(self.root, self._files[key])  # at every read: joining Paths takes many times as long

    def _scan_lmdb(self) -> dict[str, str]:
        meta = self.root / 'meta_info.txt'
        if not meta.is_file():
            raise UserError(f'{self.root}: meta_info.txt is missing, so the LMDB is unfinished; make it again')
        # A line is `name.png (h,w,c) level`; names may hold blanks and dots.
        names = [line.rsplit(' (', 1)[0] for line in meta.read_text().splitlines() if line.strip()]
        if not names:
            raise UserError(f'{meta}: lists no images; make the LMDB again')
        return {image_key(name): name for name in names}

    def _scan_disk(self) -> dict[str, str]:
        files: dict[str, str] = {}
        for relative in _walk(self.root):
            key = image_key(relative)
            if key in files:
                raise UserError(f"{self.root}: '{files[key]}' and '{relative}' share the key '{key}'; rename one")
            files[key] = relative
        if not files:
            raise UserError(f'{self.root}: no images here ({" ".join(IMAGE_SUFFIXES)}); check the path')
        return files


def _walk(root: Path) -> list[str]:
    """Lists images below `root`, POSIX-relative; follows links, but no folder twice."""
    found, seen = [], set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders.sort()
        for name in sorted(names):
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith('.'):
                found.append((Path(folder) / name).relative_to(root).as_posix())
    return found
