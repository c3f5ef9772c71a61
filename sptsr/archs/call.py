"""Calling a network, ours or not, with images in 0..1."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from sptsr.archs.building import fault
from sptsr.core.errors import UserError, is_out_of_memory
from sptsr.options.calling import Calling

_AS_IT_IS = Calling()


def call_network(net: nn.Module, lq: Tensor, sigma: Tensor | None = None) -> Tensor:
    """Does what `call_unguarded` does; an error in the network's code becomes a UserError that says whose it is."""
    if torch.compiler.is_compiling():
        return call_unguarded(net, lq, sigma)
    try:
        return call_unguarded(net, lq, sigma)
    except UserError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise UserError(
                f'network: {type(net).__name__} needs more memory than there is free; in options lower '
                'batch_size_per_gpu or gt_size, or set val.tile; elsewhere give a tile, such as tile=256'
            ) from error
        height, width = lq.shape[-2:]
        what = f'fails on an image of {height}x{width}'
        raise fault(type(net).__name__, what, error, 'check its arguments and the images') from error


def call_unguarded(net: nn.Module, lq: Tensor, sigma: Tensor | None = None) -> Tensor:
    """Runs a network as its section says (`net.calling`, see `Calling`).

    Args:
        net: a network from `build_network`, or any module.
        lq: [B, C, h, w] in 0..1.
        sigma: noise level [B] in 0..1; goes to a network whose `forward` has an argument `sigma`.

    Returns:
        the image [B, C', s h, s w] in 0..1.

    Raises:
        UserError: it returns several things, and no `output` says which is the image.
    """
    how = getattr(net, 'calling', _AS_IT_IS)
    how = how if isinstance(how, Calling) else _AS_IT_IS
    mean = lq.new_tensor(how.mean).view(-1, 1, 1) if how.mean else None
    if mean is not None and len(mean) not in (1, lq.shape[1]):
        raise UserError(f'input: mean has {len(mean)} values, but the image has {lq.shape[1]} channels')
    if how.range != 1:
        lq = lq * how.range
    if mean is not None:
        lq = lq - mean
    result: Any = net(lq, sigma=sigma) if sigma is not None and takes_sigma(net) else net(lq)
    result = _image_of(result, how, type(net).__name__)
    if mean is not None:
        result = result + mean
    return result if how.range == 1 else result / how.range


def takes_sigma(net: nn.Module) -> bool:
    """Returns whether a network wants a noise level: `forward` has an argument `sigma`, unless it says otherwise."""
    said = getattr(net, 'takes_sigma', None)
    return said if isinstance(said, bool) else 'sigma' in inspect.signature(net.forward).parameters


def _image_of(result: Any, how: Calling, name: str) -> Any:
    if not isinstance(result, list | tuple):
        return result
    if how.output is None:
        raise UserError(
            f'{name} returns {len(result)} things in a {type(result).__name__}; say which is the image, '
            'for example output: 0 in its section'
        )
    if not -len(result) <= how.output < len(result):
        raise UserError(f'{name} returns {len(result)} things, and output is {how.output}; count from 0')
    return result[how.output]
