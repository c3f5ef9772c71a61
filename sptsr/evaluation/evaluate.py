"""Evaluation of a test set: every image through the model, its metrics, and their means."""

from __future__ import annotations

import hashlib
import itertools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from basicsr.utils import tensor2img
from torch import Tensor

from sptsr.core import logs
from sptsr.core.distributed import Ranks
from sptsr.core.errors import UserError
from sptsr.core.progress import bar
from sptsr.evaluation.bands import BandMetric, band_metrics, places_of
from sptsr.evaluation.metrics import CannotMeasure, Metric, read_metrics
from sptsr.evaluation.records import Results, add_means
from sptsr.images.decode import RGB, write_png
from sptsr.masks.regions import BoolArray
from sptsr.priors.store import PriorStore
from sptsr.restoring.restorer import must_be_finite

_ALONE = Ranks()


def evaluate(
    restore: Callable[[dict[str, Any]], Tensor],
    loader: Any,
    metrics: Mapping[str, Mapping[str, Any]] | None,
    ranks: Ranks = _ALONE,
    save_dir: str | os.PathLike[str] | None = None,
    suffix: str = '',
    progress: bool = True,
    on_image: Callable[[int, str, dict[str, Any], Any, dict[str, float]], None] | None = None,
    bands: PriorStore | None = None,
) -> Results:
    """Restores each image of a loader and measures it.

    A metric that has no value for an image leaves this image out and says why; the others go on. In a set without GT
    the metrics that need it are left out, and the log says which.

    Args:
        restore: batch of one to the restored image [1, C, H, W] in 0..1.
        loader: of a test set (see `sptsr.data.loader.eval_loader`).
        metrics: sections by name, such as `{'psnr': {'type': 'calculate_psnr', 'crop_border': 4}}`;
            PSNR and SSIM are BasicSR's, on images rounded to 8 bits.
        ranks: the processes that share the set; each has every `world`-th image, and all get all results.
        save_dir: write the restored images there as PNG, `KEY{suffix}.png`.
        suffix: see `save_dir`.
        progress: show a bar.
        on_image: is given number, key, batch, restored image (uint8, BGR or gray) and figures by metric of each.
        bands: masks by which PSNR is measured in parts of the images as well (see `sptsr.evaluation.bands`).

    Returns:
        the results, in the order of the set.

    Raises:
        UserError: before the first image, an empty set, a metric that cannot be used, or no image that is large enough;
            with the first image, a network that gives another size than its GT has; at any time, two images of one
            name.
    """
    name = loader.dataset.opt['name']
    if len(loader.dataset) == 0:
        raise UserError(f'{name}: the set has no images; check its dataroot_lq, dataroot_gt and meta_info_file')
    measures = read_metrics(metrics)
    measures += band_metrics(measures, bands.header) if bands is not None else []
    measures, left_out = _usable(measures, loader.dataset)
    results = Results({metric.name: {'per_image': {}, 'excluded': {}} for metric in measures})
    results.left_out = left_out
    if left_out:
        logs.get().info('%s: has no GT; left out: %s', name, ', '.join(left_out))
    keys: set[str] = set()
    with ranks.together(), bar(len(loader), name, disable=not (progress and ranks.first)) as shown:
        for number, batch in enumerate(loader):
            key = batch['key'][0] if 'key' in batch else Path(batch['lq_path'][0]).stem
            if key in keys:
                raise UserError(f'{name}: two images are called {key}; rename one, or put it into another set')
            keys.add(key)
            if number == 0:
                _check_first(batch, loader.dataset, measures)
            output = restore(batch)
            must_be_finite(output, f'{name}: {key}')
            image: Any = tensor2img(output)
            if save_dir is not None:
                write_png(Path(save_dir) / f'{key}{suffix}.png', rgb_of(image))
            if measures or left_out:
                reference: Any = tensor2img(batch['gt']) if 'gt' in batch else None
                if number == 0 and reference is not None and reference.shape != image.shape:
                    raise UserError(
                        f'{key}: the network gives {image.shape[0]}x{image.shape[1]} for a GT of '
                        f'{reference.shape[0]}x{reference.shape[1]}; make scale and network_g agree'
                    )
                lq: Any = tensor2img(batch['lq'])
                results.images[key] = _digest(lq if reference is None else reference)
                results.inputs[key] = _digest(lq)
                places = {} if bands is None else places_of(bands, key, image.shape[:2])
                _measure(results, measures, key, image, reference, places)
            if on_image is not None:
                on_image(number, key, batch, image, {m: record['per_image'][key] for m, record in results.items()})
            shown.update()
    _gather(results, ranks)
    add_means(results, measures)
    return results


