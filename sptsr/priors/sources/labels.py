"""Masks from label files: label maps, mask PNGs, COCO RLE."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import numpy.typing as npt

from sptsr.core.errors import UserError, nearest
from sptsr.core.files import read_json, sha256_file
from sptsr.core.free_memory import must_fit
from sptsr.core.registry import SOURCE_REGISTRY, register
from sptsr.core.values import Range
from sptsr.images.decode import RGB, upright
from sptsr.images.draws import image_of
from sptsr.images.folder import IMAGE_SUFFIXES, files_below, image_key, normalised
from sptsr.images.headers import Header, check_pixels, read_header
from sptsr.masks.prior import MAX_FINE, Prior
from sptsr.masks.regions import BoolArray, Regions, to_size
from sptsr.masks.rle import decode_rle
from sptsr.priors.sources.bsds import read_bsds
from sptsr.priors.sources.source import Source, must_lie_in

LABEL_SUFFIXES = ('.mat', '.npy', '.png', '.json')
_MOST_REGIONS = 10_000
_JSON_BYTES = 1 << 28  # of a file of RLEs
_LABEL_BYTES = 60  # an estimate: maps of int64, and what finds their regions
_MASK_BYTES = 1 << 31  # a mask takes a byte a pixel
LabelMap = npt.NDArray[np.int64]


@register(SOURCE_REGISTRY, 'labels')
class LabelsSource(Source):
    """Regions of label files with the image's key, at the image's size or a whole multiple of it.

    For the key `train/0001` these are read below `dir`: `train/0001.EXT`, and every file in the
    folder `train/0001/`. By suffix: `.mat` as BSDS writes it (several segmentations), `.npy` int
    [H, W] or [S, H, W], `.png` 8- or 16-bit gray (each value a label) or colour (each colour a
    label), `.json` as segment_anything's `amg.py` writes it (COCO RLE, one record a mask).

    A segmentation of a larger image is reduced to the LQ image's size: it is cut at the
    right and bottom to `scale` times the LQ size, and an LQ pixel belongs to a region that
    covers at least half of it. With `fine`, that goes for the pixels of the finer grid.

    Args:
        dir: folder of the label files.
        names: JSON file that maps an image's key (or file name) to the name of its labels,
            when they differ; the name may leave out its folder.
        background: the label that is no region, -1 for none.
        scale: size of the labels over the size of the image; 0 derives it from the sizes.
        max_iou: of two regions with an IoU above this the smaller is dropped.
        fine: give masks on a grid so many times as fine as the image's, 1..4; needs labels that are at least as fine.
    """

    name = 'labels'
    sees_image = False

    def __init__(
        self,
        dir: str,
        names: str = '',
        background: int = 0,
        scale: int = 0,
        max_iou: float = 0.9,
        fine: Annotated[int, Range(1, 4)] = 1,
    ) -> None:
        must_lie_in(
            self.name,
            {
                'background': (background, -1, (1 << 48) - 1),
                'scale': (scale, 0, 64),
                'max_iou': (max_iou, 0, 1),
                'fine': (fine, 1, MAX_FINE),
            },
        )
        if scale % fine:
            raise UserError(f'labels: scale={scale} is not a multiple of fine={fine}')
        self.fine = fine
        self.dir = Path(dir)
        if not self.dir.is_dir():
            raise UserError(f'labels: {dir}: no such folder; give it with --set dir=FOLDER')
        self.files: dict[str, list[Path]] = {}
        for relative in sorted(map(Path, files_below(dir, (*LABEL_SUFFIXES, 'metadata.csv')))):
            folder = normalised(relative.parent.as_posix())
            if relative.name == 'metadata.csv' and folder != '.':  # amg.py writes it, also when it found no mask
                self.files.setdefault(folder, [])
            if relative.suffix.lower() in LABEL_SUFFIXES:
                path = self.dir / relative
                self.files.setdefault(image_key(relative), []).append(path)
                if folder != '.':
                    self.files.setdefault(folder, []).append(path)
        if not self.files:
            raise UserError(f'labels: {dir}: no label files ({" ".join(LABEL_SUFFIXES)}) here; check the folder')
        self.names = _read_names(names) if names else {}
        self.params = {
            'dir': self.dir.name,
            'background': int(background),
            'scale': int(scale),
            'max_iou': float(max_iou),
            **({'fine': fine} if fine > 1 else {}),  # stores of before do not say it, and can be added to
        }

    def __call__(self, image: RGB, key: str, max_masks: int) -> Prior:
        height, width = (side * self.fine for side in image.shape[:2])
        groups = [self._regions_of(path, (height, width)) for path in self._paths(key)]
        masks = np.concatenate(groups) if groups else np.zeros((0, height, width), np.bool_)
        regions = Regions.from_masks(masks).select(max_masks, 1, self.params['max_iou'])
        return replace(Prior.from_regions(regions), fine=self.fine)

    def digest(self, key: str) -> str:
        digests = [sha256_file(path) for path in self._paths(key)]
        return hashlib.sha256(' '.join(digests).encode()).hexdigest()

    def check(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._paths(key)

    def _paths(self, key: str) -> list[Path]:
        name = self.names.get(key, key)
        if name not in self.files and image_of(key) != key:  # a noisy draw: the labels are those of its image
            return self._paths(image_of(key))
        if name in self.files:
            return self.files[name]
        if key in self.names:  # the mapping may leave out the folder
            found = [known for known in self.files if known.rsplit('/', 1)[-1] == name]
            if len(found) == 1:
                return self.files[found[0]]
        hint = nearest(name, self.files) or f'; names there look like {next(iter(self.files))}'
        raise UserError(f"labels: {self.dir}: no labels for '{name}'{hint}")

    def _regions_of(self, path: Path, size: tuple[int, int]) -> BoolArray:
        try:
            if path.suffix.lower() == '.json':
                masks = _read_coco(path)
            else:
                masks = _masks_of(_read_label_maps(path), self.params['background'], path)
        except UserError:
            raise
        except Exception as error:  # four libraries read these files, each with errors of its own
            reason = str(error).partition('\n')[0]
            raise UserError(f'{path}: not a readable label file ({reason}); see sptsr prior extract --help') from error
        try:
            return to_size(masks, size, self.params['scale'] // self.fine, path)
        except UserError as error:
            if self.fine == 1:
                raise
            raise UserError(f'{error}, or another --fine: {self.fine} times the image is meant here') from error

    def versions(self) -> dict[str, str]:
        return {'opencv': cv2.__version__}


def _read_names(path: str) -> dict[str, str]:
    table = read_json(path, 'give names= a JSON file of image name: label name')
    if not isinstance(table, dict) or not all(isinstance(value, str) for value in table.values()):
        raise UserError(f'labels: names={path}: must be one JSON object of image name: label name')
    return {_name(key, IMAGE_SUFFIXES): _name(value, LABEL_SUFFIXES + IMAGE_SUFFIXES) for key, value in table.items()}


def _name(name: str, suffixes: tuple[str, ...]) -> str:
    """Returns a file's name without its suffix, where it has one of these: `img.v2` is a name, not a suffix."""
    return image_key(name) if name.lower().endswith(suffixes) else normalised(Path(name).as_posix())


