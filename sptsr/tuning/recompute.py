"""Activation checkpointing: blocks between sites are run again in the backward pass instead of remembered."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from sptsr.archs.spt_arch import SPTNet


def recompute_blocks(net: SPTNet) -> int:
    """Makes the blocks of a backbone remember nothing but their input while a gradient is wanted.

    Which blocks: the modules at the sites, and their neighbours in the same container that are of the
    same class; not single layers, whose output is as large as what they keep. Results do not change; a step
    takes up to one more forward pass of them, and less memory.

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
        if not any(path.startswith(f'{other}.') for other in chosen):  # not twice, one inside another
            block.forward = functools.partial(_recomputed, block.forward)
    return len(chosen)


def _recomputed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    # A frozen backbone in eval mode draws no random numbers, so there is no state of generators to keep.
    return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)
