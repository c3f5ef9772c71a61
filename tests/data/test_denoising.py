"""Noise that is fresh in training and fixed in tests, and priors of the noisy image."""

from pathlib import Path

import numpy as np
import pytest
import torch
from basicsr.data import build_dataset

from sptsr.core.errors import UserError
from sptsr.data.loader import SeededIndex, TrainStream, train_loader
from sptsr.images.decode import write_png
from sptsr.images.folder import ImageFolder
from sptsr.images.noise import noisy_image
from sptsr.priors.controls import FromOtherImages
from sptsr.priors.extract import build_source, extract
from tests.conftest import base_options, photograph, run_cli, write_options


@pytest.fixture(scope='module')
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`clean`, `noise25` (by the command) and `prior` of the latter, of three photographs."""
    root = tmp_path_factory.mktemp('denoising')
    for name in ('astronaut.png', 'coffee.png', 'chelsea.png'):
        write_png(root / 'clean' / f'{Path(name).stem}.png', photograph(name, 61, 84))
    done = run_cli('prior', 'degrade', '-i', root / 'clean', '-o', root / 'noise25', '--noise', 25)
    assert done.returncode == 0, done.stderr
    extract(ImageFolder(root / 'noise25'), root / 'prior', build_source('felzenszwalb', ['min_size=8']))
    return root


@pytest.fixture(scope='module')
def blind(sets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the same noisy images whose source looked at the clean ones: the oracle."""
    path = tmp_path_factory.mktemp('blind') / 'store'
    source = FromOtherImages(build_source('felzenszwalb', ['min_size=8']), ImageFolder(sets / 'clean'))
    extract(ImageFolder(sets / 'noise25'), path, source)
    return path


def _options(sets: Path, phase: str = 'test', **changes) -> dict:
    options = {
        'type': 'PriorDenoisingDataset',
        'name': 'x',
        'phase': phase,
        'scale': 1,
        'dataroot_gt': str(sets / 'clean'),
        'dataroot_prior': str(sets / 'prior'),
        'sigma': 25,
    }
    if phase == 'train':
        options |= {'gt_size': 32, 'use_hflip': True, 'use_rot': True}
    return options | changes


def test_test_noise_is_fixed_gaussian_and_the_priors_own(sets: Path):
    dataset = build_dataset(_options(sets))
    first, again = dataset[0], build_dataset(_options(sets))[0]
    assert torch.equal(first['lq'], again['lq'])
    noise = (first['lq'] - first['gt']) * 255
    assert noise.std() == pytest.approx(25, rel=0.03)
    assert abs(noise.mean()) < 1
    assert first['lq'].min() < 0 or first['lq'].max() > 1  # neither clipped nor rounded
    assert float(first['sigma']) == pytest.approx(25 / 255)
    stored = ImageFolder(sets / 'noise25').read(first['key'])
    rounded = (first['lq'].permute(1, 2, 0) * 255).round().clamp(0, 255).byte().numpy()
    assert np.abs(rounded.astype(int) - stored).max() <= 1  # the same noise, but for the last digit of a product
    assert first['prior'].size == first['lq'].shape[-2:]
    other = build_dataset(_options(sets, noise_seed=1, dataroot_prior=None))[0]
    assert not torch.equal(first['lq'], other['lq'])
    assert not torch.equal(first['lq'] - first['gt'], dataset[1]['lq'] - dataset[1]['gt'])


def test_training_noise_is_fresh_and_repeatable(sets: Path, blind: Path):
    dataset = build_dataset(_options(sets, 'train', sigma=[5, 50], dataroot_prior=str(blind)))
    a, b, c = (dataset[SeededIndex(0, seed)] for seed in (1, 1, 2))
    assert torch.equal(a['lq'], b['lq'])
    assert not torch.equal(a['lq'], c['lq'])
    levels = [float(dataset[SeededIndex(0, seed)]['sigma']) * 255 for seed in range(20)]
    assert 5 <= min(levels) < 15
    assert 35 < max(levels) <= 50
    for item in (a, c):
        assert ((item['lq'] - item['gt']).std() - item['sigma']).abs() < 0.05 * item['sigma']
    stream = TrainStream(len(dataset), 4, 0, 0, 2)
    batch = next(iter(train_loader(dataset, {}, stream)))
    assert batch['sigma'].shape == (4,)
    assert batch['sigma'].dtype == torch.float32
    assert batch['prior'].shape == (4, 32, 32)


def test_some_of_a_folder(sets: Path):
    assert build_dataset(_options(sets, include=['c*'])).gt.keys == ['chelsea', 'coffee']
    with pytest.raises(UserError, match='no image matches x\\*'):
        build_dataset(_options(sets, include=['x*']))


