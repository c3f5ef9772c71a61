"""Pairs of LQ and GT images with the prior of the LQ image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sptsr.core.errors import UserError, nearest
from sptsr.core.registry import DATASET_REGISTRY, register
from sptsr.data.checked import CheckedDataset, must_hold, to_tensor
from sptsr.data.transforms import Sample, augment, random_crop
from sptsr.images.folder import ImageFolder, image_key
from sptsr.priors.store import PriorStore


@register(DATASET_REGISTRY)
class PriorPairedImageDataset(CheckedDataset):
    """BasicSR's `PairedImageDataset` with a prior, and without its traps.

    Pairs go by key (`sptsr.images.image_key`) in sorted order; a missing partner, a size that
    does not fit or a prior of another image raises with the file's name.

    Args:
        opt: the dataset section; `settings` documents its keys.

    Items: `lq` float32 [3, h, w] and `gt` float32 [3, scale h, scale w], RGB in 0..1; `prior`
    (`Prior` or None); `key`, `lq_path`, `gt_path`.
    """

    def settings(
        self,
        name: str,
        dataroot_gt: str,
        dataroot_lq: str,
        scale: int,
        phase: Literal['train', 'val', 'test'],
        dataroot_prior: str | None = None,
        io_backend: dict[str, Any] | None = None,
        filename_tmpl: str = '{}',
        meta_info_file: str | None = None,
        to_rgb: bool = False,
        gt_size: int | None = None,
        use_hflip: bool = False,
        use_rot: bool = False,
        batch_size_per_gpu: int = 1,
        num_worker_per_gpu: int = 0,
        dataset_enlarge_ratio: int = 1,
        prefetch_mode: str | None = None,
        pin_memory: bool = False,
        persistent_workers: bool = False,
    ) -> None:
        """The keys of the section.

        Args:
            name: what the dataset is called in tables.
            dataroot_gt: folder of GT images, or a BasicSR LMDB.
            dataroot_lq: folder of LQ images, or a BasicSR LMDB.
            scale: size of GT over size of LQ; taken from the top of the options.
            phase: `train` crops and augments; taken from the section's name.
            dataroot_prior: prior store of the LQ images; only units without masks do without.
            io_backend: `{type: disk}` or `{type: lmdb}`; by default what the folders' names say.
            filename_tmpl: name of an LQ image made from its GT's, such as `{}x4`.
            meta_info_file: text file whose lines begin with the GT names to use.
            to_rgb: convert gray, RGBA and 16-bit images instead of refusing them.
            gt_size: side of a training crop, in GT pixels.
            use_hflip: flip horizontally at random.
            use_rot: rotate by quarters at random.
            batch_size_per_gpu, num_worker_per_gpu: of the loader.
            dataset_enlarge_ratio, prefetch_mode, pin_memory, persistent_workers: of the loader;
                the first two are accepted from BasicSR's files and not needed.
        """
        del batch_size_per_gpu, num_worker_per_gpu, dataset_enlarge_ratio, prefetch_mode
        del pin_memory, persistent_workers
        self.name, self.scale, self.train = name, scale, phase == 'train'
        self.use_hflip, self.use_rot = use_hflip, use_rot
        self.gt = ImageFolder(dataroot_gt, to_rgb)
        self.lq = ImageFolder(dataroot_lq, to_rgb)
        _check_backend(name, io_backend, self.gt, self.lq)
        if Path(dataroot_gt).resolve() == Path(dataroot_lq).resolve():
            raise UserError(f'datasets: {name}: dataroot_gt and dataroot_lq are one folder ({dataroot_gt}); give two')
        names = _meta_keys(meta_info_file) if meta_info_file else self.gt.keys
        self.pairs = _pair(names, self.gt, self.lq, filename_tmpl, complete=not meta_info_file)
        self.prior = PriorStore(dataroot_prior) if dataroot_prior is not None else None
        if self.prior is not None:
            must_hold(self.prior, [lq_key for _, lq_key in self.pairs])
        self.lq_size = 0
        if self.train:
            if not gt_size or gt_size % scale:
                raise UserError(f'datasets: {name}: gt_size: {gt_size} must be a multiple of the scale {scale}')
            self.lq_size = gt_size // scale

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        gt_key, lq_key = self.pairs[index]
        sample = self._load(gt_key, lq_key)
        if self.train:
            seed = getattr(index, 'seed', None)
            rng = np.random.default_rng(seed)
            sample = random_crop(sample, self.lq_size, self.scale, rng)
            sample = augment(sample, self.use_hflip, self.use_rot, rng)
        return {
            'lq': to_tensor(sample.lq),
            'gt': to_tensor(sample.gt),
            'prior': sample.prior,
            'key': lq_key,
            'lq_path': self.lq.name(lq_key),
            'gt_path': self.gt.name(gt_key),
        }

    def _load(self, gt_key: str, lq_key: str) -> Sample:
        lq, gt = self.lq.read(lq_key), self.gt.read(gt_key)
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
        prior = self.prior.get(lq_key, lq) if self.prior is not None else None
        return Sample(lq, gt[:height, :width], prior)


def _check_backend(name: str, io_backend: dict[str, Any] | None, *folders: ImageFolder) -> None:
    wanted = (io_backend or {}).get('type')
    if wanted not in (None, 'disk', 'lmdb'):
        raise UserError(f"datasets: {name}: io_backend type '{wanted}' is neither disk nor lmdb")
    for folder in folders:
        if wanted is not None and (wanted == 'lmdb') != folder.is_lmdb:
            raise UserError(
                f'datasets: {name}: io_backend is {wanted}, but {folder.root} is not; an LMDB ends in .lmdb'
            )


def _meta_keys(path: str) -> list[str]:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError as error:
        raise UserError(f'meta_info_file: {path}: cannot read it ({error.strerror}); check the path') from error
    return [image_key(line.split(' (')[0].strip()) for line in lines if line.strip()]


def _pair(
    names: Sequence[str], gt: ImageFolder, lq: ImageFolder, template: str, complete: bool
) -> list[tuple[str, str]]:
    """Returns (GT key, LQ key) in sorted order; every GT must have its LQ and, if `complete`, the other way round."""
    pairs = []
    for key in sorted(names):
        if key not in gt:
            raise UserError(f"{gt.root}: no GT image '{key}'{nearest(key, gt.keys)}; correct meta_info_file")
        folder, slash, base = key.rpartition('/')
        lq_key = folder + slash + template.format(base)
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
