"""Controls and comparisons: shuffled, random and oracle priors; likeness of two stores; degraded images."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from sptsr.core.errors import UserError
from sptsr.images.bicubic import imresize
from sptsr.images.decode import decode_rgb, write_png
from sptsr.images.degrade import degrade, degraded
from sptsr.images.draws import Degradation
from sptsr.images.folder import ImageFolder
from sptsr.masks.prior import Prior
from sptsr.priors.controls import FromOtherImages, shuffle
from sptsr.priors.extract import build_source, extract
from sptsr.priors.likeness import boundaries, compare_stores, likeness_of
from sptsr.priors.store import PriorStore
from tests.conftest import SCALE, photograph, run_cli


def test_shuffling_gives_each_image_the_prior_of_another(photographs: Path, tmp_path: Path):
    store = PriorStore(photographs / 'prior')
    assert shuffle(store, tmp_path / 'a') == 4
    other = PriorStore(tmp_path / 'a')
    images = ImageFolder(photographs / f'LRx{SCALE}')
    donors = set()
    for key in images.keys:
        prior = other.get(key, images.read(key))  # size and digest are the image's own
        match = [k for k in images.keys if np.array_equal(store.get(k).resized(*prior.size).decode(), prior.decode())]
        assert len(match) == 1
        assert match != [key]
        donors.add(match[0])
    assert len(donors) == 4
    assert other.header.params['shuffled'] == 0
    shuffle(store, tmp_path / 'b')
    assert [PriorStore(tmp_path / 'b').raw(k) for k in images.keys] == [other.raw(k) for k in images.keys]
    with pytest.raises(UserError, match='holds priors made otherwise'):
        shuffle(store, tmp_path / 'a', seed=1)


def test_random_regions_are_as_many_and_as_large(photographs: Path, tmp_path: Path):
    like = PriorStore(photographs / 'prior')
    images = ImageFolder(photographs / f'LRx{SCALE}')
    done = run_cli(
        'prior', 'extract', '-i', images.root, '-o', tmp_path / 's', '--source', 'random', '--set', f'like={like.path}'
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    store = PriorStore(tmp_path / 's')
    for key in images.keys:
        real, drawn = like.get(key), store.get(key, images.read(key))
        assert drawn.count == real.count > 3
        assert abs(int(drawn.areas().sum()) - int(real.areas().sum())) < 0.1 * real.areas().sum()
        assert likeness_of(real, drawn).iou < 0.6  # and elsewhere
    again = build_source('random', [f'like={like.path}'])
    first = images.read(images.keys[0])
    assert np.array_equal(again(first, images.keys[0], 64).index, store.get(images.keys[0]).index)
    other = build_source('random', [f'like={like.path}', 'seed=1'])
    assert not np.array_equal(other(first, images.keys[0], 64).index, store.get(images.keys[0]).index)
    assert again(first, 'a name that the store lacks', 64).count > 0


def test_the_oracle_looks_at_gt(photographs: Path, tmp_path: Path):
    lq, gt = ImageFolder(photographs / f'LRx{SCALE}'), ImageFolder(photographs / f'GTx{SCALE}')
    done = run_cli(
        'prior', 'extract', '-i', lq.root, '-o', tmp_path / 's', '--source', 'felzenszwalb', '--oracle', gt.root
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    store = PriorStore(tmp_path / 's')
    assert store.header.params['oracle'] is True
    key = lq.keys[0]
    prior = store.get(key, lq.read(key))
    full = build_source('felzenszwalb')(gt.read(key), key, 64).decode()
    blocks = full.reshape(len(full), prior.size[0], SCALE, prior.size[1], SCALE).mean((2, 4)) >= 0.5
    assert np.array_equal(prior.decode(), Prior.encode(blocks).decode())
    with pytest.raises(UserError, match="no image '.*' for --oracle"):
        extract(lq, tmp_path / 'x', FromOtherImages(build_source('felzenszwalb'), ImageFolder(gt.root, include=['c*'])))
    assert not (tmp_path / 'x').exists()


def _disc(height: int, width: int, y: float, x: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def test_likeness():
    masks = np.stack([_disc(60, 80, 30, 40, 20), _disc(60, 80, 15, 15, 8)])
    reference = Prior.encode(masks)
    same = likeness_of(reference, reference)
    assert (same.iou, same.iou_weighted, same.boundary_f) == (1.0, 1.0, 1.0)
    one = likeness_of(reference, Prior.encode(masks[:1]))
    assert one.iou == pytest.approx(0.5, abs=0.01)  # the small one has nothing near it
    areas = reference.areas()
    assert one.iou_weighted == pytest.approx(areas[0] / areas.sum(), abs=0.01)
    assert 0.6 < one.boundary_f < 0.95
    assert one.coverage < one.coverage_reference
    moved = likeness_of(reference, Prior.encode(np.stack([_disc(60, 80, 30, 50, 20), _disc(60, 80, 15, 25, 8)])))
    expected = [(a & b).sum() / (a | b).sum() for a, b in
                zip(masks, [_disc(60, 80, 30, 50, 20), _disc(60, 80, 15, 25, 8)], strict=True)]  # fmt: skip
    assert moved.iou == pytest.approx(np.mean(expected))
    assert moved.boundary_f < 0.5
    nothing = likeness_of(reference, Prior.encode(np.zeros((0, 60, 80), bool)))
    assert (nothing.iou, nothing.boundary_f, nothing.masks) == (0.0, 0.0, 0)
    half = likeness_of(reference, reference.resized(30, 40))
    assert half.iou > 0.9
    assert half.boundary_f == pytest.approx(1.0, abs=0.05)
    assert boundaries(reference).sum() > 100


def test_comparing_stores_from_the_command_line(photographs: Path, tmp_path: Path):
    gt = photographs / f'GTx{SCALE}'
    stores = {}
    for name, arguments in {
        'clean': None,
        'noise50': ['--noise', 50],
        'jpeg10': ['--jpeg', 10],
        'x2': ['--downsample', 2],
    }.items():
        folder = gt
        if arguments:
            folder = tmp_path / f'{name}_images'
            assert run_cli('prior', 'degrade', '-i', gt, '-o', folder, *arguments).returncode == 0
        stores[name] = tmp_path / name
        extract(ImageFolder(folder), stores[name], build_source('felzenszwalb'))
    done = run_cli(
        'prior',
        'compare',
        stores['clean'],
        stores['clean'].rename(tmp_path / 'same').rename(tmp_path / 'clean'),
        *(stores['noise50'], stores['jpeg10'], stores['x2'], '-o', tmp_path / 'out', '-i', gt),
    )
    assert done.returncode == 0, done.stderr
    rows = {row.split('|')[1].strip(): float(row.split('|')[2]) for row in done.stdout.splitlines()[2:]}
    assert rows['clean'] == 1.0
    assert 0 < rows['noise50'] < rows['jpeg10'] < 1
    assert (tmp_path / 'out' / 'table.md').read_text().endswith(done.stdout)
    record = json.loads((tmp_path / 'out' / 'noise50.json').read_text())
    values = [row['iou'] for row in record['per_image'].values()]
    assert len(values) == 4
    assert record['mean']['iou'] == pytest.approx(np.mean(values))
    picture = decode_rgb((tmp_path / 'out' / 'noise50.png').read_bytes(), 'x')
    assert picture.shape[1] > 3 * 128


def test_pictures_do_not_go_among_the_images(photographs: Path, tmp_path: Path):
    images = shutil.copytree(photographs / f'LRx{SCALE}', tmp_path / 'images')
    before = {path.name: path.read_bytes() for path in images.iterdir()}
    store, other = photographs / 'prior', shutil.copytree(photographs / 'prior', tmp_path / 'chelsea')
    for words in (['show', store, 'chelsea'], ['compare', store, other]):
        done = run_cli('prior', *words, '-i', images, '-o', images)
        assert done.returncode == 2
        assert 'whose images are read; choose a folder outside of it' in done.stderr
        assert {path.name: path.read_bytes() for path in images.iterdir()} == before


def test_comparing_what_cannot_be_compared(photographs: Path, tmp_path: Path):
    store = PriorStore(photographs / 'prior')
    images = ImageFolder(photographs / f'LRx{SCALE}', include=['a*', 'co*'])
    extract(images, tmp_path / 'part', build_source('felzenszwalb'))
    with pytest.raises(UserError, match="part: no prior of 'chelsea'"):
        compare_stores(store, PriorStore(tmp_path / 'part'))
    done = run_cli('prior', 'compare', tmp_path / 'part', tmp_path / 'part', tmp_path / 'part', '-o', tmp_path / 'out')
    assert done.returncode == 2
    assert 'two of the stores are called part' in done.stderr
    words = ('prior', 'compare', photographs / 'prior', photographs / 'prior', tmp_path / 'part', '-o')
    assert run_cli(*words, tmp_path / 'out').returncode == 2
    assert not (tmp_path / 'out').exists()  # nor what could be compared
    (tmp_path / 'study').mkdir()
    (tmp_path / 'study' / 'table.md').write_text('# a study')
    for place in ('study', 'part'):
        done = run_cli('prior', 'compare', tmp_path / 'part', tmp_path / 'part', '-o', tmp_path / place)
        assert done.returncode == 2
        assert f'{place}: holds a store, or a table of another command; choose another folder' in done.stderr
    assert (tmp_path / 'study' / 'table.md').read_text() == '# a study'


def test_degradations():
    image = photograph('coffee.png', 66, 81)

    def changed(kind: str, amount: float) -> np.ndarray:
        ((key, result),) = degraded(image, 'a', Degradation(kind, amount, amount))
        assert key == 'a'
        return result

    noisy = changed('noise', 25).astype(float) - image
    assert 20 < noisy.std() < 26  # clipped at black and white
    blurred = changed('blur', 2)
    assert np.abs(np.diff(blurred.astype(int), axis=1)).mean() < 0.6 * np.abs(np.diff(image.astype(int), axis=1)).mean()
    assert np.array_equal(changed('blur', 0), image)
    rough, fine = (changed('jpeg', quality).astype(int) for quality in (10, 95))
    assert np.abs(rough - image).mean() > 2 * np.abs(fine - image).mean() > 0
    assert np.array_equal(changed('downsample', 4), imresize(image[:64, :80], 1 / 4))


@pytest.mark.parametrize(
    ('kind', 'amount', 'match'),
    [
        ('noise', -1, '--noise -1 must be in 0..255'),
        ('jpeg', 0, '--jpeg 0 must be a whole number in 1..100'),
        ('jpeg', 50.5, '--jpeg 50.5 must be a whole number'),
        ('downsample', 1.5, '--downsample 1.5 must be a whole number'),
        ('downsample', 64, 'is smaller than --downsample 64'),
    ],
)
def test_wrong_amounts(kind: str, amount: float, match: str, photographs: Path, tmp_path: Path):
    images = ImageFolder(photographs / f'LRx{SCALE}')
    with pytest.raises(UserError, match=match):
        degrade(images, tmp_path / 'x', Degradation(kind, amount, amount))
    assert not (tmp_path / 'x').exists()


def test_a_mistake_in_the_last_image_leaves_nothing(photographs: Path, tmp_path: Path):
    shutil.copytree(photographs / f'LRx{SCALE}', tmp_path / 'images')
    (tmp_path / 'images' / 'z.png').write_text('no image')
    with pytest.raises(UserError, match=r'z\.png'):
        degrade(ImageFolder(tmp_path / 'images'), tmp_path / 'x', Degradation('noise', 25, 25))
    assert not (tmp_path / 'x').exists()


def test_images_of_all_kinds_become_priors(tmp_path: Path):
    """Gray, RGBA, 16-bit, palette, CMYK, EXIF-rotated, tiny and large ones, with --to-rgb."""
    import cv2
    from PIL import Image

    root = tmp_path / 'images'
    root.mkdir()
    picture = photograph('coffee.png', 48, 64)
    small = Image.fromarray(picture)
    small.convert('L').save(root / 'gray.png')
    small.convert('RGBA').save(root / 'rgba.png')
    small.convert('P').save(root / 'palette.png')
    small.convert('CMYK').save(root / 'cmyk.jpg', quality=95)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    small.save(root / 'turned.jpg', exif=exif, quality=95)
    cv2.imwrite(str(root / 'deep.png'), (picture[:, :, ::-1].astype(np.uint16) * 257))
    small.resize((1, 1)).save(root / 'dot.png')
    small.resize((1500, 3)).save(root / 'line.png')
    (root / 'Ünïcode 图').mkdir()
    small.save(root / 'Ünïcode 图' / 'naïve.png')
    (root / 'loop').symlink_to(root)
    images = ImageFolder(root, to_rgb=True)
    assert len(images) == 9
    report = extract(images, tmp_path / 'store', build_source('felzenszwalb', ['min_size=4']))
    assert report.made == 9
    store = PriorStore(tmp_path / 'store')
    assert store.get('turned').size == (64, 48)
    assert store.get('dot').size == (1, 1)
    assert store.get('Ünïcode 图/naïve').count > 3
    for name in ('palette', 'cmyk', 'deep'):
        assert np.abs(images.read(name).astype(int) - picture).mean() < 16, name
    small.save(root / 'gray.jpg')
    with pytest.raises(UserError, match=r"'gray.jpg' and 'gray.png' share the key 'gray'"):
        ImageFolder(root, to_rgb=True)


def test_an_image_of_16k_is_read(tmp_path: Path):
    large = np.zeros((16384, 64, 3), np.uint8)
    large[5000:9000] = 200
    write_png(tmp_path / 'tall.png', large)
    report = extract(ImageFolder(tmp_path), tmp_path / 'store', build_source('felzenszwalb', ['scales=[100]']))
    assert report.made == 1
    prior = PriorStore(tmp_path / 'store').get('tall')
    assert prior.size == (16384, 64)
    assert prior.decode()[:, 7000].all(axis=1).any()
