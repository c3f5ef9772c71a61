"""Resized logits are those of torch, bit for bit."""

import pytest
import torch
import torch.nn.functional as F

from sptsr.priors.sources import resizing
from sptsr.priors.sources.resizing import Resizer

SHAPES = [
    (1, 172, 256),
    (1, 256, 131),
    (3, 16, 177),
    (2, 1, 155),
    (1, 155, 1),
    (1, 129, 1),
    (1, 32, 33),
    (3, 16, 17),
    (1, 1, 1),
]


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


def logits(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))) * 10


def expected(values: torch.Tensor, factor: int) -> torch.Tensor:
    return F.interpolate(values[None], scale_factor=factor, mode='bilinear')[0]


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('factor', [2, 3, 4, 8])
def test_bits_of_torch(shape: tuple[int, int, int], factor: int):
    values = logits(*shape)
    assert torch.equal(Resizer().enlarge(values, factor), expected(values, factor))


@pytest.mark.parametrize('size', [(321, 481), (5, 7), (172, 256), (1, 1)])
def test_bits_of_torch_at_any_size(size: tuple[int, int]):
    values = logits(2, 180, 256)[:, :172]
    assert torch.equal(Resizer().resize(values, size), F.interpolate(values[None], size, mode='bilinear')[0])


def test_a_part_of_larger_logits():
    whole = logits(2, 64, 64)
    part = whole[..., :43, :64]
    assert torch.equal(Resizer().enlarge(part, 4), expected(part, 4))
    part = whole[..., :64, :21]
    assert torch.equal(Resizer().enlarge(part, 4), expected(part, 4))


def test_memory_is_used_again_whatever_the_mode():
    resizer, values = Resizer(), logits(1, 9, 99)
    first = resizer.enlarge(values, 4)
    with torch.inference_mode(False), torch.no_grad():
        second = resizer.enlarge(values + 1, 4)
    assert second.data_ptr() == first.data_ptr()
    assert torch.equal(second, expected(values + 1, 4))
    assert torch.equal(resizer.enlarge(logits(1, 5, 99), 4), expected(logits(1, 5, 99), 4))


@pytest.mark.parametrize('factor', [3, 4])
def test_one_after_the_other(factor: int):
    """What the first makes is not in the memory that the second writes to."""
    values, size = logits(1, 64, 80), (64 * factor, 80 * factor)
    resizer = Resizer()
    for _ in range(2):
        enlarged = resizer.enlarge(values, factor)
        both = resizer.resize(enlarged[:, 1:], size)
        assert torch.equal(both, F.interpolate(expected(values, factor)[None, :, 1:], size, mode='bilinear')[0])


def test_a_torch_that_rounds_otherwise(monkeypatch):
    """Where the check fails, torch does all of it."""
    by_rows = Resizer._by_rows
    monkeypatch.setattr(Resizer, '_by_rows', lambda self, values, factor: by_rows(self, values, factor) * (1 + 2**-23))
    resizing._rounds_as_torch.cache_clear()
    try:
        assert not resizing._rounds_as_torch()
        values = logits(1, 9, 99)
        assert torch.equal(Resizer().enlarge(values, 4), expected(values, 4))
    finally:
        monkeypatch.undo()
        resizing._rounds_as_torch.cache_clear()
