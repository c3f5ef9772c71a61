"""Masks belong to the very degraded image that they were made from, in training too."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
import torch
from basicsr.data import build_dataset

from sptsr.core.errors import UserError
from sptsr.data.loader import SeededIndex
from sptsr.images.decode import RGB, write_png
from sptsr.images.draws import Degradation
from sptsr.images.folder import ImageFolder
from sptsr.images.noise import add_noise, add_noise_to_window, fixed_rng
from sptsr.images.prepare import prepare
from sptsr.masks.prior import Prior
from sptsr.masks.regions import Regions
from sptsr.priors.controls import shuffle
from sptsr.priors.extract import build_source, extract
from sptsr.priors.sources.source import Source
from sptsr.priors.store import PriorStore
from tests.conftest import SHIPPED, photograph, run_cli

KEYS = ['astronaut', 'chelsea', 'sub/coffee']


class Bits(Source):
    """Mask n is bit n of the image's red channel: so a mask tells the very pixel that it was made from."""

    name = 'bits'

    def __init__(self) -> None:
        self.params: dict[str, Any] = {}

    def __call__(self, image: RGB, key: str, max_masks: int) -> Prior:
        del key, max_masks
        bits = np.moveaxis(np.unpackbits(image[:, :, :1], axis=2), 2, 0).astype(bool)
        return Prior.from_regions(Regions.from_masks(bits))  # keeps the order of the bits


@pytest.fixture(scope='module')
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('draws') / 'clean'
    for key in KEYS:
        write_png(root / f'{key}.png', photograph(f'{Path(key).name}.png', 61, 84))
    return root


@pytest.fixture(scope='module')
def made(clean: Path) -> dict[str, tuple[Path, Path]]:
    """Degraded images and their store, by name."""
    found = {}
    for name, arguments in {
        'one': ['--noise', '25'],
        'four': ['--noise', '25', '--draws', '4', '--seed', '3'],
        'range': ['--noise', '5:50', '--draws', '3'],
        'gray': ['--noise', '25', '--gray', '--draws', '2'],
    }.items():
        images, store = clean.parent / name, clean.parent / f'{name}_store'
        done = run_cli('prior', 'degrade', '-i', clean, '-o', images, *arguments)
        assert done.returncode == 0, done.stderr
        extract(ImageFolder(images), store, Bits())
        found[name] = images, store
    return found


def _options(clean: Path, store: Path, phase: str = 'train', **changes: Any) -> dict[str, Any]:
    options = {
        'type': 'PriorDenoisingDataset',
        'name': 'x',
        'phase': phase,
        'scale': 1,
        'dataroot_gt': str(clean),
        'dataroot_prior': str(store),
        'sigma': 25,
    }
    return options | ({'gt_size': 32, 'use_hflip': True, 'use_rot': True} if phase == 'train' else {}) | changes


