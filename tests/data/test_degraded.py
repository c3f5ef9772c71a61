"""Images degraded on the fly are those that `prior degrade` writes, and their masks go with them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from basicsr.data import build_dataset

import sptsr
from sptsr.core.errors import UserError
from sptsr.data.loader import SeededIndex, TrainStream, train_loader
from sptsr.images.decode import luminance, write_png
from sptsr.images.folder import ImageFolder
from sptsr.masks.batch import PriorBatch
from sptsr.priors.controls import FromOtherImages, shuffle
from sptsr.priors.extract import build_source, extract
from sptsr.priors.store import PriorStore
from sptsr.tuning.training import train_pipeline
from tests.conftest import base_options, photograph, run_cli, write_options

STEPS = ['blur=0.8:1.6', 'noise=5:25', 'jpeg=30:80']


@pytest.fixture(scope='module')
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`clean` photographs; `made`, three degraded draws of each, and `half`, at half the size; their priors."""
    root = tmp_path_factory.mktemp('degraded')
    for name in ('coffee', 'chelsea'):
        write_png(root / 'clean' / f'{name}.png', photograph(f'{name}.png', 60, 84))
    for name, more in (('made', []), ('half', ['downsample=2'])):
        arguments = ('-i', root / 'clean', '-o', root / name, '--steps', *STEPS, *more, '--draws', 3, '--seed', 2)
        done = run_cli('prior', 'degrade', *arguments)
        assert done.returncode == 0, done.stderr
    extract(ImageFolder(root / 'made'), root / 'prior', build_source('felzenszwalb', ['min_size=8']))
    extract(ImageFolder(root / 'half'), root / 'prior_half', build_source('felzenszwalb', ['min_size=8']))
    return root


@pytest.fixture(scope='module')
def blind(sets: Path) -> Path:
    """Masks of the clean images, for the degraded ones: the oracle."""
    path = sets / 'blind'
    source = FromOtherImages(build_source('felzenszwalb', ['min_size=8']), ImageFolder(sets / 'clean'))
    extract(ImageFolder(sets / 'made'), path, source)
    return path


def _dataset(sets: Path, phase: str = 'train', **changes: Any) -> Any:
    options = {'type': 'PriorDegradedDataset', 'name': 'x', 'phase': phase, 'scale': 1, 'degradation': STEPS}
    options |= {'dataroot_gt': str(sets / 'clean'), 'dataroot_prior': str(sets / 'prior'), 'noise_seed': 2}
    if phase == 'train':
        options |= {'gt_size': 32, 'use_hflip': True, 'use_rot': True}
    return build_dataset(options | changes)


def _pixels(image: torch.Tensor) -> np.ndarray:
    return (image.permute(1, 2, 0) * 255).round().byte().numpy()


@pytest.mark.parametrize('scale', [1, 2])
def test_a_test_has_the_first_image_that_the_command_wrote(sets: Path, scale: int):
    name, more = ('made', []) if scale == 1 else ('half', ['downsample=2'])
    store = {1: 'prior', 2: 'prior_half'}[scale]
    dataset = _dataset(
        sets, 'test', scale=scale, degradation=[*STEPS, *more], dataroot_prior=str(sets / store), sigma=25
    )
    written, clean = ImageFolder(sets / name), ImageFolder(sets / 'clean')
    for n, key in enumerate(clean.keys):
        item = dataset[n]
        assert item['key'] == key
        assert np.array_equal(_pixels(item['lq']), written.read(f'{key}@0'))
        assert np.array_equal(_pixels(item['gt']), clean.read(key))
        assert item['prior'].size == item['lq'].shape[1:]
        assert float(item['sigma']) == pytest.approx(25 / 255)
        own = PriorStore(sets / store).get(f'{key}@0')
        assert np.array_equal(item['prior'].index, own.index)


