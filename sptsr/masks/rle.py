"""Masks in COCO's run-length encoding, as segment_anything's `amg.py` and pycocotools write them.

pycocotools itself trusts the counts: a size that they do not fill ends the process by a signal.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sptsr.masks.regions import BoolArray

_LETTERS = 11  # of one count at most


def decode_rle(counts: str | Sequence[int], size: Sequence[int]) -> BoolArray:
    """Returns the mask, bool [H, W].

    Args:
        counts: lengths of runs of 0 and 1 in turn, down the columns; a list, or text as in pycocotools' maskApi.c.
        size: height and width.

    Raises:
        ValueError: the counts are none, or do not fill the size.
    """
    height, width = size
    longest = 2 * max(0, height) * max(0, width) + 2  # each second run may be empty
    if isinstance(counts, Sequence) and len(counts) > longest * (_LETTERS if isinstance(counts, str) else 1):
        raise ValueError(f'its runs do not fill {height}x{width}')
    if isinstance(counts, str):
        runs = _unpacked(counts)
    elif isinstance(counts, Sequence) and all(isinstance(run, int) and 0 <= run < 1 << 62 for run in counts):
        runs = np.array(counts, np.int64)
    else:
        raise ValueError('its counts are not run lengths')
    if runs.ndim != 1 or (runs < 0).any() or min(height, width) < 0 or sum(runs.tolist()) != height * width:
        raise ValueError(f'its runs do not fill {height}x{width}')
    values = np.zeros(len(runs), np.bool_)
    values[1::2] = True
    return np.ascontiguousarray(np.repeat(values, runs).reshape(width, height).T)


def _unpacked(text: str) -> npt.NDArray[np.int64]:
    """Returns the counts of a text.

    A letter has five bits, the lowest first; from the fourth on, a count is written less the count two before it.
    """
    letters = np.frombuffer(text.encode('ascii'), np.uint8).astype(np.int64) - 48
    if not letters.size or letters.min() < 0 or letters.max() > 63 or letters[-1] & 32:
        raise ValueError('its counts are not run lengths')
    ends = np.flatnonzero(letters & 32 == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    if (ends - starts).max() >= _LETTERS:
        raise ValueError('its counts are not run lengths')
    places = np.arange(letters.size) - np.repeat(starts, ends - starts + 1)
    found = np.add.reduceat((letters & 31) << (5 * places), starts)
    negative = letters[ends] & 16 != 0
    found -= np.where(negative, np.int64(1) << (5 * (ends - starts + 1)), 0)
    found[1::2] = np.cumsum(found[1::2])
    found[2::2] = np.cumsum(found[2::2])
    return found