def _red(item: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the red channel of the LQ, rounded to 8 bits, and what the masks say it was."""
    red = (item['lq'][0] * 255).round().clamp(0, 255).byte().numpy()
    return red, np.packbits(item['prior'].decode(), axis=0)[0]


@pytest.mark.parametrize(
    ('name', 'changes'),
    [
        ('one', {}),
        ('four', {'noise_seed': 3}),
        ('range', {'sigma': [5, 50]}),
        ('gray', {'gray': True}),
    ],
)
def test_every_training_sample_has_the_noise_that_its_masks_were_made_from(clean, made, name, changes):
    images, store = made[name]
    dataset = build_dataset(_options(clean, store, **changes))
    noted = ImageFolder(images).degradation
    assert noted is not None
    assert len(ImageFolder(images)) == 3 * noted.draws
    pixels, levels = set(), set()
    for seed in range(60):
        item = dataset[SeededIndex(seed % 3, seed)]
        red, masks = _red(item)
        assert np.array_equal(red, masks)
        assert item['lq'].shape == (1 if noted.gray else 3, 32, 32)
        pixels.add(red.tobytes())
        levels.add(float(item['sigma']))
        again = dataset[SeededIndex(seed % 3, seed)]
        assert torch.equal(item['lq'], again['lq'])
    assert len(pixels) == 60
    assert len(levels) == (9 if name == 'range' else 1)  # one a draw and image
    if name == 'range':
        assert 5 / 255 <= min(levels) < 20 / 255 < 35 / 255 < max(levels) <= 50 / 255


def test_all_draws_are_used_and_differ(clean, made):
    images, store = made['four']
    dataset = build_dataset(_options(clean, store, noise_seed=3, gt_size=61, use_hflip=False, use_rot=False))
    noises = {}
    for seed in range(60):
        item = dataset[SeededIndex(0, seed)]
        noises[((item['lq'] - item['gt']) * 1000).round().sum().item()] = item['lq'] - item['gt']
    draws = ImageFolder(images)
    assert [key for key in draws.keys if key.startswith('sub/')] == [f'sub/coffee@{n}' for n in range(4)]
    residuals = [(draws.read(f'astronaut@{n}').astype(float) - ImageFolder(clean).read('astronaut')) for n in range(4)]
    correlation = np.corrcoef([residual.ravel() for residual in residuals])
    assert np.abs(correlation - np.eye(4)).max() < 0.05


def test_the_first_draw_is_the_fixed_noise_of_0_1_and_of_the_test(clean, made):
    (one, _), (_, store) = made['one'], made['four']
    item = build_dataset(_options(clean, store, 'test', noise_seed=3))[1]
    assert np.array_equal(*_red(item))
    image = ImageFolder(clean).read('chelsea')
    known = np.random.default_rng([0, *hashlib.sha256(b'chelsea').digest()])
    noisy = image / 255 + known.standard_normal(image.shape, dtype=np.float32) * (25 / 255)
    difference = np.clip(np.rint(noisy * 255), 0, 255) - ImageFolder(one).read('chelsea')
    assert np.abs(difference).max() <= 1


def test_a_window_has_the_noise_of_the_whole_image():
    image = photograph('coffee.png', 61, 84)
    whole = add_noise(image, 25, fixed_rng('a', 5, 2))
    window = add_noise_to_window(image[20:50, 7:40], 20, 7, 84, 25, fixed_rng('a', 5, 2))
    assert np.array_equal(window, whole[20:50, 7:40])


@pytest.mark.parametrize(
    ('name', 'changes', 'wanted'),
    [
        ('one', {'sigma': [5, 50]}, '--noise 5:50 --draws 4'),
        ('one', {'sigma': 50}, '--noise 50 --draws 4'),
        ('one', {'noise_seed': 1}, '--noise 25 --draws 4 --seed 1'),
        ('one', {'gray': True}, '--noise 25 --draws 4 --gray'),
        ('gray', {}, '--noise 25 --draws 4'),
        ('range', {}, '--noise 25 --draws 4'),
        ('one', {'sigma': 50, 'prior_sigma': 25}, '--noise 50 --draws 4'),
    ],
)
def test_a_source_that_reads_the_noisy_image_cannot_be_trained_on_other_noise(clean, made, name, changes, wanted):
    with pytest.raises(
        UserError, match=r'masks belong to their own noise; make them so: sptsr prior degrade'
    ) as caught:
        build_dataset(_options(clean, made[name][1], **changes))
    assert f'-o DIR {wanted}, then sptsr prior extract' in str(caught.value)
    assert '\n' not in str(caught.value)
    shuffled = clean.parent / f'{name}_shuffled'
    if not shuffled.exists():
        shuffle(PriorStore(made[name][1]), shuffled)
    with pytest.raises(UserError, match='masks belong to their own noise'):
        build_dataset(_options(clean, shuffled, **changes))


def test_a_store_of_0_1_trains_on_its_one_noise_and_says_so(clean, made, tmp_path, caplog):
    """Such a store does not say what its images were degraded by, nor whether its source looked at them."""
    images, store = made['one'][0], tmp_path / 'old'
    extract(ImageFolder(images), store, build_source('felzenszwalb', ['min_size=8']))
    _as_of_0_1(store)
    assert PriorStore(store).degradation is None
    with caplog.at_level('INFO', 'basicsr'):
        dataset = build_dataset(_options(clean, store, gt_size=61, use_hflip=False, use_rot=False))
    assert 'x: trains on the noise that its masks were made from, 1 draw an image' in caplog.text
    noisy = ImageFolder(images).read('astronaut')
    for seed in range(5):
        lq = (dataset[SeededIndex(0, seed)]['lq'] * 255).round().clamp(0, 255).byte().numpy().transpose(1, 2, 0)
        assert any(np.array_equal(lq, noisy[:, left : left + 61]) for left in range(24))
    with pytest.raises(UserError, match='masks belong to their own noise'):
        build_dataset(_options(clean, store, sigma=[5, 50], prior_sigma=25))
    gray = build_dataset(_options(clean, store, gray=True))  # its masks know the noise of three channels
    with pytest.raises(UserError, match=r'or with other noise; make them so: .*--gray'):
        gray[SeededIndex(0, 0)]


def _as_of_0_1(store: Path) -> None:
    environment = lmdb.open(str(store), max_dbs=4)
    database = environment.open_db(b'header')
    with environment.begin(write=True, db=database) as transaction:
        header = json.loads(transaction.get(b'header'))
        del header['saw_image'], header['degradation']
        transaction.put(b'header', json.dumps(header | {'schema': 1}).encode())
    environment.close()


def test_shuffled_draws_are_of_another_image_and_of_the_same_draw(made, tmp_path):
    _, path = made['four']
    store = PriorStore(path)
    shuffle(store, tmp_path / 'shuffled')
    shuffled = PriorStore(tmp_path / 'shuffled')
    assert shuffled.header.saw_image
    assert shuffled.degradation == store.degradation
    for key in store.keys():  # noqa: SIM118 (not a dict)
        donors = [
            other
            for other in store.keys()  # noqa: SIM118
            if store.get(other).resized(61, 84).to_bytes() == shuffled.get(key).to_bytes()
        ]
        image, draw = key.split('@')
        assert donors == [f'{donors[0].split("@")[0]}@{draw}']
        assert donors[0].split('@')[0] != image


def test_store_and_images_say_what_they_are(clean, made, tmp_path):
    images, store = made['range']
    assert json.loads((images / 'degradation.json').read_text()) == {
        'kind': 'noise', 'low': 5.0, 'high': 50.0, 'seed': 0, 'draws': 3, 'gray': False,
    }  # fmt: skip
    assert PriorStore(store).degradation == Degradation('noise', 5, 50, draws=3)
    shown = run_cli('prior', 'info', store).stdout
    assert 'prior degrade: --noise 5:50 --draws 3' in shown
    assert 'the image, with its noise' in shown
    done = run_cli('prior', 'verify', store, '-i', images)
    assert '9 of 9 images have their prior' in done.stdout
    with pytest.raises(UserError, match=r'holds priors made otherwise \(degradation'):
        extract(ImageFolder(made['four'][0]), store, Bits())


def test_an_lmdb_of_draws_has_their_priors(made, tmp_path):
    images, store = made['four']
    prepare(ImageFolder(images), tmp_path, 1, as_lmdb=True)
    folder = ImageFolder(tmp_path / 'GTx1.lmdb')
    assert folder.keys == ImageFolder(images).keys
    for key in folder.keys:
        PriorStore(store).get(key, folder.read(key))


@pytest.mark.parametrize(
    ('arguments', 'match'),
    [
        (['--noise', '50:5'], '--noise 50:5 must be in 0..255, the lower amount first'),
        (['--noise', 'nan'], 'must be in 0..255'),
        (['--noise', '5:x'], 'must be a number, or LOW:HIGH'),
        (['--noise', '5:'], 'must be a number, or LOW:HIGH'),
        (['--jpeg', '5:50'], 'a range, --draws and --gray are for --noise'),
        (['--blur', '1', '--draws', '2'], 'a range, --draws and --gray are for --noise'),
        (['--noise', '5', '--draws', '0'], '--draws 0 must be in 1..1000'),
        (['--noise', '5', '--seed', '-1'], '--seed -1 must be in'),
    ],
)
def test_wrong_arguments(clean, tmp_path, arguments, match):
    done = run_cli('prior', 'degrade', '-i', clean, '-o', tmp_path / 'x', *arguments)
    assert done.returncode == 2
    assert match in done.stderr
    assert not (tmp_path / 'x').exists()


@pytest.mark.parametrize('text', ['', '[]', '{"kind": "noise"}', '[' * 5000, '{"kind": "x"}', 'null'])
def test_a_damaged_note_ends_in_one_line(clean, tmp_path, text):
    shutil.copytree(clean, tmp_path / 'images')
    (tmp_path / 'images' / 'degradation.json').write_text(text)
    done = run_cli('prior', 'extract', '-i', tmp_path / 'images', '-o', tmp_path / 's', '--source', 'felzenszwalb')
    assert done.returncode == 2
    assert 'degradation.json' in done.stderr
    assert 'Traceback' not in done.stderr


def test_gray_files_are_degraded_as_they_are_trained_on(tmp_path):
    """A gray photograph: no conversion is asked for twice."""
    (tmp_path / 'clean').mkdir()
    shutil.copy(SHIPPED / 'camera.png', tmp_path / 'clean')
    done = run_cli('prior', 'degrade', '-i', tmp_path / 'clean', '-o', tmp_path / 'noisy', '--noise', 25, '--gray')
    assert done.returncode == 0, done.stderr
    noisy = ImageFolder(tmp_path / 'noisy').read('camera')
    assert (noisy == noisy[:, :, :1]).all()
    extract(ImageFolder(tmp_path / 'noisy'), tmp_path / 'store', Bits())
    dataset = build_dataset(_options(tmp_path / 'clean', tmp_path / 'store', gray=True))
    assert np.array_equal(*_red(dataset[SeededIndex(0, 0)]))
