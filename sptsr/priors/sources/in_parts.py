"""Embedding images with the memory that there is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from sptsr.core.errors import UserError
from sptsr.images.decode import RGB
from sptsr.priors.sources.generator import Frame, Segmenter


def embed_in_parts(segmenter: Segmenter, images: Sequence[RGB], name: str) -> list[tuple[Any, Frame]]:
    """Returns what `segmenter.embed` does, of fewer images at once where the GPU's memory is too small for all.

    Args:
        segmenter: of a source.
        images: uint8 [H, W, 3], RGB, at least one.
        name: of the source, for the message.

    Raises:
        UserError: the memory is too small for one image.
    """
    try:
        return segmenter.embed(images)
    except torch.OutOfMemoryError:  # it keeps what it was about until this block ends
        pass
    half = len(images) // 2
    if not half:
        raise UserError(
            f'{name}: one image needs more memory than the GPU has free; set precision=bf16, a smaller model, or '
            'device=cpu'
        )
    return [*embed_in_parts(segmenter, images[:half], name), *embed_in_parts(segmenter, images[half:], name)]
