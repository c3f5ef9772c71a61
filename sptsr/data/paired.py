"""Pairs of LQ and GT images with the prior of the LQ image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt

from sptsr.core.errors import UserError, nearest
from sptsr.core.registry import DATASET_REGISTRY, register
from sptsr.core.template import check_template, fill_template
from sptsr.core.values import Range
from sptsr.data.checked import CheckedDataset, must_hold, to_tensor
from sptsr.data.described import Described
from sptsr.data.transforms import Pixels, Sample, augment, drop_masks, random_crop
from sptsr.images.decode import RGB, luminance
from sptsr.images.folder import IMAGE_SUFFIXES, ImageFolder, image_key, list_lines, listed_name
from sptsr.masks.prior import Prior
from sptsr.priors.store import PriorStore


@register(DATASET_REGISTRY)
class PriorPairedImageDataset(CheckedDataset):
    """BasicSR's `PairedImageDataset` with a prior, and without its traps.

    Pairs go by key (`sptsr.images.image_key`) in sorted order; a missing partner, a size that
    does not fit or a prior of another image raises with the file's name. A test may do without GT.

    Args:
        opt: the dataset section; `settings` documents its keys.

    Items: `lq` float32 [C, h, w] and `gt` float32 [C, scale h, scale w] in 0..1, C is 3 (RGB), or 1 with `gray` or
    `color: y`; `prior` (`Prior` or None); `key`, `lq_path`, `gt_path`. Without GT there is no `gt` and no `gt_path`.
    """

    def settings(
        self,
        name: str,
        dataroot_lq: str,
        scale: Annotated[int, Range(1, 64)],
        phase: Literal['train', 'val', 'test'],
        dataroot_gt: str | None = None,
        dataroot_prior: str | None = None,
        io_backend: dict[str, Any] | None = None,
        filename_tmpl: str = '{}',
        meta_info_file: str | None = None,
        to_rgb: bool = False,
        gray: bool = False,
        color: Literal['y'] | None = None,
        gt_size: Annotated[int, Range(1, 65536)] | None = None,
        use_hflip: bool = False,
        use_rot: bool = False,
        prior_dropout: Annotated[float, Range(0, 1)] = 0.0,
        batch_size_per_gpu: Annotated[int, Range(1, 65536)] = 1,
        num_worker_per_gpu: Annotated[int, Range(0, 1024)] = 0,
        dataset_enlarge_ratio: Annotated[int, Range(1, 65536)] = 1,
        prefetch_mode: str | None = None,
        pin_memory: bool = False,
        persistent_workers: bool = False,
    ) -> None:
        """The keys of the section.

        Args:
            name: what the dataset is called in tables.
            dataroot_lq: folder of LQ images, or a BasicSR LMDB.
            scale: size of GT over size of LQ; taken from the top of the options.
            phase: `train` crops and augments; taken from the section's name.
            dataroot_gt: folder of GT images, or a BasicSR LMDB; a test without it restores the images, and measures
                what needs no GT.
            dataroot_prior: prior store of the LQ images; only units without masks do without.
            io_backend: `{type: disk}` or `{type: lmdb}`; by default what the folders' names say.
            filename_tmpl: name of an LQ image made from its GT's, such as `{}x4`.
            meta_info_file: text file with the GT images to use (without GT, the LQ images): lines of `name.png`,
                `name.png (h,w,c)`, or `gt.png, lq.png`.
            to_rgb: convert gray, RGBA and 16-bit images instead of refusing them.
            gray: give one channel, the luminance (ITU-R BT.601, 0..255), rounded to 8 bits.
            color: `y` gives one channel, Y of YCbCr as MATLAB makes it (16..235), not rounded: BasicSR's `color: y`.
            gt_size: side of a training crop, in GT pixels.
            use_hflip: flip horizontally at random.
            use_rot: rotate by quarters at random.
            prior_dropout: probability, 0..1, that a training sample comes without masks, so that one adapter works
                with and without them.
            batch_size_per_gpu, num_worker_per_gpu: of the loader.
            dataset_enlarge_ratio, prefetch_mode, pin_memory, persistent_workers: of the loader;
                the first two are accepted from BasicSR's files and not needed.
        """
        self.name, self.scale, self.phase, self.train = name, scale, phase, phase == 'train'
        self.use_hflip, self.use_rot = use_hflip, use_rot
        self.dropout = prior_dropout
        if gray and color:
            raise UserError(f'datasets: {name}: gray: true and color: {color} are two ways to one channel; choose one')
        self.convert: Callable[[Any], Pixels] | None = luminance if gray else _y_channel if color else None
        to_rgb = to_rgb or self.convert is not None
        self.gt = ImageFolder(dataroot_gt, to_rgb) if dataroot_gt is not None else None
        self.lq = ImageFolder(dataroot_lq, to_rgb)
        _check_backend(name, io_backend, *([self.lq] if self.gt is None else [self.gt, self.lq]))
        self.pairs = self._pairs(filename_tmpl, meta_info_file)
        twice = [key for key, count in Counter(key for _, key in self.pairs).items() if count > 1]
        if twice and not self.train:  # a training may draw an image more often
            raise UserError(f"datasets: {name}: '{twice[0]}' is listed twice; an image has one figure, so list it once")
        self.prior = PriorStore(dataroot_prior) if dataroot_prior is not None else None
        if self.prior is not None:
            must_hold(self.prior, [lq_key for _, lq_key in self.pairs])
        self.described = Described()
        self.checked: set[str] = set()
        self.lq_size = 0
        if self.train:
            if not gt_size or gt_size % scale:
                raise UserError(f'datasets: {name}: gt_size: {gt_size} must be a multiple of the scale {scale}')
            self.lq_size = gt_size // scale

    def _pairs(self, template: str, listed_in: str | None) -> list[tuple[str, str]]:
        """Returns GT key and LQ key of each pair, in sorted order; where there is no GT, the LQ key twice."""
        where = f'datasets: {self.name}'
        check_template(template, f'{where}: filename_tmpl')
        if self.gt is None:
            if self.phase != 'test':
                raise UserError(f"{where}: needs 'dataroot_gt'; only a test does without GT")
            listed = _listed(listed_in, self.lq) if listed_in else [(key, None) for key in self.lq.keys]
            return _pair(listed, self.lq, self.lq, '{}', complete=False)
        if Path(self.gt.root).resolve() == Path(self.lq.root).resolve():
            raise UserError(f'{where}: dataroot_gt and dataroot_lq are one folder ({self.gt.root}); give two')
        listed = _listed(listed_in, self.gt) if listed_in else [(key, None) for key in self.gt.keys]
        return _pair(listed, self.gt, self.lq, template, complete=not listed_in)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        gt_key, lq_key = self.pairs[index]
        sample = self._load(gt_key, lq_key)
        if self.train:
            if sample.prior is not None and self.describes_masks:
                lq = sample.lq
                prior = self.described.whole(lq_key, sample.prior, lambda: self.convert(lq) if self.convert else lq)
                sample = replace(sample, prior=prior)
            seed = getattr(index, 'seed', None)
            rng = np.random.default_rng(seed)
            sample = random_crop(sample, self.lq_size, self.scale, rng)
            sample = drop_masks(augment(sample, self.use_hflip, self.use_rot, rng), self.dropout, rng)
        if self.convert is not None:
            sample = replace(sample, lq=self.convert(sample.lq), gt=self.convert(sample.gt))
        item = {'lq': to_tensor(sample.lq), 'prior': sample.prior, 'key': lq_key, 'lq_path': self.lq.name(lq_key)}
        return item if self.gt is None else {**item, 'gt': to_tensor(sample.gt), 'gt_path': self.gt.name(gt_key)}

    def _load(self, gt_key: str, lq_key: str) -> Sample:
        """Returns a pair and its masks; without GT the LQ image stands in its place."""
        lq = self.lq.read(lq_key)
        if self.gt is None:
            return Sample(lq, lq, None if self.prior is None else self.prior.get(lq_key, lq))
        gt = self.gt.read(gt_key)
        height, width = lq.shape[0] * self.scale, lq.shape[1] * self.scale
        over = gt.shape[0] - height, gt.shape[1] - width
        # Benchmark GTs may be up to scale - 1 pixels larger than their LQ; BasicSR cuts them, and so do we.
        if not all(0 <= extra < self.scale for extra in over):
            raise UserError(
                f'{self.gt.name(gt_key)}: GT is {gt.shape[0]}x{gt.shape[1]}, but LQ {self.lq.name(lq_key)} '
                f'at scale {self.scale} wants {height}x{width} (height x width); check the pair and the scale'
            )
        if self.train and min(lq.shape[:2]) < self.lq_size:
            raise UserError(
                f'{self.lq.name(lq_key)}: {lq.shape[0]}x{lq.shape[1]} is smaller than a training crop of '
                f'{self.lq_size} LQ pixels; lower gt_size or remove the pair'
            )
        return Sample(lq, gt[:height, :width], self._prior(lq_key, lq))

    def _prior(self, key: str, lq: RGB) -> Prior | None:
        """Returns the masks of an LQ image. Once a process, it checks that they were made from that very image."""
        if self.prior is None:
            return None
        prior = self.prior.get(key, None if key in self.checked else lq)
        self.checked.add(key)
        return prior


def _y_channel(image: RGB) -> npt.NDArray[np.float32]:
    """Returns Y of YCbCr (ITU-R BT.601, 16..235) of RGB [H, W, 3], of 0..1, float32 [H, W, 1]: MATLAB's `rgb2ycbcr`."""
    weights = np.array([[65.481], [128.553], [24.966]], np.float32)
    return np.asarray(((image.astype(np.float32) / 255) @ weights + 16) / 255, np.float32)


