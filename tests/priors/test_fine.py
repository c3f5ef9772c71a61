"""Masks on a grid finer than the image's, on their whole way from labels to the restored image."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from basicsr.data import build_dataset

import sptsr
from sptsr.archs.geometry import MAPS, GeometryStem
from sptsr.archs.spt_arch import SPTNet
from sptsr.core.errors import UserError
from sptsr.data.loader import SeededIndex
from sptsr.images.decode import write_png
from sptsr.images.folder import ImageFolder
from sptsr.images.prepare import prepare
from sptsr.masks.batch import PriorBatch
from sptsr.masks.prior import Prior
from sptsr.priors.controls import shuffle
from sptsr.priors.extract import build_source, extract
from sptsr.priors.likeness import likeness_of
from sptsr.priors.store import PriorStore, PriorWriter
from sptsr.report.pictures import mask_overlay, show_prior
from sptsr.restoring.restorer import OVERLAP
from sptsr.restoring.tiling import cuts, restore_padded, restore_tiled
from tests.conftest import photograph, run_cli

SIZE = (125, 163)  # of the labels; the images are cut to 124 x 160
KEYS = ['chelsea', 'coffee']


@pytest.fixture(scope='module')
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`GTx4`, `LRx4`, `labels` of the uncut photographs, and `fine`, their store on the grid of the GTs."""
    root = tmp_path_factory.mktemp('fine')
    felzenszwalb = build_source('felzenszwalb', ['scales=[100]'])
    for key in KEYS:
        image = photograph(f'{key}.png', *SIZE)
        write_png(root / 'raw' / f'{key}.png', image)
        regions = felzenszwalb(image, key, 64)
        (root / 'labels').mkdir(exist_ok=True)
        cv2.imwrite(str(root / 'labels' / f'{key}.png'), regions.index.astype(np.uint16) + 1)
    prepare(ImageFolder(root / 'raw'), root, 4, mod_crop=True)
    done = run_cli(
        *('prior', 'extract', '-i', root / 'LRx4', '-o', root / 'fine'),
        *('--source', 'labels', '--set', f'dir={root / "labels"}', '--fine', 4),
    )
    assert done.returncode == 0, done.stderr
    return root


def _nine_times(prior: Prior) -> Prior:
    """Returns the prior of an image that is repeated three times each way, large enough to be cut into tiles."""
    return replace(prior, index=np.tile(prior.index, (3, 3)))


def _labels(sets: Path, *more: str) -> object:
    return build_source('labels', [f'dir={sets / "labels"}', *more])


def test_labels_of_the_uncut_image_lie_on_the_grid_of_the_gt(sets: Path):
    store, images = PriorStore(sets / 'fine'), ImageFolder(sets / 'LRx4')
    assert store.header.fine == 4
    for key in KEYS:
        prior = store.get(key, images.read(key))
        assert (prior.size, prior.fine, prior.index.shape) == ((31, 40), 4, (124, 160))
        expected = cv2.imread(str(sets / 'labels' / f'{key}.png'), cv2.IMREAD_UNCHANGED)[:124, :160]
        edges = expected[:, 1:] != expected[:, :-1]
        codes = prior.palette[prior.index]
        found = codes[:, 1:] != codes[:, :-1]
        assert not (found & ~edges).any()
        assert found.sum() > 0.9 * edges.sum()  # small regions beyond the 64 are left out
    assert '4 times as fine' in run_cli('prior', 'info', sets / 'fine').stdout
    assert run_cli('prior', 'verify', sets / 'fine', '-i', sets / 'LRx4').returncode == 0


def test_a_store_takes_priors_on_one_grid(sets: Path, tmp_path: Path):
    images = ImageFolder(sets / 'LRx4')
    with pytest.raises(UserError, match='priors made otherwise .*fine: '):
        extract(images, sets / 'fine', _labels(sets, 'fine=2'))
    with pytest.raises(UserError, match="source felzenszwalb takes no 'fine'"):
        build_source('felzenszwalb', ['fine=2'])
    with pytest.raises(UserError, match='must be a whole number in 1..4, got 5'):
        _labels(sets, 'fine=5')
    with pytest.raises(UserError, match='scale=3 is not a multiple of fine=2'):
        _labels(sets, 'fine=2', 'scale=3')
    write_png(tmp_path / 'large' / 'coffee.png', photograph('coffee.png', 124, 160))
    with pytest.raises(UserError, match='labels of 125x163 do not belong to an image of 248x320'):
        extract(ImageFolder(tmp_path / 'large'), tmp_path / 'store', _labels(sets, 'fine=2'))
    assert not (tmp_path / 'store').exists()
    image = images.read('coffee')
    with PriorWriter(tmp_path / 'plain', _labels(sets).header(64)) as writer:
        with pytest.raises(ValueError, match='a prior 4 times as fine, in a store of 1 times'):
            writer.put('coffee', image, PriorStore(sets / 'fine').get('coffee'))


