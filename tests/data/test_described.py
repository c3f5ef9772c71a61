"""Training crops carry the statistics of their whole images, and the test sees the same ones."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from basicsr.data import build_dataset

from sptsr.data.loader import SeededIndex, TrainStream, train_loader
from sptsr.images.decode import write_png
from sptsr.images.folder import ImageFolder
from sptsr.images.prepare import prepare
from sptsr.masks.batch import PriorBatch
from sptsr.masks.mask_statistics import MEAN, SPREAD
from sptsr.priors.controls import FromOtherImages
from sptsr.priors.extract import build_source, extract
from sptsr.priors.store import PriorStore
from sptsr.tuning.model import SPTModel
from sptsr.tuning.training import train_pipeline
from tests.conftest import base_options, photograph, run_cli, write_options


@pytest.fixture(scope='module')
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photographs: `clean`, two noisy draws with `prior`, `blind` masks of the clean ones, and `GTx2`, `LRx2`."""
    root = tmp_path_factory.mktemp('described')
    for name in ('coffee.png', 'chelsea.png'):
        write_png(root / 'clean' / f'{Path(name).stem}.png', photograph(name, 60, 84))
    done = run_cli('prior', 'degrade', '-i', root / 'clean', '-o', root / 'noisy', '--noise', 25, '--draws', 2)
    assert done.returncode == 0, done.stderr
    source = build_source('felzenszwalb', ['min_size=8'])
    extract(ImageFolder(root / 'noisy'), root / 'prior', source)
    extract(ImageFolder(root / 'clean'), root / 'blind', FromOtherImages(source, ImageFolder(root / 'clean')))
    prepare(ImageFolder(root / 'clean'), root, 2)
    extract(ImageFolder(root / 'LRx2'), root / 'priorx2', source)
    return root


def _noisy(sets: Path, **changes: Any) -> Any:
    options = {'type': 'PriorDenoisingDataset', 'name': 'x', 'phase': 'train', 'scale': 1, 'sigma': 25}
    options |= {'dataroot_gt': str(sets / 'clean'), 'dataroot_prior': str(sets / 'prior'), 'gt_size': 32}
    return build_dataset(options | {'use_hflip': True, 'use_rot': True} | changes)


def _of_whole(item: dict[str, Any]) -> torch.Tensor:
    described = PriorBatch.of([item['prior']]).describe(item['lq'][None]).statistics
    assert described is not None
    return described[0, : item['prior'].count]


@pytest.mark.parametrize('colour', [{}, {'gray': True}, {'color': 'y'}])
def test_crops_of_pairs_have_the_statistics_of_the_test(sets: Path, colour: dict[str, Any]):
    options = {'type': 'PriorPairedImageDataset', 'name': 'x', 'scale': 2, 'dataroot_prior': str(sets / 'priorx2')}
    options |= {'dataroot_gt': str(sets / 'GTx2'), 'dataroot_lq': str(sets / 'LRx2'), 'phase': 'train'} | colour
    training = build_dataset(options | {'gt_size': 32, 'use_hflip': True, 'use_rot': True})
    test = build_dataset(options | {'phase': 'test'})
    for n in range(2):
        expected = _of_whole(test[n])
        for seed in range(3):
            crop = training[SeededIndex(n, seed)]['prior']
            assert crop.size == (16, 16)
            np.testing.assert_allclose(crop.statistics, expected, atol=1e-6)
    assert test[0]['prior'].statistics is None  # the network takes them of the image that it is given


@pytest.mark.parametrize('gray', [False, True])
def test_crops_of_a_fixed_noise_have_those_of_their_draw(sets: Path, gray: bool, tmp_path: Path):
    store = sets / 'prior'
    if gray:
        store = tmp_path / 'store'
        assert run_cli(
            *('prior', 'degrade', '-i', sets / 'clean', '-o', tmp_path / 'noisy'),
            *('--noise', 25, '--draws', 2, '--gray'),
        ).returncode == 0  # fmt: skip
        extract(ImageFolder(tmp_path / 'noisy'), store, build_source('felzenszwalb', ['min_size=8']))
    training = _noisy(sets, gray=gray, dataroot_prior=str(store))
    whole = _noisy(sets, gray=gray, dataroot_prior=str(store), phase='test')[0]
    own = PriorStore(store).get(f'{whole["key"]}@0')
    seen = set()
    for seed in range(12):
        statistics = training[SeededIndex(0, seed)]['prior'].statistics
        seen.add(statistics.tobytes())
        if len(statistics) == own.count and abs(statistics[0, 0] - own.areas()[0] / own.index.size) < 1e-6:
            np.testing.assert_allclose(statistics, _of_whole(whole), atol=1e-6)
    assert len(seen) == 2  # one for each draw


