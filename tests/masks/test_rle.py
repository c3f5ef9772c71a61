"""COCO's run lengths: those of pycocotools are read, and lying ones refused."""

import tracemalloc

import numpy as np
import pytest
from pycocotools import mask as coco

from sptsr.masks.rle import decode_rle


@pytest.mark.parametrize('size', [(1, 1), (1, 40), (40, 1), (33, 47), (321, 481)])
@pytest.mark.parametrize('share', [0.0, 0.02, 0.5, 0.98, 1.0])
def test_what_pycocotools_writes(size: tuple[int, int], share: float):
    rng = np.random.default_rng(1)
    noise = rng.random(size) < share
    coarse = np.repeat(np.repeat(rng.random(size) < share, 9, 0), 9, 1)[: size[0], : size[1]]  # long runs
    for mask in (noise, coarse):
        rle = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert np.array_equal(decode_rle(rle['counts'].decode(), rle['size']), mask)


def test_lists_of_counts():
    assert decode_rle([1, 2, 3], [2, 3]).tolist() == [[False, True, False], [True, False, False]]
    assert decode_rle([], [0, 0]).shape == (0, 0)


@pytest.mark.parametrize(
    ('counts', 'size'),
    [
        ([1, 2, 3], [2, 4]),
        ([1, 2, 3], [1 << 20, 1 << 20]),
        ([1, -2, 7], [2, 3]),
        ([[6]], [2, 3]),
        ([1 << 70], [2, 3]),
        ([2.5, 3.5], [2, 3]),
        (None, [2, 3]),
        ([1 << 62, 1 << 62, 6], [2, 3]),
        ([6], [-2, -3]),
        ('', [2, 3]),
        ('6' * 99, [2, 3]),
        ('oooooooooooooooooooo', [2, 3]),
        ('6~', [2, 3]),
        ('0' * 10**7, [2, 2]),
        ([0] * 10**6, [2, 2]),
        ('6o', [2, 3]),
    ],
)
def test_counts_that_lie(counts: object, size: list[int]):
    tracemalloc.start()
    with pytest.raises(ValueError, match='its (runs|counts) '):
        decode_rle(counts, size)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20  # what they hold is refused before it is unpacked
    tracemalloc.stop()
