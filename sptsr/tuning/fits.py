"""Whether a network goes with the images that the options name: scale, channels, size of a training crop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from sptsr.archs.backbone import kind_of, probe
from sptsr.archs.call import call_network
from sptsr.archs.spt_arch import SPTNet
from sptsr.core.errors import UserError
from sptsr.core.registry import DATASET_REGISTRY, lookup
from sptsr.data.checked import channels


def check_fits(net: SPTNet, opt: Mapping[str, Any]) -> None:
    """Raises UserError unless the network goes with complete options.

    Its scale is theirs, it takes their images and crops, and each set has the masks that its units use.
    """
    scale = opt.get('scale', 1)
    name = type(net.backbone).__name__
    if net.scale != scale:
        raise UserError(f'scale: {scale}, but {name} as configured gives x{net.scale}; make them agree')
    for phase, data in opt['datasets'].items():
        if lookup(DATASET_REGISTRY, data['type']).__module__.startswith(('basicsr.', 'sptsr.')):
            given = channels(data)
            if given != net.in_channels:
                remedy = 'set gray: true' if given > 1 else 'leave out gray and color'
                raise UserError(
                    f'datasets.{phase}: its images have {given} channels, but {name} takes {net.in_channels}; {remedy}'
                )
            if net.uses_masks and data.get('dataroot_prior') is None:
                raise UserError(
                    f'datasets.{phase}: the unit uses masks, and this set has none; use PriorPairedImageDataset (or '
                    'another Prior set) with dataroot_prior, or PlainUnit'
                )
            if opt['is_train'] and phase == 'train':
                _check_output(net, given)
    crop = opt['datasets'].get('train', {}).get('gt_size') if opt['is_train'] else None
    if crop and any(net.sizes.padding(crop // scale, crop // scale)):
        raise UserError(
            f'datasets.train.gt_size: {crop} makes LQ crops of {crop // scale}, but {name} takes multiples of '
            f'{net.sizes.multiple}, at least {net.sizes.minimum}; choose a multiple of {net.sizes.multiple * scale}'
        )


@torch.no_grad()
def _check_output(net: SPTNet, wanted: int) -> None:
    """Raises UserError unless the backbone's images have the size and the channels of the GT.

    A loss would repeat one channel for three, without a word.
    """
    image = probe(net.sizes, net.in_channels).to(**kind_of(net.backbone))
    shape = tuple(call_network(net.backbone, image).shape[1:])
    expected = (wanted, *(side * net.scale for side in image.shape[-2:]))
    if shape != expected:
        name = type(net.backbone).__name__
        raise UserError(
            f'network_g.backbone: {name} makes images of {shape} (channels, height, width), and GT is {expected}; '
            'correct its arguments'
        )
