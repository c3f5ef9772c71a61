import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from basicsr.data import build_dataset

from sptsr.core.errors import UserError
from sptsr.data.loader import SeededIndex
from sptsr.data.paired import PriorPairedImageDataset
from sptsr.images.decode import write_png
from sptsr.images.folder import ImageFolder
from sptsr.images.prepare import prepare
from sptsr.masks.prior import Prior
from sptsr.masks.regions import Regions
from sptsr.priors.store import PriorWriter
from sptsr.priors.store_header import StoreHeader
from tests.conftest import photograph


def _options(root: Path, **changes) -> dict:
    return {
        'name': 'x',
        'type': 'PriorPairedImageDataset',
        'dataroot_gt': str(root / 'GTx4'),
        'dataroot_lq': str(root / 'LRx4'),
        'dataroot_prior': str(root / 'prior'),
        'scale': 4,
        'phase': 'train',
        'gt_size': 64,
        'use_hflip': True,
        'use_rot': True,
        **changes,
    }


@pytest.fixture(scope='module')
def self_prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images whose prior is made from the image itself: mask n is bit n of the LQ image's colours,
    and GT is LQ with each pixel repeated 4 x 4. So every sample can be checked pixel by pixel."""
    root = tmp_path_factory.mktemp('self')
    rng = np.random.default_rng(0)
    header = StoreHeader('test', {}, None, 64)
    with PriorWriter(root / 'prior', header) as writer:
        for n in range(3):
            lq = rng.integers(0, 256, (40 + n, 50 - n, 3), dtype=np.uint8)
            masks = np.moveaxis(np.unpackbits(lq, axis=2).astype(bool), 2, 0)
            prior = Prior.from_regions(Regions.from_masks(masks))  # keeps the order of the bits
            assert np.array_equal(prior.decode(), masks)
            write_png(root / 'LRx4' / f'{n}.png', lq)
            write_png(root / 'GTx4' / f'{n}.png', lq.repeat(4, axis=0).repeat(4, axis=1))
            writer.put(str(n), lq, prior)
    return root


def test_crop_flip_and_rotation_move_lq_gt_and_prior_together(self_prior: Path):
    dataset = build_dataset(_options(self_prior))
    assert isinstance(dataset, PriorPairedImageDataset)
    seen = set()
    for seed in range(60):
        item = dataset[SeededIndex(seed % 3, seed)]
        lq = (item['lq'] * 255).round().byte()
        bits = np.unpackbits(lq.numpy().transpose(1, 2, 0), axis=2)
        assert np.array_equal(np.moveaxis(item['prior'].decode(), 0, 2), bits.astype(bool))
        assert torch.equal(item['gt'], item['lq'].repeat_interleave(4, 1).repeat_interleave(4, 2))
        assert item['lq'].shape == (3, 16, 16)
        seen.add(lq.numpy().tobytes())
    assert len(seen) == 60  # crops do differ
    windows = {
        name: _matching(self_prior, dataset, flips)
        for name, flips in {'plain': (), 'h': (2,), 'v': (1,), 'hv': (1, 2)}.items()
    }
    assert all(windows.values()), windows  # each orientation occurs


def _matching(root: Path, dataset, flips: tuple[int, ...]) -> int:
    """Counts samples that, with these axes flipped back, are a window of the image as it is."""
    image = ImageFolder(root / 'LRx4').read('0').transpose(2, 0, 1)
    found = 0
    for seed in range(60):
        lq = (dataset[SeededIndex(0, seed)]['lq'] * 255).round().byte().numpy()
        lq = np.flip(lq, flips) if flips else lq
        windows = np.lib.stride_tricks.sliding_window_view(image, (16, 16), axis=(1, 2))
        found += bool((windows == lq[:, None, None]).all((0, 3, 4)).any())
    return found


def test_the_seed_decides_and_nothing_else(photographs: Path):
    dataset = build_dataset(_options(photographs))
    first = dataset[SeededIndex(1, 5)]
    np.random.seed(0)
    torch.manual_seed(9)
    assert torch.equal(first['lq'], dataset[SeededIndex(1, 5)]['lq'])
    assert not torch.equal(first['lq'], dataset[SeededIndex(1, 6)]['lq'])


def test_evaluation_items_are_whole_sorted_and_exact(photographs: Path):
    dataset = build_dataset(_options(photographs, phase='test'))
    keys = [dataset[n]['key'] for n in range(len(dataset))]
    assert keys == ['astronaut', 'chelsea', 'coffee', 'rocket']
    item = dataset[1]
    assert item['gt'].shape == (3, 132, 148)
    image = ImageFolder(photographs / 'GTx4').read('chelsea')
    assert np.array_equal((item['gt'] * 255).round().byte().numpy().transpose(1, 2, 0), image)
    assert item['prior'].size == item['lq'].shape[1:]


@pytest.fixture
def copy(photographs: Path, tmp_path: Path) -> Path:
    shutil.copytree(photographs, tmp_path / 'set')
    return tmp_path / 'set'


def test_every_mistake_names_its_file(copy: Path):
    def fails(match: str, index: int | None = None, **changes) -> None:
        with pytest.raises(UserError, match=match):
            dataset = build_dataset(_options(copy, **changes))
            dataset[index if index is not None else 0]

    fails('dataroot_gt and dataroot_lq are one folder', dataroot_gt=str(copy / 'LRx4'))
    fails('no such folder', dataroot_lq=str(copy / 'nowhere'))
    fails('no prior store here', dataroot_prior=str(copy / 'GTx4'))
    fails('must be a multiple of the scale 4', gt_size=63)
    fails('is smaller than a training crop of 64', gt_size=256)
    fails('io_backend is lmdb, but', io_backend={'type': 'lmdb'})
    fails("takes no 'gt_sise'; did you mean 'gt_size'", gt_sise=4)
    fails(r"no LQ image 'astronautx4' for GT .*astronaut\.png", filename_tmpl='{}x4')
    fails(r'astronaut\.png: GT is 128x160, but LQ .* at scale 3 wants 96x120', scale=3, gt_size=48)
    extra = photograph('camera.png', 32, 32)
    write_png(copy / 'LRx4' / 'zebra.png', extra)
    fails(r'no GT image for LQ .*zebra\.png \(4 GT and 5 LQ images\)')
    write_png(copy / 'GTx4' / 'zebra.png', extra.repeat(4, axis=0).repeat(4, axis=1))
    fails("no prior of 'zebra'; run sptsr prior extract again")
    (copy / 'GTx4' / 'zebra.png').unlink()
    (copy / 'LRx4' / 'zebra.png').unlink()
    write_png(copy / 'LRx4' / 'astronaut.png', ImageFolder(copy / 'LRx4').read('astronaut')[::-1])
    fails(r'\[astronaut\]: the prior was made from another image')
    (copy / 'GTx4' / 'rocket.png').write_bytes(b'')
    fails(r'rocket\.png: the file is empty', index=3)


def test_an_lmdb_takes_the_priors_of_its_images(photographs: Path, tmp_path: Path):
    """The digest is of pixels, so a prior made from PNGs belongs to the LMDB copy as well."""
    prepare(ImageFolder(photographs / 'raw'), tmp_path, 4, as_lmdb=True)
    options = {'dataroot_gt': str(tmp_path / 'GTx4.lmdb'), 'dataroot_lq': str(tmp_path / 'LRx4.lmdb')}
    from_lmdb = build_dataset(_options(photographs, **options, io_backend={'type': 'lmdb'}))
    from_disk = build_dataset(_options(photographs))
    for n in range(4):
        left, right = from_lmdb[SeededIndex(n, n)], from_disk[SeededIndex(n, n)]
        assert torch.equal(left['gt'], right['gt'])
        assert np.array_equal(left['prior'].decode(), right['prior'].decode())


def test_meta_info_and_templates_choose_pairs(copy: Path):
    for path in sorted((copy / 'LRx4').iterdir()):
        path.rename(path.with_name(f'{path.stem}_lr.png'))
    (copy / 'meta.txt').write_text('rocket.png (128,128,3)\ncoffee.png (160,128,3)\n')
    dataset = build_dataset(
        _options(copy, dataroot_prior=None, filename_tmpl='{}_lr', meta_info_file=str(copy / 'meta.txt'), phase='val')
    )
    assert [dataset[n]['key'] for n in range(len(dataset))] == ['coffee_lr', 'rocket_lr']
    assert dataset[0]['prior'] is None
