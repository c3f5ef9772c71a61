"""F (1 + gamma) + beta, with gamma and beta read off S', in one step that keeps F and S' only."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def modulate(features: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Returns F (1 + gamma) + beta, where (gamma, beta) = conv1x1(hidden).

    gamma and beta are twice as large as F and come of one small convolution: they are made again for the
    backward pass, not kept, and their gradients are written side by side where that convolution wants them.

    Args:
        features: F [B, C, h, w].
        hidden: [B, c, h, w].
        weight, bias: of the convolution, [2C, c, 1, 1] and [2C].
    """
    if torch.is_autocast_enabled(features.device.type):  # it does not reach into a Function
        half = torch.get_autocast_dtype(features.device.type)
        hidden, weight, bias = hidden.to(half), weight.to(half), bias.to(half)
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        result = _Modulate.apply(features, hidden, weight, bias)
        assert isinstance(result, Tensor)
        return result
    gamma, beta = F.conv2d(hidden, weight, bias).to(features.dtype).chunk(2, dim=1)
    # F + beta + F gamma is F (1 + gamma) + beta with one pass over memory less.
    return (features + beta).addcmul_(features, gamma)


class _Modulate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(features, hidden, weight, bias)
        with torch.autocast(features.device.type, enabled=False):
            gamma, beta = F.conv2d(hidden, weight, bias).to(features.dtype).chunk(2, dim=1)
        return (features + beta).addcmul_(features, gamma)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        features, hidden, weight, bias = ctx.saved_tensors
        (gradient,) = gradients
        channels = features.shape[1]
        gradient_f = None
        if ctx.needs_input_grad[0]:
            gamma = F.conv2d(hidden, weight[:channels], bias[:channels]).to(features.dtype)
            gradient_f = torch.addcmul(gradient, gradient, gamma)
        both = torch.cat([gradient * features, gradient], dim=1).to(hidden.dtype)
        need = ctx.needs_input_grad
        rest = torch.ops.aten.convolution_backward(
            both, hidden, weight, [len(bias)], [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [need[1], need[2], need[3]]
        )
        return gradient_f, *rest