def rgb_of(image: Any) -> RGB:
    """Returns RGB [H, W, 3] of what BasicSR's `tensor2img` gives: BGR [H, W, 3], or gray [H, W]."""
    return image[:, :, ::-1] if image.ndim == 3 else image[:, :, None].repeat(3, axis=2)


def has_gt(dataset: Any) -> bool:
    """Returns whether the images of a set, which is not empty, come with their GT."""
    return 'gt' in dataset[0]


def _usable(metrics: Sequence[Metric], dataset: Any) -> tuple[list[Metric], list[str]]:
    """Returns the metrics that can be used on a set, and the names of those that need GT where it has none."""
    if not any(metric.needs_gt for metric in metrics) or has_gt(dataset):
        return list(metrics), []
    return [metric for metric in metrics if not metric.needs_gt], [m.name for m in metrics if m.needs_gt]


def _check_first(batch: Mapping[str, Any], dataset: Any, metrics: Sequence[Metric]) -> None:
    """Raises UserError where no image of the set could be measured by one of the metrics."""
    name = dataset.opt['name']
    for metric in metrics:
        reason = metric.too_small(*_size_of(batch, dataset))
        if reason is None:
            continue
        # The other images are read only when the first one is too small.
        sizes = (_size_of(dataset[number], dataset) for number in range(len(dataset)))
        if all(metric.too_small(*size) for size in sizes):
            raise UserError(
                f'{name}: {reason}, and no image is large enough; change or remove val.metrics.{metric.name}'
            )


def _size_of(sample: Mapping[str, Any], dataset: Any) -> tuple[int, int]:
    """Returns height and width of the image that is measured: those of the GT, else the LQ image's times the scale."""
    if 'gt' in sample:
        return sample['gt'].shape[-2], sample['gt'].shape[-1]
    scale = dataset.opt.get('scale', 1)
    return sample['lq'].shape[-2] * scale, sample['lq'].shape[-1] * scale


def _measure(
    results: Results,
    metrics: Sequence[Metric],
    key: str,
    image: Any,
    reference: Any,
    places: Mapping[str, BoolArray],
) -> None:
    for metric in metrics:
        record = results[metric.name]
        try:
            if isinstance(metric, BandMetric):
                value = metric.measure_in(image, reference, places[metric.band])
            else:
                value = metric.measure(image, reference)
            record['per_image'][key] = value
        except CannotMeasure as error:
            record['per_image'][key] = math.nan
            record['excluded'][key] = str(error)


def _digest(pixels: Any) -> str:
    """Returns what tells an image from another of its name: the sha256 of shape and pixels, cut to 16 digits."""
    return hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes()).hexdigest()[:16]


def _gather(results: Results, ranks: Ranks) -> None:
    """Gives every rank the values of all, in the order of the set: rank r had images r, r + world, ..."""
    for record in results.values():
        record['per_image'] = _interleave(ranks.gather(record['per_image']))
        record['excluded'] = {key: reason for part in ranks.gather(record['excluded']) for key, reason in part.items()}
    if results or results.left_out:
        parts = ranks.gather(results.images)
        results.images = _interleave(parts)
        results.inputs = _interleave(ranks.gather(results.inputs))
        if len(results.images) < sum(map(len, parts)):
            twice = sorted(key for key in results.images if sum(key in part for part in parts) > 1)
            raise UserError(f'two images are called {twice[0]}; rename one, or put it into another set')


def _interleave(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    rounds = itertools.zip_longest(*(part.items() for part in parts))
    return dict(row for rows in rounds for row in rows if row is not None)
