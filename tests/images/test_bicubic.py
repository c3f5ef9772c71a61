from pathlib import Path

import numpy as np
import pytest
from basicsr.utils.matlab_functions import imresize as basicsr_imresize

from sptsr.images.bicubic import imresize
from sptsr.images.folder import ImageFolder
from tests.conftest import photograph


@pytest.mark.data
@pytest.mark.parametrize('scale', [2, 3, 4])
def test_published_set5_lrs_are_met_with_difference_0(real_data: Path, scale: int):
    gt, lr = (ImageFolder(real_data / 'sr' / 'Set5' / f'{kind}x{scale}') for kind in ('GT', 'LR'))
    assert gt.keys == lr.keys
    assert len(gt) == 5
    stock_differs = 0
    for key in gt.keys:
        image = gt.read(key)
        assert np.array_equal(imresize(image, 1 / scale), lr.read(key)), key
        stock = np.round(basicsr_imresize(image / 255.0, 1 / scale).clip(0, 1) * 255)
        stock_differs += int((stock != lr.read(key)).any())
    assert stock_differs == 5  # what BasicSR's function does not do


@pytest.mark.data
def test_published_b100_lrs_are_met_with_difference_0(real_data: Path):
    gt, lr = (ImageFolder(real_data / 'sr' / 'BSD100' / f'{kind}x4') for kind in ('GT', 'LR'))
    assert sum(np.array_equal(imresize(gt.read(key), 1 / 4), lr.read(key)) for key in gt.keys) == 100


def test_constant_and_identity():
    flat = np.full((24, 36, 3), 77, np.uint8)
    for scale in (1 / 4, 1 / 3, 1 / 2, 2, 4):
        assert (imresize(flat, scale) == 77).all()
        assert imresize(flat, scale).shape == (round(24 * scale), round(36 * scale), 3)
    image = photograph('coffee.png')
    assert np.array_equal(imresize(image, 1.0), image)


def test_the_vertical_pass_is_rounded_before_the_horizontal_one():
    image = photograph('astronaut.png')
    small = imresize(image, 1 / 4)
    turned = imresize(image.transpose(1, 0, 2), 1 / 4).transpose(1, 0, 2)
    difference = np.abs(small.astype(int) - turned)
    assert 0 < difference.max() <= 2  # the order matters, by rounding only
