import json
from pathlib import Path
from subprocess import CompletedProcess

import cv2
import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image, ImageOps
from pycocotools import mask as coco

from sptsr.core.errors import UserError
from sptsr.images.decode import write_png
from sptsr.images.folder import ImageFolder
from sptsr.priors.controls import FromOtherImages
from sptsr.priors.extract import build_source, extract
from sptsr.priors.sources import sam as sam_module
from tests.conftest import photograph, run_cli
from tests.priors import tiny_sam

IMAGE = photograph('astronaut.png', 24, 30)


def _labels(tmp_path: Path, **params) -> object:
    return build_source('labels', [f'dir={tmp_path}', *(f'{k}={v}' for k, v in params.items())])


def _two_maps() -> np.ndarray:
    left = np.ones((24, 30), np.int32)
    left[:, 10:] = 2
    corner = np.zeros((24, 30), np.int32)
    corner[:6, :6] = 5
    return np.stack([left, corner])


def _write(path: Path, kind: str, maps: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == 'npy':
        np.save(f'{path}.npy', maps)
    elif kind == 'mat':
        cells = np.empty((1, len(maps)), object)
        for n, labels in enumerate(maps):
            cells[0, n] = {'Segmentation': labels.astype(np.uint16)}
        scipy.io.savemat(f'{path}.mat', {'groundTruth': cells})
    elif kind == 'png folder':
        for n, labels in enumerate(maps):
            path.mkdir(exist_ok=True)
            cv2.imwrite(str(path / f'{n}.png'), labels.astype(np.uint16))
    else:
        masks = [maps[0] == 1, maps[0] == 2, maps[1] == 5]
        records = []
        for n, mask in enumerate(masks):
            rle = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
            counts: object = rle['counts'].decode()
            if kind == 'rle lists' and n == 1:
                flat = mask.T.ravel()
                edges = np.flatnonzero(np.diff(np.concatenate([[0], flat.astype(int)])))
                counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
            records.append({'segmentation': {'size': list(mask.shape), 'counts': counts}, 'area': int(mask.sum())})
        Path(f'{path}.json').write_text(json.dumps(records))


@pytest.mark.parametrize('kind', ['npy', 'mat', 'png folder', 'rle', 'rle lists'])
@pytest.mark.parametrize('scale', [1, 3])
def test_every_label_format_gives_the_same_masks(tmp_path: Path, kind: str, scale: int):
    maps = np.repeat(np.repeat(_two_maps(), scale, axis=1), scale, axis=2)
    maps = np.pad(maps, ((0, 0), (0, scale - 1), (0, scale - 1)), mode='edge')  # what mod-crop will cut
    _write(tmp_path / 'sub' / 'a.0', kind, maps)
    prior = _labels(tmp_path)(IMAGE, 'sub/a.0', 64)
    expected = [_two_maps()[0] == 2, _two_maps()[0] == 1, _two_maps()[1] == 5]
    assert np.array_equal(prior.decode(), np.array(expected))


def test_background_and_majority(tmp_path: Path):
    maps = np.zeros((48, 60), np.int32)
    maps[:25] = 3  # row 12 of the LQ image is half covered, at 2x
    np.save(tmp_path / 'a.npy', maps)
    assert _labels(tmp_path)(IMAGE, 'a', 64).areas().tolist() == [13 * 30]
    assert _labels(tmp_path, background=-1)(IMAGE, 'a', 64).areas().tolist() == [13 * 30, 12 * 30]


def test_label_mistakes_are_named(tmp_path: Path):
    np.save(tmp_path / 'a.npy', np.ones((24, 40), np.int32))
    source = _labels(tmp_path)
    with pytest.raises(UserError, match=r"no labels for 'b'"):
        source.check(['a', 'b'])
    with pytest.raises(UserError, match=r'a\.npy: labels of 24x40 do not belong to an image of 24x30'):
        source(IMAGE, 'a', 64)
    (tmp_path / 'c.json').write_text('{"annotations": [{"segmentation": [[1, 2]]}]}')
    (tmp_path / 'd.mat').write_bytes(b'junk')
    np.save(tmp_path / 'e.npy', np.ones((24, 30)))
    source = _labels(tmp_path)
    for key in 'cde':
        with pytest.raises(UserError, match=rf'{key}\.(json|mat|npy)'):
            source(IMAGE, key, 64)
    with pytest.raises(UserError, match='no such folder'):
        build_source('labels', ['dir=/nowhere'])
    with pytest.raises(UserError, match="takes no 'dirr'; did you mean 'dir'"):
        build_source('labels', ['dirr=x'])
    with pytest.raises(UserError, match="needs 'dir'"):
        build_source('labels')
    with pytest.raises(UserError, match="no source is called 'label'; did you mean 'labels'"):
        build_source('label')


def test_names_map_images_to_labels(tmp_path: Path):
    _write(tmp_path / 'val' / '3096', 'npy', _two_maps())
    (tmp_path / 'names.json').write_text(json.dumps({'img_001.png': '3096'}))
    source = _labels(tmp_path / 'val', names=tmp_path / 'names.json')
    assert source(IMAGE, 'img_001', 64).count == 3


def test_names_with_dots_are_whole_names(tmp_path: Path):
    for name in ('img.v2', 'img.v3'):
        np.save(tmp_path / f'{name}.npy', np.ones((24, 30), np.int32) * (name == 'img.v3'))
    (tmp_path / 'names.json').write_text('{"a.0": "img.v2", "a.1": "img.v3", "b.png": "img.v3.npy"}')
    source = _labels(tmp_path, names=tmp_path / 'names.json')
    assert [source(IMAGE, key, 64).count for key in ('a.0', 'a.1', 'b')] == [0, 1, 1]


def test_labels_are_turned_as_images_are(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6
    labels = np.zeros((30, 24), np.uint8)
    labels[:10] = 1
    Image.fromarray(labels).save(tmp_path / 'a.png', exif=exif)
    mask = _labels(tmp_path)(IMAGE, 'a', 64).decode()[0]
    assert np.array_equal(mask, ImageOps.exif_transpose(Image.open(tmp_path / 'a.png')))
    assert 0 < mask.mean() < 1


def test_masks_of_other_labels_are_not_kept(tmp_path: Path):
    images, labels = tmp_path / 'images', tmp_path / 'labels'
    write_png(images / 'a.png', IMAGE)
    labels.mkdir()

    def extracted(*more: str) -> CompletedProcess[str]:
        words = ('-i', images, '-o', tmp_path / 'store', '--source', 'labels', '--set', f'dir={labels}')
        return run_cli('prior', 'extract', *words, *more)

    np.save(labels / 'a.npy', np.ones((24, 30), np.int32))
    assert '1 priors made' in extracted().stdout
    assert '1 were there' in extracted().stdout
    np.save(labels / 'a.npy', np.tri(24, 30, dtype=np.int32))
    done = extracted()
    assert done.returncode == 2
    assert 'store[a]: its labels, or its GT, changed since its prior was stored; extract into a new' in done.stderr


def test_masks_of_another_gt_are_not_kept(tmp_path: Path):
    write_png(tmp_path / 'lq' / 'a.png', IMAGE)
    write_png(tmp_path / 'gt' / 'a.png', photograph('coffee.png', *(2 * side for side in IMAGE.shape[:2])))
    images, source = ImageFolder(tmp_path / 'lq'), build_source('felzenszwalb')
    oracle = FromOtherImages(source, ImageFolder(tmp_path / 'gt'))
    assert extract(images, tmp_path / 'store', oracle).made == 1
    assert extract(images, tmp_path / 'store', oracle).kept == 1
    write_png(tmp_path / 'gt' / 'a.png', photograph('chelsea.png', *(2 * side for side in IMAGE.shape[:2])))
    with pytest.raises(UserError, match=r'store\[a\]: its labels, or its GT, changed'):
        extract(images, tmp_path / 'store', oracle)


def test_felzenszwalb_is_deterministic_ordered_and_deduplicated():
    source = build_source('felzenszwalb', ['min_size=8'])
    image = photograph('coffee.png', 80, 120)
    prior = source(image, 'x', 64)
    again = build_source('felzenszwalb', ['min_size=8'])(image, 'x', 64)
    assert prior.to_bytes() == again.to_bytes()
    areas = prior.areas()
    assert 10 < prior.count <= 64
    assert (np.diff(areas) <= 0).all()
    assert areas.min() >= 8
    masks = prior.decode().reshape(prior.count, -1).astype(float)
    inter = masks @ masks.T
    iou = inter / (areas[:, None] + areas[None] - inter)
    assert (iou - np.eye(prior.count)).max() <= 0.9


@pytest.mark.parametrize('shape', [(1, 1), (1, 40), (40, 1), (2, 2), (3, 100)])
def test_felzenszwalb_takes_tiny_images(shape):
    prior = build_source('felzenszwalb')(photograph('coffee.png', 100, 100)[: shape[0], : shape[1]], 'x', 64)
    assert prior.size == shape


def test_sam_gives_the_official_generators_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from segment_anything import SamAutomaticMaskGenerator

    model = tiny_sam.build()
    checkpoint = tmp_path / 'sam.pth'
    torch.save(model.state_dict(), checkpoint)
    monkeypatch.setattr(sam_module, 'load_sam', lambda path, model_type='auto': (model, 'vit_b'))
    thresholds = {'points_per_side': 6, 'pred_iou_thresh': -10.0, 'stability_score_thresh': 0.0, 'box_nms_thresh': 1.0}
    source = build_source('sam', [f'checkpoint={checkpoint}', *(f'{k}={v}' for k, v in thresholds.items())])
    image = photograph('coffee.png', 40, 60)
    prior = source(image, 'x', 64)
    official = SamAutomaticMaskGenerator(model, **thresholds).generate(image)
    masks = np.array(sorted((r['segmentation'] for r in official), key=lambda m: -m.sum()))
    masks = masks[masks.any((1, 2))][:64]
    assert len(masks) > 10
    assert np.array_equal(prior.decode(), masks)
    assert len(source.weights_sha256) == 64


def test_sam_checkpoints_of_the_wrong_kind_are_named(tmp_path: Path):
    (tmp_path / 'cut.pth').write_bytes(b'PK\x03\x04 half')
    torch.save({'weight': torch.zeros(1)}, tmp_path / 'other.pth')
    torch.save({'image_encoder.pos_embed': torch.zeros(1, 64, 64, 768)}, tmp_path / 'vit_b.pth')
    for name, match in (
        ('cut', 'not readable as weights'),
        ('other', 'not a checkpoint of segment_anything'),
        ('vit_b', 'is vit_b, not vit_h'),
        ('none', 'cannot read it'),
    ):
        with pytest.raises(UserError, match=match):
            build_source('sam', [f'checkpoint={tmp_path / name}.pth', 'model_type=vit_h'])


@pytest.mark.data
def test_human_labels_of_b100_lie_on_their_images(real_data: Path):
    """The regions explain the colours: variance inside them is far below the image's, and below shifted ones'."""
    images = ImageFolder(real_data / 'sr' / 'BSD100' / 'LRx4')
    source = build_source(
        'labels', [f'dir={real_data}/bsds500/segmentations', f'names={real_data}/bsds500_of_b100.json']
    )
    better = 0
    for key in images.keys[:10]:
        image = images.read(key)
        index = source(image, key, 64).index
        gray = image.mean(axis=2)

        def within(labels: np.ndarray, gray: np.ndarray = gray) -> float:
            sums, counts = np.bincount(labels.ravel(), gray.ravel()), np.bincount(labels.ravel())
            means = sums / np.maximum(counts, 1)
            return float(((gray - means[labels]) ** 2).mean())

        better += within(index) < within(np.roll(index, (9, 13), axis=(0, 1)))
    assert better == 10


def test_linked_folders_of_labels_are_followed_and_hidden_files_passed_over(tmp_path: Path):
    elsewhere, labels = tmp_path / 'elsewhere', tmp_path / 'labels'
    elsewhere.mkdir()
    labels.mkdir()
    halves = np.repeat(np.array([[1, 2]], np.uint8), 15, 1).repeat(25, 0)
    cv2.imwrite(str(elsewhere / 'a.png'), halves)
    (labels / 'sub').symlink_to(elsewhere)
    (elsewhere / '.labels').symlink_to(labels)
    (elsewhere / '._a.png').write_bytes(b'of a Mac')
    (labels / 'again').symlink_to(labels)
    source = _labels(labels)
    assert source.files.keys() == {'sub/a', 'sub'}
