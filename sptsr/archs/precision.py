"""Autocast with the first and last layers of a backbone in fp32, so that an adapter gets gradients close to fp32's."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sptsr.archs.backbone import probe
from sptsr.archs.call import call_network
from sptsr.archs.spt_arch import SPTNet

HALVES = {'bf16': torch.bfloat16, 'fp16': torch.float16}  # by their names in options


def keep_ends_exact(net: SPTNet) -> list[str]:
    """Makes the first and the last layers of a backbone compute in fp32 within `torch.autocast`.

    The first layers are those up to the one that turns the image's channels into features, the last ones those from
    the one that turns features into an image. A pretrained network is close to a minimum, so the gradient that an
    adapter gets is small, and the error that half precision makes along the whole network is about as large. With
    these layers in fp32 the sum that the blocks add to (the residual stream) is in fp32 too, and most of that error is
    gone: figures in docs/results/tuning.md.

    Returns:
        paths of the layers in the backbone, in the order in which they run.
    """
    with_lora = [path for path, module in net.backbone.named_modules() if hasattr(module, 'base_layer')]
    layers = {
        path: module
        for path, module in net.backbone.named_modules()
        if path
        and None not in (_width(module, 'in'), _width(module, 'out'))
        and not any(path.startswith(f'{layer}.') for layer in with_lora)  # a layer and its LoRA are one
    }
    order: list[str] = []
    handles = [
        module.register_forward_pre_hook(lambda *_, path=path: order.append(path)) for path, module in layers.items()
    ]
    try:
        with torch.no_grad():
            image = probe(net.sizes, net.in_channels).to(next(net.parameters()).device)
            made = call_network(net.backbone, image).shape[1]
    finally:
        for handle in handles:
            handle.remove()
    # the innermost only: a block or a network that states its channels is not a layer
    order = [path for path in order if not any(other.startswith(f'{path}.') for other in order)]
    first = _until(order, lambda path: _width(layers[path], 'out') > net.in_channels)  # type: ignore[operator]
    last = _until(order[::-1], lambda path: _width(layers[path], 'in') > made)  # type: ignore[operator]
    ends = list(dict.fromkeys([*first, *reversed(last)]))
    for path in ends:
        layers[path].forward = functools.partial(_in_fp32, layers[path].forward)
    return ends


def _width(layer: nn.Module, side: str) -> int | None:
    """Returns the channels that a module states for a side (`in`, `out`), as a convolution does; else None."""
    width = getattr(layer, f'{side}_channels', getattr(layer, f'{side}_features', None))
    return width if isinstance(width, int) else None


def _until(paths: list[str], stop: Callable[[str], bool]) -> list[str]:
    """Returns the paths up to and including the first for which `stop` is true; all where there is none."""
    for number, path in enumerate(paths, 1):
        if stop(path):
            return paths[:number]
    return paths


def _in_fp32(forward: Callable[..., Tensor], features: Tensor, *rest: Any, **named: Any) -> Tensor:
    kind = features.device.type
    if not torch.is_autocast_enabled(kind):
        return forward(features, *rest, **named)
    with torch.autocast(kind, enabled=False):
        return forward(features.float(), *rest, **named)
