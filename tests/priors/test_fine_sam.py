"""Masks of SAM on a grid finer than the image: the official generator's masks, their logits enlarged further."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sptsr.core.errors import UserError
from sptsr.images.decode import write_png
from sptsr.images.folder import ImageFolder
from sptsr.priors.extract import build_source, extract
from sptsr.priors.sources import sam as sam_module
from sptsr.priors.sources.generator import Frame, make_prior
from sptsr.priors.sources.grid import GridSettings
from sptsr.priors.sources.segmenters import OfficialSam
from sptsr.priors.store import PriorStore
from tests.conftest import photograph, run_cli
from tests.priors import tiny_sam
from tests.priors.test_generator import THRESHOLDS


@pytest.fixture(scope='module')
def model():
    return tiny_sam.official()


def _reference(logits: Tensor, frame: Frame) -> np.ndarray:
    """As `Sam.postprocess_masks`, to the size of the fine grid."""
    high, wide = frame.input_size
    sides = (tiny_sam.SIDE, tiny_sam.SIDE)
    whole = F.interpolate(logits.float()[None], sides, mode='bilinear', align_corners=False)
    return F.interpolate(whole[..., :high, :wide], frame.size, mode='bilinear', align_corners=False)[0, 0].numpy() > 0


@pytest.mark.parametrize('fine', [2, 3, 4])
@pytest.mark.parametrize('size', [(40, 60), (150, 200), (1, 40)])
def test_the_same_masks_on_a_finer_grid(model, size: tuple[int, int], fine: int, monkeypatch: pytest.MonkeyPatch):
    image = photograph('coffee.png', *size)
    segmenter, settings = OfficialSam(model), GridSettings(**THRESHOLDS)
    coarse = make_prior(segmenter, image, settings, 64)
    shown: list[np.ndarray] = []
    enlarge = OfficialSam.upsample

    def noting(self, logits: Tensor, frame: Frame) -> Tensor:
        if frame.size == (fine * size[0], fine * size[1]):
            shown.append(_reference(logits, frame))
        return enlarge(self, logits, frame)

    monkeypatch.setattr(OfficialSam, 'upsample', noting)
    prior = make_prior(segmenter, image, settings, 64, fine=fine)
    assert prior.fine == fine
    assert prior.size == size
    assert prior.index.shape == (fine * size[0], fine * size[1])
    assert prior.count == coarse.count == len(shown)
    masks = prior.decode()
    areas = masks.sum(axis=(1, 2))
    assert (np.diff(areas) <= 0).all()
    shown.sort(key=lambda mask: -mask.sum())  # stable
    assert np.mean(masks != np.stack(shown)) < 1e-4  # sums of floats in another order
    if size == (150, 200):
        blocks = masks.reshape(len(masks), size[0], fine, size[1], fine).mean(axis=(2, 4)) >= 0.5
        union = (blocks | coarse.decode()).sum(axis=(1, 2))
        assert np.median((blocks & coarse.decode()).sum(axis=(1, 2)) / union) > 0.9


def test_crops_and_cleaned_masks_lie_on_that_grid_too(model):
    image = photograph('chelsea.png', 90, 130)
    for changes in ({'crop_n_layers': 1}, {'min_mask_region_area': 30}):
        settings = GridSettings(**{**THRESHOLDS, **changes})
        coarse = make_prior(OfficialSam(model), image, settings, 64)
        fine = make_prior(OfficialSam(model), image, settings, 64, fine=2)
        assert abs(coarse.count - fine.count) <= 2
        assert coarse.count > 3
        areas = fine.areas() / 4
        assert areas[:3] == pytest.approx(coarse.areas()[:3], rel=0.05)
    none = make_prior(OfficialSam(model), image, GridSettings(pred_iou_thresh=5.0), 64, fine=2)
    assert (none.count, none.fine, none.size) == (0, 2, (90, 130))


def test_store_and_bound_of_the_side(model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    torch.save(model.state_dict(), tmp_path / 'sam.pth')
    monkeypatch.setattr(sam_module, 'load_sam', lambda path, model_type='auto': (model, 'vit_b'))
    given = [f'checkpoint={tmp_path / "sam.pth"}', *(f'{k}={v}' for k, v in THRESHOLDS.items())]
    write_png(tmp_path / 'in' / 'a.png', photograph('coffee.png', 96, 128))
    images = ImageFolder(tmp_path / 'in')
    for more, side in (([], 128), (['max_side=64'], 64)):
        source = build_source('sam', [*given, *more, 'fine=2'])
        assert source.params['fine'] == 2
        extract(images, tmp_path / f'store{side}', source)
        store = PriorStore(tmp_path / f'store{side}')
        assert store.header.fine == 2
        prior = store.get('a', images.read('a'))
        assert prior.fine == 2
        assert prior.index.shape == (192, 256)
        assert prior.count > 3
    with pytest.raises(UserError, match=r'sam: fine=5 must be a number in 1\.\.4'):
        build_source('sam', [*given, 'fine=5'])
    assert 'fine' not in build_source('sam', given).params  # stores of before go on


def test_the_command_makes_them(model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    torch.save(model.state_dict(), tmp_path / 'sam.pth')
    monkeypatch.setattr(sam_module, 'load_sam', lambda path, model_type='auto': (model, 'vit_b'))
    write_png(tmp_path / 'in' / 'a.png', photograph('coffee.png', 24, 32))
    done = run_cli(
        *('prior', 'extract', '-i', tmp_path / 'in', '-o', tmp_path / 'out', '--source', 'sam', '--fine', 4),
        *('--set', f'checkpoint={tmp_path / "sam.pth"}', *(f'{k}={v}' for k, v in THRESHOLDS.items())),
    )
    assert done.returncode == 0, done.stderr
    prior = PriorStore(tmp_path / 'out').get('a')
    assert (prior.fine, prior.index.shape) == (4, (96, 128))
    assert prior.count > 0
