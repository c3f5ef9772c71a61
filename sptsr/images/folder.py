"""The images of a folder or a BasicSR LMDB, under one key rule."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from sptsr.core.errors import UserError
from sptsr.core.lmdb_env import open_reader
from sptsr.images.decode import RGB, decode_rgb
from sptsr.images.draws import read_degradation

IMAGE_SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp', '.ppm')


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

    Attributes:
        keys: of the images, sorted.
        degradation: what `sptsr prior degrade` did to these images; None where it did not make them.

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
        self.degradation = read_degradation(self.root)

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