def test_stored_priors_are_what_they_were(sets: Path):
    prior = PriorStore(sets / 'fine').get('coffee')
    again = Prior.from_bytes(prior.to_bytes())
    assert again.fine == 4
    assert np.array_equal(again.index, prior.index)
    coarse = prior.at(1)
    assert Prior.from_bytes(coarse.to_bytes()).fine == 1
    with pytest.raises(UserError, match='no grid is like this'):
        Prior.from_bytes(replace(coarse, fine=3).to_bytes())  # 31 x 40 pixels


def test_priors_move_with_their_image(sets: Path):
    prior = PriorStore(sets / 'fine').get('coffee')
    dense = prior.decode()
    cut = prior.crop(3, 5, 10, 20)
    assert cut.size == (10, 20)
    assert np.array_equal(cut.decode(), dense[:, 12:52, 20:100])
    assert np.array_equal(prior.flip(1).decode(), dense[:, :, ::-1])
    assert np.array_equal(prior.rotate().decode(), np.rot90(dense, axes=(1, 2)))
    assert prior.transpose().size == (40, 31)
    other = prior.resized(20, 30)
    assert (other.size, other.fine, other.index.shape) == ((20, 30), 4, (80, 120))
    assert prior.coverage() == pytest.approx(prior.at(1).coverage(), abs=0.05)


def test_one_rule_leads_from_grid_to_grid(sets: Path):
    """A pixel is inside what the pixel under its middle is inside; between pixels, the lower right one."""
    prior = PriorStore(sets / 'fine').get('coffee')
    assert np.array_equal(prior.at(1).index, prior.index[2::4, 2::4])
    assert np.array_equal(prior.at(2).index, prior.index[1::2, 1::2])
    third = prior.at(1).at(3)
    assert np.array_equal(third.index, prior.at(1).index.repeat(3, 0).repeat(3, 1))
    assert np.array_equal(third.at(1).index, prior.at(1).index)
    for fine in (1, 2, 3, 4):
        batch = PriorBatch.of([prior]).at(fine)
        assert torch.equal(batch.expand(), PriorBatch.of([prior.at(fine)]).expand())
        assert batch.shape == (1, 31, 40)
    with pytest.raises(ValueError, match='equally fine'):
        PriorBatch.of([prior, prior.at(2)])


@pytest.mark.parametrize('fine', [1, 2, 3, 4])
def test_padding_reflects_the_grid_about_the_middle_of_the_last_pixel(fine: int):
    rng = np.random.default_rng(0)
    prior = Prior.encode(rng.random((3, 5 * fine, 7 * fine)) < 0.5)
    batch = PriorBatch.of([replace(prior, fine=fine)]).pad(right=3, bottom=4)
    assert batch.shape == (1, 9, 10)
    dense = batch.expand(3)[0].numpy()
    plain = prior.decode().astype(np.float32)
    assert np.array_equal(dense[:, : 5 * fine, : 7 * fine], plain)
    # the first padded pixel is the last but one, turned round
    assert np.array_equal(dense[:, : 5 * fine, 7 * fine : 8 * fine], plain[:, :, 5 * fine : 6 * fine][:, :, ::-1])
    assert np.array_equal(dense[:, 8 * fine : 9 * fine, : 7 * fine], plain[:, :fine][:, ::-1])


def test_controls_are_as_fine(sets: Path, tmp_path: Path):
    store, images = PriorStore(sets / 'fine'), ImageFolder(sets / 'LRx4')
    shuffle(store, tmp_path / 'others')
    extract(images, tmp_path / 'random', build_source('random', [f'like={sets / "fine"}']))
    for name in ('others', 'random'):
        control = PriorStore(tmp_path / name)
        assert control.header.fine == 4
        for key in KEYS:
            prior = control.get(key, images.read(key))
            assert prior.index.shape == (124, 160)
            model = store.get(key if name == 'random' else KEYS[1 - KEYS.index(key)])
            shares = [p.areas()[:5] / p.index.size for p in (prior, model)]
            assert shares[0] == pytest.approx(shares[1], abs=0.02)
    done = run_cli(
        *('prior', 'extract', '-i', sets / 'LRx4', '-o', tmp_path / 'oracle', '--source', 'felzenszwalb'),
        *('--oracle', sets / 'GTx4', '--fine', 2),
    )
    assert done.returncode == 0, done.stderr
    assert PriorStore(tmp_path / 'oracle').get('coffee', images.read('coffee')).index.shape == (62, 80)


