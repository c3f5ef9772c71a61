"""Making training and test sets: LR images, sub-images, BasicSR LMDBs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb

from sptsr.core.errors import UserError
from sptsr.core.files import read_json, remove_temporaries, write_json, write_text
from sptsr.core.lmdb_env import check_whole
from sptsr.core.locks import try_lock
from sptsr.core.progress import bar
from sptsr.images.bicubic import imresize
from sptsr.images.decode import RGB, decode_rgb, encode_png, image_digest, write_png
from sptsr.images.folder import ImageFolder

_FIRST_MAP_BYTES = 1 << 26
_UNFINISHED = '.unfinished'  # in an LMDB of ours until it is whole; locked by the process that writes it
_NOTE = '.prepared.json'  # in the folder of LR images: how they were cut
_MAX_KEY_BYTES = 511  # what LMDB is built with


def prepare(
    images: ImageFolder,
    out: str | os.PathLike[str],
    scale: int,
    mod_crop: bool = False,
    sub_image: int = 0,
    step: int = 0,
    as_lmdb: bool = False,
) -> int:
    """Writes `OUT/GTx{scale}` and `OUT/LRx{scale}` (or the same with `.lmdb`), key by key.

    Images that an earlier run finished are kept, so an interrupted run continues.

    Args:
        images: GT images.
        out: folder of the set.
        scale: 2, 3, 4, ...; the LR images are MATLAB's bicubic of the GT images, of whole ones where these are cut.
        mod_crop: cut right and bottom to a multiple of the scale instead of refusing other sizes.
        sub_image: cut squares of this side (in GT pixels) named `KEY_s001`, ...; 0 keeps images whole.
        step: distance of two sub-images; 0 for `sub_image`.
        as_lmdb: write BasicSR LMDBs instead of folders.

    Returns:
        number of pairs in the set.

    Raises:
        UserError: an image whose size is not a multiple of the scale (before anything is written), or is
            smaller than a sub-image; `out` below the images; a folder of images that were cut otherwise; an LMDB that
            is not ours.
    """
    if step and not sub_image:
        raise UserError(f'data prepare: step {step} plays no part without sub-images; say --sub-image, or remove it')
    step = step or sub_image
    if scale < 1 or sub_image < 0 or step < 0 or sub_image % scale or step % scale:
        raise UserError(
            f'data prepare: scale {scale}, sub-image {sub_image} and step {step} do not go together; '
            'sub-image and step must be multiples of the scale'
        )
    _check_sizes(images, scale, mod_crop, sub_image)
    if as_lmdb:
        _check_keys(images, '_s00000' if sub_image else '')
    suffix = '.lmdb' if as_lmdb else ''
    folders = [Path(out) / f'{kind}x{scale}{suffix}' for kind in ('GT', 'LR')]
    for folder in folders:
        in_place = folder.resolve() == images.root.resolve() and not sub_image
        if not (in_place and all(images.name(key).endswith('.png') for key in images.keys)):  # which stay as they are
            images.refuse_within(folder)
    cut: dict[str, Any] = {'sub_image': sub_image, 'step': step}
    if sub_image:
        cut['lr'] = 'cut'  # of the whole LR image; what older versions wrote was shrunk after it was cut
    if not as_lmdb:
        _check_cut(folders[1], cut)
    gt: DiskFolder | _LmdbFolder
    lr: DiskFolder | _LmdbFolder
    if as_lmdb:
        gt, lr = _LmdbFolder(*folders), _LmdbFolder(*folders[::-1])
    else:
        gt, lr = map(DiskFolder, folders)
        write_json(folders[1] / _NOTE, cut)
    count = 0
    try:
        with bar(len(images), 'prepare') as progress:
            for key in images.keys:
                image = _multiple(images.read(key), scale)
                small = imresize(image, 1 / scale)  # before it is cut: a border inside the image is none
                small_cuts = _cuts(key, small, sub_image // scale, step // scale)
                for (name, part), (_, small_part) in zip(_cuts(key, image, sub_image, step), small_cuts, strict=True):
                    if not gt.holds(name, part):
                        gt.put(name, part)
                    if not lr.holds(name, small_part):
                        lr.put(name, small_part)
                    count += 1
                progress.update()
        gt.finish()
        lr.finish()
    finally:
        gt.close()
        lr.close()
    return count


def _check_sizes(images: ImageFolder, scale: int, mod_crop: bool, sub_image: int) -> None:
    for key in images.keys:
        height, width = images.read(key).shape[:2]
        if not mod_crop and (height % scale or width % scale):
            raise UserError(
                f'{images.name(key)}: {height}x{width} is not a multiple of {scale} (height x width); '
                'cut it, or say --mod-crop to cut right and bottom'
            )
        if min(height, width) < max(scale, sub_image):
            raise UserError(f'{images.name(key)}: {height}x{width} is smaller than {max(scale, sub_image)}; remove it')


def _check_cut(folder: Path, cut: dict[str, Any]) -> None:
    """Raises UserError where a folder's images were cut otherwise: a training would see each region twice."""
    note = folder / _NOTE
    if note.is_file() and read_json(note, 'remove the folder') != cut:
        raise UserError(
            f'{folder}: is there with images that were cut otherwise (--sub-image, --step); remove it, or choose '
            'another folder'
        )


