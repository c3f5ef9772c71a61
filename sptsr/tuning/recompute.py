"""Activation checkpointing: blocks between sites keep only their input, and run again in the backward pass."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from sptsr.archs.spt_arch import SPTNet


def recompute_blocks(net: SPTNet) -> int:
    """Makes the blocks of a backbone keep only their input for the backward pass.

    The blocks are the modules at the sites, and the modules of the same class in the same container. Single layers
    are left out: their output is as large as what they keep. Results do not change; a step takes less memory, and
    up to one more forward pass of the blocks.

    Returns:
        number of blocks.
    """
    chosen: dict[str, nn.Module] = {}
    for site in net.sites:
        block = net.backbone.get_submodule(site.path)
        parent, _, _ = site.path.rpartition('.')
        for name, child in net.backbone.get_submodule(parent).named_children():
            if type(child) is type(block) and any(child.children()):
                chosen[f'{parent}.{name}'] = child
    for path, block in chosen.items():
        if not any(path.startswith(f'{other}.') for other in chosen):  # else the inner one runs once more
            block.forward = functools.partial(_recomputed, block.forward)
    return len(chosen)


def _recomputed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    # A frozen backbone in eval mode draws no random numbers, so there is no state of generators to keep.
    return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)