def test_training_has_the_images_that_its_masks_were_made_from(sets: Path):
    """A crop of full size, not turned: it is one of the three draws, with that draw's masks and their statistics."""
    dataset = _dataset(sets, gt_size=60, use_hflip=False, use_rot=False)
    written, store = ImageFolder(sets / 'made'), PriorStore(sets / 'prior')
    seen = set()
    for seed in range(12):
        item = dataset[SeededIndex(1, seed)]
        lq = _pixels(item['lq'])
        draws = [written.read(f'coffee@{n}') for n in range(3)]
        places = [
            (n, left)
            for n, draw in enumerate(draws)
            for left in range(25)
            if np.array_equal(draw[:, left : left + 60], lq)
        ]
        assert len(places) == 1
        ((draw, left),) = places
        seen.add(draw)
        own = store.get(f'coffee@{draw}')
        assert np.array_equal(item['prior'].decode(), own.crop(0, left, 60, 60).decode())
        whole = PriorBatch.of([own]).describe(torch.from_numpy(draws[draw]).permute(2, 0, 1)[None].float() / 255)
        assert whole.statistics is not None
        np.testing.assert_allclose(item['prior'].statistics, whole.statistics[0, : own.count], atol=1e-6)
    assert seen == {0, 1, 2}


def test_masks_that_saw_no_draw_go_with_fresh_ones(sets: Path, blind: Path):
    dataset = _dataset(sets, dataroot_prior=str(blind), gt_size=60, use_hflip=False, use_rot=False)
    first, again, other = (dataset[SeededIndex(0, seed)] for seed in (1, 1, 2))
    assert torch.equal(first['lq'], again['lq'])
    made = [dataset[SeededIndex(0, seed)]['lq'].std().item() for seed in range(8)]
    assert len(set(made)) == 8
    assert not torch.equal(first['lq'], other['lq'])
    turned = _dataset(sets, dataroot_prior=str(blind), degradation=['blur=0'])  # LQ and GT move together
    for seed in range(4):
        item = turned[SeededIndex(0, seed)]
        assert torch.equal(item['lq'], item['gt'])
    for batch in train_loader(dataset, {'num_worker_per_gpu': 1}, TrainStream(2, 2, 0, 0, 2)):
        assert batch['lq'].shape == (2, 3, 60, 60)


