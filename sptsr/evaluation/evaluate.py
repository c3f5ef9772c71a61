"""Evaluation: every image through the model, BasicSR's metrics, one record for `metrics.json`."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from basicsr.utils import tensor2img
from torch import Tensor

from sptsr.core.distributed import Ranks
from sptsr.core.errors import UserError
from sptsr.core.progress import bar
from sptsr.core.registry import METRIC_REGISTRY, lookup
from sptsr.evaluation.statistics import half_width
from sptsr.images.decode import RGB, write_png

# {metric: {'mean': x, 'ci95': half width or None, 'per_image': {key: x}}}
Results = dict[str, dict[str, Any]]

_SSIM_WINDOW = 11
_ALONE = Ranks()


def evaluate(
    restore: Callable[[dict[str, Any]], Tensor],
    loader: Any,
    metrics: Mapping[str, Mapping[str, Any]] | None,
    ranks: Ranks = _ALONE,
    save_dir: str | os.PathLike[str] | None = None,
    suffix: str = '',
    progress: bool = True,
    on_image: Callable[[int, str, dict[str, Any], Any], None] | None = None,
) -> Results:
    """Restores each image of a loader and measures it.

    Args:
        restore: batch of one to the restored image [1, C, H, W] in 0..1.
        loader: of a test set (see `sptsr.data.loader.eval_loader`).
        metrics: sections by name, such as `{'psnr': {'type': 'calculate_psnr', 'crop_border': 4}}`;
            PSNR and SSIM are BasicSR's, on images rounded to 8 bits.
        ranks: the processes that share the set; each has every `world`-th image, and all get all results.
        save_dir: write the restored images there as PNG, `KEY{suffix}.png`.
        suffix: see `save_dir`.
        progress: show a bar.
        on_image: is given number, key, batch and restored image (uint8, BGR or gray) of each.

    Returns:
        mean, half width of its 95 % interval over images (`ci95`), and value of each image by metric.

    Raises:
        UserError: an image is too small for a metric.
    """
    name = loader.dataset.opt['name']
    results: Results = {metric: {'mean': math.nan, 'ci95': None, 'per_image': {}} for metric in metrics or {}}
    with ranks.together(), bar(len(loader), name, disable=not (progress and ranks.first)) as shown:
        for number, batch in enumerate(loader):
            key = batch['key'][0] if 'key' in batch else Path(batch['lq_path'][0]).stem
            image: Any = tensor2img(restore(batch))
            if save_dir is not None:
                write_png(Path(save_dir) / f'{key}{suffix}.png', rgb_of(image))
            if on_image is not None:
                on_image(number, key, batch, image)
            for metric, options in (metrics or {}).items():
                results[metric]['per_image'][key] = _measure(image, batch, options, key)
            shown.update()
    _gather(results, ranks)
    for record in results.values():
        values = list(record['per_image'].values())
        record['mean'] = math.fsum(values) / len(values) if values and all(map(math.isfinite, values)) else max(values)
        record['ci95'] = half_width(values)
    return results


def rgb_of(image: Any) -> RGB:
    """Returns RGB [H, W, 3] of what BasicSR's `tensor2img` gives: BGR [H, W, 3], or gray [H, W]."""
    return image[:, :, ::-1] if image.ndim == 3 else image[:, :, None].repeat(3, axis=2)


def _gather(results: Results, ranks: Ranks) -> None:
    """Gives every rank the values of all, in the order of the set: rank r had images r, r + world, ..."""
    for record in results.values():
        parts = [list(part.items()) for part in ranks.gather(record['per_image'])]
        rounds = itertools.zip_longest(*parts)
        record['per_image'] = dict(row for rows in rounds for row in rows if row is not None)


def _measure(image: Any, batch: Mapping[str, Any], options: Mapping[str, Any], key: str) -> float:
    arguments = {name: value for name, value in options.items() if name not in ('type', 'better')}
    border = arguments.get('crop_border', 0)
    smallest = min(image.shape[:2]) - 2 * border
    if smallest < (_SSIM_WINDOW if 'ssim' in options['type'] else 1):
        raise UserError(
            f'{key}: {image.shape[0]}x{image.shape[1]} is too small for {options["type"]} '
            f'with crop_border {border}; remove the image or the metric'
        )
    reference: Any = tensor2img(batch['gt']) if 'gt' in batch else None
    if reference is not None and reference.shape != image.shape:
        raise UserError(
            f'{key}: the network gives {image.shape[0]}x{image.shape[1]} for a GT of '
            f'{reference.shape[0]}x{reference.shape[1]}; make scale and network_g agree'
        )
    return float(lookup(METRIC_REGISTRY, options['type'])(img=image, img2=reference, **arguments))


def to_json(results: Results) -> Results:
    """Returns the results with infinite values (PSNR of equal images) as text, since JSON has none."""

    def plain(value: float) -> float | str:
        return value if math.isfinite(value) else str(value)

    return {
        metric: {
            'mean': plain(record['mean']),
            'ci95': record['ci95'],
            'per_image': {key: plain(value) for key, value in record['per_image'].items()},
        }
        for metric, record in results.items()
    }