def _check_keys(images: ImageFolder, ending: str) -> None:
    for key in images.keys:
        length = len((key + ending).encode())
        if length > _MAX_KEY_BYTES:
            raise UserError(
                f'{images.name(key)}: a key of {length} bytes, LMDB takes {_MAX_KEY_BYTES}; shorten the path, or write '
                'folders (without --lmdb)'
            )


def _multiple(image: RGB, scale: int) -> RGB:
    height, width = (side - side % scale for side in image.shape[:2])
    return image[:height, :width]


def _cuts(key: str, image: RGB, sub_image: int, step: int) -> Iterator[tuple[str, RGB]]:
    if not sub_image:
        yield key, image
        return
    number = 0
    height, width = image.shape[:2]
    for top in _starts(height, sub_image, step):
        for left in _starts(width, sub_image, step):
            number += 1
            yield f'{key}_s{number:03d}', image[top : top + sub_image, left : left + sub_image]


def _starts(length: int, size: int, step: int) -> list[int]:
    """Returns where windows begin; the last one ends at the image's border, as in BasicSR's script."""
    starts = list(range(0, length - size + 1, step))
    return starts if starts[-1] + size == length else [*starts, length - size]


class DiskFolder:
    """A folder of PNG files by key. A file that already has the same pixels is kept."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def holds(self, key: str, image: RGB) -> bool:
        """Returns whether this very image is there; raises UserError when another one is."""
        path = self.root / f'{key}.png'
        if not path.exists():
            return False
        if image_digest(decode_rgb(path.read_bytes(), str(path))) != image_digest(image):
            raise UserError(f'{path}: is there with other content; choose another folder for the set')
        return True

    def put(self, key: str, image: RGB) -> None:
        """Writes an image."""
        write_png(self.root / f'{key}.png', image)

    def finish(self) -> None:
        """Nothing is left to do."""

    def close(self) -> None:
        """Nothing is open."""


class _LmdbFolder:
    """A BasicSR LMDB. `meta_info.txt` comes last, so an unfinished one is known as such.

    Args:
        root: its folder.
        partner: the other one of the pair. Where a kill came between their ends, this one is finished and that is not;
            then it must hold the very images that are given to it.
    """

    def __init__(self, root: Path, partner: Path) -> None:
        self.root = root
        self.finished = (root / 'meta_info.txt').exists()
        if self.finished and ((partner / 'meta_info.txt').exists() or not partner.exists()):
            raise UserError(f'{root}: is there already; remove it, or choose another folder')
        self.mark, self.lock = root / _UNFINISHED, None
        if not self.finished:
            self._begin()
        if self.finished:
            check_whole(root)
        with self._writing():
            self.env = lmdb.open(str(root), map_size=_FIRST_MAP_BYTES, metasync=False)
        self.lines: dict[str, str] = {}

    def _begin(self) -> None:
        """Takes the folder for this process, without what a kill left behind."""
        if self.root.exists():
            there = {entry.name for entry in self.root.iterdir() if not entry.name.startswith('.tmp-')}
            if there - {'data.mdb', 'lock.mdb', _UNFINISHED}:
                raise UserError(f'{self.root}: holds other things than an LMDB; choose another folder')
            if there and _UNFINISHED not in there:
                raise UserError(f'{self.root}: an LMDB that is not of this command; move it, or choose another folder')
        self.lock = try_lock(self.mark)
        if self.lock is None:
            raise UserError(f'{self.root}: another process is writing it; wait for it, or choose another folder')
        remove_temporaries(self.root)
        for name in ('data.mdb', 'lock.mdb'):
            (self.root / name).unlink(missing_ok=True)

    def holds(self, key: str, image: RGB) -> bool:
        if not self.finished:
            return key in self.lines
        with self.env.begin() as transaction:
            content = bytes(transaction.get(key.encode()) or b'')
        if not content or image_digest(decode_rgb(content, key)) != image_digest(image):
            raise UserError(f'{self.root}: is there already, of other images; remove it, or choose another folder')
        return True

    def put(self, key: str, image: RGB) -> None:
        content = encode_png(image, 1)
        while True:
            try:
                with self._writing(), self.env.begin(write=True) as transaction:
                    transaction.put(key.encode(), content)
                break
            except lmdb.MapFullError:
                self.env.set_mapsize(2 * self.env.info()['map_size'])
        height, width, channels = image.shape
        self.lines[key] = f'{key}.png ({height},{width},{channels}) 1'

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except lmdb.MapFullError:
            raise
        except lmdb.Error as error:
            raise UserError(f'{self.root}: cannot be written ({error}); check its rights and the free space') from error

    def finish(self) -> None:
        if self.finished:
            return
        with self._writing():
            self.env.sync(True)
        write_text(self.root / 'meta_info.txt', '\n'.join(self.lines[key] for key in sorted(self.lines)) + '\n')
        self.mark.unlink(missing_ok=True)

    def close(self) -> None:
        self.env.close()
        if self.lock is not None:
            self.lock.close()
