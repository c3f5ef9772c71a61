"""The prior of one image, without a store: a part of the public API."""

from __future__ import annotations

import os
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

from sptsr.core.errors import UserError
from sptsr.core.files import must_be_regular
from sptsr.core.homes import path_of
from sptsr.images.decode import RGB, decode_rgb
from sptsr.masks.prior import MAX_MASKS, Prior
from sptsr.priors.extract import make_source


def make_prior(
    image: RGB | str | os.PathLike[str], source: str = 'felzenszwalb', max_masks: int = MAX_MASKS, **parameters: Any
) -> Prior:
    """Returns the masks that a source finds in one image.

    The source is made for this one call; SAM is loaded anew each time. For many images fill a store
    (`sptsr prior extract`).

    Args:
        image: uint8 [H, W, 3], RGB, 0..255; or the path of an image file (gray, alpha and 16 bits are converted).
        source: name of a registered source, such as `felzenszwalb`, `sam` or `transformers`.
        max_masks: at most this many masks, the largest, 1..64.
        parameters: of the source; `sptsr prior extract --set` takes the same.

    Raises:
        UserError: an unreadable image, another kind of array, or wrong parameters.
    """
    if not isinstance(max_masks, Integral) or not 1 <= max_masks <= MAX_MASKS:
        raise UserError(f'make_prior: max_masks {max_masks!r} is no whole number in 1..{MAX_MASKS}')
    if not isinstance(source, str):
        raise UserError(f'make_prior: source is a {type(source).__name__}; give the name of one')
    maker = make_source(source, parameters, 'make_prior')
    if isinstance(image, str | os.PathLike):
        image = path_of(image, 'make_prior')
        key = Path(image).stem
        must_be_regular(image)
        try:
            content = Path(image).read_bytes()
        except OSError as error:
            raise UserError(f'{image}: cannot read it ({error.strerror}); check the path') from error
        pixels = decode_rgb(content, image, to_rgb=True)
    else:
        key, pixels = 'image', image
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape[2:] != (3,) or not image.size:
            got = f'{image.dtype} {list(image.shape)}' if isinstance(image, np.ndarray) else type(image).__name__
            raise UserError(f'make_prior: the image must be uint8 [H, W, 3] or a path, got {got}')
    maker.check([key])
    maker.must_fit(pixels, key)
    return maker(pixels, key, max_masks)