def _read_label_maps(path: Path) -> list[LabelMap]:
    suffix = path.suffix.lower()
    if suffix == '.mat':
        maps = read_bsds(path)
        for layer in maps:
            check_pixels(Header(layer.shape[1], layer.shape[0]), path)
        if maps:
            _check_memory(maps[0].shape[0], maps[0].shape[1], path)
        return [layer.astype(np.int64) for layer in maps]
    if suffix == '.npy':
        array = np.load(path, mmap_mode='r', allow_pickle=False)  # its size is known before it is read
        if array.ndim not in (2, 3) or not (np.issubdtype(array.dtype, np.integer) or array.dtype == np.bool_):
            raise UserError(f'{path}: {array.dtype} {list(array.shape)}; integers [H, W] or [S, H, W] are needed')
        if array.size:
            check_pixels(Header(array.shape[-1], array.size // array.shape[-1]), path)
            _check_memory(array.size // array.shape[-1], array.shape[-1], path)
        return [layer.astype(np.int64) for layer in (array[None] if array.ndim == 2 else array)]
    encoded = path.read_bytes()
    header = read_header(encoded)
    check_pixels(header, path)
    _check_memory(header.height, header.width, path)
    is_known = header.width * header.height > 0
    image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED) if is_known else None
    if image is None:
        raise UserError(f'{path}: not a readable PNG; copy or make it again')
    image = upright(image, header.orientation)
    if image.ndim == 3:  # a colour is a label: blue, green and red become one number
        channels = image[:, :, :3].astype(np.int64)
        return [channels[:, :, 0] | channels[:, :, 1] << 16 | channels[:, :, 2] << 32]
    return [image.astype(np.int64)]


def _check_memory(height: int, width: int, path: Path) -> None:
    """Raises UserError when labels of this size need more memory than is free."""
    must_fit(
        f'{path}: labels of {height}x{width} pixels (height x width)', height * width * _LABEL_BYTES, 'reduce them'
    )


def _masks_of(maps: list[LabelMap], background: int, path: Path) -> BoolArray:
    if not maps:
        return np.zeros((0, 0, 0), np.bool_)
    sizes = {labels.shape for labels in maps}
    if len(sizes) != 1:
        raise UserError(f'{path}: its segmentations differ in size: {sorted(sizes)}')
    regions = sum(len(np.unique(labels)) for labels in maps)
    _check_count(regions, maps[0].size, path)
    return Regions.from_label_maps(maps, None if background < 0 else background).masks()


def _check_count(regions: int, pixels: int, path: Path) -> None:
    """Raises UserError for more regions than a segmentation has, or than fit, before a mask of each is made."""
    most = min(_MOST_REGIONS, max(64, _MASK_BYTES // max(1, pixels)))
    if regions > most:
        raise UserError(
            f'{path}: {regions} regions, at most {most} of this size are read; a label file has one value a region '
            '(is it a photograph?)'
        )
    must_fit(f'{path}: {regions} regions', 3 * regions * pixels, 'reduce the labels')


def _read_coco(path: Path) -> BoolArray:
    records = read_json(path, 'give one file an image', _JSON_BYTES)
    if isinstance(records, dict):
        records = records.get('annotations')
    if not isinstance(records, list) or not all(isinstance(each, dict) and 'segmentation' in each for each in records):
        raise UserError(f"{path}: must be a list of records with 'segmentation', or have one in 'annotations'")
    masks = []
    for record in records:
        rle = record['segmentation']
        if not isinstance(rle, dict):
            raise UserError(f"{path}: 'segmentation' is no RLE; write it with amg.py --convert-to-rle")
        height, width = rle['size']
        check_pixels(Header(width, height), path)
        _check_count(len(records), height * width, path)
        masks.append(decode_rle(rle['counts'], (height, width)))
    return np.stack(masks) if masks else np.zeros((0, 0, 0), np.bool_)
