"""The map `fine_sides` of `GeometryStem`: what the LQ image is like on each side of where masks end."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle

from sptsr.archs.geometry import FINE_MAPS, MAPS, GeometryStem
from sptsr.core.errors import UserError
from sptsr.masks.batch import PriorBatch
from tests.conftest import photograph


def _masks(height: int, width: int, fine: int, count: int = 6, batch: int = 1) -> PriorBatch:
    """Rectangles on a grid `fine` times as fine, some of which meet and some of which lie in others."""
    rng = np.random.default_rng(0)
    dense = torch.zeros(batch, count, height * fine, width * fine)
    for image in dense:
        for mask in image:
            (top, bottom), (left, right) = (
                sorted(rng.choice(side * fine + 1, 2, replace=False)) for side in (height, width)
            )
            mask[top:bottom, left:right] = 1
    masks = PriorBatch.from_masks(dense)
    masks.fine = fine
    return masks


def _lq(height: int, width: int, name: str = 'coffee.png') -> Tensor:
    return torch.from_numpy(photograph(name, height, width)).permute(2, 0, 1)[None].float() / 255


def _sides(lq: Tensor, masks: PriorBatch) -> Tensor:
    return GeometryStem(3, 64, 4, maps=['fine_sides'], fine=masks.fine).maps(lq, masks)


def _plainly(lq: Tensor, masks: PriorBatch) -> np.ndarray:
    """The map on the fine grid as the docstring of `GeometryStem` says it, from dense masks and pixel by pixel."""
    k, grey, dense = masks.fine, lq[0].double().mean(0).numpy(), masks.expand()[0].bool().numpy()
    height, width = grey.shape
    found = np.zeros((height * k, width * k))
    for y, x in np.ndindex(found.shape):
        rows, weights, alike = [], [], []
        for row in range(y // k - 2, y // k + 3):
            for column in range(x // k - 2, x // k + 3):
                near = min(max(row, 0), height - 1), min(max(column, 0), width - 1)
                distance = ((y + 0.5) / k - 0.5 - row) ** 2 + ((x + 0.5) / k - 0.5 - column) ** 2
                other = dense[:, near[0] * k + k // 2, near[1] * k + k // 2]
                rows.append(grey[near])
                weights.append(np.exp(-distance / (2 * 0.8**2)))
                alike.append(weights[-1] * np.exp(-0.7 * (dense[:, y, x] ^ other).sum()))
        found[y, x] = 25 * (np.average(rows, weights=alike) - np.average(rows, weights=weights))
    return found


@pytest.mark.parametrize('fine', [2, 3, 4])
def test_it_is_what_dense_masks_say(fine):
    lq, masks = _lq(9, 11), _masks(9, 11, fine)
    found = pixel_shuffle(_sides(lq, masks), fine)[0, 0].numpy()
    assert np.allclose(found, _plainly(lq, masks), atol=1e-4)
    assert np.abs(found).max() > 0.2


def test_where_no_mask_ends_it_is_zero():
    lq, masks = _lq(24, 30), _masks(24, 30, 4)
    found = pixel_shuffle(_sides(lq, masks), 4)[0, 0] != 0
    ends = torch.nn.functional.max_pool2d((masks.changes() > 0).float(), 23, 1, 11)[0] > 0
    assert found.any()
    assert not (found & ~ends).any()
    for count in (0, 1):
        everywhere = PriorBatch(torch.tensor([count]), torch.zeros(1, 96, 120, dtype=torch.int32), fine=4)
        assert _sides(lq, everywhere).abs().max() == 0
    assert _sides(lq[..., :1, :1], _masks(1, 1, 4)).shape == (1, 16, 1, 1)


def test_a_crop_has_that_of_the_whole_image_but_near_its_border():
    lq, masks = _lq(30, 34), _masks(30, 34, 4, count=12)
    whole, crop = _sides(lq, masks), _sides(lq[..., 5:23, 4:25], masks.crop(5, 4, 23, 25))
    inner = (..., slice(2, -2), slice(2, -2))
    assert whole[..., 5:23, 4:25][inner].abs().max() > 0.5
    assert torch.equal(crop[inner], whole[..., 5:23, 4:25][inner])
    assert not torch.equal(crop, whole[..., 5:23, 4:25])


def test_flips_move_it_along():
    lq, masks = _lq(20, 26), _masks(20, 26, 3)
    flipped = PriorBatch(masks.palette, masks.index.flip(2), fine=3)
    expected = pixel_shuffle(_sides(lq, masks), 3).flip(3)
    assert torch.allclose(pixel_shuffle(_sides(lq.flip(3), flipped), 3), expected, atol=1e-4)


def test_images_of_a_batch_do_not_touch():
    lq, masks = torch.cat([_lq(20, 26), _lq(20, 26, 'rocket.jpg')]), _masks(20, 26, 2, batch=2)
    together = _sides(lq, masks)
    assert not torch.equal(together[0], together[1])
    for n in range(2):
        assert torch.allclose(_sides(lq[n : n + 1], masks.rows(n, n + 1)), together[n : n + 1], atol=1e-6)


def test_masks_of_a_finer_grid_are_brought_to_the_stems():
    lq, masks = _lq(20, 26), _masks(20, 26, 4)
    stem = GeometryStem(3, 64, 4, maps=['fine_sides'], fine=2)
    assert torch.equal(stem.maps(lq, masks), stem.maps(lq, masks.at(2)))


def test_a_graph_has_the_same():
    lq, masks = _lq(20, 26), _masks(20, 26, 2)
    stem = GeometryStem(3, 64, 4, maps=['fine_sides'], fine=2)
    torch._dynamo.reset()
    compiled = torch.compile(stem, fullgraph=True, backend='eager')
    assert torch.allclose(compiled(lq, masks), stem(lq, masks), atol=1e-6)


def test_where_there_are_no_values_it_has_its_shape():
    lq, masks = _lq(20, 26), _masks(20, 26, 2)
    assert _sides(lq.to('meta'), masks.to('meta')).shape == (1, 4, 20, 26)


def test_it_is_there_where_it_is_asked_for():
    assert GeometryStem(3, 64, 4, fine=4).names == [*MAPS, *FINE_MAPS]
    assert GeometryStem(3, 64, 4).names == [*MAPS]
    assert GeometryStem(3, 64, 4, maps=['fine_sides', 'size'], fine=4).names == ['size', 'fine_sides']
    assert GeometryStem(3, 64, 4, maps=['fine_sides', 'size'], fine=4)[0].in_channels == 3 + 1 + 16
    with pytest.raises(UserError, match='map fine_sides is of a finer grid than the image; set fine: 2, 3 or 4'):
        GeometryStem(3, 64, 4, maps=['fine_sides'])
