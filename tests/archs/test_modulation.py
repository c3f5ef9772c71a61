import pytest
import torch
from torch.nn import functional

from sptsr.archs.modulation import modulate, sum_of_both


def _inputs(
    dtype: torch.dtype = torch.float64, layout: torch.memory_format = torch.contiguous_format
) -> list[torch.Tensor]:
    torch.manual_seed(0)
    maps = [torch.randn(shape, dtype=dtype) for shape in ((2, 3, 4, 5), (2, 2, 4, 5))]
    weights = [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in ((6, 2, 1, 1), (6,))]
    return [value.to(memory_format=layout).requires_grad_() for value in maps] + weights


def _plainly(features, hidden, weight, bias):
    gamma, beta = functional.conv2d(hidden, weight, bias).chunk(2, dim=1)
    return features * (1 + gamma) + beta


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_values_and_gradients_are_those_of_the_formula(layout: torch.memory_format):
    inputs = _inputs(layout=layout)
    torch.testing.assert_close(modulate(*inputs), _plainly(*inputs))
    with torch.no_grad():
        assert torch.equal(modulate(*inputs), modulate(*inputs))
    assert torch.autograd.gradcheck(modulate, inputs)
    for missing in range(4):  # each may stand still
        some = [value.detach().requires_grad_(n != missing) for n, value in enumerate(_inputs(layout=layout))]
        assert torch.autograd.gradcheck(modulate, some)


def test_training_and_inference_give_the_same_bits():
    inputs = _inputs(torch.float32)
    with torch.no_grad():
        still = modulate(*inputs)
    assert torch.equal(modulate(*inputs), still)


def test_parts_of_an_image_have_the_values_of_the_whole(monkeypatch: pytest.MonkeyPatch):
    inputs = _inputs(torch.float32)
    whole = _plainly(*inputs)
    for values in (1, 7 * 6, 19 * 6):  # of 20 pixels each
        monkeypatch.setattr('sptsr.archs.modulation._PART', values)
        torch.testing.assert_close(modulate(*inputs), whole)


@pytest.mark.parametrize('half', [torch.bfloat16, torch.float16])
def test_halves(half: torch.dtype):
    inputs = _inputs(torch.float32)
    with torch.autocast('cpu', half):
        output = modulate(*inputs)
    assert output.dtype == torch.float32  # that of the feature
    output.sum().backward()
    reference = _inputs(torch.float32)
    _plainly(*reference).sum().backward()
    for own, other in zip(inputs, reference, strict=True):
        assert own.grad is not None
        assert own.grad.dtype == torch.float32
        torch.testing.assert_close(own.grad, other.grad, rtol=0.05, atol=0.1)


def test_gamma_and_beta_are_not_kept():
    inputs = _inputs(torch.float32)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        modulate(*inputs)
    assert sum(kept) == sum(value.numel() for value in inputs)


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_the_features_layout_and_an_untrained_units_bits_stay(layout: torch.memory_format):
    features, hidden, weight, bias = (value.detach() for value in _inputs(torch.float32, layout))
    output = modulate(features, hidden, torch.zeros_like(weight), torch.zeros_like(bias))
    assert torch.equal(output, features)
    assert output.stride() == features.stride()


@pytest.mark.parametrize('half', [None, torch.bfloat16])
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_sum_of_both(layout: torch.memory_format, half: torch.dtype | None):
    torch.manual_seed(0)
    x, y = (torch.randn(2, channels, 4, 5).to(memory_format=layout) for channels in (6, 3))
    of_x, of_y, bias = torch.randn(3, 6), torch.randn(3, 3), torch.randn(3)
    expected = torch.einsum('dc,bchw->bdhw', of_x, x) + torch.einsum('dc,bchw->bdhw', of_y, y) + bias[:, None, None]
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients), torch.autocast('cpu', half, enabled=half is not None):
            output = sum_of_both(x, of_x, y, of_y, bias)
        assert output.dtype == (half or torch.float32)
        torch.testing.assert_close(output.float(), expected, **({} if half is None else {'rtol': 0.05, 'atol': 0.1}))