def test_gray_and_no_masks(sets: Path):
    item = _dataset(sets, 'test', gray=True, dataroot_prior=None)[0]
    assert item['lq'].shape[0] == item['gt'].shape[0] == 1
    assert item['prior'] is None
    assert 'sigma' not in item
    assert np.array_equal(_pixels(item['gt']), luminance(ImageFolder(sets / 'clean').read(item['key'])))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (
            {'degradation': ['noise=5:25']},
            r"holds masks of 'prior degrade --steps blur=0\.8:1\.6 .*but these data are of",
        ),
        ({'noise_seed': 1}, '--draws 3 --seed 1.*make them so: sptsr prior degrade -i'),
        ({'degradation': [*STEPS, 'downsample=2']}, 'the degradation keeps 1/2 of the size; set scale: 2'),
        ({'scale': 2}, 'the degradation keeps 1/1 of the size; add downsample=2'),
        ({'degradation': []}, 'datasets: x: degradation: 0 steps'),
        ({'degradation': ['blur']}, "datasets: x: degradation: 'blur' is not KIND=AMOUNT"),
        ({'sigma': 300}, "'sigma' of PriorDegradedDataset must be a number in 0..255 .*got 300"),
        ({'prior_dropout': 1.5}, "'prior_dropout' of PriorDegradedDataset must be a number in 0..1, got 1.5"),
        ({'gt_size': None}, 'gt_size: None must be a multiple of the scale 1'),
    ],
)
def test_mistakes_are_refused(sets: Path, changes: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        _dataset(sets, **changes)


def test_masks_of_other_images_are_refused(sets: Path, tmp_path: Path):
    write_png(tmp_path / 'clean' / 'coffee.png', photograph('rocket.jpg', 60, 84))
    write_png(tmp_path / 'clean' / 'chelsea.png', photograph('rocket.jpg', 60, 84))
    with pytest.raises(UserError, match='the prior was made from another image of this name, or degraded otherwise'):
        _dataset(sets, dataroot_gt=str(tmp_path / 'clean'))[SeededIndex(0, 0)]
    with pytest.raises(UserError, match='coffee.png: 60x84 is smaller than a training crop of 64'):
        _dataset(sets, gt_size=64)[SeededIndex(1, 0)]
    shuffle(PriorStore(sets / 'prior'), tmp_path / 'others')  # a control keeps to the same images
    assert torch.equal(
        _dataset(sets, dataroot_prior=str(tmp_path / 'others'))[SeededIndex(0, 3)]['lq'],
        _dataset(sets)[SeededIndex(0, 3)]['lq'],
    )


def test_masks_are_dropped_as_often_as_asked_for(sets: Path):
    never, half, always = (_dataset(sets, prior_dropout=share) for share in (0.0, 0.5, 1.0))
    counts = []
    for seed in range(100):
        items = [dataset[SeededIndex(0, seed)] for dataset in (never, half, always)]
        assert torch.equal(items[0]['lq'], items[1]['lq'])
        assert torch.equal(items[0]['lq'], items[2]['lq'])
        assert items[2]['prior'].count == 0
        assert items[1]['prior'].count in (0, items[0]['prior'].count)
        assert items[2]['prior'].size == (32, 32)
        counts.append(items[1]['prior'].count)
    assert 35 <= counts.count(0) <= 65
    batch = PriorBatch.of([always[SeededIndex(0, 0)]['prior'], never[SeededIndex(0, 0)]['prior']])
    assert batch.statistics is not None
    assert batch.statistics[0].abs().max() == 0
    assert batch.expand()[0].abs().max() == 0


@pytest.mark.parametrize('kind', ['PriorPairedImageDataset', 'PriorDenoisingDataset'])
def test_other_datasets_drop_masks_too(sets: Path, photographs: Path, blind: Path, kind: str):
    if kind == 'PriorPairedImageDataset':
        options = base_options(photographs, trains=True)['datasets']['train'] | {'scale': 4}
    else:
        options = {'name': 'x', 'scale': 1, 'sigma': 25, 'dataroot_gt': str(sets / 'clean'), 'gt_size': 32}
        extract(ImageFolder(sets / 'clean'), sets / 'none', build_source('none'))
        options['dataroot_prior'] = str(sets / 'none')
    options |= {'type': kind, 'phase': 'train', 'prior_dropout': 1.0}
    assert build_dataset(options)[SeededIndex(0, 0)]['prior'].count == 0
    with pytest.raises(UserError, match="'prior_dropout' of .* must be a number in 0..1, got -1"):
        build_dataset(options | {'prior_dropout': -1})


def test_a_run_on_degraded_images_is_made_and_used_without_masks(sets: Path, tmp_path: Path):
    options = base_options(sets, trains=True)
    backbone = {'type': 'FFDNet', 'nc': 12, 'nb': 5}
    options |= {
        'scale': 1,
        'network_g': {'type': 'SPTNet', 'backbone': backbone, 'unit': {'type': 'ModulationUnit', 'stem': 'geometry'}},
    }
    options['datasets']['train'] = {
        'name': 'degraded',
        'type': 'PriorDegradedDataset',
        'dataroot_gt': str(sets / 'clean'),
        'dataroot_prior': str(sets / 'prior'),
        'degradation': STEPS,
        'noise_seed': 2,
        'sigma': 25,
        'gt_size': 32,
        'prior_dropout': 0.5,
        'batch_size_per_gpu': 2,
    }
    options['train']['total_iter'] = 3
    model = train_pipeline(write_options(tmp_path / 'x.yml', options), tmp_path)
    assert 0 < model.log_dict['l_pix'] < 1
    image = ImageFolder(sets / 'made').read('coffee@0')
    nothing = sptsr.make_prior(image, source='none')
    assert nothing.count == 0
    assert sptsr.restore(model.net, image, nothing, sigma=25).shape == image.shape