def _check_backend(name: str, io_backend: dict[str, Any] | None, *folders: ImageFolder) -> None:
    wanted = (io_backend or {}).get('type')
    if wanted not in (None, 'disk', 'lmdb'):
        raise UserError(f"datasets: {name}: io_backend type '{wanted}' is neither disk nor lmdb")
    for folder in folders:
        if wanted is not None and (wanted == 'lmdb') != folder.is_lmdb:
            raise UserError(
                f'datasets: {name}: io_backend is {wanted}, but {folder.root} is not; an LMDB ends in .lmdb'
            )


def _listed(path: str, gt: ImageFolder) -> list[tuple[str, str | None]]:
    """Returns GT key, and LQ key where the line names both, of each line of a list of images.

    A line is `name.png`, `name.png (h,w,c)` as BasicSR writes it, or `gt.png, lq.png`.
    """
    listed: list[tuple[str, str | None]] = []
    for line in list_lines(path):
        name = listed_name(line)
        first, comma, second = name.partition(',')
        if comma and image_key(name) not in gt and first.strip().lower().endswith(IMAGE_SUFFIXES):
            listed.append((_listed_key(first), _listed_key(listed_name(second.strip()))))
        else:
            listed.append((_listed_key(name), None))
    return listed


def _listed_key(name: str) -> str:
    return image_key(name.strip().replace('\\', '/'))  # lists from Windows


