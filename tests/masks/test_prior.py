import numpy as np
import pytest
import torch

from sptsr.core.errors import UserError
from sptsr.masks.batch import PriorBatch
from sptsr.masks.prior import Prior
from sptsr.masks.regions import Regions, unique_of_map


def _masks(count: int, height: int = 37, width: int = 53, seed: int = 0) -> np.ndarray:
    """Overlapping ellipses of many sizes, largest first."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    masks = []
    for _ in range(count):
        cy, cx, ry, rx = rng.uniform([0, 0, 2, 2], [height, width, height / 2, width / 2])
        masks.append(((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1)
    masks = np.array([m for m in masks if m.any()])
    return masks[np.argsort(-masks.sum((1, 2)), kind='stable')]


@pytest.mark.parametrize('count', [1, 7, 8, 9, 63, 64])
def test_encode_decode_is_exact_and_bytes_too(count):
    masks = _masks(count)
    prior = Prior.encode(masks)
    assert prior.count == len(masks)
    assert np.array_equal(prior.decode(), masks)
    again = Prior.from_bytes(prior.to_bytes())
    assert np.array_equal(again.decode(), masks)
    assert again.index.dtype == np.uint16
    assert np.array_equal(prior.areas(), masks.sum((1, 2)))
    assert prior.coverage() == pytest.approx(masks.any(0).mean())


def test_values_of_a_map_are_those_of_numpy():
    maps = [np.zeros(7, np.uint64), np.arange(5)[::-1], np.repeat([5, 2, 5, 9], [3, 1, 4, 2]), np.zeros(0, np.int64)]
    packed = np.ascontiguousarray(np.packbits(_masks(20).reshape(20, -1), axis=0).T)
    for values in [*maps, packed.view(f'V{packed.shape[1]}').ravel()]:
        unique, inverse = unique_of_map(values)
        wanted, wanted_inverse = np.unique(values, return_inverse=True)
        assert np.array_equal(unique, wanted)
        assert np.array_equal(inverse, wanted_inverse.reshape(-1))
        assert np.array_equal(unique[inverse], values)


def test_the_64th_mask_does_not_overflow():
    masks = np.zeros((64, 8, 8), bool)
    for n in range(64):
        masks[n].flat[: 64 - n] = True
    prior = Prior.encode(masks)
    assert prior.palette.max() >= 1 << 63
    assert np.array_equal(prior.decode(), masks)
    dense = PriorBatch.of([prior]).expand(64)[0].numpy()
    assert np.array_equal(dense, masks.astype(np.float32))


def test_encode_orders_by_area_drops_empty_and_keeps_the_largest():
    masks = np.zeros((4, 6, 6), bool)
    masks[0, 0, 0] = masks[2, :5] = masks[3, :2] = True
    prior = Prior.encode(masks, max_masks=2)
    assert prior.areas().tolist() == [30, 12]


def test_no_masks_at_all():
    prior = Prior.from_bytes(Prior.encode(np.zeros((0, 5, 4), bool)).to_bytes())
    assert (prior.count, prior.size, prior.coverage()) == (0, (5, 4), 0.0)
    assert PriorBatch.of([prior]).expand(3).sum() == 0


@pytest.mark.parametrize(('palette', 'shape', 'count'), [([1, 4], (2, 3), 2), ([1], (0, 3), 1)])
def test_codes_of_masks_that_are_not_there_and_empty_grids_are_damage(
    palette: list[int], shape: tuple[int, int], count: int
):
    content = Prior(np.array(palette, np.uint64), np.zeros(shape, np.uint16), count).to_bytes()
    with pytest.raises(UserError, match='damaged entry'):
        Prior.from_bytes(content)


def test_geometry_acts_as_on_the_masks():
    masks = _masks(20)
    prior = Prior.encode(masks)
    for got, want in (
        (prior.crop(3, 5, 20, 11), masks[:, 3:23, 5:16]),
        (prior.flip(0), masks[:, ::-1]),
        (prior.flip(1), masks[:, :, ::-1]),
        (prior.transpose(), masks.transpose(0, 2, 1)),
        (prior.rotate(), np.rot90(masks, axes=(1, 2))),
        (prior.rotate(3), np.rot90(masks, 3, axes=(1, 2))),
        (prior.flip(1).transpose().crop(0, 0, 9, 9), masks[:, :, ::-1].transpose(0, 2, 1)[:, :9, :9]),
    ):
        assert np.array_equal(got.decode(), want)
        assert np.array_equal(Prior.from_bytes(got.to_bytes()).decode(), want)  # views are written right
    with pytest.raises(ValueError, match='leaves'):
        prior.crop(30, 0, 20, 5)


@pytest.mark.parametrize('device', ['cpu', pytest.param('cuda', marks=pytest.mark.cuda)])
def test_a_batch_expands_to_the_dense_masks(device):
    sets = [_masks(64, seed=1), _masks(5, seed=2), _masks(30, seed=3)]
    batch = PriorBatch.of([Prior.encode(m) for m in sets]).to(device)
    dense = batch.expand(32).cpu()
    assert dense.shape == (3, 32, 37, 53)
    for got, masks in zip(dense, sets, strict=True):
        want = np.zeros((32, 37, 53), np.float32)
        want[: min(32, len(masks))] = masks[:32]
        assert np.array_equal(got.numpy(), want)
    assert batch.expand(4, torch.bfloat16).dtype == torch.bfloat16


def test_a_batch_of_other_sizes_is_refused():
    with pytest.raises(ValueError, match='one size'):
        PriorBatch.of([Prior.encode(_masks(3)), Prior.encode(_masks(3, height=9))])


def test_many_codes_take_wide_indices():
    rng = np.random.default_rng(0)
    masks = rng.random((40, 300, 300)) < 0.5
    prior = Prior.encode(masks)
    assert len(prior.palette) > 1 << 16
    assert prior.index.dtype == np.uint32
    order = np.argsort(-masks.sum((1, 2)), kind='stable')
    assert np.array_equal(Prior.from_bytes(prior.to_bytes()).decode(), masks[order])


def test_damage_never_passes_for_a_prior():
    content = Prior.encode(_masks(12)).to_bytes()
    refused = 0
    for position in range(0, len(content), 3):
        damaged = bytearray(content)
        damaged[position] ^= 0x41
        try:
            prior = Prior.from_bytes(bytes(damaged))
        except UserError:
            refused += 1
        else:  # a changed byte that zstd does not mind must not change the masks
            assert np.array_equal(prior.decode(), _masks(12))
    assert refused > len(content) // 4
    with pytest.raises(UserError):
        Prior.from_bytes(content[:-5])


def test_regions_of_label_maps_are_those_of_their_masks():
    rng = np.random.default_rng(4)
    maps = [rng.integers(0, 5, (12, 17)), rng.integers(7, 10, (12, 17))]
    regions = Regions.from_label_maps(maps, background=0)
    want = [maps[0] == v for v in (1, 2, 3, 4)] + [maps[1] == v for v in (7, 8, 9)]
    assert np.array_equal(regions.masks(), np.array(want))
    dense = Regions.from_masks(np.array(want))
    assert np.array_equal(dense.areas(), regions.areas())
    flat = np.array(want).reshape(7, -1).astype(float)
    intersection = flat @ flat.T
    union = flat.sum(1)[:, None] + flat.sum(1)[None] - intersection
    assert np.allclose(regions.iou(), intersection / union)


def test_selection_is_greedy_by_area():
    masks = np.zeros((4, 10, 10), bool)
    masks[0, :5] = True  # 50
    masks[1, :5] = True
    masks[1, 5, :1] = True  # 51, nearly the first
    masks[2, 6:] = True  # 40
    masks[3, 0, 0] = True  # 1
    regions = Regions.from_masks(masks)
    assert regions.select(64, min_area=2, max_iou=0.9).areas().tolist() == [51, 40]
    assert regions.select(64).areas().tolist() == [51, 50, 40, 1]
    assert regions.select(1).areas().tolist() == [51]
