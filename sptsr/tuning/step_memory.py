"""How much memory a step of tuning takes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sptsr.archs.backbone import kind_of
from sptsr.archs.call import takes_sigma
from sptsr.archs.spt_arch import SPTNet
from sptsr.core.distributed import Ranks
from sptsr.evaluation.cost import made_up_masks, peak_bytes
from sptsr.tuning.tuner import Batch, Tuner


def step_memory(net: SPTNet, train: Mapping[str, Any], batch: int, size: tuple[int, int]) -> int:
    """Returns the peak in bytes of what one step of tuning needs beside the network: features, gradients, moments.

    Args:
        net: is left as it is.
        train: the `train` section of complete options.
        batch: images of a part of it, which takes `accumulate` parts.
        size: height and width of an LQ crop.
    """
    net = copy.deepcopy(net).train()
    tuner = Tuner(net, train, Ranks())
    batch *= tuner.accumulate
    kind = kind_of(net.backbone)
    lq = torch.rand(batch, net.in_channels, *size, **kind)
    masks = made_up_masks(batch, size, lq.device) if net.uses_masks else None
    sigma = torch.full((batch,), 0.1, **kind) if takes_sigma(net.backbone) else None
    with torch.no_grad():
        gt = torch.zeros_like(net(lq, masks, sigma))
    step = Batch(lq, gt, masks, sigma)
    tuner.set_rates(1)
    tuner.step(step)  # makes the moments
    tuner.optimizer.zero_grad()  # the next step would do it, and free what it did not take
    moments = [
        value for state in tuner.optimizer.state.values() for value in state.values() if isinstance(value, Tensor)
    ]
    kept = sum(value.numel() * value.element_size() for value in moments)
    return kept + peak_bytes(lambda: tuner.step(step), str(lq.device))
