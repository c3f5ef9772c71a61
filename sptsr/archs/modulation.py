"""F (1 + gamma) + beta with gamma and beta from S', as one autograd function that saves F and S' only."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_PART = 1 << 19  # values of the result that are computed at once on a CPU: 2 MB in float32
_EXACT = (torch.float32, torch.float64)  # in which 1 + gamma keeps what a small gamma tells


def modulate(features: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Returns F (1 + gamma) + beta, where (gamma, beta) = conv1x1(hidden).

    gamma and beta are twice as large as F and result from one small convolution: they are computed again in the
    backward pass instead of being saved, and their gradients form one tensor, which that convolution takes.

    Args:
        features: F [B, C, h, w].
        hidden: [B, c, h, w].
        weight, bias: of the convolution, [2C, c, 1, 1] and [2C].
    """
    kind = features.device.type
    if kind != 'meta' and torch.is_autocast_enabled(kind):  # autocast does not act inside an autograd function
        half = torch.get_autocast_dtype(kind)
        hidden, weight, bias = hidden.to(half), weight.to(half), bias.to(half)
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return cast(Tensor, _Modulate.apply(features, hidden, weight, bias))
    return _modulated(features, hidden, weight, bias)


def sum_of_both(x: Tensor, of_x: Tensor, y: Tensor, of_y: Tensor, bias: Tensor) -> Tensor:
    """Returns conv1x1(x) + conv1x1(y) + bias.

    Args:
        x, y: [B, C, h, w] and [B, c, h, w].
        of_x, of_y: weights, [D, C] and [D, c].
        bias: [D].
    """
    if torch.is_grad_enabled() or not (_is_matrices(x) and _is_matrices(y)):
        return F.conv2d(x, of_x[..., None, None], bias) + F.conv2d(y, of_y[..., None, None])
    of_first = _conv1x1(x, of_x, bias).flatten(2)
    return torch.baddbmm(of_first, of_y.expand(len(y), -1, -1), y.flatten(2)).unflatten(2, y.shape[2:])


class _Modulate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(features, hidden, weight, bias)
        with torch.autocast(features.device.type, enabled=False):
            return _modulated(features, hidden, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        features, hidden, weight, bias = ctx.saved_tensors
        (gradient,) = gradients
        channels = features.shape[1]
        gradient_f = None
        if ctx.needs_input_grad[0]:
            gamma = _conv1x1(hidden, weight[:channels], bias[:channels]).to(features.dtype)
            gradient_f = torch.addcmul(gradient, gradient, gamma)
        both = torch.cat([gradient * features, gradient], dim=1).to(hidden.dtype)
        return gradient_f, *_conv1x1_backward(both, hidden, weight, ctx.needs_input_grad[1:])


def _modulated(features: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Returns F (1 + gamma) + beta. On a CPU part by part in the result itself, where neither is ever there."""
    matrices = _is_matrices(features) and _is_matrices(hidden) and features.dtype == hidden.dtype
    if torch.compiler.is_compiling() or not matrices or features.dtype not in _EXACT:
        gamma, beta = _conv1x1(hidden, weight, bias).to(features.dtype).chunk(2, dim=1)
        # F + beta + F gamma is F (1 + gamma) + beta with one pass over memory less.
        return (features + beta).addcmul_(features, gamma)
    result = torch.empty_like(features)
    of_gamma, of_beta = weight.flatten(1).chunk(2)
    start, shift = bias[:, None].chunk(2)
    start = start + 1
    pixels = max(1, _PART // len(start))
    for image in zip(features, hidden, result, strict=True):
        for f, h, out in zip(*(x.flatten(1).split(pixels, dim=1) for x in image), strict=True):
            torch.addmm(start, of_gamma, h, out=out)
            torch.addcmul(shift, f, out, out=out)
            torch.addmm(out, of_beta, h, out=out)
    return result


def _conv1x1(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Returns conv2d(x). On a CPU as one product of matrices: it does not turn them into another layout and back."""
    if not _is_matrices(x):
        return F.conv2d(x, weight, bias)
    count, size = len(x), x.shape[2:]
    start = bias[:, None].expand(count, -1, 1)
    return torch.baddbmm(start, weight.flatten(1).expand(count, -1, -1), x.flatten(2)).unflatten(2, size)


def _conv1x1_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, need: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Returns the gradients of x, weight and bias, where they are needed."""
    if not (_is_matrices(gradient) and _is_matrices(x)):
        return torch.ops.aten.convolution_backward(
            gradient, x, weight, [len(weight)], [1, 1], [0, 0], [1, 1], False, [0, 0], 1, list(need)
        )
    flat = gradient.flatten(2)
    of_x = torch.bmm(weight.flatten(1).t().expand(len(x), -1, -1), flat).view_as(x) if need[0] else None
    of_weight = torch.bmm(flat, x.flatten(2).transpose(1, 2)).sum(0).view_as(weight) if need[1] else None
    return of_x, of_weight, flat.sum((0, 2)) if need[2] else None


def _is_matrices(x: Tensor) -> bool:
    return x.device.type == 'cpu' and x.is_contiguous()