def test_gray_images_have_one_channel(sets: Path):
    item = build_dataset(_options(sets, gray=True, dataroot_prior=None))[0]
    assert item['lq'].shape == item['gt'].shape == (1, 61, 84)


def test_mistakes_are_named(sets: Path, tmp_path: Path):
    for changes, match in (
        ({'sigma': [5, 50]}, 'sigma .* is a range; a test has one noise level'),
        ({'sigma': -1}, 'must be a number in 0..255'),
        ({'sigma': ['a', 'b']}, 'must be a list .each a number. or a number'),
        ({'scale': 2}, 'noise keeps the size; set scale: 1'),
        ({'sigmma': 1}, "takes no 'sigmma'; did you mean 'sigma'"),
        ({'noise_seed': -1}, "'noise_seed' of .* must be a whole number in 0.."),
        ({'phase': 'train', 'gt_size': None}, "training needs 'gt_size'"),
    ):
        with pytest.raises(UserError, match=match):
            build_dataset(_options(sets, **changes))
    for changes in ({'sigma': 15}, {'noise_seed': 3}):  # the store is of other noise
        with pytest.raises(UserError, match="holds masks of 'prior degrade --noise 25', but these data"):
            build_dataset(_options(sets, **changes))
    with pytest.raises(UserError, match='smaller than a training crop of 64'):
        build_dataset(_options(sets, 'train', gt_size=64))[0]
    done = run_cli('prior', 'degrade', '-i', sets / 'clean', '-o', sets / 'noise25', '--noise', 15)
    assert done.returncode == 2
    assert 'holds images degraded otherwise (--noise 25); choose another folder' in done.stderr
    done = run_cli('prior', 'degrade', '-i', sets / 'clean', '-o', tmp_path / 'x', '--noise', 300)
    assert done.returncode == 2
    assert not (tmp_path / 'x').exists()


def test_degrading_again_keeps_what_is_there(sets: Path):
    before = {path: path.stat().st_mtime_ns for path in (sets / 'noise25').iterdir()}
    assert len(before) == 4  # three images and degradation.json
    assert run_cli('prior', 'degrade', '-i', sets / 'clean', '-o', sets / 'noise25', '--noise', 25).returncode == 0
    assert before == {path: path.stat().st_mtime_ns for path in (sets / 'noise25').iterdir()}
    clean = ImageFolder(sets / 'clean').read('coffee')
    assert np.array_equal(ImageFolder(sets / 'noise25').read('coffee'), noisy_image(clean, 'coffee', 25, 0))


def test_a_denoiser_is_tuned_and_evaluated_on_odd_sizes(sets: Path, photographs: Path, tmp_path: Path):
    options = base_options(photographs, trains=True)
    options |= {'scale': 1}
    options['datasets'] = {
        'train': {k: v for k, v in _options(sets, 'train').items() if k not in ('scale', 'phase')}
        | {'batch_size_per_gpu': 2},
        'val': {k: v for k, v in _options(sets).items() if k not in ('scale', 'phase')},
    }
    options['network_g'] |= {'backbone': {'type': 'FFDNet', 'nc': 12, 'nb': 9}, 'sites': 'auto'}
    options['network_g']['unit'] = {'type': 'RegionUnit', 'width': 4}
    done = run_cli('train', '-opt', write_options(tmp_path / 'x.yml', options), '--root', tmp_path)
    assert done.returncode == 0, done.stderr
    assert 'x, 3 images: psnr' in done.stderr


@pytest.mark.data
def test_figures_of_ffdnet(real_data: Path, tmp_path: Path):
    """Ten images of the run behind docs/results/backbones.md, whose 68 have the published mean."""
    import json

    (tmp_path / 'datasets').mkdir()
    (tmp_path / 'datasets' / 'CBSD68').symlink_to(real_data / 'denoise' / 'CBSD68')
    (tmp_path / 'weights').symlink_to(real_data / 'weights')
    options = Path(__file__).parents[2] / 'options' / 'test' / 'FFDNet_color_s25.yml'
    done = run_cli('test', '-opt', options, '--force_yml', "datasets:test:include=['10*']", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / 'results' / 'FFDNet_color_s25' / 'metrics.json').read_text())
    psnr = record['datasets']['CBSD68']['psnr']
    expected = {'101085': 28.174, '101087': 32.206, '102061': 32.099, '103070': 32.801, '105025': 29.916,
                '106024': 34.832, '108005': 30.771, '108070': 28.661, '108082': 31.238, '109053': 31.816}  # fmt: skip
    assert psnr['per_image'] == pytest.approx(expected, abs=0.002)