def test_likeness_and_pictures_know_the_grid(sets: Path, tmp_path: Path):
    store, images = PriorStore(sets / 'fine'), ImageFolder(sets / 'LRx4')
    prior, image = store.get('coffee'), images.read('coffee')
    same = likeness_of(prior, prior)
    assert (same.iou, same.boundary_f) == (1, 1)
    assert 0.5 < likeness_of(prior, prior.at(1)).iou_weighted < 1
    assert likeness_of(prior.at(1), prior).iou_weighted == 1  # on the coarse grid they are one
    assert mask_overlay(image, prior, 4).shape == mask_overlay(image, prior.at(1), 4).shape == (124, 160, 3)
    assert np.array_equal(mask_overlay(image, prior, 3), mask_overlay(image, prior.at(1), 3))
    edges = [(mask_overlay(image, p, 4) != 255).sum() for p in (prior, prior.at(1))]
    assert edges[0] != edges[1]
    assert Path(show_prior(images, store, 'coffee', tmp_path)).is_file()


def _net(stem: object) -> SPTNet:
    torch.manual_seed(0)
    net = SPTNet(
        {'type': 'IMDN', 'nf': 16, 'num_modules': 2, 'upscale': 4},
        unit={'type': 'RegionUnit', 'width': 4, 'stem': stem},
    ).eval()
    for name, value in net.adapter_parameters().items():
        if 'out' in name:
            torch.nn.init.normal_(value, std=0.1)
    return net


@torch.no_grad()
def test_a_stem_reads_where_in_a_pixel_masks_end(sets: Path):
    prior = PriorStore(sets / 'fine').get('coffee')
    lq = torch.from_numpy(ImageFolder(sets / 'LRx4').read('coffee')).permute(2, 0, 1)[None].float() / 255
    fine, coarse = GeometryStem(3, 64, 4, fine=4), GeometryStem(3, 64, 4)
    batch = PriorBatch.of([prior])
    maps = fine.maps(lq, batch)
    assert maps.shape == (1, 8 + 32, 31, 40)
    assert torch.equal(maps[:, :8], coarse.maps(lq, PriorBatch.of([prior.at(1)])))
    assert torch.equal(maps[:, :8], coarse.maps(lq, batch))
    dense = batch.expand()
    padded = torch.nn.functional.pad(dense, (1, 1, 1, 1), mode='replicate')
    sides = (padded[..., 1:-1, 2:], padded[..., 1:-1, :-2], padded[..., 2:, 1:-1], padded[..., :-2, 1:-1])
    changes = sum((side - dense).abs().sum(1) for side in sides)
    boundary = torch.nn.functional.pixel_shuffle(maps[:, 8:24], 4)[:, 0]
    assert torch.allclose(boundary, torch.log1p(changes), atol=1e-6)
    nearness = torch.nn.functional.pixel_shuffle(maps[:, 24:], 4)[:, 0]
    assert torch.equal(nearness == 2, changes > 0)
    crop = batch.describe(lq).crop(4, 6, 28, 36)
    inner = (slice(None), slice(None), slice(6, -6), slice(6, -6))
    assert torch.equal(fine.maps(lq[..., 4:28, 6:36], crop)[inner], maps[..., 4:28, 6:36][inner])


@torch.no_grad()
def test_networks_take_finer_masks_than_their_stems_read(sets: Path):
    prior = PriorStore(sets / 'fine').get('coffee')
    image = ImageFolder(sets / 'LRx4').read('coffee')
    for stem in ('masks', 'geometry'):
        net = _net(stem)
        assert np.array_equal(sptsr.restore(net, image, prior), sptsr.restore(net, image, prior.at(1)))
    half = _net({'type': 'geometry', 'fine': 2})
    assert not np.array_equal(sptsr.restore(half, image, prior), sptsr.restore(half, image, prior.at(1)))
    net = _net({'type': 'geometry', 'fine': 4})
    assert not np.array_equal(sptsr.restore(net, image, prior), sptsr.restore(net, image, prior.at(1)))
    whole = sptsr.restore(net, image, prior)
    large, of_large = np.tile(image, (3, 3, 1)), _nine_times(prior)
    assert cuts(*of_large.size, 24, OVERLAP, net.sizes) != of_large.size
    tiled = sptsr.restore(net, large, of_large, tile=24)
    assert np.abs(tiled.astype(int) - sptsr.restore(net, large, of_large)).max() <= 1
    turned = sptsr.restore(net, np.ascontiguousarray(image[:, ::-1]), prior.flip(1))
    assert not np.array_equal(turned[:, ::-1], whole)  # a network is not symmetric, but
    together = [
        sptsr.restore(net, i, p, self_ensemble=True) for i, p in ((image, prior), (image[:, ::-1], prior.flip(1)))
    ]
    assert np.abs(together[0].astype(int) - together[1][:, ::-1]).max() <= 1  # its self-ensemble is


