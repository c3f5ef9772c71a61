"""PSNR by place: bands are what they say, and their errors add up to the whole image's."""

import math
from dataclasses import replace

import numpy as np
import pytest
from basicsr.metrics import calculate_psnr

from sptsr.core.errors import UserError
from sptsr.evaluation.bands import BANDS, band_metrics, bands_of, places_of
from sptsr.evaluation.metrics import CannotMeasure, read_metrics
from sptsr.masks.prior import Prior
from sptsr.priors.store import PriorStore
from sptsr.priors.store_header import StoreHeader
from tests.conftest import photograph, run_cli

BORDER = 4
SECTION = {'psnr': {'type': 'calculate_psnr', 'crop_border': BORDER, 'test_y_channel': True}}
HEADER = StoreHeader('labels', {'dir': 'segmentations'}, None, 64)


def _prior() -> Prior:
    """Two masks on 30 x 40: the left half, and in it a square of 3 x 3 (0.75 %)."""
    masks = np.zeros((2, 30, 40), np.bool_)
    masks[0, :, :20] = True
    masks[1, 10:13, 5:8] = True
    return Prior.encode(masks)


def test_the_bands_of_two_masks():
    bands = bands_of(_prior(), (120, 160))
    assert {name: band.shape for name, band in bands.items()} == dict.fromkeys(BANDS, (120, 160))
    assert not (bands['boundary'] & bands['interior']).any()
    assert (bands['boundary'] | bands['interior']).all()
    # the line at column 80: three pixels on each side
    assert bands['boundary'][100, 74:86].tolist() == [False] * 3 + [True] * 6 + [False] * 3
    small = np.zeros((120, 160), np.bool_)
    small[40:52, 20:32] = True
    assert (bands['small'] == small).all()
    assert not bands['medium'].any()
    left = np.zeros_like(small)
    left[:, :80] = True
    assert (bands['large'] == left & ~small).all()
    nothing = bands_of(Prior.encode(np.zeros((0, 30, 40), np.bool_)), (30, 40))
    assert nothing['interior'].all()
    assert not any(nothing[name].any() for name in ('small', 'medium', 'large'))


def test_squared_errors_of_boundary_and_interior_add_up_to_the_images():
    image = photograph('chelsea.png', 120, 160)
    noisy = np.clip(image + np.random.default_rng(0).normal(0, 8, image.shape), 0, 255).astype(np.uint8)
    image, noisy = image[:, :, ::-1], noisy[:, :, ::-1]
    metrics = {metric.band: metric for metric in band_metrics(read_metrics(SECTION), HEADER)}
    assert list(metrics) == list(BANDS)
    bands = bands_of(_prior(), (120, 160))
    whole = calculate_psnr(noisy, image, crop_border=BORDER, test_y_channel=True)
    inside = (slice(BORDER, -BORDER), slice(BORDER, -BORDER))
    total = 0.0
    for name in ('boundary', 'interior'):
        value = metrics[name].measure_in(noisy, image, bands[name])
        total += bands[name][inside].sum() * 255**2 / 10 ** (value / 10)
    assert 10 * math.log10(255**2 / (total / bands['boundary'][inside].size)) == pytest.approx(whole, abs=1e-6)
    assert metrics['small'].measure_in(image, image, bands['small']) == math.inf
    with pytest.raises(CannotMeasure, match='no pixel is in the band medium'):
        metrics['medium'].measure_in(noisy, image, bands['medium'])


def test_a_test_measures_by_place(here):
    from sptsr.core.files import read_json

    store = here / 'set' / 'prior'
    done = run_cli('test', '-opt', here / 'test.yml', '--force_yml', f'val:bands={{photographs: {store}}}')
    assert done.returncode == 0, done.stderr
    found = read_json('results/tiny/metrics.json', '')['datasets']['photographs']
    assert {'psnr', 'ssim', *(f'psnr {band}' for band in BANDS)} == set(found)
    assert found['psnr boundary']['mean'] < found['psnr interior']['mean']
    assert found['psnr boundary']['options']['band'] == 'boundary'
    wrong = run_cli('test', '-opt', here / 'test.yml', '--force_yml', 'val:bands={photographs: none}')
    assert (wrong.returncode, 'val.bands.photographs: none: no such prior store' in wrong.stderr) == (2, True)


def test_the_masks_of_a_test_image(photographs):
    store = PriorStore(photographs / 'prior')
    size = (4 * 33, 4 * 37)
    places = places_of(store, 'chelsea', size)
    assert {band.shape for band in places.values()} == {size}
    assert (places['boundary'] == bands_of(store.get('chelsea'), size)['boundary']).all()
    with pytest.raises(UserError, match="no prior of 'nobody'"):
        places_of(store, 'nobody', size)
    with pytest.raises(UserError, match=r'val.bands: .*prior\[chelsea\]: its masks are of 33x37, .* is 30x37 '):
        places_of(store, 'chelsea', (30, 37))
    with pytest.raises(UserError, match='the restored image is 132x296 '):  # not stretched
        places_of(store, 'chelsea', (4 * 33, 8 * 37))


@pytest.mark.parametrize(('fine', 'scale'), [(3, 4), (2, 3), (2, 1), (4, 1)])
def test_a_grid_that_does_not_divide_the_restored_image_is_read_at_the_images_own(fine: int, scale: int):
    index = np.arange(12 * fine)[:, None] // (5 * fine) * np.ones((1, 16 * fine), np.int64)
    masks = np.stack([index == n for n in range(3)])
    prior = replace(Prior.encode(masks), fine=fine)
    size = (12 * scale, 16 * scale)
    assert prior.size == (12, 16)
    bands, coarse = bands_of(prior, size), bands_of(prior.at(1), size)
    assert all((bands[name] == coarse[name]).all() for name in BANDS)
    assert 0 < bands['boundary'].mean() < 1


def test_an_image_of_another_size_than_its_gt_is_not_measured():
    metric = band_metrics(read_metrics(SECTION), HEADER)[0]
    image = photograph('chelsea.png', 48, 48)
    with pytest.raises(CannotMeasure, match='restored 48x48x3, but its GT is 49x48x3'):
        metric.measure_in(image, photograph('chelsea.png', 49, 48), np.ones((48, 48), np.bool_))


def test_bands_say_which_masks_they_are_of():
    digests = {metric.masks for metric in band_metrics(read_metrics(SECTION), HEADER)}
    other = band_metrics(read_metrics(SECTION), replace(HEADER, params={'dir': 'others'}))
    assert len(digests) == 1
    assert digests.isdisjoint(metric.masks for metric in other)
