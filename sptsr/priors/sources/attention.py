"""Runs attention of the official image encoder one head after the other: the same values in less memory."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from segment_anything.modeling.image_encoder import Attention, add_decomposed_rel_pos
from torch import Tensor, nn


@contextmanager
def attention_by_heads(encoder: nn.Module) -> Iterator[None]:
    """Makes the attention modules of an encoder run head by head inside the `with` block.

    A global attention of ViT-B scores 4096 x 4096 pairs for each of 12 heads: 0.8 GB, and twice that again
    for the positions and the softmax. It is for a CPU; on a GPU all heads at once are faster.
    """
    modules = [module for module in encoder.modules() if isinstance(module, Attention)]
    for module in modules:
        module.forward = functools.partial(_by_heads, module)
    try:
        yield
    finally:
        for module in modules:
            del module.forward


def _by_heads(attention: Any, x: Tensor) -> Tensor:
    """`Attention.forward` on [B, H, W, C]."""
    batch, height, width, _ = x.shape
    heads = attention.num_heads
    qkv = attention.qkv(x).reshape(batch, height * width, 3, heads, -1).permute(2, 0, 3, 1, 4)
    q, k, v = qkv.reshape(3, batch * heads, height * width, -1).unbind(0)
    found = []
    for row in range(0, batch * heads, batch):
        own_q, own_k, own_v = (part[row : row + batch] for part in (q, k, v))
        scores = (own_q * attention.scale) @ own_k.transpose(-2, -1)
        if attention.use_rel_pos:
            sides = (height, width)
            scores = add_decomposed_rel_pos(scores, own_q, attention.rel_pos_h, attention.rel_pos_w, sides, sides)
        found.append(scores.softmax(dim=-1) @ own_v)
    joined = torch.cat(found).view(batch, heads, height, width, -1)
    return attention.proj(joined.permute(0, 2, 3, 1, 4).reshape(batch, height, width, -1))
