"""Where a test differs from the protocol that figures of a known set are published by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sptsr.core.errors import UserError
from sptsr.core.homes import expanded
from sptsr.core.template import fill_template
from sptsr.images.bicubic import imresize
from sptsr.images.folder import ImageFolder

_SR = ('set5', 'set14', 'b100', 'bsd100', 'bsds100', 'urban100', 'manga109')
_COLOUR = ('cbsd68', 'kodak24', 'mcmaster', 'urban100')
_MEASURES = ('calculate_psnr', 'calculate_ssim')
_CLOSE = 2  # of 255: MATLAB and its copies round a pixel differently now and then
_MOST_APART = 0.01  # share of pixels that may differ by more


def protocol_notes(row: str, test: Mapping[str, Any], published: bool) -> Iterator[str]:
    """Yields a line for each difference between a test and the published protocol of its sets.

    Super-resolution: Y channel, a border of the scale shaved, LR images by MATLAB's bicubic. Colour denoising: RGB,
    nothing shaved. Metrics are on images rounded to 8 bits, as published.

    Args:
        row: what to call it.
        test: options of a test.
        published: whether published figures stand beside ours.
    """
    scale = int(test.get('scale', 1))
    for data in test['datasets'].values():
        name = str(data.get('name'))
        known = _SR if scale > 1 else _COLOUR
        if name.lower().replace('-', '').replace('_', '') not in known:
            continue
        border, on_y = (scale, True) if scale > 1 else (0, False)
        for metric, section in ((test.get('val') or {}).get('metrics') or {}).items():
            if section['type'] not in _MEASURES:
                continue
            where = f'{row}, {name}, {metric}'
            if section.get('crop_border', 0) != border:
                yield f'{where}: shaves {section.get("crop_border", 0)} pixels; figures are published with {border}'
            if bool(section.get('test_y_channel', False)) != on_y:
                yield f'{where}: on {"RGB" if on_y else "Y"}; figures are published on {"Y" if on_y else "RGB"}'
        if scale > 1 and 'dataroot_lq' in data and 'dataroot_gt' in data and not _is_bicubic(data, scale):
            yield f"{row}, {name}: its LR images are not MATLAB's bicubic of its GT; figures are published on those"
        if published and 'sigma' in data:
            yield f'{row}, {name}: the noise is another draw than that of published figures'


def _is_bicubic(data: Mapping[str, Any], scale: int) -> bool:
    """Returns whether the first LR image is what MATLAB's bicubic makes of its GT; True where it cannot be told."""
    try:
        to_rgb = bool(data.get('to_rgb') or data.get('gray') or data.get('color'))
        gt, lq = (ImageFolder(Path(expanded(data[f'dataroot_{kind}'])), to_rgb) for kind in ('gt', 'lq'))
        key = gt.keys[0]
        folder, slash, base = key.rpartition('/')
        small = lq.read(folder + slash + fill_template(data.get('filename_tmpl', '{}'), base))
        large = gt.read(key)[: small.shape[0] * scale, : small.shape[1] * scale]
    except UserError:
        return True
    made = imresize(large, 1 / scale)
    return made.shape == small.shape and _apart(made, small) <= _MOST_APART


def _apart(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.mean(np.abs(a.astype(np.int64) - b.astype(np.int64)) > _CLOSE))
