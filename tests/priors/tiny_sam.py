"""A small SAM of the official package, taught to answer a point with discs of three sizes around it.

Random weights give masks that cover the whole image, so nothing would be filtered or suppressed; this
one gives many overlapping masks with boxes, sizes and scores of their own. Its weights are
`tiny_sam.safetensors`; to make them again: python -m tests.priors.tiny_sam
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

WEIGHTS = Path(__file__).with_suffix('.safetensors')
SIDE = 128  # of the encoder's input
PATCH, WIDTH = 16, 32
RADII = (0.08, 0.16, 0.3)


def build() -> nn.Module:
    """Returns the untaught model."""
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    torch.manual_seed(0)
    encoder = ImageEncoderViT(
        depth=1, embed_dim=32, img_size=SIDE, mlp_ratio=2, norm_layer=partial(nn.LayerNorm, eps=1e-6),
        num_heads=2, patch_size=PATCH, qkv_bias=True, use_rel_pos=True, global_attn_indexes=[0], window_size=4,
        out_chans=WIDTH,
    )  # fmt: skip
    prompt = PromptEncoder(WIDTH, (SIDE // PATCH, SIDE // PATCH), (SIDE, SIDE), 8)
    decoder = MaskDecoder(
        transformer_dim=WIDTH, transformer=TwoWayTransformer(2, WIDTH, 2, 64), num_multimask_outputs=3,
        iou_head_depth=2, iou_head_hidden_dim=32,
    )  # fmt: skip
    return Sam(encoder, prompt, decoder, [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]).eval()


def official() -> nn.Module:
    """Returns the taught `Sam`."""
    model = build()
    model.load_state_dict(load_file(WEIGHTS))
    return model


def teach(steps: int = 1500) -> nn.Module:
    """Fits logits to the discs, and scores to a smooth function of place and radius in 0.5..1."""
    model = build()
    grid = SIDE // PATCH
    optimizer = torch.optim.Adam(model.mask_decoder.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    line = (torch.arange(4 * grid) + 0.5) / (4 * grid)
    for step in range(steps):
        points = torch.rand(12, 2)
        labels = torch.ones(len(points), 1, dtype=torch.int)
        sparse, dense = model.prompt_encoder(points=((points * SIDE)[:, None], labels), boxes=None, masks=None)
        image = torch.randn(1, WIDTH, grid, grid)  # any picture
        logits, iou = model.mask_decoder(image, model.prompt_encoder.get_dense_pe(), sparse, dense, True)
        dx, dy = line[None, None] - points[:, 0, None, None], line[None, :, None] - points[:, 1, None, None]
        wanted = (20 * (torch.tensor(RADII).view(1, 3, 1, 1) - torch.hypot(dx, dy)[:, None])).clamp(-3, 3)
        score = 0.75 + 0.25 * torch.sin(9 * points[:, :1] + 5 * points[:, 1:] + torch.tensor([[0.0, 2.0, 4.0]]))
        loss = nn.functional.mse_loss(logits, wanted) + 3 * nn.functional.mse_loss(iou, score)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f'{step}/{steps} {loss.item():.4f}', flush=True)
    return model


if __name__ == '__main__':
    save_file({name: value.contiguous() for name, value in teach().state_dict().items()}, WEIGHTS)
