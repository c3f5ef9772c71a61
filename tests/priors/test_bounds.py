"""Labels that are none, labels of an uncut image, runs that lie, and parameters outside their ranges."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io

from sptsr.core.errors import UserError
from sptsr.priors.extract import build_source
from sptsr.priors.sources.sam import _settings
from tests.conftest import photograph, run_cli


def _labels(root: Path, key: str, image: np.ndarray, **params: object):
    return build_source('labels', [f'dir={root}', *(f'{k}={v}' for k, v in params.items())])(image, key, 64)


@pytest.mark.parametrize('what', ['values', 'photograph'])
def test_labels_of_too_many_values_end_in_one_line(tmp_path: Path, what: str):
    image = photograph('astronaut.png', 300, 320)
    if what == 'values':
        np.save(tmp_path / 'a.npy', np.arange(300 * 320).reshape(300, 320) % 70_000)
        count = 70_000
    else:
        cv2.imwrite(str(tmp_path / 'a.png'), image)
        count = len(np.unique(image.reshape(-1, 3), axis=0))
    with pytest.raises(UserError, match=rf'a\.\w+: {count} regions, at most \d+ of this size are read'):
        _labels(tmp_path, 'a', image)


def test_no_mask_found_is_an_empty_prior(tmp_path: Path):
    image = photograph('astronaut.png', 24, 30)
    (tmp_path / 'a').mkdir()
    (tmp_path / 'a' / 'metadata.csv').write_text('id,area,bbox_x0\n')
    np.save(tmp_path / 'b.npy', np.zeros((0, 24, 30), np.int32))
    (tmp_path / 'c.json').write_text('[]')
    for key in 'abc':
        prior = _labels(tmp_path, key, image)
        assert (prior.count, prior.size) == (0, (24, 30))


@pytest.mark.parametrize(
    ('full', 'size'), [((321, 481), (320, 480)), ((321, 481), (315, 476)), ((321, 481), (80, 120))]
)
def test_labels_of_the_uncut_image_are_cut_as_it_was(tmp_path: Path, full, size):
    labels = np.arange(full[0])[:, None] // 100 * 10 + np.arange(full[1]) // 100 + 1
    np.save(tmp_path / 'a.npy', labels)
    prior = _labels(tmp_path, 'a', np.zeros((*size, 3), np.uint8))
    assert prior.size == size
    factor = full[0] // size[0]
    seen = prior.decode()
    assert (seen.sum(axis=0) >= 1).mean() > 0.99
    at_corner = [mask for mask in seen if mask[0, 0]]
    assert len(at_corner) == 1
    assert at_corner[0].sum() == (100 // factor) ** 2
    with pytest.raises(UserError, match='do not belong to an image'):
        _labels(tmp_path, 'a', np.zeros((300, 480, 3), np.uint8))


@pytest.mark.parametrize(
    ('size', 'counts'),
    [
        ([24, 30], [100_000, 5]),
        ([24, 30], [700, -5, 25]),
        ([24, 30], 'o' * 5000),
        ([24, 30], 'PPPPPP0000'),
        ([24, 30], [719]),
        ([100_000, 100_000], [5]),
        ([24], [24]),
        ('x', []),
    ],
)
def test_an_rle_that_lies_about_its_size_is_refused(tmp_path: Path, size, counts):
    (tmp_path / 'a.json').write_text(json.dumps([{'segmentation': {'size': size, 'counts': counts}}]))
    with pytest.raises(UserError, match=r'a\.json'):
        _labels(tmp_path, 'a', np.zeros((24, 30, 3), np.uint8))


@pytest.mark.parametrize(
    ('name', 'setting'),
    [
        *(('felzenszwalb', text) for text in ('scales=[a]', 'scales=[]', 'scales=[.inf]', 'scales=[0]')),
        *(('felzenszwalb', text) for text in ('sigma=-1', 'sigma=.inf', 'sigma=1000000', 'sigma=.nan', 'min_size=-3')),
        *(('felzenszwalb', text) for text in ('max_iou=2', 'min_size=99999999999999999999')),
        *(('labels', text) for text in ('scale=-1', 'background=-2', 'max_iou=.nan', 'scale=1000')),
        ('random', 'seed=-1'),
        ('random', 'seed=99999999999999999999'),
    ],
)
def test_parameters_outside_their_range_end_in_one_line(photographs: Path, tmp_path: Path, name: str, setting: str):
    given = {'labels': [f'dir={photographs}'], 'random': [f'like={photographs}/prior']}.get(name, [])
    done = run_cli(
        'prior',
        'extract',
        '-i',
        photographs / 'LRx4',
        '-o',
        tmp_path / 's',
        '--source',
        name,
        '--set',
        *(*given, setting),
    )
    assert done.returncode == 2, done.stderr
    assert setting.split('=')[0] in done.stderr
    assert 'Traceback' not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 6
    assert not (tmp_path / 's').exists()


@pytest.mark.parametrize(
    'wrong',
    [
        {'points_per_side': 0},
        {'points_per_side': 100_000},
        {'points_per_batch': 0},
        {'pred_iou_thresh': float('nan')},
        {'stability_score_thresh': float('inf')},
        {'box_nms_thresh': -0.1},
        {'crop_n_layers': 9},
        {'crop_n_points_downscale_factor': 0},
        {'min_mask_region_area': -1},
    ],
)
def test_the_grid_of_sam_is_bounded(wrong: dict):
    (name,) = wrong
    with pytest.raises(UserError, match=rf'{name}=.* must be a number in'):
        _settings(wrong)


def _mat(path: Path, segmentation: np.ndarray) -> None:
    entry = np.zeros((1, 1), [('Segmentation', object)])
    entry[0, 0] = (segmentation,)
    cell = np.empty((1, 1), object)
    cell[0, 0] = entry
    scipy.io.savemat(path, {'groundTruth': cell}, do_compression=True)


def test_a_matlab_file_is_bounded_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    image = photograph('astronaut.png', 24, 30)
    _mat(tmp_path / 'a.mat', np.arange(24 * 30, dtype=np.uint16).reshape(24, 30) // 90 + 1)
    assert _labels(tmp_path, 'a', image).count == 8
    monkeypatch.setenv('SPTSR_MAX_PIXELS', '700')
    with pytest.raises(UserError, match=r'a\.mat: 24x30 \(height x width\) are more than 700 pixels'):
        _labels(tmp_path, 'a', image)
    _mat(tmp_path / 'b.mat', np.zeros((6000, 6000), np.uint16))
    assert (tmp_path / 'b.mat').stat().st_size < 100_000
    monkeypatch.setattr(scipy.io, 'loadmat', pytest.fail)
    with pytest.raises(UserError, match=r'b\.mat: unpacks to more than 67108864 bytes'):
        _labels(tmp_path, 'b', image)
