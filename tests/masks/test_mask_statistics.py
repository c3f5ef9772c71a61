"""Share, mean and spread of masks: those of dense masks, in parts, and with noise."""

import numpy as np
import pytest
import torch

from sptsr.masks.batch import PriorBatch, statistics_of, sums_of
from sptsr.masks.mask_statistics import CodeSums
from sptsr.masks.prior import Prior
from sptsr.priors.extract import build_source
from tests.conftest import photograph


@pytest.fixture(scope='module')
def scene() -> tuple[torch.Tensor, Prior]:
    image = photograph('astronaut.png', 60, 71)
    return torch.from_numpy(image).permute(2, 0, 1).float() / 255, build_source('felzenszwalb')(image, 'a', 30)


def test_statistics_are_those_of_dense_masks(scene):
    image, prior = scene
    found = statistics_of(prior, image)
    assert found.shape == (prior.count, 5)
    for mask, row in zip(prior.decode(), found, strict=True):
        inside = image.numpy()[:, mask].astype(np.float64)
        expected = [mask.mean(), *inside.mean(axis=1), np.sqrt(inside.var(axis=1).mean())]
        assert row == pytest.approx(expected, abs=1e-6)
    batch = PriorBatch.of([prior, prior.flip(0)]).describe(torch.stack([image, image]))
    assert batch.statistics is not None
    assert batch.statistics.shape == (2, 64, 5)
    assert batch.statistics[0, : prior.count].numpy() == pytest.approx(found, abs=1e-6)
    assert batch.statistics[:, prior.count :].abs().max() == 0
    assert batch.statistics[1, 0, 1] != batch.statistics[0, 0, 1]
    assert batch.describe(torch.zeros(2, 3, 60, 71)) is batch  # what is known stays


def test_parts_add_up(scene):
    image, prior = scene
    whole = sums_of(prior, image)
    top, bottom = prior.crop(0, 0, 25, 71), prior.crop(25, 0, 35, 71)
    parts = sums_of(top, image[:, :25]) + sums_of(bottom, image[:, 25:])
    for ours, theirs in ((parts, whole), (whole - sums_of(top, image[:, :25]), sums_of(bottom, image[:, 25:]))):
        for name in ('counts', 'totals', 'squares'):
            assert torch.allclose(getattr(ours, name), getattr(theirs, name), atol=1e-9)


def test_a_prior_keeps_its_statistics_when_it_moves_with_its_image(scene):
    image, prior = scene
    prior = Prior(prior.palette, prior.index, prior.count, statistics_of(prior, image))
    moved = prior.crop(3, 4, 20, 30).flip(1).transpose().rotate()
    assert moved.statistics is prior.statistics
    empty = Prior.encode(np.zeros((0, 30, 20), np.bool_))
    with_nothing = PriorBatch.of([moved.rotate(), empty])
    assert with_nothing.statistics is None  # of all, or of none
    batch = PriorBatch.of([moved, moved]).to('cpu')
    assert batch.rows(1, 2).pad(3, 3).statistics.shape == (1, 64, 5)


def test_noise_on_sums_is_noise_on_pixels():
    """Means and deviations of sums over codes of 0, 1, 2, 3 and 40 pixels, over 4,000 draws of noise."""
    rng = np.random.default_rng(0)
    index = np.repeat([1, 2, 3, 4], [1, 2, 3, 40])
    image = rng.random((46, 2))
    image[3:6] = 0.25  # a flat region
    sigma, draws = 0.1, 4000
    pixels = torch.from_numpy(image.T[None, :, None])
    clean = CodeSums.of(torch.from_numpy(index)[None, None], 5, pixels)
    assert clean.counts.tolist() == [0, 1, 2, 3, 40]
    found = [clean.with_noise(sigma, rng) for _ in range(draws)]
    real = [
        CodeSums.of(
            torch.from_numpy(index)[None, None], 5, pixels + sigma * torch.from_numpy(rng.standard_normal(pixels.shape))
        )
        for _ in range(draws)
    ]
    for name in ('totals', 'squares'):
        ours, theirs = (np.stack([getattr(sums, name).numpy() for sums in each]) for each in (found, real))
        assert np.abs(ours[:, 0]).max() == 0
        deviation = theirs.std(axis=0)
        assert np.abs(ours.mean(axis=0) - theirs.mean(axis=0)).max() <= 5 * (deviation.max() / np.sqrt(draws / 2))
        assert ours.std(axis=0)[1:] == pytest.approx(deviation[1:], rel=0.1)
    both = [
        np.stack([(s.squares - s.totals**2 / s.counts[:, None].clamp(min=1)).numpy() for s in e]) for e in (found, real)
    ]
    assert both[0].mean(axis=0) == pytest.approx(both[1].mean(axis=0), rel=0.05, abs=1e-9)
    assert both[0].std(axis=0) == pytest.approx(both[1].std(axis=0), rel=0.1, abs=1e-9)
