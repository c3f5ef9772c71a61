"""The images of a folder or a BasicSR LMDB, under one key rule."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from sptsr.core.errors import UserError
from sptsr.core.files import must_be_regular
from sptsr.core.lmdb_env import read_transaction, refresh_reader
from sptsr.images.chain import read_degradation
from sptsr.images.decode import RGB, decode_rgb

IMAGE_SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp', '.ppm')
# What BasicSR's lists say after a name: `(h,w,c)`, and in an LMDB the compression level after that.
_SIZE = re.compile(r'\s+\(\s*\d+\s*(,\s*\d+\s*)*\)(\s+\d+)?$')


def image_key(relative: str | os.PathLike[str]) -> str:
    """Returns the key of an image: its path relative to the folder, without the last suffix, in Unicode's form NFC.

    `a.0.png` has the key `a.0`; a name is never cut at its first dot. Names that look equal have equal keys,
    whether `é` is stored as one character (Linux, Windows) or as two (NFD, macOS).
    """
    return normalised(_without_suffix(Path(relative).as_posix()))


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
        UserError: missing or empty, two images of one key, no key matches, or an entry that is not a regular file or
            whose name is not UTF-8.
    """

    def __init__(self, root: str | os.PathLike[str], to_rgb: bool = False, include: Sequence[str] = ()) -> None:
        self.root = Path(root)
        self.to_rgb, self.include = to_rgb, tuple(include)
        self.is_lmdb = self.root.suffix == '.lmdb'
        if not self.root.is_dir():
            raise UserError(f'{root}: no such folder; check the path')
        self._files = self._scan_lmdb() if self.is_lmdb else self._scan_disk()
        if include:
            self._files = {key: file for key, file in self._files.items() if self._includes(key)}
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

    def refuse_within(self, out: str | os.PathLike[str]) -> None:
        """Raises UserError where pictures written there would become images of this folder, or replace some."""
        for whole in (os.path.abspath, os.path.realpath):  # links into the folder are followed
            place, root = Path(whole(out)), Path(whole(self.root))
            below = place.relative_to(root) if place.is_relative_to(root) else None
            if below is not None and any(self._includes((below / key).as_posix()) for key in self.keys):
                raise UserError(f'{out}: lies in {self.root}, whose images are read; choose a folder outside of it')

    def _includes(self, key: str) -> bool:
        return not self.include or any(fnmatchcase(key, glob) for glob in self.include)

    def read(self, key: str) -> RGB:
        """Returns uint8 RGB [H, W, 3]; raises UserError with the file's name."""
        return decode_rgb(self.read_bytes(key), self.name(key), self.to_rgb)

    def read_bytes(self, key: str) -> bytes:
        """Returns the encoded file."""
        if key not in self._files:
            raise UserError(f"{self.root}: no image '{key}'; copy or make it again")
        if self.is_lmdb:
            with read_transaction(self.root) as transaction:
                content = transaction.get(_without_suffix(self._files[key]).encode())
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
        names = [listed_name(line) for line in list_lines(meta)]
        for name in names:
            if PurePosixPath(name).is_absolute() or '..' in PurePosixPath(name).parts:
                raise UserError(f"{meta}: '{name}' is no name below a folder; make the LMDB again")
        refresh_reader(self.root)
        return self._by_key(names)

    def _scan_disk(self) -> dict[str, str]:
        files = self._by_key(sorted(files_below(str(self.root), IMAGE_SUFFIXES)))
        if not files:
            raise UserError(f'{self.root}: no images here ({" ".join(IMAGE_SUFFIXES)}); check the path')
        return files

    def _by_key(self, names: Sequence[str]) -> dict[str, str]:
        files: dict[str, str] = {}
        for name in names:
            key = image_key(name)
            if files.get(key, name) != name:
                raise UserError(f"{self.root}: '{files[key]}' and '{name}' share the key '{key}'; rename one")
            files[key] = name
        return files


def list_lines(path: str | os.PathLike[str]) -> list[str]:
    """Returns the lines of a list of images, without blanks around them and without empty ones.

    Raises:
        UserError: no regular file, not UTF-8 (a byte order mark may begin it), or empty.
    """
    must_be_regular(path)
    try:
        text = Path(path).read_text(encoding='utf-8-sig')
    except OSError as error:
        raise UserError(f'{path}: cannot read it ({error.strerror}); check the path') from error
    except UnicodeDecodeError as error:
        raise UserError(f'{path}: is not UTF-8 (byte {error.start}); save it as UTF-8') from error
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise UserError(f'{path}: lists no images; write one name a line')
    return lines


def listed_name(line: str) -> str:
    """Returns the image's name of a line of BasicSR's lists: `photo (1).png (480,320,3) 1` gives `photo (1).png`."""
    return _SIZE.sub('', line)


def normalised(name: str) -> str:
    """Returns a name in Unicode's form NFC, in which names that look equal are equal."""
    return unicodedata.normalize('NFC', name)


def _without_suffix(path: str) -> str:
    pure = PurePosixPath(path)
    return (pure.with_suffix('') if pure.name else pure).as_posix()


def files_below(folder: str, endings: tuple[str, ...], prefix: str = '', seen: set[str] | None = None) -> Iterator[str]:
    """Yields the files below a folder as `prefix` and their path in it, POSIX; follows links, enters none twice.

    Args:
        folder: where to look; what is hidden in it is passed over.
        endings: of the names looked for, lower-case.
        prefix: of what is yielded.
        seen: folders that are not entered, by their real paths; those that are entered are added.

    Raises:
        UserError: a folder that cannot be read, no regular file, or a name that is not UTF-8.
    """
    seen = set() if seen is None else seen
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f'{folder}: cannot read it ({error.strerror}); check the folder') from error
    for entry in entries:
        if entry.name.startswith('.'):  # notebooks keep copies in hidden folders
            continue
        if entry.is_dir():
            yield from files_below(entry.path, endings, f'{prefix}{entry.name}/', seen)
        elif entry.name.lower().endswith(endings):
            if not entry.is_file():  # not asked of the others: the folder's entry tells, a path costs a system call
                must_be_regular(entry.path)
            try:
                entry.path.encode()
            except UnicodeEncodeError as error:
                shown = os.fsencode(entry.path).decode(errors='backslashreplace')
                raise UserError(f'{shown}: its name is not UTF-8; rename it') from error
            yield prefix + entry.name
