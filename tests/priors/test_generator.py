"""The generator loop gives the official generator's masks, for every family, size and crop layer."""

from pathlib import Path

import numpy as np
import pytest
import torch
from segment_anything import SamAutomaticMaskGenerator

from sptsr.masks.prior import Prior
from sptsr.priors.extract import build_source
from sptsr.priors.sources import sam as sam_module
from sptsr.priors.sources.generator import GridSettings, make_prior
from sptsr.priors.sources.grid import crop_boxes, point_grid
from sptsr.priors.sources.segmenters import OfficialSam
from tests.conftest import photograph
from tests.priors import tiny_sam

# height and width of an image: masks that it has at least
SIZES = {
    (40, 60): 10,
    (64, 64): 10,
    (30, 120): 4,
    (120, 30): 6,
    (150, 200): 10,
    (3, 40): 4,
    (1, 40): 40,
    (40, 1): 40,
    (1, 1): 4,
}
THRESHOLDS = {'points_per_side': 8, 'pred_iou_thresh': 0.7, 'stability_score_thresh': 0.6}


@pytest.fixture(scope='module')
def model():
    return tiny_sam.official()


def official_prior(model, image, max_masks: int = 64, **settings) -> Prior:
    records = SamAutomaticMaskGenerator(model, **settings).generate(image)
    masks = [record['segmentation'] for record in records]
    return Prior.encode(np.stack(masks) if masks else np.zeros((0, *image.shape[:2]), bool), max_masks)


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('layers', [0, 1])
def test_official_masks(model, size: tuple[int, int], layers: int):
    settings = {**THRESHOLDS, 'crop_n_layers': layers}
    image = photograph('coffee.png', *size)
    ours = make_prior(OfficialSam(model), image, GridSettings(**settings), 64)
    try:
        theirs = official_prior(model, image, **settings)
    except ValueError:  # the official crops of an image of one row are empty
        assert min(size) == 1
        assert layers == 1
        assert ours.count >= SIZES[size]
        return
    assert np.array_equal(ours.decode(), theirs.decode())  # same binary masks, same order: no difference allowed
    assert ours.count >= SIZES[size]


@pytest.mark.parametrize(
    'changes',
    [
        {'pred_iou_thresh': 0.0, 'stability_score_thresh': 0.0, 'box_nms_thresh': 1.0},  # all survive
        {'points_per_side': 5, 'points_per_batch': 7},  # batches that do not divide the grid
        {'stability_score_thresh': 0.7},
        {'pred_iou_thresh': 0.95},
        {'box_nms_thresh': 0.3},
        {'min_mask_region_area': 30},
        {'min_mask_region_area': 200, 'crop_n_layers': 1},
        {'crop_n_layers': 2, 'crop_n_points_downscale_factor': 2},
    ],
)
def test_official_masks_with_other_settings(model, changes: dict):
    settings = {**THRESHOLDS, **changes}
    image = photograph('chelsea.png', 90, 130)
    ours = make_prior(OfficialSam(model), image, GridSettings(**settings), 64)
    assert np.array_equal(ours.decode(), official_prior(model, image, **settings).decode())
    assert ours.count > 1


def test_nothing_survives(model):
    image = photograph('coffee.png', 40, 60)
    for layers in (0, 1):  # official: IndexError with crops
        prior = make_prior(OfficialSam(model), image, GridSettings(pred_iou_thresh=5.0, crop_n_layers=layers), 64)
        assert prior.count == 0
        assert prior.size == (40, 60)


def test_the_largest_masks_are_kept(model):
    image = photograph('coffee.png', 64, 64)
    all_of_them = make_prior(OfficialSam(model), image, GridSettings(**THRESHOLDS), 64)
    three = make_prior(OfficialSam(model), image, GridSettings(**THRESHOLDS), 3)
    assert np.array_equal(three.decode(), all_of_them.decode()[:3])


def test_the_source_and_batches_of_images(model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    torch.save(model.state_dict(), tmp_path / 'sam.pth')
    monkeypatch.setattr(sam_module, 'load_sam', lambda path, model_type='auto': (model, 'vit_b'))
    given = [f'checkpoint={tmp_path / "sam.pth"}', *(f'{k}={v}' for k, v in THRESHOLDS.items()), 'images_per_batch=3']
    source = build_source('sam', given)
    assert source.group == 3
    assert len(source.weights_sha256) == 64
    images = [photograph('coffee.png', 40, 60), photograph('chelsea.png', 64, 64), photograph('rocket.jpg', 30, 50)]
    together = list(source.several(images, 'abc', 64))
    for image, prior in zip(images, together, strict=True):
        assert np.array_equal(prior.decode(), source(image, 'x', 64).decode())
        assert np.array_equal(prior.decode(), official_prior(model, image, **THRESHOLDS).decode())


def test_images_beyond_the_bound_are_looked_at_smaller(model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    torch.save(model.state_dict(), tmp_path / 'sam.pth')
    monkeypatch.setattr(sam_module, 'load_sam', lambda path, model_type='auto': (model, 'vit_b'))
    given = [f'checkpoint={tmp_path / "sam.pth"}', *(f'{k}={v}' for k, v in THRESHOLDS.items()), 'max_side=64']
    source = build_source('sam', given)
    image = photograph('coffee.png', 96, 128)
    prior = source(image, 'x', 64)
    assert prior.size == (96, 128)
    assert prior.count > 3
    exact = make_prior(OfficialSam(model), image, GridSettings(**THRESHOLDS), 64)
    overlap = (prior.decode()[0] & exact.decode()[0]).sum() / (prior.decode()[0] | exact.decode()[0]).sum()
    assert overlap > 0.8


def test_grids_and_crops_are_the_official_ones():
    from segment_anything.utils.amg import build_point_grid, generate_crop_boxes

    for side in (1, 2, 7, 32):
        assert np.array_equal(point_grid(side), build_point_grid(side))
    for size in ((481, 321), (100, 100), (33, 900)):
        boxes, layers = crop_boxes(size, 2, 512 / 1500)
        theirs = generate_crop_boxes(size, 2, 512 / 1500)
        assert [list(box) for box in boxes] == theirs[0]
        assert layers == theirs[1]


@pytest.mark.cuda
@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
@pytest.mark.parametrize('compiled', [False, True])
def test_on_a_gpu(precision: str, compiled: bool):
    image = photograph('coffee.png', 90, 130)
    on_gpu = OfficialSam(tiny_sam.official(), 'cuda', precision, compiled)
    ours = make_prior(on_gpu, image, GridSettings(**THRESHOLDS), 64)
    cpu = make_prior(OfficialSam(tiny_sam.official()), image, GridSettings(**THRESHOLDS), 64)
    assert abs(ours.count - cpu.count) <= (0 if precision == 'fp32' else 5)
    if ours.count == cpu.count:
        assert (ours.decode() != cpu.decode()).mean() < 0.02
