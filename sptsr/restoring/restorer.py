"""Restoring one image with a network: a part of the public API."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral, Real
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sptsr.archs.backbone import kind_of
from sptsr.archs.call import takes_sigma
from sptsr.archs.spt_arch import SPTNet
from sptsr.core.errors import UserError
from sptsr.images.decode import RGB
from sptsr.masks.batch import PriorBatch
from sptsr.masks.prior import Prior
from sptsr.restoring.tiling import Finish, restore_padded, restore_tiled, unchanged

OVERLAP = 32  # LQ pixels around a tile
_VIEWS = 8  # of a self-ensemble
# Of each network that restores: by how many calls, and whether it was in training mode before the first.
_CALLS: WeakKeyDictionary[SPTNet, tuple[int, bool]] = WeakKeyDictionary()
_LOCK = threading.Lock()


def restore(
    net: SPTNet,
    image: RGB,
    prior: Prior | None = None,
    tile: int | None = None,
    self_ensemble: bool = False,
    sigma: float | None = None,
) -> RGB:
    """Restores an image.

    Args:
        net: from `attach` or `load`. Within `net.units_off()` the frozen network restores.
        image: uint8 [h, w, 3], RGB, 0..255; [h, w] or [h, w, 1] for a network of one channel.
        prior: masks of this image (see `make_prior`); None where the unit uses no masks.
        tile: side of a tile in LQ pixels, for images too large for the memory; None restores it whole.
        self_ensemble: average over the eight flips and rotations, the masks turned along.
        sigma: noise level, of 255, for a network that takes one.

    Returns:
        uint8 of the image's shape, s times as high and as wide: the output clipped to 0..1, times 255, rounded.

    Raises:
        UserError: an image or prior that does not fit the network, or a missing noise level.
    """
    if not isinstance(net, SPTNet):
        raise UserError(f'restore: a {type(net).__name__} has no units; give what sptsr.attach or sptsr.load returned')
    batch = _batch(image, net)
    check_prior(net, prior, (batch.shape[-2], batch.shape[-1]))
    pixels = arrays_of(restore_tensor(net, batch, prior, tile, self_ensemble, sigma, pixels_of))[0]
    return np.ascontiguousarray(pixels[:, :, 0] if np.ndim(image) == 2 else pixels)


def pixels_of(output: Tensor, white: int = 255) -> Tensor:
    """Returns the pixels of images: clipped to 0..1, times `white`, rounded; uint8, or uint16 for a white of 65535.

    Raises:
        UserError: values that are no numbers.
    """
    must_be_finite(output, 'restore')
    return (output.float().clamp(0, 1) * white).round_().to(torch.uint8 if white == 255 else torch.uint16)


def must_be_finite(output: Tensor, what: str) -> None:
    """Raises UserError, which begins with `what`, where a restored image has values that would become black pixels."""
    if not output.isfinite().all():
        raise UserError(f'{what}: the network gives NaN or infinite values; look at its weights and precision')


def arrays_of(pixels: Tensor) -> npt.NDArray[Any]:
    """Returns images [B, C, H, W] as [B, H, W, C]."""
    return pixels.permute(0, 2, 3, 1).cpu().numpy()


def check_prior(net: SPTNet, prior: Prior | None, size: tuple[int, int]) -> None:
    """Raises UserError unless the network has the masks that it needs, of an image of this height and width."""
    if not (net.uses_masks and net.enabled):
        return
    if prior is None:
        raise UserError('restore: the units use masks; give prior=sptsr.make_prior(image)')
    if not isinstance(prior, Prior):
        raise UserError(f'restore: prior is a {type(prior).__name__}; give what sptsr.make_prior(image) returns')
    if prior.size != size:
        raise UserError(
            f'restore: the prior is {prior.size[0]}x{prior.size[1]}, the image {size[0]}x{size[1]} (height x width); '
            'make the prior of this image'
        )


@torch.no_grad()
def restore_tensor(
    net: SPTNet,
    lq: Tensor,
    prior: Prior | None,
    tile: int | None,
    self_ensemble: bool,
    sigma: float | None,
    finish: Finish,
) -> Tensor:
    """Restores an image that is a tensor [1, C, h, w] in 0..1, of the network's device and dtype; see `restore`.

    With tiles, and without `self_ensemble`, only one tile is there in the network's dtype at a time.

    Returns:
        what `finish` makes of the restored image, [1, C', s h, s w], not clipped.
    """
    if tile is not None and (not isinstance(tile, Integral) or tile < 1):
        raise UserError(f'restore: tile {tile!r} is no whole number above 0')
    level = _level(net, sigma)
    prior = prior if net.uses_masks and net.enabled else None
    with _in_eval(net):
        if not self_ensemble:
            return _restored(net, lq, prior, tile, level, finish)
        total: Tensor | None = None
        for number, (turned, masks) in enumerate(_views(lq, prior)):
            result = _turned_back(_restored(net, turned, masks, tile, level), number)
            total = result if total is None else total.add_(result)
        assert total is not None
        return finish(total / _VIEWS)


@contextmanager
def _in_eval(net: SPTNet) -> Iterator[None]:
    """Within it the network is in eval mode; the last of several threads sets the mode that the first one found."""
    with _LOCK:
        calls, was_training = _CALLS.get(net, (0, net.training))
        _CALLS[net] = calls + 1, was_training
        if not calls:
            net.eval()
    try:
        yield
    finally:
        with _LOCK:
            calls, was_training = _CALLS.pop(net)
            if calls > 1:
                _CALLS[net] = calls - 1, was_training
            else:
                net.train(was_training)


def _batch(image: npt.NDArray[np.generic], net: SPTNet) -> Tensor:
    """Returns the image as [1, C, h, w] in 0..1, with the network's device and dtype."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim not in (2, 3) or image.size == 0:
        got = f'{image.dtype} {list(image.shape)}' if isinstance(image, np.ndarray) else type(image).__name__
        raise UserError(f'restore: the image must be uint8 [h, w, 3], got {got}')
    planes = torch.from_numpy(np.require(image, requirements=['C', 'W'])).reshape(*image.shape[:2], -1).permute(2, 0, 1)
    if len(planes) != net.in_channels:
        raise UserError(
            f'restore: the network takes {net.in_channels} channels, and the image has {len(planes)}; convert it'
        )
    return (planes.float() / 255)[None].to(**kind_of(net))


def _level(net: SPTNet, sigma: float | None) -> Tensor | None:
    if not takes_sigma(net.backbone):
        return None
    if sigma is None:
        raise UserError('restore: the network takes a noise level; give sigma, of 255')
    if not isinstance(sigma, Real):
        raise UserError(f'restore: sigma {sigma!r} is no number')
    if not 0 <= sigma <= 255:
        raise UserError(f'restore: sigma {sigma:g} is not in 0..255')
    return torch.tensor([sigma / 255]).to(**kind_of(net))


def _views(lq: Tensor, prior: Prior | None) -> Iterator[tuple[Tensor, Prior | None]]:
    """Yields the image and its prior, turned and flipped together: number = quarters of a turn + 4 if flipped."""
    for number in range(_VIEWS):
        turned, masks = torch.rot90(lq, number % 4, (2, 3)), None if prior is None else prior.rotate(number % 4)
        if number >= 4:
            turned, masks = turned.flip(3), None if masks is None else masks.flip(1)
        yield turned.contiguous(), masks


def _turned_back(result: Tensor, number: int) -> Tensor:
    return torch.rot90(result.flip(3) if number >= 4 else result, -(number % 4), (2, 3))


def _restored(
    net: SPTNet, lq: Tensor, prior: Prior | None, tile: int | None, level: Tensor | None, finish: Finish = unchanged
) -> Tensor:
    masks = None if prior is None else PriorBatch.of([prior]).to(lq.device)

    def forward(part: Tensor, part_masks: PriorBatch | None) -> Tensor:
        return net(part, part_masks, level)

    if tile is None:
        return finish(restore_padded(forward, lq, masks, net.sizes, net.scale))
    return restore_tiled(forward, lq, masks, net.sizes, net.scale, tile, OVERLAP, finish)