def test_pairs_with_finer_masks_are_trained_and_tested(sets: Path):
    options = {'type': 'PriorPairedImageDataset', 'name': 'x', 'scale': 4, 'dataroot_prior': str(sets / 'fine')}
    options |= {'dataroot_gt': str(sets / 'GTx4'), 'dataroot_lq': str(sets / 'LRx4')}
    training = build_dataset(options | {'phase': 'train', 'gt_size': 48, 'use_hflip': True, 'use_rot': True})
    test = build_dataset(options | {'phase': 'test'})
    net = _net({'type': 'geometry', 'fine': 4})
    for seed in range(3):
        sample = training[SeededIndex(0, seed)]
        assert sample['prior'].index.shape == sample['gt'].shape[1:] == (48, 48)
        batch = PriorBatch.of([sample['prior']])
        # boundaries of the masks lie over edges of the GT, turned as it is: the segmentation was made from it
        stem = GeometryStem(3, 64, 4, fine=4)
        edge = torch.nn.functional.pixel_shuffle(stem.maps(sample['lq'][None], batch)[:, 8:24], 4)[0, 0] > 0
        gt = sample['gt'].mean(0)
        change = torch.zeros_like(gt)
        change[:, 1:] += (gt[:, 1:] - gt[:, :-1]).abs()
        change[1:] += (gt[1:] - gt[:-1]).abs()
        assert change[edge].mean() > 1.2 * change[~edge].mean()
        assert net(sample['lq'][None], batch).shape == (1, 3, 48, 48)
        described = PriorBatch.of([test[0]['prior']]).describe(test[0]['lq'][None])
        assert described.statistics is not None
        np.testing.assert_allclose(batch.statistics, described.statistics, atol=1e-6)


@torch.no_grad()
def test_padding_and_tiling_keep_the_grid(sets: Path):
    prior = _nine_times(PriorStore(sets / 'fine').get('coffee'))
    lq = torch.rand(1, 3, 93, 120)
    net = _net({'type': 'geometry', 'fine': 4})
    batch = PriorBatch.of([prior])
    whole = net(lq, batch)
    seen = []

    def forward(part, masks):
        seen.append((tuple(part.shape[-2:]), masks.shape[1:]))
        return net(part, masks)

    tiled = restore_tiled(forward, lq, batch, net.sizes, 4, 24, 24)
    assert (tiled - whole).abs().max() < 1e-3
    assert len(seen) > 6
    assert all(first == second for first, second in seen)
    restore_padded(forward, lq, batch, type(net.sizes)(16), 4)
    assert seen[-1] == ((96, 128), (96, 128))


@pytest.mark.parametrize('fine', [0, 5])
def test_a_stem_that_is_too_fine_is_refused(fine: int):
    with pytest.raises(UserError, match=f'stem geometry: fine {fine} is not in 1..4'):
        _net({'type': 'geometry', 'fine': fine})


@pytest.mark.parametrize('fine', [2, 4])
def test_a_mask_between_the_middles_of_pixels_is_no_pixels_smallest_when_flipped(fine):
    lq = torch.rand(1, 3, 30, 32, generator=torch.Generator().manual_seed(0))
    height, width = lq.shape[2:]
    masks = np.zeros((2, fine * height, fine * width), np.bool_)
    masks[0, : fine * 20] = True
    masks[1, 5 * fine + fine // 2 - 1, 6 * fine : 9 * fine] = True  # above the middles: the pixels below are taken
    whole = PriorBatch.of([replace(Prior.encode(masks), fine=fine)]).describe(lq)
    assert whole.statistics is not None
    assert whole.statistics[0, :2, 0].tolist() == [pytest.approx(20 / height), 0]
    flipped = replace(whole, index=whole.index.flip(1))
    stem, sizes = GeometryStem(3, 64, 4), [1, 1, 1, 1, 3, 1]
    maps = dict(zip(MAPS, stem.maps(lq.flip(2), flipped)[0].split(sizes), strict=True))
    assert maps['count'].max() == pytest.approx(0.8)  # it is there
    largest = replace(whole, palette=whole.palette & 1)
    expected = dict(zip(MAPS, stem.maps(lq, largest)[0].split(sizes), strict=True))
    for name in ('size', 'residual', 'spread'):
        assert torch.equal(maps[name], expected[name].flip(1))
