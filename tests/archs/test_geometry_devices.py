"""The maps of `GeometryStem` are the same on each device: what grows from boundaries is made otherwise on a GPU."""

import pytest
import torch
import torch.nn.functional as F

from sptsr.archs.geometry import GeometryStem, _largest_around
from sptsr.masks.batch import PriorBatch
from sptsr.priors.extract import build_source
from tests.conftest import photograph


@pytest.mark.cuda
@pytest.mark.parametrize('fine', [1, 4])
def test_a_gpu_makes_the_same_maps(fine: int):
    image = photograph('coffee.png', 50, 70)
    batch = PriorBatch.of([build_source('felzenszwalb', ['min_size=20'])(image, 'x', 64)])
    lq = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    stem = GeometryStem(3, 64, 4, fine=fine)
    got = stem.maps(lq.cuda(), batch.to('cuda')).cpu()
    torch.testing.assert_close(got, stem.maps(lq, batch), rtol=1e-4, atol=1e-4)


def test_what_grows_is_a_pooling():  # which a GPU does
    values = torch.rand(2, 1, 13, 9)
    assert torch.equal(_largest_around(values), F.max_pool2d(values, 3, 1, 1))
