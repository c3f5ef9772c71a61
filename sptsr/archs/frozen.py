"""A frozen backbone remembers less: what only the gradient of its weights would need is not kept."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_input


def remember_less(net: nn.Module) -> int:
    """Makes the frozen convolutions, linear layers and (leaky) ReLUs of a network do and keep less.

    A convolution's input is needed for the gradient of its weights only, and torch keeps it all the same; a
    ReLU's sign takes one byte a value, and torch keeps four. Within `torch.autocast` frozen weights are turned to half
    precision once and not at every call; torch remembers only those that learn. Values and gradients do not change.
    Modules change their class to one below; names, tensors and results of the network stay as they are.

    Args:
        net: with frozen weights; biases, normalisation layers and LoRA may learn.

    Returns:
        number of modules.
    """
    count = 0
    for module in net.modules():
        if type(module) is nn.Conv2d and module.padding_mode == 'zeros' and not isinstance(module.padding, str):
            module.__class__ = FrozenConv2d
        elif type(module) is nn.Linear:
            module.__class__ = FrozenLinear
        elif type(module) is nn.ReLU:
            module.__class__ = FrozenReLU
        elif type(module) is nn.LeakyReLU and module.negative_slope >= 0:
            module.__class__ = FrozenLeakyReLU
        else:
            continue
        count += 1
    return count


class FrozenConv2d(nn.Conv2d):
    """A convolution with frozen weights; its bias may learn."""

    def forward(self, input: Tensor) -> Tensor:
        if self.weight.requires_grad:
            return super().forward(input)
        weight, bias = _weights(self, input)
        learns = input.requires_grad or (bias is not None and bias.requires_grad)
        if not (torch.is_grad_enabled() and learns) or input.ndim != 4:
            return self._conv_forward(input, weight, bias)
        if weight is not self.weight:  # autocast does not reach into a Function
            input = input.to(weight.dtype)
        return _Conv2d.apply(input, weight, bias, self.stride, self.padding, self.dilation, self.groups)


class FrozenLinear(nn.Linear):
    """A linear layer with frozen weights."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) if self.weight.requires_grad else F.linear(input, *_weights(self, input))


def _weights(layer: nn.Conv2d | nn.Linear, input: Tensor) -> tuple[Tensor, Tensor | None]:
    """Returns weight and bias of a layer; within autocast in half precision, frozen ones as copies that it keeps."""
    kind = input.device.type
    if not torch.is_autocast_enabled(kind):
        return layer.weight, layer.bias
    half = torch.get_autocast_dtype(kind)
    made_of = half, *map(_version, (layer.weight, layer.bias))
    kept = vars(layer).get('halves')
    if kept is None or kept[0] != made_of:
        with torch.inference_mode(False):  # a validation may be first, and training uses them after it
            weight = layer.weight.detach().to(half)
            bias = None if layer.bias is None else layer.bias.detach().to(half)
        vars(layer)['halves'] = kept = (made_of, weight, bias)
    if layer.bias is not None and layer.bias.requires_grad:
        return kept[1], layer.bias.to(half)
    return kept[1], kept[2]


def _version(tensor: Tensor | None) -> tuple[object, ...] | None:
    """Returns what changes when a tensor is written to, moved or replaced."""
    if tensor is None:
        return None
    return tensor.device, tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version


class FrozenReLU(nn.ReLU):
    """A ReLU that keeps signs."""

    def forward(self, input: Tensor) -> Tensor:
        if not (torch.is_grad_enabled() and input.requires_grad):
            return super().forward(input)
        return _LeakyReLU.apply(input, 0.0, self.inplace)


class FrozenLeakyReLU(nn.LeakyReLU):
    """A leaky ReLU that keeps signs."""

    def forward(self, input: Tensor) -> Tensor:
        if not (torch.is_grad_enabled() and input.requires_grad):
            return super().forward(input)
        return _LeakyReLU.apply(input, self.negative_slope, self.inplace)


class _Conv2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, *geometry: Any) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.geometry, ctx.shape = geometry, input.shape
        return F.conv2d(input, weight, bias, *geometry)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        (gradient,) = gradients
        stride, padding, dilation, groups = ctx.geometry
        result = of_bias = None
        if ctx.needs_input_grad[0]:
            result = conv2d_input(ctx.shape, weight, gradient, stride, padding, dilation, groups)
        if ctx.needs_input_grad[2]:
            of_bias = gradient.sum((0, 2, 3))
        return (result, None, of_bias, None, None, None, None)


class _LeakyReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, slope: float, inplace: bool) -> Tensor:
        positive = input > 0
        ctx.save_for_backward(positive)
        ctx.slope = slope
        if not inplace:
            return F.leaky_relu(input, slope) if slope else F.relu(input)
        ctx.mark_dirty(input)
        return F.leaky_relu_(input, slope) if slope else F.relu_(input)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (positive,) = ctx.saved_tensors
        (gradient,) = gradients
        # bytes become numbers several times faster than booleans do, and torch's own kernel than `torch.where`
        sign = positive.view(torch.uint8).to(gradient.dtype)
        torch.ops.aten.leaky_relu_backward.grad_input(gradient, sign, ctx.slope, False, grad_input=sign)
        return sign, None, None