def _pair(
    listed: Iterable[tuple[str, str | None]], gt: ImageFolder, lq: ImageFolder, template: str, complete: bool
) -> list[tuple[str, str]]:
    """Returns (GT key, LQ key) in sorted order.

    Args:
        listed: GT keys; with an LQ key of their own, or None to make it by the template.
        gt, lq: the images.
        template: name of an LQ image made from its GT's.
        complete: whether every LQ image must have its GT as well.

    Raises:
        UserError: an image without its partner.
    """
    pairs = []
    for key, partner in sorted(listed, key=lambda pair: (pair[0], pair[1] or '')):
        if key not in gt:
            raise UserError(f"{gt.root}: no GT image '{key}'{nearest(key, gt.keys)}; correct meta_info_file")
        folder, slash, base = key.rpartition('/')
        lq_key = partner or folder + slash + fill_template(template, base)
        if lq_key not in lq:
            raise UserError(
                f"{lq.root}: no LQ image '{lq_key}' for GT {gt.name(key)} ({len(gt)} GT and {len(lq)} LQ images)"
                f'{nearest(lq_key, lq.keys)}; check the folders and filename_tmpl'
            )
        pairs.append((key, lq_key))
    if complete and len(lq) != len(pairs):
        alone = sorted(set(lq.keys) - {lq_key for _, lq_key in pairs})[0]
        raise UserError(
            f'{gt.root}: no GT image for LQ {lq.name(alone)} ({len(gt)} GT and {len(lq)} LQ images); add or remove it'
        )
    return pairs