def test_crops_of_fresh_noise_have_those_of_a_noisy_image(sets: Path):
    whole = _noisy(sets, dataroot_prior=str(sets / 'blind'), gt_size=60)
    narrow = _noisy(sets, dataroot_prior=str(sets / 'blind'))
    clean = _of_whole(_noisy(sets, dataroot_prior=str(sets / 'blind'), phase='test', sigma=0)[0])
    areas = PriorStore(sets / 'blind').get(ImageFolder(sets / 'clean').keys[0]).areas()
    crops = np.stack([narrow[SeededIndex(0, seed)]['prior'].statistics for seed in range(200)])
    assert len(np.unique(crops[:, 0, 1])) > 190
    # as far from the clean means as the mean of so many noisy pixels is, no nearer and no farther
    off = (crops[:, :, MEAN] - clean[:, MEAN].numpy()) * np.sqrt(areas)[:, None] * 255 / 25
    assert off.std() == pytest.approx(1, rel=0.03)
    noisy_spread = np.sqrt(clean[:, SPREAD].numpy() ** 2 + (25 / 255) ** 2)
    assert crops[:, areas > 100, SPREAD].mean(axis=0) == pytest.approx(noisy_spread[areas > 100], rel=0.02)
    # what is inside the crop has the noise of the crop
    sample = whole[SeededIndex(0, 5)]
    inside = sample['prior'].decode()
    found = 0
    for mask, row, area in zip(inside, sample['prior'].statistics, areas, strict=True):
        if mask.sum() == area:
            pixels = sample['lq'].numpy()[:, mask].astype(np.float64)
            assert row[MEAN] == pytest.approx(pixels.mean(axis=1), abs=1e-6)
            assert row[SPREAD] == pytest.approx(np.sqrt(pixels.var(axis=1).mean()), abs=1e-6)
            found += 1
    assert found > 5


def test_noise_of_a_crop_is_what_it_was_without_statistics(sets: Path):
    with_them, without = (_noisy(sets, dataroot_prior=str(sets / 'blind')) for _ in range(2))
    without.describes_masks = False
    first, second = with_them[SeededIndex(1, 3)], without[SeededIndex(1, 3)]
    assert torch.equal(first['lq'], second['lq'])
    assert second['prior'].statistics is None


@pytest.mark.parametrize('workers', [0, 1])
def test_a_batch_has_a_table_for_each_image(sets: Path, workers: int):
    dataset = _noisy(sets)
    loader = train_loader(dataset, {'num_worker_per_gpu': workers}, TrainStream(2, 3, 0, 0, 2))
    for batch in loader:
        assert batch['prior'].statistics.shape == (3, 64, 5)
        assert batch['prior'].statistics.dtype == torch.float32


@pytest.mark.parametrize('stem', ['masks', 'geometry'])
def test_training_takes_statistics_where_the_stem_reads_them(photographs: Path, tmp_path: Path, stem: str, monkeypatch):
    fed: list[Any] = []
    feed = SPTModel.feed_data
    monkeypatch.setattr(SPTModel, 'feed_data', lambda self, data: fed.append(data['prior']) or feed(self, data))
    options = base_options(photographs, trains=True)
    options['network_g']['unit']['stem'] = stem
    options['train']['total_iter'] = 2
    model = train_pipeline(write_options(tmp_path / 'x.yml', options), tmp_path)
    assert type(model.net.stem).__name__ == {'masks': 'MaskStem', 'geometry': 'GeometryStem'}[stem]
    assert [batch.statistics is not None for batch in fed] == [stem == 'geometry'] * 2


@pytest.mark.parametrize('fine', [2, 3])
def test_fresh_noise_with_a_finer_grid_turned_or_not(sets: Path, fine: int, tmp_path: Path):
    """A turned fine grid is read off at other pixels, which must not be taken from the sums of the whole image."""
    for key in ImageFolder(sets / 'clean').keys:
        labels = np.arange(60 * fine)[:, None] // 5 * 100 + np.arange(84 * fine) // 7  # ends inside of pixels
        labels[::5] = 9_999
        np.save(tmp_path / f'{key}.npy', labels)
    store = tmp_path / 'store'
    source = build_source('labels', [f'dir={tmp_path}', f'fine={fine}'])
    extract(ImageFolder(sets / 'clean'), store, source)
    training = _noisy(sets, dataroot_prior=str(store), gt_size=58, sigma=[0, 0])
    test = _of_whole(_noisy(sets, dataroot_prior=str(store), phase='test', sigma=0)[0])
    noisy = _noisy(sets, dataroot_prior=str(store), gt_size=58)
    for seed in range(12):
        np.testing.assert_allclose(training[SeededIndex(0, seed)]['prior'].statistics, test, atol=1e-5)
        assert np.isfinite(noisy[SeededIndex(0, seed)]['prior'].statistics).all()
